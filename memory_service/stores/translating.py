"""What befell a backend, in our words."""

from __future__ import annotations

import logging

from memory_service.errors import StoreCorrupt, StoreUnavailable

logger = logging.getLogger(__name__)

Errors = tuple[type[Exception], ...]


class Translated:
    """What a verb of a store is done within: `native` errors of its backend become StoreUnavailable, those by which it
    says that what it holds is damaged StoreCorrupt.

    A class, and no generator: each store of a turn passes through here.
    """

    __slots__ = ("_damage", "_name", "_native")

    def __init__(self, name: str, native: Errors, damage: Errors) -> None:
        self._name, self._native, self._damage = name, native, damage

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, self._damage):
            logger.error("the record is damaged", extra={"reason": type(error).__name__})
            raise StoreCorrupt from error
        if isinstance(error, self._native):
            raise StoreUnavailable(f"{self._name}: {type(error).__name__}") from error
