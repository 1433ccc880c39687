"""Which memory drivers are kept up with the record, and which of them are asked: changed while the service runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory_service.background import Background
from memory_service.comparing import Compared, compare
from memory_service.engines import Engines
from memory_service.recall import Recall
from memory_service.stores.base import Store


class DriversInUse:
    def __init__(self, store: Store, engines: Engines, recall: Recall, background: Background) -> None:
        self._store, self._engines, self._recall, self._background = store, engines, recall, background

    async def use(self, names: Sequence[str]) -> None:
        """Keep these up with the record from now on; who is asked stays as it is. Raises UnsafeStart."""
        await self._engines.use(names)
        self._background.mirror_soon()

    async def switch(self, names: Sequence[str]) -> None:
        """Ask these from now on, in this order; none: the record alone. Raises UnsafeStart; then nothing changes."""
        await self.use(names)
        self._engines.order = tuple(names)

    async def rebuild(self, name: str) -> None:
        """Bring a driver everything anew, in the background; meanwhile the record is asked. Raises DriverNotFound."""
        await self._engines.fill_anew(name)
        self._recall.forget_answers()
        self._background.mirror_soon()

    async def drop(self, name: str) -> None:
        """Take away all that a driver holds, and keep it up no more. Raises DriverNotFound, DriverUnavailable."""
        await self._engines.let_go(name)
        self._recall.forget_answers()

    async def compare(self, name: str, cursor: Any, limit: int) -> Compared:
        """Hold what a driver has of so many users against the record. Raises DriverNotFound, DriverUnavailable."""
        return await compare(self._store, self._engines, name, cursor, limit)
