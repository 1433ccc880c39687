"""A session message by message, for both clients; an import that tells how far it is, awaited and blocking."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from client._caller import Caller
from client._calls import Call, in_path, present
from client._ids import new_id

A = TypeVar("A", covariant=True)
Message = Mapping[str, Any]
"""`role` and `content` (a text, or parts); `message_id`, `name`, `timestamp`, `metadata` if you like."""
Content = str | Sequence[Mapping[str, Any]]
Progress = Callable[[int, int], None]
"""Told how many messages are stored by now, and of how many."""

MOST_TOGETHER, MOST_BYTES_TOGETHER = 500, 4_000_000
"""Messages of an import that are sent in one request."""


class Messages(Caller, ABC, Generic[A]):
    """Each gives the service's answer: awaited, or at once. A session begins with its first message."""

    @abstractmethod
    def _send(self, call: Call) -> A: ...

    def add_messages(
        self, messages: Iterable[Message], *, agent_id: str | None = None, session_id: str | None = None
    ) -> A:
        """Append messages (at most 5,000) in this order; they are durable when this returns.

        Each is `{"role", "content"}` and, if you like, `message_id`, `name`, `timestamp` (which needs an offset) and
        `metadata`. `content` is a text, or parts: `{"type": "text", "text"}`, `{"type": "image_url", "image_url":
        {"url"}}`, `{"type": "json", "json"}`. One whose `message_id` is there already is stored once.
        """
        return self._send(_store(self.user_id, self._bound(session_id), list(messages), agent_id))

    def add_message(
        self,
        role: str,
        content: Content,
        *,
        message_id: str | None = None,
        name: str | None = None,
        timestamp: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> A:
        """Append one message, as `add_messages` does."""
        given = present(message_id=message_id, name=name, timestamp=timestamp, metadata=metadata)
        return self.add_messages([{"role": role, "content": content, **given}], session_id=session_id)

    def add_pair(self, user_message: Content, agent_message: Content, *, session_id: str | None = None) -> A:
        """Append what a user said and what the agent answered: both, or neither."""
        said = [{"role": "user", "content": user_message}, {"role": "assistant", "content": agent_message}]
        return self.add_messages(said, session_id=session_id)

    def get_messages(
        self,
        latest: int | None = None,
        *,
        after: int | None = None,
        before: int | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = None,
        replaced: bool = False,
        session_id: str | None = None,
    ) -> A:
        """Return messages of the session, oldest first: the `latest` so many, or a page of at most `limit` (100).

        A page is after and before turns by their numbers, and from `start` until `end`. `replaced`: also those of
        before the session was begun afresh.
        """
        asked = present(latest=latest, after=after, before=before, limit=limit)
        query = {
            **{name: str(number) for name, number in asked.items()},
            **present(**{"from": _iso(start), "to": _iso(end)}),
            **({"replaced": "true"} if replaced else {}),
        }
        return self._send(Call(method="GET", path="/messages", query=self._of_session(session_id) | query))

    def get_message(self, message_id: str, *, session_id: str | None = None) -> A:
        """Return one message of the session. Raises NotFound."""
        path = f"/messages/{in_path(message_id)}"
        return self._send(Call(method="GET", path=path, query=self._of_session(session_id)))

    def search_messages(self, query: str, top_k: int = 5, *, session_id: str | None = None) -> A:
        """Search the messages of the session, best first."""
        body = {**self._of_session(session_id), "query": query, "top_k": top_k}
        return self._send(Call(method="POST", path="/messages/search", body=body))

    def chat_history(
        self,
        user_message: Content | None = None,
        *,
        system_prompt: str = "",
        latest: int | None = None,
        include_context: bool = False,
        session_id: str | None = None,
    ) -> A:
        """Return `messages` for a chat model: the system prompt, the latest of the session, the one to be answered.

        With `include_context` the system prompt goes on with what else is known of the user. Nothing is stored.
        """
        body = present(
            **self._of_session(session_id),
            system_prompt=system_prompt or None,
            user_message=user_message or None,
            latest=latest,
            include_context=include_context,
        )
        return self._send(Call(method="POST", path="/messages/history", body=body))

    def reset_memory(self, *, agent_id: str | None = None, session_id: str | None = None) -> A:
        """Erase the session, or with `agent_id` all sessions of that agent with the user; each can be begun anew."""
        named = {"agent_id": agent_id} if agent_id else {"session_id": self._bound(session_id)}
        return self._send(Call(method="POST", path="/reset-memory", body={"user_id": self.user_id, **named}))

    def _of_session(self, session_id: str | None) -> dict[str, str]:
        return {"user_id": self.user_id, "session_id": self._bound(session_id)}

    def _imported(self, messages: Iterable[Message], session_id: str | None) -> tuple[list[Call], int]:
        """The requests of an import, and how many messages there are."""
        bound = self._bound(session_id)
        named = [_named(bound, place, message) for place, message in enumerate(messages)]
        return [_store(self.user_id, bound, together) for together in _together(named)], len(named)


class AwaitedMessages(Messages[Awaitable[dict[str, Any]]]):
    async def import_messages(
        self,
        messages: Iterable[Message],
        *,
        on_progress: Progress | None = None,
        session_id: str | None = None,
    ) -> dict[str, int]:
        """Append any number of messages; returns how many there were (`count`), and how many were new (`stored`).

        One without an id is named by its place and content: the same list again changes nothing, and one that was cut
        off goes on where it was.
        """
        calls, total = self._imported(messages, session_id)
        done = stored = 0
        for call in calls:
            answer = await self._send(call)
            done, stored = done + answer["count"], stored + answer["stored"]
            if on_progress is not None:
                on_progress(done, total)
        return {"count": done, "stored": stored}


class BlockingMessages(Messages[dict[str, Any]]):
    def import_messages(
        self,
        messages: Iterable[Message],
        *,
        on_progress: Progress | None = None,
        session_id: str | None = None,
    ) -> dict[str, int]:
        """Append any number of messages; see MemoryServiceClient.import_messages."""
        calls, total = self._imported(messages, session_id)
        done = stored = 0
        for call in calls:
            answer = self._send(call)
            done, stored = done + answer["count"], stored + answer["stored"]
            if on_progress is not None:
                on_progress(done, total)
        return {"count": done, "stored": stored}


def _store(user_id: str, session_id: str, messages: Sequence[Message], agent_id: str | None = None) -> Call:
    """Each carries a `message_id`: a repeat is a replay."""
    sent = [{"message_id": new_id(), **_sent(message)} for message in messages]
    body = present(user_id=user_id, session_id=session_id, messages=sent, agent_id=agent_id)
    return Call(method="POST", path="/messages", body=body)


def _sent(message: Message) -> dict[str, Any]:
    timestamp = message.get("timestamp")
    return {**message, "timestamp": _iso(timestamp)} if isinstance(timestamp, datetime) else dict(message)


def _named(session_id: str, place: int, message: Message) -> dict[str, Any]:
    sent = _sent(message)
    if sent.get("message_id") is None:
        told = json.dumps([session_id, place, sent], sort_keys=True, ensure_ascii=True, default=str)
        sent["message_id"] = f"imported_{hashlib.blake2b(told.encode(), digest_size=16).hexdigest()}"
    return sent


def _together(messages: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    together: list[dict[str, Any]] = []
    size = 0
    for message in messages:
        size += (length := len(json.dumps(message)))
        if together and (len(together) == MOST_TOGETHER or size > MOST_BYTES_TOGETHER):
            yield together
            together, size = [], length
        together.append(message)
    if together:
        yield together


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
