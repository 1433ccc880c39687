"""Memories that callers write: of a user, or for all users of a tenant (knowledge); and deleting one by its id."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from memory_service.stores.base import Commit, Store
from memory_service.values import Memory, Scope, Value, derived_id, knowledge_of


class Document(Value, frozen=True, kw_only=True):
    """A piece of knowledge. One that comes again under its `doc_id` takes the place of the former."""

    doc_id: str
    content: str
    category: str
    title: str | None = None
    metadata: dict[str, Any] = {}

    @property
    def memory_id(self) -> str:
        return document_memory_id(self.doc_id)


def document_memory_id(doc_id: str) -> str:
    return derived_id("knowledge", doc_id)


class Memories:
    """`changed` is told whose memories are other ones now: they need vectors, and what is held of them is old."""

    def __init__(
        self, store: Store, changed: Callable[[Scope], None], *, now: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._store, self._changed, self._now, self._new_id = store, changed, now, new_id

    async def remember(
        self, scope: Scope, text: str, *, session_id: str | None, tags: tuple[str, ...], metadata: dict[str, Any]
    ) -> Memory:
        """Keep a text as a memory of a user; it is durable and can be found when this returns."""
        memory = Memory(
            memory_id=f"memory_{self._new_id()}",
            kind="memory",
            text=text,
            created_at=self._now(),
            session_id=session_id,
            tags=tags,
            metadata=metadata,
        )
        await self._put(scope, memory)
        return memory

    async def put_document(self, tenant_id: str, document: Document) -> Memory:
        """Keep a piece of knowledge; nothing is written if it is there just as it is."""
        told = {"doc_id": document.doc_id, "title": document.title}
        memory = Memory(
            memory_id=document.memory_id,
            kind="knowledge",
            text=document.content,
            created_at=self._now(),
            category=document.category.lower(),
            metadata={**document.metadata, **{name: value for name, value in told.items() if value is not None}},
        )
        scope = knowledge_of(tenant_id)
        held = await self._store.find_memory(scope, memory.memory_id)
        if held is not None and replace(memory, created_at=held.created_at) == held:
            return held
        await self._put(scope, memory)
        return memory

    async def delete_document(self, tenant_id: str, doc_id: str) -> bool:
        """Delete a piece of knowledge; returns whether there was one."""
        return await self.delete(knowledge_of(tenant_id), document_memory_id(doc_id))

    async def delete(self, scope: Scope, memory_id: str) -> bool:
        """Delete a memory of any kind, so that nothing of it but its id is left; returns whether there was one."""
        held = await self._store.find_memory(scope, memory_id)
        if held is None or not held.text:
            return False
        await self._put(scope, held.deleted(self._now()))
        return True

    async def _put(self, scope: Scope, memory: Memory) -> None:
        await self._store.commit(Commit(scope=scope, memories=(memory,)))
        self._changed(scope)
