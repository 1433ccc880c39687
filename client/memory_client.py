"""The memory service from Python, awaited or blocking.

    async with MemoryServiceClient("http://localhost:8000", user_id="user123") as client:
        context = await client.start_session()
        await client.store_turn("What is a 401k?", "A retirement savings plan ...")
        await client.end_session()

Answers are the service's JSON as plain dicts. Errors are those of `client.errors`. Connection errors, time-outs,
429, 502, 503 and 504 are tried again where that is safe: everywhere but in `start_session(session_id, restore=False)`,
which is sent again only if no connection was made.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from client import _calls
from client._answers import Retries, read
from client._calls import Call
from client._files import AwaitedFiles, BlockingFiles
from client._messages import AwaitedMessages, BlockingMessages
from client._profiles import Profiles
from client._reading import Reading
from client._rights import Rights
from client.errors import MemoryServiceError

Answer = dict[str, Any]
T = TypeVar("T")


class MemoryServiceClient(
    AwaitedFiles,
    AwaitedMessages,
    Reading[Awaitable[Answer]],
    Rights[Awaitable[Answer]],
    Profiles[Awaitable[Answer]],
):
    """The memory of one user, or of one `space` that agents share: awaited.

    `session_id` is the session to use, also without `start_session`. `api_key` (a key of the service, or a token of
    your identity provider) is by default what MEMORY_SERVICE_API_KEY holds. `timeout_s` holds for each attempt. A
    client of your own as `http` brings credentials, proxies or another transport (`httpx2.AsyncClient(headers=...)`)
    and stays yours to close; its own timeout is not used.
    """

    def __init__(
        self,
        service_url: str,
        user_id: str | None = None,
        session_id: str | None = None,
        *,
        space: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        max_attempts: int = 4,
        http: httpx2.AsyncClient | None = None,
        _sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        _random: Callable[[], float] = random.random,
    ) -> None:
        retries = Retries(max_attempts=max_attempts, random=_random)
        super().__init__(service_url, user_id, session_id, space, timeout_s, retries, api_key, http)
        self._owns_http = http is None
        self._http = httpx2.AsyncClient() if http is None else http
        self._sleep = _sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. The session goes on: `end_session` ends it."""
        if self._owns_http:
            await self._http.aclose()

    async def start_session(
        self,
        session_id: str | None = None,
        restore: bool = True,
        agent_id: str | None = None,
        *,
        include_knowledge: int = 0,
        query: str | None = None,
        min_trust: str | None = None,
    ) -> Answer:
        """Start or continue a session and return its context; the calls that follow are about it.

        Without an id, here or in the constructor, a new session is started. `restore=False` starts afresh under a
        known id; the rest is as in `get_context`. Raises SessionEnded for one that was ended, unless
        `restore=False`.
        """
        call = self._start(session_id, restore, agent_id, include_knowledge, query, min_trust)
        answer = await self._send(call)
        self._session_id = call.body["session_id"]
        return answer

    async def store_turn(
        self,
        user_message: str,
        agent_message: str,
        *,
        turn_id: str | None = None,
        user_name: str | None = None,
        agent_name: str | None = None,
        created_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Answer:
        """Store one exchange; it is durable when this returns.

        A `turn_id` of yours makes it safe to call this again after ConnectionFailed: the turn is stored once.
        `created_at`, when it was said, needs an offset. Raises SessionNotFound or SessionEnded.
        """
        bound = self._bound(session_id)
        call = _calls.store(
            self.user_id,
            bound,
            user_message,
            agent_message,
            turn_id=turn_id,
            user_name=user_name,
            agent_name=agent_name,
            created_at=created_at,
            metadata=metadata,
        )
        return await self._send(call)

    async def retrieve_facts(self, query: str, top_k: int = 5) -> list[str]:
        """Return what `retrieve` finds as plain lines, best first."""
        facts: list[str] = (await self.retrieve(query, top_k))["facts"]
        return facts

    async def end_session(self, wait_s: float = 0, *, session_id: str | None = None) -> Answer:
        """End the session, so that the service reads it; waits up to `wait_s` (at most 20) for that reading.

        Ending twice is answered the same. `session_id` stays set: `reflection` and `get_context` go on working.
        """
        return await self._send(_calls.end(self.user_id, self._bound(session_id), wait_s))

    async def get_insights(self, recent_only: bool = False) -> Answer:
        """Return what was learned of the user over all sessions."""
        return await self._send(_calls.insights(self.user_id, recent_only))

    async def get_summaries(self, limit: int = 5) -> Answer:
        """Return summaries of the user's earlier sessions, newest first."""
        return await self._send(_calls.summaries(self.user_id, limit))

    async def store_memories(self, memories: Iterable[Mapping[str, Any]]) -> Answer:
        """Store up to 500 memories, of one user or of several.

        Each is `{"user_id", "content"}` and, if you like, `conversation_id`, `tags`, `metadata` and `memory_id`; one
        under a `memory_id` that is there takes its place.
        """
        return await self._send(_calls.store_memories(memories))

    async def store_knowledge(
        self,
        content: str,
        category: str,
        *,
        title: str | None = None,
        doc_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Store a piece of knowledge for all users; one that comes again under its `doc_id` takes the place of it.

        Without a `doc_id` of yours it is a new piece.
        """
        call = _calls.store_knowledge(content, category, title=title, doc_id=doc_id, metadata=metadata)
        return await self._send(call)

    async def recall_knowledge(self, query: str, top_k: int = 5, category: str | None = None) -> Answer:
        """Search the knowledge that all users share (of a category, or all of it), best first."""
        return await self._send(_calls.recall_knowledge(query, top_k, category))

    async def delete_knowledge(self, doc_id: str) -> Answer:
        """Delete a piece of knowledge. Raises KnowledgeNotFound, also where an attempt before had its answer lost."""
        return await self._send(_calls.delete_knowledge(doc_id))

    async def reflection(self, *, session_id: str | None = None) -> Answer:
        """Return how far the reading of the session is: none, pending, done or dead."""
        return await self._send(_calls.reflection(self.user_id, self._bound(session_id)))

    async def health(self) -> Answer:
        """Return the service's health; raises Unavailable or ConnectionFailed if it has none."""
        return await self._send(_calls.health())

    async def stats(self) -> Answer:
        """Return the numbers of the service's session pool."""
        return await self._send(_calls.stats())

    async def _send(self, call: Call) -> Answer:
        async def send() -> Answer:
            return read(await self._http.request(**self._request(call)))

        return await self._retried(call, send)

    async def _retried(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await send()
            except (MemoryServiceError, httpx2.RequestError) as failure:
                pause_s = self._retries.pause_s(call, failure, attempt)
            await self._sleep(pause_s)


class SyncMemoryServiceClient(BlockingFiles, BlockingMessages, Reading[Answer], Rights[Answer], Profiles[Answer]):
    """The memory of one user, or of one `space`, blocking: method for method the same as MemoryServiceClient."""

    def __init__(
        self,
        service_url: str,
        user_id: str | None = None,
        session_id: str | None = None,
        *,
        space: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        max_attempts: int = 4,
        http: httpx2.Client | None = None,
        _sleep: Callable[[float], None] = time.sleep,
        _random: Callable[[], float] = random.random,
    ) -> None:
        retries = Retries(max_attempts=max_attempts, random=_random)
        super().__init__(service_url, user_id, session_id, space, timeout_s, retries, api_key, http)
        self._owns_http = http is None
        self._http = httpx2.Client() if http is None else http
        self._sleep = _sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The session goes on: `end_session` ends it."""
        if self._owns_http:
            self._http.close()

    def start_session(
        self,
        session_id: str | None = None,
        restore: bool = True,
        agent_id: str | None = None,
        *,
        include_knowledge: int = 0,
        query: str | None = None,
        min_trust: str | None = None,
    ) -> Answer:
        """Start or continue a session; see MemoryServiceClient.start_session."""
        call = self._start(session_id, restore, agent_id, include_knowledge, query, min_trust)
        answer = self._send(call)
        self._session_id = call.body["session_id"]
        return answer

    def store_turn(
        self,
        user_message: str,
        agent_message: str,
        *,
        turn_id: str | None = None,
        user_name: str | None = None,
        agent_name: str | None = None,
        created_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Answer:
        """Store one exchange; see MemoryServiceClient.store_turn."""
        bound = self._bound(session_id)
        call = _calls.store(
            self.user_id,
            bound,
            user_message,
            agent_message,
            turn_id=turn_id,
            user_name=user_name,
            agent_name=agent_name,
            created_at=created_at,
            metadata=metadata,
        )
        return self._send(call)

    def retrieve_facts(self, query: str, top_k: int = 5) -> list[str]:
        """Return what `retrieve` finds as plain lines, best first."""
        facts: list[str] = self.retrieve(query, top_k)["facts"]
        return facts

    def end_session(self, wait_s: float = 0, *, session_id: str | None = None) -> Answer:
        """End the session; see MemoryServiceClient.end_session."""
        return self._send(_calls.end(self.user_id, self._bound(session_id), wait_s))

    def get_insights(self, recent_only: bool = False) -> Answer:
        """Return what was learned of the user over all sessions."""
        return self._send(_calls.insights(self.user_id, recent_only))

    def get_summaries(self, limit: int = 5) -> Answer:
        """Return summaries of the user's earlier sessions, newest first."""
        return self._send(_calls.summaries(self.user_id, limit))

    def store_memories(self, memories: Iterable[Mapping[str, Any]]) -> Answer:
        """Store up to 500 memories; see MemoryServiceClient.store_memories."""
        return self._send(_calls.store_memories(memories))

    def store_knowledge(
        self,
        content: str,
        category: str,
        *,
        title: str | None = None,
        doc_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Store a piece of knowledge for all users; see MemoryServiceClient.store_knowledge."""
        call = _calls.store_knowledge(content, category, title=title, doc_id=doc_id, metadata=metadata)
        return self._send(call)

    def recall_knowledge(self, query: str, top_k: int = 5, category: str | None = None) -> Answer:
        """Search the knowledge that all users share (of a category, or all of it), best first."""
        return self._send(_calls.recall_knowledge(query, top_k, category))

    def delete_knowledge(self, doc_id: str) -> Answer:
        """Delete a piece of knowledge. Raises KnowledgeNotFound, also where an attempt before had its answer lost."""
        return self._send(_calls.delete_knowledge(doc_id))

    def reflection(self, *, session_id: str | None = None) -> Answer:
        """Return how far the reading of the session is: none, pending, done or dead."""
        return self._send(_calls.reflection(self.user_id, self._bound(session_id)))

    def health(self) -> Answer:
        """Return the service's health; raises Unavailable or ConnectionFailed if it has none."""
        return self._send(_calls.health())

    def stats(self) -> Answer:
        """Return the numbers of the service's session pool."""
        return self._send(_calls.stats())

    def _send(self, call: Call) -> Answer:
        return self._retried(call, lambda: read(self._http.request(**self._request(call))))

    def _retried(self, call: Call, send: Callable[[], T]) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                return send()
            except (MemoryServiceError, httpx2.RequestError) as failure:
                pause_s = self._retries.pause_s(call, failure, attempt)
            self._sleep(pause_s)
