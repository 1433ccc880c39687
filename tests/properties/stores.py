"""The stores that the machine runs over. A new one is a line in `GROUNDS`, or in `SLOW_GROUNDS`."""

from __future__ import annotations

import atexit
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import ExitStack
from copy import deepcopy
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar
from uuid import uuid4

from msgspec.structs import replace

from memory_service.stores.base import Commit, Store
from memory_service.stores.transient import TransientStore
from memory_service.values import Scope, Session, SessionKey, Sitting, Unembedded
from tests.cosmos.launcher import CosmosServer
from tests.postgres.launcher import PostgresServer
from tests.redis.launcher import RedisServer
from tests.stores.cosmos_account import copy_database, settings_for, without_lease
from tests.stores.postgres_database import rows
from tests.support.stores import YieldingStore, store_of

MAX_ATTEMPTS = 2
MORE_THAN_IS_DUE = 10_000


class Ground(ABC):
    """What one store stands on, and what is left there when the process that had it is gone."""

    pool_sizes: ClassVar[tuple[int, ...]] = (1000, 1, 0)
    """Of the services that are driven on stores of this kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def store(self) -> Store:
        """Make a store over what was kept; it is not opened yet."""

    def redis_url(self) -> str:
        """Of the hot tier beside the store, if there is one."""
        return ""

    def crash(self) -> None:  # noqa: B027 (a record that a server keeps stays where it is)
        """From now on `store` gives what a crash at this moment leaves.

        The former store is only put away afterwards: what it may still write must not count. Where the record is
        kept by a server nothing is to be done but to let it write nothing more.
        """


class TransientGround(Ground):
    """Dictionaries, kept beyond their store for as long as the machine runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.kept = TransientStore()

    def store(self) -> Store:
        return self.kept

    def crash(self) -> None:
        left = TransientStore()
        left._records, left._tokens = deepcopy(self.kept._records), self.kept._tokens
        left._erased = set(self.kept._erased)
        for record in left._records.values():
            # as any store does when it opens that has its record to itself: a lease there is of a process that is gone
            record.sittings = {name: replace(sitting, lease_until=None) for name, sitting in record.sittings.items()}
        self.kept = left


class SQLiteGround(Ground):
    """A file; a crash leaves it as it is on the disk, with its log: copied, they are opened in its place."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.crashes = 0

    @property
    def path(self) -> Path:
        return self.folder / f"{self.crashes}.db"

    def store(self) -> Store:
        return store_of(f"sqlite:///{self.path}")

    def crash(self) -> None:
        before = self.path
        self.crashes += 1
        for ending in ("", "-wal"):
            if (file := before.with_name(before.name + ending)).exists():
                shutil.copy(file, self.path.with_name(self.path.name + ending))


class CosmosGround(Ground):
    """A database of its own on one Cosmos DB server; a crash leaves a copy of it."""

    pool_sizes = (1,)  # it is slow, and what a pool does is seen on the others

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.name, self.crashes = uuid4().hex, 0

    @property
    def database(self) -> str:
        return f"{self.name}-{self.crashes}"

    def store(self) -> Store:
        # What a search goes through is looked at, and compared with other stores: so it is all of a user's memory here.
        return store_of(settings_for(cosmos_server(), cosmos_database_name=self.database, store_search="process"))

    def crash(self) -> None:
        before = self.database
        self.crashes += 1
        copy_database(cosmos_server(), before, self.database, without_lease)


@cache
def cosmos_server() -> CosmosServer:
    """The server of all machines of this run; it ends with this process."""
    server = CosmosServer(Path(mkdtemp(prefix="cosmos-")))
    server.start()
    atexit.register(server.stop)
    return server


class PostgresGround(Ground):
    """A database of its own on one PostgreSQL server; a crash leaves a copy of it."""

    pool_sizes = (1,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = postgres_server().new_database()

    def store(self) -> Store:
        return store_of(self.url)

    def crash(self) -> None:
        self.url = postgres_server().copied_database(self.url)
        rows(self.url, "UPDATE sittings SET lease_until = NULL RETURNING 1")


class SharedGround(PostgresGround):
    """The same, beside a Redis that no crash empties: it may hold what is on no record, and of which nothing came."""

    def redis_url(self) -> str:
        return redis_server().url


@cache
def redis_server() -> RedisServer:
    """The server of all machines of this run; it ends with this process."""
    stack = ExitStack()
    server = stack.enter_context(RedisServer(Path(mkdtemp(prefix="redis-"))))
    atexit.register(stack.close)
    return server


@cache
def postgres_server() -> PostgresServer:
    """The server of all machines of this run; it ends with this process."""
    stack = ExitStack()
    server = stack.enter_context(PostgresServer(Path(mkdtemp(prefix="postgres-")), fsync="off"))
    atexit.register(stack.close)
    return server


GROUNDS: dict[str, type[Ground]] = {
    "transient": TransientGround,
    "sqlite": SQLiteGround,
}
SLOW_GROUNDS: dict[str, type[Ground]] = {
    "transient": TransientGround,
    "cosmos": CosmosGround,
    "postgres": PostgresGround,
    "postgres and redis": SharedGround,
}
"""Driven through fewer examples; one of `GROUNDS` is beside them to compare with."""


class Book:
    """What was committed, as it was acknowledged: it outlives the services, and counts for each anew."""

    def __init__(self) -> None:
        self.heads: dict[tuple[Scope, str], Session] = {}
        self.sittings: dict[tuple[Scope, str, int], Sitting] = {}
        self.insights: dict[object, set[str]] = {}
        self.ids = 0
        self.count_anew()

    def count_anew(self) -> None:
        self.commits = self.compacted = self.embedded = 0
        self.reflected = self.gave_up = self.never_ended = 0

    def new_id(self) -> str:
        self.ids += 1
        return f"made{self.ids}"

    def forget(self, key: SessionKey) -> None:
        """A session was erased: what comes under its id begins anew."""
        self.heads.pop((key.scope, key.session_id), None)
        self.sittings = {
            place: sitting for place, sitting in self.sittings.items() if place[:2] != (key.scope, key.session_id)
        }

    def add(self, commit: Commit) -> None:
        """Note an acknowledged commit. Versions rise by one, and nothing that was counted goes back."""
        self.commits += 1
        if commit.session is not None:
            name = (commit.scope, commit.session.session_id)
            before = self.heads.get(name)
            assert commit.session.version == (before.version if before else 0) + 1
            if before is not None:
                assert commit.session.turn_count == before.turn_count + len(commit.turns)
                assert commit.session.compacted_through >= before.compacted_through
                self.compacted += commit.session.compacted_through > before.compacted_through
            self.heads[name] = commit.session
        for sitting in commit.sittings:
            place = (commit.scope, sitting.session_id, sitting.first_seq)
            earlier = self.sittings.get(place)
            assert sitting.version == (earlier.version if earlier else 0) + 1
            self.reflected += sitting.reflected_through > (earlier.reflected_through if earlier else 0)
            self.gave_up += sitting.reflection == "dead"
            self.never_ended += sitting.attempts > MAX_ATTEMPTS and sitting.lease_until is None
            self.sittings[place] = sitting
        insights = [memory.memory_id for memory in commit.memories if memory.kind == "insight"]
        self.insights.setdefault(commit.scope, set()).update(insights)
        self.embedded += len(commit.vectors)


class WitnessedStore(YieldingStore):
    """Another store, which gives way to other tasks around each verb and writes down what it acknowledged."""

    def __init__(self, inner: Store, book: Book) -> None:
        super().__init__(inner)
        self.capabilities = inner.capabilities
        self._book = book
        self.deaf = False
        """Set when the process is taken to be gone: what it still writes is not heard of."""

    async def _commit(self, commit: Commit) -> None:
        await super()._commit(commit)
        if not self.deaf:
            self._book.add(commit)

    async def _due_vectors(self, space: str, limit: int, users: Collection[Scope] | None) -> list[Unembedded]:
        """A store may tell of more users than it is asked for; here all tell of these alone, and so of the same."""
        due = await super()._due_vectors(space, MORE_THAN_IS_DUE, users)
        return [item for item in due if users is None or item.scope in users][:limit]

    async def _due_reflections(self, now: datetime, limit: int, scope: Scope | None) -> list[tuple[Scope, Sitting]]:
        """Of sittings that are due at the same moment each store may take another first; here all take the same."""
        due = await super()._due_reflections(now, limit, scope)
        return sorted(due, key=lambda found: (found[1].due_at, found[1].session_id, found[1].first_seq))
