"""The built-in driver: the service's own record, searched as the service searches it, through engines or by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from itertools import groupby
from operator import itemgetter
from typing import Any, Self, TypeVar

from memory_service.app import open_service
from memory_service.corpus import Hit, Item, item_of
from memory_service.drivers.base import AwaitedDriver, BaseMemoryDriver, Told
from memory_service.drivers.blocking import BlockingDriver, BlockingFace, Verb
from memory_service.errors import MemoryServiceError, ValidationFailed
from memory_service.limits import (
    MAX_CATEGORY,
    MAX_DOCUMENT,
    MAX_QUESTION,
    MAX_TITLE,
    check_doc_id,
    check_id,
    check_limit,
    check_metadata,
    check_name,
    check_tags,
    check_text,
    check_user_id,
)
from memory_service.memories import MemoryDraft, document_of
from memory_service.projections import BUILTIN
from memory_service.recall import Retrieved
from memory_service.service import MemoryService
from memory_service.settings import Settings
from memory_service.telling import Document
from memory_service.values import Only, Scope, derived_id, knowledge_of

MEMORY_FIELDS = {"user_id", "content", "conversation_id", "tags", "metadata"}

T = TypeVar("T")


class BuiltinDriver:
    """The six verbs, awaited, over a service that is open: yours to close. `opened` opens one of its own.

    Recalled is everything the memory of a user holds: what was stored here, the messages of their turns (`role` and
    `name` in the metadata), and what was learned from them; all but the first say in the metadata of what `kind` they
    are. Vectors of what was just stored follow in the background; until then its words find it.

    Ids (numbers too) and texts are held to what the service takes over HTTP. Raises ValidationFailed, which is a
    ValueError, for what it does not take, and the service's own errors: Unavailable where trying again makes sense.
    """

    def __init__(
        self, service: MemoryService, tenant_id: str = "default", *, engines: Sequence[str] | None = None
    ) -> None:
        self._service, self._tenant_id = service, tenant_id
        self._engines = None if engines is None else tuple(engines)

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings | None = None) -> AsyncIterator[Self]:
        """Open the service that the settings describe (the environment and `.env`). Raises UnsafeStart."""
        async with open_service(settings or Settings()) as service:
            yield cls(service)

    @property
    def service(self) -> MemoryService:
        """The service itself, with all of its verbs."""
        return self._service

    async def through(self, engines: Sequence[str]) -> Self:
        """The same record, asked through engines that follow it from now on, if they have not before.

        Raises UnsafeStart for one that cannot be used as things are.
        """
        if not set(engines) <= set(self._service.engines.names):
            await self._service.drivers.use(engines)
        return type(self)(self._service, self._tenant_id, engines=engines)

    @property
    def _asked(self) -> tuple[str, ...]:
        """The engines that are asked before the record."""
        return self._service.engines.order if self._engines is None else self._engines

    async def recall(
        self,
        user_id: str,
        conversation_id: str | None = None,
        query: str | None = None,
        top_k: int = 10,
        use_vector: bool = True,
        exclude_tags: list[str] | None = None,
    ) -> list[Told]:
        """As the base says; at most 100. A query of nothing but spaces is none."""
        scope, limit = self._scope(user_id), check_limit("top_k", top_k)
        only = Only(
            session_id=_optional_id("conversation_id", conversation_id),
            without_tags=frozenset(check_tags("exclude_tags", exclude_tags or [])),
        )
        question = _question(query)
        if question is None:
            return [_memory(scope, item) for item in await self._service.newest(scope, limit, only)]
        found = await self._service.recall(scope, question, limit, only, by_words=not use_vector, drivers=self._engines)
        return [_found(_memory(scope, hit.item), hit, found) for hit in found.hits]

    async def recall_global_knowledge(self, query: str, top_k: int = 5, category: str | None = None) -> list[Told]:
        """As the base says; at most 100. A query of nothing but spaces gives the newest, newest first."""
        limit, question = check_limit("top_k", top_k), _question(query)
        wanted = None if category is None else check_name("category", category, MAX_CATEGORY)
        if question is None:
            only = Only(category=wanted and wanted.lower())
            items = await self._service.newest(knowledge_of(self._tenant_id), limit, only)
            return [_knowledge(item) for item in items]
        found = await self._service.recall_knowledge(self._tenant_id, question, limit, wanted, drivers=self._engines)
        return [_found(_knowledge(hit.item), hit, found) for hit in found.hits]

    async def store(
        self,
        user_id: str,
        content: str,
        conversation_id: str | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Told:
        """Keep a memory and return it; it is durable and can be recalled when this returns."""
        given = {"content": content, "conversation_id": conversation_id, "tags": tags, "metadata": metadata}
        (told,) = await self.store_many([{"user_id": user_id, **given}])
        return told

    async def store_many(self, memories: Iterable[Mapping[str, Any]]) -> list[Told]:
        """Keep many memories, and return them in their order; nothing is kept if one of them cannot be.

        Those of a user that follow one another are kept together, up to a hundred in one commit.
        """
        drafts = [(self._scope(memory.get("user_id")), _draft(memory)) for memory in memories]
        told: list[Told] = []
        for scope, own in groupby(drafts, key=itemgetter(0)):
            kept = await self._service.memories.remember_many(scope, [draft for _, draft in own])
            told += [_memory(scope, item_of(memory)) for memory in kept]
        return told

    async def store_global_knowledge(
        self,
        content: str,
        category: str,
        title: str | None = None,
        doc_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Told:
        """Keep a piece of knowledge and return it. Without a `doc_id` it is named by what it says, so that the same
        knowledge stored twice is there once.
        """
        content = check_text("content", content, MAX_DOCUMENT)
        category = check_name("category", category, MAX_CATEGORY)
        title = None if title is None else check_name("title", title, MAX_TITLE)
        given = None if doc_id is None else check_doc_id("doc_id", _named(doc_id))
        document = Document(
            doc_id=given or derived_id("doc", category.lower(), title or "", content),
            content=content,
            category=category,
            title=title,
            metadata=_own_metadata(metadata),
        )
        kept = await self._service.memories.put_document(self._tenant_id, document)
        return _knowledge(item_of(kept.memory))

    async def delete(self, memory_id: str, user_id: str | None = None) -> bool:
        """Delete a memory of a user; returns whether there was one, and False for another user's.

        Without a `user_id` it is global knowledge that is meant: ids are unique per user, so that without one no
        memory of a user is named, and none is deleted. Messages of turns are the record itself and stay: to ask for it
        raises ValidationFailed, for neither answer would be true.
        """
        scope = knowledge_of(self._tenant_id) if user_id is None else self._scope(user_id)
        named = _named(memory_id)
        if isinstance(named, str) and "#" in named:
            raise ValidationFailed("memory_id", "is a message of a turn, which stays on record")
        return await self._service.delete_memory(scope, check_id("memory_id", named))

    async def health_check(self) -> Told:
        """Ask the record whether it answers and takes what is to be written, and each engine whether it is there.

        An engine that is away is `unhealthy`; memories can be kept and found all the same, which `record` tells.
        """
        engines = {name: await self._service.engines.check(name) for name in self._asked}
        away = [f"{name}: {told['error']}" for name, told in engines.items() if not told["connected"]]
        record = await self._record()
        if not engines:
            return record
        told: Told = {"status": "healthy", "driver": ",".join(engines), "connected": not away, "record": record}
        if len(engines) == 1:
            told |= next(iter(engines.values()))
        else:
            told["engines"] = engines
        if away or record["status"] != "healthy":
            told |= {"status": "unhealthy", "error": "; ".join(away) or record["error"]}
        return told

    async def _record(self) -> Told:
        connected = False
        try:
            await self._service.ping()
            connected = True
            await self._service.ready()
        except MemoryServiceError as exc:
            return unhealthy(exc, connected=connected)
        return {"status": "healthy", "driver": BUILTIN, "connected": True}

    def _scope(self, user_id: Any) -> Scope:
        return Scope(tenant_id=self._tenant_id, user_id=check_user_id("user_id", _named(user_id)))


class _BuiltinFace(BlockingFace):
    """What the built-in driver can besides the six verbs, called and waited for."""

    def store_many(self, memories: Iterable[Mapping[str, Any]]) -> list[Told]:
        given = list(memories)  # here, and not in the other thread

        async def store_all(driver: AwaitedDriver) -> list[Told]:
            assert isinstance(driver, BuiltinDriver)
            return await driver.store_many(given)

        return self.run(store_all)


class BuiltinMemoryDriver(_BuiltinFace, BlockingDriver):
    """The built-in driver, called and waited for, over the record of the settings (STORE_URL).

    It opens with the first call, which raises UnsafeStart if it cannot. Over SQLite one process owns the record.
    Without settings of its own it asks the record itself, whatever MEMORY_DRIVER says.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(lambda: BuiltinDriver.opened(settings or Settings(memory_driver=BUILTIN)))

    def through(self, engines: Sequence[str]) -> BaseMemoryDriver:
        """The same record, asked through engines that follow it; they are made ready with its first call."""
        return _ThroughEngines(self, engines)

    def health_check(self) -> Told:
        try:
            return super().health_check()
        except MemoryServiceError as exc:
            return unhealthy(exc, connected=False)


class _ThroughEngines(_BuiltinFace):
    """A record that is open elsewhere, asked through engines."""

    def __init__(self, record: BuiltinMemoryDriver, engines: Sequence[str]) -> None:
        self._record, self._engines = record, tuple(engines)

    def run(self, verb: Verb[T]) -> T:
        async def through_engines(driver: AwaitedDriver) -> T:
            assert isinstance(driver, BuiltinDriver)
            return await verb(await driver.through(self._engines))

        return self._record.run(through_engines)

    def health_check(self) -> Told:
        try:
            return super().health_check()
        except MemoryServiceError as exc:
            return {**unhealthy(exc, connected=False), "driver": ",".join(self._engines)}


def unhealthy(error: MemoryServiceError, *, connected: bool) -> Told:
    reason = f"{error.title}: {error}" if str(error) else error.title
    return {"status": "unhealthy", "driver": BUILTIN, "connected": connected, "error": reason}


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _named(value: Any) -> Any:
    return str(value) if _is_number(value) else value


def _id(place: str, value: Any) -> str:
    return check_id(place, _named(value))


def _optional_id(place: str, value: Any) -> str | None:
    return None if value is None else _id(place, value)


def _question(query: Any) -> str | None:
    if query is None or (isinstance(query, str) and not query.strip()):
        return None
    return check_text("query", query, MAX_QUESTION)


def _own_metadata(metadata: Any) -> dict[str, Any]:
    """A copy: what the caller does with theirs afterwards changes no memory."""
    if metadata is None:
        return {}
    check_metadata("metadata", metadata)
    own: dict[str, Any] = deepcopy(metadata)
    return own


def _draft(given: Mapping[str, Any]) -> MemoryDraft:
    """A memory as `store` takes it. Raises ValidationFailed, or TypeError for what `store` has no name for."""
    if unknown := given.keys() - MEMORY_FIELDS:
        raise TypeError(f"store has no argument {sorted(map(str, unknown))[0]!r}")
    return MemoryDraft(
        text=check_text("content", given.get("content")),
        session_id=_optional_id("conversation_id", given.get("conversation_id")),
        tags=check_tags("tags", given.get("tags") or []),
        metadata=_own_metadata(given.get("metadata")),
    )


def _memory(scope: Scope, item: Item) -> Told:
    metadata = deepcopy(item.metadata)  # what is held in memory is nobody's to change
    if item.kind != "memory":
        told = {"kind": item.kind, "role": item.role, "name": item.name, "category": item.category}
        metadata.update({name: value for name, value in told.items() if value is not None})
    return {
        **_told(item, metadata),
        "user_id": scope.user_id,
        "conversation_id": item.session_id,
        "created_at": item.created_at.isoformat(),
    }


def _knowledge(item: Item) -> Told:
    document = document_of(item)
    named = {"category": document.category, "title": document.title, "doc_id": document.doc_id}
    metadata = {**deepcopy(document.metadata), **named}
    return {**_told(item, metadata), "category": item.category, "created_at": item.created_at.isoformat()}


def _told(item: Item, metadata: dict[str, Any]) -> Told:
    memory = {"content": item.text, "tags": list(item.tags), "metadata": metadata}
    return {"id": item.id, "memory_id": item.id, "memory": memory}


def _found(told: Told, hit: Hit, found: Retrieved) -> Told:
    return {**told, "score": hit.score, **({"degraded": list(found.degraded)} if found.degraded else {})}
