"""The four verbs of the gateway, over the service's own record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from memory_service import extract
from memory_service.background import Background
from memory_service.corpus import item_of
from memory_service.embedding import PLAIN_WORDS, Embedding
from memory_service.errors import ValidationFailed
from memory_service.gateway import models
from memory_service.gateway.messages import kept_of, message_of
from memory_service.limits import check_id, check_user_id
from memory_service.memories import Memories
from memory_service.recall import Recall
from memory_service.refining import as_turns
from memory_service.revisions import Revisions, Wanted
from memory_service.stores.base import ALL, Store
from memory_service.text import LONGEST_KEY
from memory_service.values import (
    EXTRACTIVE,
    NOBODY,
    Memory,
    Only,
    Rough,
    Scope,
    Session,
    SessionKey,
    least,
    nobody_of,
)

if TYPE_CHECKING:  # it takes a while to import
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
else:
    from memory_service.late import np

MOST_SESSIONS = 100
"""Sessions that one answer holds, the newest."""
READ_AT_ONCE = 8
VECTORS_AT_ONCE = 500
EXTRACT_WORDS = 120
NOT_ASKED = -1.0
"""The similarity of a memory where nothing was asked."""


class Asker(Protocol):
    """Who asks: what `api.auth.Caller` is."""

    @property
    def tenant_id(self) -> str: ...
    @property
    def user_id(self) -> str | None: ...
    def scope(self, user_id: str) -> Scope: ...
    def of_all_users(self) -> str: ...


class Gateway:
    """All verbs raise ValidationFailed for what is not valid, and ScopeMismatch for whom the asker may not name."""

    def __init__(
        self,
        store: Store,
        revisions: Revisions,
        memories: Memories,
        recall: Recall,
        embedding: Embedding,
        background: Background,
        *,
        refines: bool,
        clean: Callable[[str], str],
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._store, self._revisions, self._memories = store, revisions, memories
        self._recall, self._embedding, self._background = recall, embedding, background
        self._refines, self._clean, self._now, self._new_id = refines, clean, now, new_id

    # Sessions

    async def get_session_context(
        self, asker: Asker, request: models.GetSessionContextRequest
    ) -> models.GetSessionContextResponse:
        """Return the sessions that are so, the newest first; at most a hundred."""
        scopes = await self._scopes(asker, request.user_id, request.session_id)
        found = [(scope, head) for scope in scopes for head in await self._heads(scope, request.session_id)]
        found.sort(key=lambda one: one[1].created_at, reverse=True)
        results: list[models.SessionContext] = []
        for start in range(0, len(found[:MOST_SESSIONS]), READ_AT_ONCE):
            some = found[:MOST_SESSIONS][start : start + READ_AT_ONCE]
            results += await asyncio.gather(*(self._session(scope, head) for scope, head in some))
        return models.GetSessionContextResponse(results=results)

    async def _heads(self, scope: Scope, session_id: str | None) -> list[Session]:
        if not session_id:
            return await self._store.sessions(scope, MOST_SESSIONS)
        head = await self._store.head(SessionKey(scope=scope, session_id=session_id))
        return [head] if head is not None else []

    async def _session(self, scope: Scope, head: Session) -> models.SessionContext:
        said = await self._revisions.shown(SessionKey(scope=scope, session_id=head.session_id), head)
        return models.SessionContext(
            session_id=head.session_id,
            user_id=None if scope.user_id == NOBODY else scope.user_id,
            agent_id=head.agent_id,
            messages=[message_of(messages) for messages in said],
            system_prompt=head.system_prompt,
            session_metadata=head.metadata,
        )

    async def upsert_session_context(
        self, asker: Asker, request: models.UpsertSessionContextRequest
    ) -> models.UpsertSessionContextResponse:
        """Make a session be as given, and answer with what is shown of it now. Raises also what a commit raises."""
        given = request.session_context
        place = "$.session_context"
        _check_ids(given)
        session_id, user_id = given.session_id, given.user_id or asker.user_id
        scope = asker.scope(user_id) if user_id else nobody_of(asker.of_all_users())
        wanted = Wanted(
            said=tuple(kept_of(one, f"{place}.messages[{n}]") for n, one in enumerate(given.messages)),
            agent_id=given.agent_id,
            system_prompt=given.system_prompt,
            metadata=given.session_metadata,
        )
        self._store.require_room()
        key = SessionKey(scope=scope, session_id=session_id)
        revised = await self._revisions.revise(key, wanted)
        if revised.changed:
            self._background.after_turn(key, revised.session)
        messages = [message_of(messages) for messages in revised.said]
        answer = given.model_copy(update={"user_id": user_id or None, "messages": messages})
        return models.UpsertSessionContextResponse(session_context=answer)

    async def _scopes(self, asker: Asker, user_id: str | None, session_id: str | None) -> list[Scope]:
        """Whose memory may hold what is asked for; a caller who is bound to a user means his own if he names none."""
        if session_id:
            check_id("$.session_id", session_id)
        if user_id or asker.user_id:
            return [asker.scope(check_user_id("$.user_id", user_id or asker.user_id))]
        assert session_id, "models let nothing pass that names neither"
        return await self._store.whose(asker.of_all_users(), session_id)

    # Memories

    async def create_memory(self, asker: Asker, request: models.CreateMemoryRequest) -> models.CreateMemoryResponse:
        """Keep what was said as a memory, at once as an extract of it; a model, if there is one, writes it later."""
        scope = asker.scope(check_user_id("$.user_id", request.user_id))
        session_id, place = check_id("$.session_id", request.session_id), "$.session_context.messages"
        _check_ids(request.session_context)
        if request.session_context.user_id:
            asker.scope(request.session_context.user_id)
        said = [kept_of(one, f"{place}[{n}]") for n, one in enumerate(request.session_context.messages)]
        if not any((message.text or "").strip() for message in request.session_context.messages):
            raise ValidationFailed(place, "a memory is made of at least one message with a text")
        messages = tuple(replace(message, parts=None) for messages in said for message in messages)
        now = self._now()
        text = await asyncio.to_thread(extract.extract, "", extract.said(as_turns(messages, now)), EXTRACT_WORDS)
        memory = Memory(
            memory_id=f"memory_{self._new_id()}",
            kind="memory",
            text=self._clean(text),
            created_at=now,
            session_id=session_id,
            agent_id=request.agent_id,
            model=EXTRACTIVE,
            rough=Rough(messages=messages) if self._refines else None,
            trust=least(message.trust for message in messages),
        )
        await self._memories.put(scope, memory)
        self._background.refine_soon()
        (told,) = await self._told(scope, [memory])
        return models.CreateMemoryResponse(memory=told)

    async def get_memories(self, asker: Asker, request: models.GetMemoriesRequest) -> models.GetMemoriesResponse:
        """Return memories that are so: the nearest if something is asked, otherwise the newest, newest first."""
        query = (request.query or "").strip()
        if query and request.embedding:
            raise ValidationFailed("$.query", "either a query or an embedding, not both")
        found: list[models.Memory] = []
        for scope in await self._scopes(asker, request.user_id, request.session_id):
            found += await self._found(scope, request, query)
        if query or request.embedding:
            found.sort(key=lambda memory: memory.similarity, reverse=True)
        else:
            found.sort(key=lambda memory: memory.created_at, reverse=True)
        return models.GetMemoriesResponse(memories=found[: request.limit])

    async def _found(self, scope: Scope, request: models.GetMemoriesRequest, query: str) -> list[models.Memory]:
        """What one user has."""
        only = Only(session_id=request.session_id or None, agent_id=request.agent_id or None)
        if query:
            hits = (await self._recall.retrieve(scope, query, request.limit, ["memory"], only)).hits
            page = await self._store.items(scope, [hit.item.id for hit in hits], self._embedding.space)
            held = {memory.memory_id: memory for memory in page.memories if memory.valid_to is None}
            scores = {hit.item.id: hit.score for hit in hits if hit.item.id in held}
            return await self._told(scope, [held[memory_id] for memory_id in scores], scores)
        memories = await self._store.memories(scope, ["memory"], limit=request.limit if only == Only() else ALL)
        memories = [memory for memory in memories if item_of(memory).is_of(only)]
        if request.embedding:
            return await self._nearest(scope, memories, request.embedding, request.limit)
        return await self._told(scope, memories[: request.limit])

    async def _nearest(
        self, scope: Scope, memories: list[Memory], embedding: list[float], limit: int
    ) -> list[models.Memory]:
        """By the cosine of the angle between; those without a vector are left out."""
        asked = np.array(embedding, np.float64)
        rows = await self._vectors(scope, memories)
        here = await self._embedding.at_once([PLAIN_WORDS])
        widths = {len(row) for row in (*rows.values(), *(() if here is None else here))}
        if widths and len(asked) not in widths:
            raise ValidationFailed("$.embedding", f"must have {' or '.join(map(str, widths))} dimensions")
        length = float(np.linalg.norm(asked)) or 1.0
        near = {memory_id: float(row @ asked) / length for memory_id, row in rows.items()}
        best = [memory for memory in memories if memory.memory_id in near]
        best.sort(key=lambda memory: near[memory.memory_id], reverse=True)
        return await self._told(scope, best[:limit], near)

    async def _vectors(self, scope: Scope, memories: Sequence[Memory]) -> dict[str, Floats]:
        """The vectors there are by memory, and at once those that are still to be, where that takes no other server."""
        rows: dict[str, Floats] = {}
        for start in range(0, len(memories), VECTORS_AT_ONCE):
            ids = [memory.memory_id for memory in memories[start : start + VECTORS_AT_ONCE]]
            page = await self._store.items(scope, ids, self._embedding.space)
            rows |= {one.item_id: np.frombuffer(one.data, np.float32) for one in page.vectors if one.data}
        missing = [memory for memory in memories if memory.memory_id not in rows]
        made = await self._embedding.at_once([memory.text[:LONGEST_KEY] for memory in missing]) if missing else None
        if made is not None:
            rows |= {memory.memory_id: row for memory, row in zip(missing, made, strict=True)}
        return rows

    async def _told(
        self, scope: Scope, memories: Sequence[Memory], similarities: Mapping[str, float] | None = None
    ) -> list[models.Memory]:
        rows = await self._vectors(scope, memories)
        return [
            models.Memory(
                memory_id=memory.memory_id,
                session_id=memory.session_id or "",
                user_id=scope.user_id,
                agent_id=memory.agent_id or "",
                content=memory.text,
                embedding_model=self._embedding.space,
                created_at=memory.created_at,
                updated_at=memory.updated_at or memory.created_at,
                embedding=rows[memory.memory_id].tolist() if memory.memory_id in rows else None,
                similarity=(similarities or {}).get(memory.memory_id, NOT_ASKED),
            )
            for memory in memories
        ]


def _check_ids(context: models.SessionContext) -> None:
    check_id("$.session_context.session_id", context.session_id)
    if context.user_id:
        check_user_id("$.session_context.user_id", context.user_id)
