"""Memories that callers write: of a user, or for all users of a tenant (knowledge)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from msgspec.structs import asdict, replace

from memory_service.corpus import Hit, Item
from memory_service.errors import MemoryIdTaken
from memory_service.stores.base import Commit, Store
from memory_service.telling import Document, Known
from memory_service.values import PROFILE_ID, Durability, Memory, Scope, Value, derived_id, knowledge_of

Change = Literal["created", "replaced", "unchanged"]


MOMENT = timedelta(microseconds=1)
KEPT_TOGETHER = 100
"""Memories that one commit keeps."""


class Kept(Value, frozen=True, kw_only=True):
    """A piece of knowledge as it is on record, and what that took."""

    doc_id: str
    memory: Memory
    change: Change
    durability: Durability


class MemoryDraft(Value, frozen=True, kw_only=True):
    """A memory that a caller writes. One under a `memory_id` that is there takes its place; empty: it is a new one."""

    text: str
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    memory_id: str = ""


def document_memory_id(doc_id: str) -> str:
    return derived_id("knowledge", doc_id)


def memory_of(document: Document, now: datetime) -> Memory:
    """What is kept of a document; its metadata stands by itself, so that no key of it is taken for one of ours."""
    ours = {"doc_id": document.doc_id, "title": document.title, "metadata": document.metadata}
    return Memory(
        memory_id=document_memory_id(document.doc_id),
        kind="knowledge",
        text=document.content,
        created_at=now,
        category=document.category.lower(),
        metadata={name: value for name, value in ours.items() if value},
        trust="high",
    )


def document_of(item: Item) -> Document:
    """The document that `memory_of` has kept."""
    return Document(
        doc_id=item.metadata["doc_id"],
        content=item.text,
        category=item.category or "",
        title=item.metadata.get("title"),
        metadata=item.metadata.get("metadata", {}),
    )


def known_of(hit: Hit) -> Known:
    """The document that a search has found."""
    item, parts = hit.item, asdict(hit.parts)
    return Known(
        memory_id=item.id, document=document_of(item), created_at=item.created_at, score=hit.score, parts=parts
    )


class Memories:
    """`changed` is told whose memories are other ones now: they need vectors, and what is held of them is old."""

    def __init__(
        self, store: Store, changed: Callable[[Scope], None], *, now: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._store, self._changed, self._now, self._new_id = store, changed, now, new_id

    async def remember(
        self,
        scope: Scope,
        text: str,
        *,
        session_id: str | None = None,
        tags: tuple[str, ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> Memory:
        """Keep a text as a memory of a user; it is durable and can be found when this returns."""
        draft = MemoryDraft(text=text, session_id=session_id, tags=tags, metadata=metadata or {})
        (memory,) = await self.remember_many(scope, [draft])
        return memory

    async def remember_many(self, scope: Scope, drafts: Sequence[MemoryDraft]) -> list[Memory]:
        """Keep texts as memories of a user; they are durable and can be found when this returns.

        So many as one commit holds (`KEPT_TOGETHER`) are kept together or not at all. Raises MemoryIdTaken for the
        profile's: that one has verbs of its own.
        """
        if any(draft.memory_id == PROFILE_ID for draft in drafts):
            raise MemoryIdTaken
        now = self._now()
        memories = [
            Memory(
                memory_id=draft.memory_id or f"memory_{self._new_id()}",
                kind="memory",
                text=draft.text,
                # each a moment after the one before: the last is the newest
                created_at=now + place * MOMENT,
                session_id=draft.session_id,
                tags=draft.tags,
                metadata=draft.metadata,
            )
            for place, draft in enumerate(drafts)
        ]
        for start in range(0, len(memories), KEPT_TOGETHER):
            await self.put(scope, *memories[start : start + KEPT_TOGETHER])
        return memories

    async def put_document(self, tenant_id: str, document: Document) -> Kept:
        """Keep a piece of knowledge; nothing is written if it is there just as it is. An empty `doc_id` is made."""
        if not document.doc_id:
            document = replace(document, doc_id=self._new_id())
        memory, scope = memory_of(document, self._now()), knowledge_of(tenant_id)
        held = await self._store.find_memory(scope, memory.memory_id)
        change: Change = "replaced" if held is not None and held.valid_to is None else "created"
        if held is not None and replace(memory, created_at=held.created_at) == held:
            memory, change = held, "unchanged"
        else:
            await self.put(scope, memory)
        durability = self._store.capabilities.durability
        return Kept(doc_id=document.doc_id, memory=memory, change=change, durability=durability)

    async def put(self, scope: Scope, *memories: Memory) -> None:
        """Keep memories as they are, in place of those of their ids."""
        await self._store.commit(Commit(scope=scope, memories=memories))
        self._changed(scope)
