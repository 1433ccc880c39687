"""Which memory drivers there are, and which one is in use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from inspect import isabstract

from memory_service.drivers.base import BaseMemoryDriver
from memory_service.projections import BUILTIN, PROJECTIONS, key_of, names_of
from memory_service.settings import Settings


class DriverManager:
    """Memory drivers by name, each made when it is first asked for and then kept. Many threads may ask.

    A name is a registered one, in small or capital letters, that of an engine which follows the record (or several of
    these, with commas), or `package.module:Class`. All that use the record share it: it is opened once.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a driver may be made of others, which it asks for here
        self._known: dict[str, type[BaseMemoryDriver]] = {}
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
            return sorted({BUILTIN, *PROJECTIONS, *self._known})

    def get_driver(self, name: str | None = None) -> BaseMemoryDriver:
        """Return the driver of this name, or the one in use: that of MEMORY_DRIVER, unless another was set.

        Raises ValueError for a name that is not known, and whatever making it raises.
        """
        with self._lock:
            if name is None:
                name = self._in_use = self._in_use or Settings().memory_driver
            key = _key(name)
            if key not in self._made:
                self._made[key] = self._make(key)
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

    def _make(self, key: str) -> BaseMemoryDriver:
        if key in self._known:
            return self._known[key]()
        if ":" in key and "," not in key:
            found = self._class_named(key)
            if issubclass(found, BaseMemoryDriver):
                return found()
        engines = names_of(key)
        for name in engines:
            self._require_engine(name, key)
        if not engines and key != BUILTIN:
            raise self._not_found(key)
        return self._record(engines)

    def _record(self, engines: Sequence[str]) -> BaseMemoryDriver:
        from memory_service.drivers.builtin import BuiltinMemoryDriver  # an application may need none of it

        if not engines:
            return BuiltinMemoryDriver()
        record = self.get_driver(BUILTIN)
        if not isinstance(record, BuiltinMemoryDriver):
            raise ValueError("an engine follows the record, and the driver 'builtin' is another one here")  # noqa: TRY004 (one kind of error for a name that gives no driver)
        return record.through(engines)

    def _require_engine(self, name: str, key: str) -> None:
        if name in self._known:
            raise ValueError(f"Memory driver '{name}' does not follow the record, so it cannot be one of several")
        if ":" not in name and name not in PROJECTIONS:
            raise self._not_found(key)
        if ":" in name:
            self._class_named(name)

    def _class_named(self, name: str) -> type:
        """The class at a place: a driver, or an engine that follows the record."""
        from memory_service.projections.base import Projection

        module, _, attribute = name.partition(":")
        if not all(part.isidentifier() for part in f"{module}.{attribute}".split(".")):
            raise self._not_found(name)
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as exc:
            raise ValueError(f"Memory driver '{name}' not found: {exc}") from exc
        if not isinstance(found, type) or not issubclass(found, BaseMemoryDriver | Projection) or isabstract(found):
            raise ValueError(f"{found!r} must inherit from BaseMemoryDriver, or from Projection, and lack no verb")
        return found

    def _not_found(self, name: str) -> ValueError:
        available = ", ".join(self.get_available_drivers())
        return ValueError(f"Memory driver '{name}' not found. Available drivers: {available}")


def _require_driver(driver_class: object) -> None:
    if not isinstance(driver_class, type) or not issubclass(driver_class, BaseMemoryDriver):
        raise ValueError(f"{driver_class!r} must inherit from BaseMemoryDriver")  # noqa: TRY004 (one kind of error for a name that gives no driver)


def _key(name: str) -> str:
    return ",".join(map(key_of, name.split(",")))


def _close(driver: BaseMemoryDriver | None) -> None:
    close = getattr(driver, "close", None)
    if callable(close):
        close()


MemoryDriverManager = DriverManager()
"""The one of this process, behind `get_memory_driver()`, and the only thing that this package holds by itself."""
