"""What an engine does that follows the record: it keeps copies of what is searchable, and narrows a question to some.

The record is the truth. An engine may be slow, away, behind or empty: what it lacks is noted in the record and brought
to it (`mirroring.py`), and what it finds is looked up there and ranked there (`recall.py`), so that the same memory is
told in the same words, with the same score, whichever engine found it.

A new one is a class with the underscore verbs, named by MEMORY_DRIVER=package.module:Class.
`tests/projections/contract.py` is what it must do, as tests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from memory_service.breaker import Breaker
from memory_service.corpus import Item
from memory_service.errors import DriverUnavailable
from memory_service.settings import Settings
from memory_service.stores.base import Sought
from memory_service.values import Scope
from memory_service.whole import in_a_task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
else:
    Floats = Any

logger = logging.getLogger(__name__)

FAILURES, REST_S = 3, 2.0
"""After so many failures in a row an engine is left alone for so long, and whoever asks is told at once."""
SEARCH_S = 2.0
"""For a search: who recalls waits no longer than this for an engine before the record is asked."""
WRITE_S, LONGEST_WRITE_S = 30.0, 120.0
"""For a verb that writes; a claim of a user's (`mirroring.LEASE`) lasts for the longest there may be."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine keeps of one item: a message of a turn, or a memory. Its text never changes under one id but for
    a memory that is written anew.

    `vector` is its unit vector in `space`, or None: not computed yet. `is_extract`: picked and quoted, not written.
    """

    item: Item
    is_extract: bool = False
    space: str = ""
    vector: Floats | None = None

    @property
    def id(self) -> str:
        return self.item.id

    @property
    def words(self) -> str:
        """What it is to be found by."""
        return self.item.words

    @property
    def digest(self) -> str:
        """Tells one text from another."""
        return digest_of(self.item.text)


def digest_of(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


class NotTaken(DriverUnavailable):
    """The engine is well, and did not take all that it was brought: of this user it lacks something until it does."""


class Projection(ABC):
    """An engine that follows the record. All verbs but `start` raise DriverUnavailable if it fails or takes too long.

    Verbs that write may be cut off anywhere, and be repeated: doing it twice is doing it once. Of one user they come
    one after the other; of many at once.
    """

    name: ClassVar[str]
    native_errors: ClassVar[tuple[type[Exception], ...]] = (OSError,)
    """By which the engine says that it is away, or can do no more; all else is a mistake."""
    takes_vectors: ClassVar[bool] = False
    """Whether it is to be given the vectors of the record, because it makes none of its own."""
    needs_vectors: ClassVar[bool] = False
    """Whether it can keep nothing without one: it is brought what has its vector, and lacks the rest until then."""

    def __init__(self, *, search_s: float = SEARCH_S, write_s: float = WRITE_S) -> None:
        self._search_s, self._write_s = search_s, write_s
        self.breaker = Breaker(failures=FAILURES, rest_s=REST_S, clock=time.monotonic)
        self.failures = 0
        self.made: str | None = ""
        """Its generation; None as long as `check` has not found it out. Set by an engine that can tell."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make it of the settings; it is not opened yet. Raises UnsafeStart if they are not enough."""

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Open what it needs, make its tables, and push onto `stack` what must be closed.

        Raises UnsafeStart, with what to do, for what only an operator mends. An engine that does not answer is no such
        thing: it starts without, and prepares the engine when it is there.
        """

    async def generation(self) -> str:
        """Name its tables as they were made: what was brought under another name is not there. Empty: it cannot tell.

        Of one that is there it costs nothing.
        """
        if self.made is None:
            await self.check()
        return self.made or ""

    async def put(self, scope: Scope, copies: Sequence[Copy]) -> None:
        """Keep these, each in place of an earlier one of its id. Raises NotTaken if it keeps only some of them."""
        async with self._asked(self._write_s):
            await self._put(scope, copies)

    async def put_vectors(self, scope: Scope, space: str, vectors: Mapping[str, Floats]) -> None:
        """Give what is kept its vector, by id; what is not there is passed over. For engines that have none of their
        own."""
        async with self._asked(self._write_s):
            await self._put_vectors(scope, space, vectors)

    async def remove(self, scope: Scope, ids: Sequence[str]) -> None:
        """Delete these, so that nothing of their texts is left; what is not there is passed over."""
        async with self._asked(self._write_s):
            await self._remove(scope, ids)

    async def forget(self, scope: Scope) -> None:
        """Delete all that is kept of a user."""
        async with self._asked(self._write_s):
            await self._forget(scope)

    async def search(self, scope: Scope, sought: Sought, limit: int) -> list[str]:
        """Return ids of what may answer a question, of the kinds and restricted as it says: the best so many, or up to
        twice as many where words and meaning are two lists.

        What is nearest must be among them; the order is of no account. Ids that are nowhere on record do no harm.
        """
        async with self._asked(self._search_s):
            return await self._search(scope, sought, limit)

    async def held(self, scope: Scope) -> dict[str, str]:
        """Return all that is kept of a user: ids, each with the digest of its text."""
        async with self._asked(self._write_s):
            return await self._held(scope)

    async def check(self) -> dict[str, Any]:
        """Ask the engine whether it is there; returns what it tells of itself, if anything."""
        async with self._asked(self._search_s):
            return await self._check()

    async def drop(self) -> None:
        """Take away all that is kept of everybody, with its tables, and make those anew."""
        async with self._asked(self._write_s):
            await self._drop()

    @asynccontextmanager
    async def _asked(self, limit_s: float) -> AsyncIterator[None]:
        if self.breaker.wait_s():
            raise DriverUnavailable(f"{self.name} failed a moment ago and is left alone for a while")
        await in_a_task()
        try:
            async with asyncio.timeout(limit_s):
                yield
        except self.native_errors + (TimeoutError,) as exc:  # noqa: RUF005 (mypy reads no unpacking here)
            self.failures += 1
            self.breaker.failed()
            logger.warning("a memory driver's engine failed", extra={"driver": self.name, "reason": type(exc).__name__})
            raise DriverUnavailable(f"{self.name}: {type(exc).__name__}") from exc
        except asyncio.CancelledError:
            self.breaker.released()
            raise
        except DriverUnavailable:  # of one user, or of what has passed already
            self.breaker.succeeded()
            raise
        except Exception as exc:
            # Whatever an engine does wrong, the record can do without it; and with what others ask it may be right. Its
            # words may be a user's: they are left out.
            self.failures += 1
            self.breaker.succeeded()
            logger.error("a mistake in a memory driver's engine", extra={"driver": self.name, "reason": _where(exc)})  # noqa: TRY400 (as said)
            raise NotTaken(f"{self.name}: {type(exc).__name__}") from exc
        self.breaker.succeeded()

    @abstractmethod
    async def _put(self, scope: Scope, copies: Sequence[Copy]) -> None: ...
    async def _put_vectors(self, scope: Scope, space: str, vectors: Mapping[str, Floats]) -> None:  # noqa: B027 (it may)
        """An engine that makes its own has no use for these."""

    @abstractmethod
    async def _remove(self, scope: Scope, ids: Sequence[str]) -> None: ...
    @abstractmethod
    async def _forget(self, scope: Scope) -> None: ...
    @abstractmethod
    async def _search(self, scope: Scope, sought: Sought, limit: int) -> list[str]: ...
    @abstractmethod
    async def _held(self, scope: Scope) -> dict[str, str]: ...
    @abstractmethod
    async def _check(self) -> dict[str, Any]: ...
    @abstractmethod
    async def _drop(self) -> None: ...


def _where(exc: Exception) -> str:
    """What kind of error it is, and the line that raised it."""
    frames = extract_tb(exc.__traceback__)
    return (
        f"{type(exc).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        if frames
        else type(exc).__name__
    )
