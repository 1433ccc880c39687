"""A session as a list of messages that its caller sends whole each time: what is new of it is appended.

Each message is a turn. A list that begins with all that is there goes on with it; any other one takes its place: the
session begins afresh, earlier turns stay on record and are not shown, and what of them was to be reflected on is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec
from msgspec.structs import replace

from memory_service.limits import FROM, UNTIL
from memory_service.pool import HotSession, SessionPool
from memory_service.sessions import Sessions, in_parts
from memory_service.stores.base import Commit, Store
from memory_service.values import Hot, Message, Session, SessionKey, Sitting, Turn, Value

Said = tuple[Message, ...]
"""One message of a list, as the messages of a turn; the first has its time."""

DATED_FROM_S, DATED_UNTIL_S = FROM.timestamp(), UNTIL.timestamp()
"""A time that is not between is kept, but the turn is dated as it comes."""
_encode = msgspec.json.Encoder(order="deterministic").encode


class Wanted(Value, frozen=True, kw_only=True):
    """How a session shall be. A message without a time is the same as one of any time; a new one is said now."""

    said: tuple[Said, ...] = ()
    agent_id: str | None = None
    system_prompt: str | None = None
    metadata: dict[str, object] | None = None

    def of(self, session: Session) -> Session:
        told = {"agent_id": self.agent_id, "system_prompt": self.system_prompt, "metadata": self.metadata}
        return replace(session, **told)


class Revised(Value, frozen=True, kw_only=True):
    """How a session is now, and whether that is news."""

    session: Session
    said: tuple[Said, ...]
    changed: bool


class Kept(Value, frozen=True, kw_only=True):
    """What of a list was there: as it is named, with its times, and what of that is shown."""

    said: tuple[Said, ...] = ()
    shown: tuple[Said, ...] = ()


class Revisions:
    def __init__(
        self,
        store: Store,
        pool: SessionPool,
        sessions: Sessions,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._store, self._pool, self._sessions, self._now = store, pool, sessions, now

    async def shown(self, key: SessionKey, session: Session) -> tuple[Said, ...]:
        """Return the messages of the present list, in order."""
        return _messages(await self._store.turns(key, session.replaced_through))

    async def revise(self, key: SessionKey, wanted: Wanted) -> Revised:
        """Make a session be as wanted; it is durable when this returns. Twice is once.

        Of several callers at once each has its whole list shown, one after the other. A session that was ended goes on
        if there is anything new. A store that takes only so many turns in one commit is given the beginning first: a
        reader may see that for a moment, and whoever is cut off there and asks again completes it.
        """
        return await self._sessions.changed(key, partial(self._revise, key, wanted))

    async def _revise(self, key: SessionKey, wanted: Wanted, entry: HotSession) -> Revised:
        now, hot = self._now(), entry.hot
        session = hot.session if hot is not None else self._sessions.new(key, now)
        kept = await self._beginning(key, hot, wanted.said)
        there = kept or Kept()
        new = [_dated(said, now) for said in wanted.said[len(there.said) :]]
        said, shown = (*there.said, *new), (*there.shown, *new)
        head, live = wanted.of(session), hot.turns if hot is not None else ()
        sittings: tuple[Sitting, ...] = ()
        if hot is not None and kept is not None and not new and head == session:
            return Revised(session=session, said=shown, changed=False)
        if kept is None:
            head, live, sittings = head.begun_afresh(now), (), await self._withdrawn(key, session)
        elif head.status == "ended":
            head, live = head.reopened(now), ()
        head = replace(head, touched_at=now, version=session.version)
        for part in in_parts(_turns(head, said, len(new), now), self._store.capabilities):
            head = replace(head, turn_count=head.turn_count + len(part), version=head.version + 1)
            live = (*live, *part)
            commit = Commit(scope=key.scope, session=head, turns=part, sittings=sittings)
            await self._pool.commit(key, entry, commit, Hot(session=head, turns=live))
            sittings = ()
        return Revised(session=head, said=shown, changed=True)

    async def _beginning(self, key: SessionKey, hot: Hot | None, said: Sequence[Said]) -> Kept | None:
        """Return what there is of a session, if the list begins with it; otherwise None.

        The last turn that came in this way bears the digest of all before it: then nothing need be read.
        """
        if hot is None or hot.session.turn_count == hot.session.replaced_through:
            return Kept()
        names = _names(hot.session, said)
        if hot.turns and hot.turns[-1].turn_id in names:
            there = tuple(said[: names.index(hot.turns[-1].turn_id) + 1])
            return Kept(said=there, shown=there)
        turns = await self._store.turns(key, hot.session.replaced_through)
        return _goes_on(hot.session, said, turns) or _goes_on(hot.session, said, [one for one in turns if one.messages])

    async def _withdrawn(self, key: SessionKey, session: Session) -> tuple[Sitting, ...]:
        """What is to be reflected on of a list that another takes the place of: its words may come again there."""
        if session.handed_over_through <= session.replaced_through:
            return ()
        return tuple(
            sitting.withdrawn()
            for sitting in await self._store.sittings(key)
            if sitting.first_seq > session.replaced_through and sitting.reflection == "pending"
        )


def _messages(turns: Sequence[Turn]) -> tuple[Said, ...]:
    """Of a turn that did not come as one message, each message is one, said when the turn was; of one without, none."""
    shown: list[Said] = []
    for turn in turns:
        if turn.messages and turn.messages[0].said_at is not None:
            shown.append(turn.messages)
        else:
            shown += [(_plain(message, turn.created_at.timestamp()),) for message in turn.messages]
    return tuple(shown)


def _plain(message: Message, said_at: float) -> Message:
    return Message(role="user" if message.role == "user" else "assistant", content=message.content, said_at=said_at)


def _goes_on(session: Session, given: Sequence[Said], turns: Sequence[Turn]) -> Kept | None:
    """Match a list with turns, one after the other; None if one that is shown is not there.

    One that is in quarantine or erased is in the list of who has it still, and not of who goes on with what is shown.
    What was erased is known by its name alone.
    """
    said: list[Said] = []
    shown: list[Said] = []
    naming = _Naming(session)
    for turn in turns:
        place = len(said)
        held = _messages((turn.told(),)) or _erased(naming, turn, given[place : place + 1])
        if len(held) <= len(given) - place and all(map(_is, given[place : place + len(held)], held)):
            said += held
            shown += held if turn.messages else ()
            for messages in held:
                naming.add(messages)
        elif turn.messages:
            return None
    return Kept(said=tuple(said), shown=tuple(shown))


def _erased(naming: _Naming, turn: Turn, given: Sequence[Said]) -> tuple[Said, ...]:
    """The message at the place of a turn without words, if it was that; a time it does not tell is the turn's."""
    dated = [_dated(said, turn.created_at) for said in given]
    return tuple(said for said in dated if naming.of_next(said) == turn.turn_id)


def _is(given: Said, held: Said) -> bool:
    if given[0].said_at is None:
        held = (replace(held[0], said_at=None), *held[1:])
    return given == held


def _dated(said: Said, now: datetime) -> Said:
    return said if said[0].said_at is not None else (replace(said[0], said_at=now.timestamp()), *said[1:])


class _Naming:
    """Names each message by all that came before it in its list: the same list gives the same names."""

    def __init__(self, session: Session) -> None:
        self._digest = hashlib.blake2b(str(session.replaced_through).encode(), digest_size=16)

    def add(self, said: Said) -> str:
        self._digest.update(_encode(said) + b"\n")
        return f"said_{self._digest.hexdigest()}"

    def of_next(self, said: Said) -> str:
        """What it would be named."""
        digest = self._digest.copy()
        digest.update(_encode(said) + b"\n")
        return f"said_{digest.hexdigest()}"


def _names(session: Session, said: Sequence[Said]) -> list[str]:
    return list(map(_Naming(session).add, said))


def _turns(head: Session, said: Sequence[Said], count: int, now: datetime) -> list[Turn]:
    """The last so many of a list as turns that follow those there are."""
    names = _names(head, said)
    return [
        Turn(
            session_id=head.session_id,
            seq=head.turn_count + number,
            turn_id=names[place],
            messages=said[place],
            created_at=_moment(said[place][0].said_at, now),
            received_at=now,
        )
        for number, place in enumerate(range(len(said) - count, len(said)), 1)
    ]


def _moment(said_at: float | None, now: datetime) -> datetime:
    if said_at is None or not DATED_FROM_S <= said_at < DATED_UNTIL_S:
        return now
    return datetime.fromtimestamp(said_at, UTC)
