"""Which memory drivers there are, and which one is in use."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module

from memory_service.drivers.base import BaseMemoryDriver
from memory_service.settings import Settings

BUILT_IN: Mapping[str, type[BaseMemoryDriver] | str] = {"builtin": "memory_service.drivers.builtin:BuiltinMemoryDriver"}
"""Names, not imports: a driver's packages cost nothing until it is used."""


class DriverManager:
    """Memory drivers by name, each made when it is first asked for and then kept. Many threads may ask.

    A name is a registered one, in small or capital letters, or `package.module:Class`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a driver may be made of others, which it asks for here
        self._known = dict(BUILT_IN)
        self._made: dict[str, BaseMemoryDriver] = {}
        self._in_use: str | None = None

    def register_driver(self, name: str, driver_class: type[BaseMemoryDriver]) -> None:
        """Make a driver known, in place of an earlier one of its name. Raises ValueError if it is none."""
        _require_driver(driver_class)
        if not isinstance(name, str) or not name.strip() or ":" in name:
            raise ValueError("a memory driver needs a name, without a colon")
        with self._lock:
            self._known[_key(name)] = driver_class
            former = self._made.pop(_key(name), None)
        _close(former)

    def get_available_drivers(self) -> list[str]:
        """Return the names that are known, in alphabetical order."""
        with self._lock:
            return sorted(self._known)

    def get_driver(self, name: str | None = None) -> BaseMemoryDriver:
        """Return the driver of this name, or the one in use: that of MEMORY_DRIVER, unless another was set.

        Raises ValueError for a name that is not known, and whatever making it raises.
        """
        with self._lock:
            if name is None:
                name = self._in_use = self._in_use or Settings().memory_driver
            key = _key(name)
            if key not in self._made:
                self._made[key] = self._class_of(key)()
            return self._made[key]

    def set_driver(self, name: str) -> BaseMemoryDriver:
        """Use this driver from now on, and return it; the former stays open for those who hold it."""
        with self._lock:
            driver = self.get_driver(name)
            self._in_use = name
            return driver

    def reset_cache(self) -> None:
        """Close all drivers that were made and forget them; what is registered stays. MEMORY_DRIVER is read anew."""
        with self._lock:
            made, self._made, self._in_use = self._made, {}, None
        with ExitStack() as stack:
            for driver in made.values():
                stack.callback(_close, driver)

    def _class_of(self, key: str) -> type[BaseMemoryDriver]:
        known = self._known.get(key, key)
        if isinstance(known, type):
            return known
        module, colon, name = known.partition(":")
        if not colon or not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
            raise ValueError(f"Memory driver '{key}' not found. Available drivers: {', '.join(sorted(self._known))}")
        try:
            found: type[BaseMemoryDriver] = getattr(import_module(module), name)
        except (ImportError, AttributeError) as exc:
            raise ValueError(f"Memory driver '{key}' not found: {exc}") from exc
        _require_driver(found)
        return found


def _require_driver(driver_class: object) -> None:
    if not isinstance(driver_class, type) or not issubclass(driver_class, BaseMemoryDriver):
        raise ValueError(f"{driver_class!r} must inherit from BaseMemoryDriver")  # noqa: TRY004 (one kind of error for a name that gives no driver)


def _key(name: str) -> str:
    return name.strip() if ":" in name else name.strip().lower()


def _close(driver: BaseMemoryDriver | None) -> None:
    close = getattr(driver, "close", None)
    if callable(close):
        close()


MemoryDriverManager = DriverManager()
"""The one of this process, behind `get_memory_driver()`, and the only thing that this package holds by itself."""
