"""A session as its messages: any number appended at once, told by their numbers, times and ids, and searched.

Each message that comes so is a turn by itself, under its id; a turn of several messages that came otherwise gives each
of them a name of its own (`TURN.0`, `TURN.1`). A session begins with its first message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import msgspec
from msgspec.structs import replace

from memory_service.corpus import whole_of
from memory_service.errors import MessageIdReused, MessageNotFound, RequestKeyReused
from memory_service.pool import HotSession, SessionPool
from memory_service.recall import Recall
from memory_service.sessions import Draft, RequestName, Sessions, in_parts
from memory_service.stores.base import ALL, Commit, DuplicateRequest, DuplicateTurn, Store
from memory_service.values import Hot, Message, Only, Request, Scope, Session, SessionKey, Turn, Value, turn_item_id

READ_TOGETHER = 100
"""Turns: each may hold megabytes."""
MOST_BYTES = 16_000_000
"""Of messages that are told together; then there are fewer of them."""
LOOKED_UP_AT_ONCE = 500
_encode = msgspec.json.Encoder().encode


class Said(Value, frozen=True, kw_only=True):
    """One message on record. `seq` is the number of its turn, by which messages are in order."""

    message_id: str
    seq: int
    message: Message
    created_at: datetime
    metadata: dict[str, Any] = {}


class Appended(Value, frozen=True, kw_only=True):
    """Turns in the order of what was given; `replayed`: so many were there before."""

    turns: tuple[Turn, ...]
    replayed: int


class Window(Value, frozen=True, kw_only=True):
    """Which messages are meant: the last ones (`latest`, or with `live` more, if more are live); or those with
    `after < seq < before` and `since <= time < until`, the first `limit` of them, or the last if there is only a
    `before`. With `replaced`, also those of a conversation that was begun afresh since.
    """

    latest: int | None = None
    live: bool = False
    after: int | None = None
    before: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100
    replaced: bool = False

    def holds(self, said: Said) -> bool:
        late_enough = self.since is None or said.created_at >= self.since
        return late_enough and (self.until is None or said.created_at < self.until)


class Found(Value, frozen=True, kw_only=True):
    """Messages and their scores, best first; `degraded` names what was missing from the search."""

    said: tuple[tuple[Said, float], ...]
    degraded: tuple[str, ...]


class _Taken:
    """Turns that are told together, while they are few and small enough; the first in any case."""

    def __init__(self, count: int) -> None:
        self._count, self._bytes = count, MOST_BYTES
        self.turns: list[list[Said]] = []

    @property
    def has_room(self) -> bool:
        return self._count > 0 and self._bytes > 0

    def take(self, said: list[Said]) -> None:
        size = sum(len(one.message.content) + len(_encode(one.message.parts)) for one in said)
        if said and self.has_room and (size <= self._bytes or not self.turns):
            self.turns.append(said)
            self._count -= len(said)
        self._bytes -= size


class _Adding:
    """What one call appends, each under its id: what of it is on record by now, and what of that by this call."""

    def __init__(self, drafts: tuple[Draft, ...], agent_id: str | None, request: RequestName | None) -> None:
        self.drafts, self.agent_id, self.request = drafts, agent_id, request
        self.there: dict[str, Turn] = {}
        self.made: set[str] = set()

    def named(self, now: datetime) -> Request | None:
        """The name of the request, to be kept with the first turn that is stored."""
        request = self.request
        return Request(key=request.key, digest=request.digest, made_at=now) if request else None

    def add(self, part: Sequence[Turn]) -> None:
        turns = {turn.turn_id: turn for turn in part}
        self.there |= turns
        self.made |= turns.keys()
        self.request = None


class Messages:
    """`grown` is told of a session that has become longer."""

    def __init__(
        self,
        store: Store,
        pool: SessionPool,
        sessions: Sessions,
        recall: Recall,
        grown: Callable[[SessionKey, Session], None],
        *,
        latest: int,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._store, self._pool, self._sessions, self._recall, self._grown = store, pool, sessions, recall, grown
        self._now, self._new_id = now, new_id
        self.latest = latest
        """How many are told of a conversation where nobody says it."""

    # Appending

    async def append(
        self,
        key: SessionKey,
        drafts: Sequence[Draft],
        *,
        agent_id: str | None = None,
        request: RequestName | None = None,
    ) -> Appended:
        """Append messages in this order, each a turn; they are durable when this returns. Never waits for a model.

        What is there under its id already, of the same words, stays where it is; also without words, if they were
        erased. A session that was ended goes on with what is new. A store that takes only so many turns in one commit
        is given the first ones first: who is cut off and asks again completes it. No two drafts have one id.
        Raises MessageIdReused, RequestKeyReused, Overloaded.
        """
        self._store.require_room()
        named = tuple(replace(draft, turn_id=draft.turn_id or self._new_id()) for draft in drafts)
        adding = _Adding(named, agent_id, request)
        while True:
            try:
                await self._sessions.changed(key, partial(self._append, key, adding))
                break
            except (DuplicateTurn, DuplicateRequest):
                if not await self._look_up(key, adding):
                    raise
        turns = tuple(adding.there[draft.turn_id or ""] for draft in named)
        return Appended(turns=turns, replayed=len(named) - len(adding.made))

    async def _append(self, key: SessionKey, adding: _Adding, entry: HotSession) -> None:
        new = [draft for draft in adding.drafts if draft.turn_id not in adding.there]
        if not new:
            return
        now, hot = self._now(), entry.hot
        head, live = (hot.session, hot.turns) if hot else (self._sessions.new(key, now, adding.agent_id), ())
        version = head.version
        if head.status == "ended":
            head, live = head.reopened(now), ()
        turns = [draft.turn(head.session_id, seq, now) for seq, draft in enumerate(new, head.turn_count + 1)]
        for part in in_parts(turns, self._store.capabilities):
            version += 1
            head = replace(head.with_turn(part[-1]), version=version)
            live = (*live, *part)
            commit = Commit(scope=key.scope, session=head, turns=part, request=adding.named(now))
            await self._pool.commit(key, entry, commit, Hot(session=head, turns=live))
            adding.add(part)
        self._grown(key, head)

    async def _look_up(self, key: SessionKey, adding: _Adding) -> bool:
        """Find what is on record already; returns whether that is news.

        Raises MessageIdReused, RequestKeyReused.
        """
        known, request = len(adding.there), adding.request
        effect = await self._store.find_effect(key.scope, request.key) if request else None
        if effect is not None and request is not None:
            if effect.digest != request.digest:
                raise RequestKeyReused
            adding.request = None  # its name is on record
        adding.there |= await self._there(key, adding.drafts)
        return len(adding.there) > known or adding.request is not request

    async def _there(self, key: SessionKey, drafts: Sequence[Draft]) -> dict[str, Turn]:
        """Those of the drafts that are on record, by their ids. Raises MessageIdReused."""
        there: dict[str, Turn] = {}
        rest = iter(drafts)
        while some := {draft.turn_id or "": draft for draft in islice(rest, LOOKED_UP_AT_ONCE)}:
            for turn in await self._store.find_turns(key, list(some)):
                if turn.told().messages and not some[turn.turn_id].is_of(turn):
                    raise MessageIdReused
                there[turn.turn_id] = turn
        return there

    # Telling

    async def told(self, key: SessionKey, window: Window) -> list[Said]:
        """Return messages of a session, oldest first; of one that is not there, none.

        A page is not cut within a turn, so it may hold a few more than its limit; the latest are as many as asked for.
        Of either there are fewer where they would be larger than `MOST_BYTES` together.
        """
        hot = (await self._pool.read(key)).hot
        if hot is None:
            return []
        first = 0 if window.replaced else hot.session.replaced_through
        if window.latest is not None:
            return await self._latest(key, hot, first, window)
        if window.before is not None and (window.after, window.since, window.until) == (None, None, None):
            return await self._before(key, first, min(window.before - 1, hot.session.turn_count), window.limit)
        return await self._after(key, max(first, window.after or 0), hot.session.turn_count, window)

    async def _latest(self, key: SessionKey, hot: Hot, first: int, window: Window) -> list[Said]:
        live, count = [said for turn in hot.turns for said in said_in(turn)], window.latest or 0
        if len(live) >= count:
            return live if window.live else live[-count:]
        return (await self._before(key, first, hot.session.turn_count, count))[-count:]

    async def _before(self, key: SessionKey, first: int, through: int, count: int) -> list[Said]:
        """The last so many up to a turn: what it takes does not grow with the session."""
        taken = _Taken(count)
        size = min(count, READ_TOGETHER)
        while taken.has_room and through > first:
            after = max(through - size, first)
            for turn in reversed(await self._store.turns(key, after, through - after)):
                taken.take(said_in(turn))
            # of many that were erased nothing is told
            through, size = after, size * 2 if not taken.turns else size
        return [said for of_turn in reversed(taken.turns) for said in of_turn]

    async def _after(self, key: SessionKey, after: int, through: int, window: Window) -> list[Said]:
        through = min(through, (window.before or through + 1) - 1)
        taken = _Taken(window.limit)
        most = READ_TOGETHER if window.since or window.until else min(window.limit, READ_TOGETHER)
        while taken.has_room and after < through:
            size = min(most, through - after)
            for turn in await self._store.turns(key, after, size):
                taken.take(list(filter(window.holds, said_in(turn))))
            after += size
        return [said for of_turn in taken.turns for said in of_turn]

    async def find(self, key: SessionKey, message_id: str) -> Said:
        """Return one message. Raises MessageNotFound, also while it is in quarantine, or once it was erased."""
        for turn_id in (message_id, message_id.rpartition(".")[0]):
            turn = await self._store.find_turn(key, turn_id) if turn_id else None
            for said in said_in(turn) if turn else ():
                if said.message_id == message_id:
                    return said
        raise MessageNotFound

    async def sessions_of(self, scope: Scope, agent_id: str) -> list[str]:
        """Return the ids of a user's sessions with an agent, newest first."""
        heads = await self._store.sessions(scope, ALL)
        return [head.session_id for head in heads if head.agent_id == agent_id]

    async def search(self, key: SessionKey, question: str, limit: int) -> Found:
        """Return the messages of a session nearest to a question, best first."""
        only = Only(session_id=key.session_id)
        retrieved = await self._recall.retrieve(key.scope, question, limit, ["message"], only)
        turns = {whole_of(hit.item.id) for hit in retrieved.hits}
        said = {
            f"{turn_item_id(turn.session_id, turn.seq)}.{place}": one
            for turn in (await self._store.items(key.scope, turns, "")).turns
            for place, one in enumerate(said_in(turn))
        }
        found = [(said[hit.item.id], hit.score) for hit in retrieved.hits if hit.item.id in said]
        return Found(said=tuple(found), degraded=retrieved.degraded)


def said_in(turn: Turn) -> list[Said]:
    """The messages of a turn; of one that was erased or is in quarantine, none."""
    alone = len(turn.messages) == 1
    return [
        Said(
            message_id=turn.turn_id if alone else f"{turn.turn_id}.{place}",
            seq=turn.seq,
            message=message,
            created_at=turn.created_at,
            metadata=turn.metadata,
        )
        for place, message in enumerate(turn.messages)
    ]
