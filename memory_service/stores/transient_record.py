"""All that the transient store keeps of one user, and the rules by which it changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from uuid import uuid4

from msgspec import Struct, field

from memory_service.errors import StaleVersion
from memory_service.stores.aging import AgedMemory, Tenants, is_aged
from memory_service.stores.base import REQUESTS_KEPT, Commit, DuplicateRequest, DuplicateTurn
from memory_service.stores.bodies import require_unchanged
from memory_service.stores.exports import Erased, Exported, exported_item
from memory_service.stores.forgetting import Forgetting
from memory_service.values import (
    Effect,
    Memory,
    Request,
    Scope,
    Session,
    SessionKey,
    Sitting,
    Turn,
    Vector,
    turn_item_id,
)


class Item(Struct):
    """One searchable thing: `token` is its place in the order of commits, anew with each write."""

    token: int
    value: Turn | Memory
    space: str | None = None


class Record(Struct):
    """All that is kept of one user."""

    sessions: dict[str, Session] = field(default_factory=dict)
    turns: dict[str, dict[str, Turn]] = field(default_factory=dict)
    sittings: dict[tuple[str, int], Sitting] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    vectors: dict[tuple[str, str], tuple[int, Vector]] = field(default_factory=dict)
    effects: dict[str, tuple[datetime, Effect]] = field(default_factory=dict)
    epoch: str = field(default_factory=lambda: uuid4().hex)


def drop(record: Record, what: Forgetting, turns: Sequence[Turn], memories: Sequence[str]) -> Erased:
    names = [*memories, *(turn_item_id(turn.session_id, turn.seq) for turn in turns)]
    for item_id in names:
        record.items.pop(item_id, None)
    drop_vectors(record, names)
    # the name of a request stays with its turn: otherwise a repeat would bring the words back
    effects = record.effects.items() if what.seq is None else ()
    requests = [key for key, (_, effect) in effects if effect.session_id == what.session_id]
    for key in requests:
        del record.effects[key]
    sittings = [name for name in record.sittings if what.seq is None and name[0] == what.session_id]
    for name in sittings:
        del record.sittings[name]
    if what.seq is None:
        del record.sessions[what.session_id]
        record.turns.pop(what.session_id, None)
    return Erased(
        sessions=int(what.seq is None),
        sittings=len(sittings),
        requests=len(requests),
        turns=len(turns),
        memories=len(memories),
    )


def drop_vectors(record: Record, item_ids: Collection[str]) -> None:
    for vector in [name for name in record.vectors if name[0] in item_ids]:
        del record.vectors[vector]


def things_of(record: Record) -> Iterator[Exported]:
    for _, session in sorted(record.sessions.items()):
        yield Exported(session=session)
    for _, sitting in sorted(record.sittings.items()):
        yield Exported(sitting=sitting)
    for key, (made_at, effect) in sorted(record.effects.items()):
        yield Exported(request=Request(key=key, digest=effect.digest, made_at=made_at), effect=effect)
    turns = [item for item in by_token(record.items.values()) if isinstance(item.value, Turn)]
    memories = [item for _, item in sorted(record.items.items()) if isinstance(item.value, Memory)]
    for item in (*turns, *memories):
        bare = exported_item(item.value, None, None)
        _, vector = record.vectors.get((bare.item_id, item.space or ""), (0, None))
        yield exported_item(item.value, item.space, vector.data if vector else None)


def check(record: Record, commit: Commit) -> None:
    """Raise DuplicateRequest, StaleVersion or DuplicateTurn before anything is written."""
    if commit.request is not None:
        held = record.effects.get(commit.request.key)
        if held is not None and held[0] >= commit.request.made_at - REQUESTS_KEPT:
            raise DuplicateRequest
    if commit.session is not None:
        _check_version(commit.session, record.sessions.get(commit.session.session_id))
    for sitting in commit.sittings:
        _check_version(sitting, record.sittings.get((sitting.session_id, sitting.first_seq)))
    for read in commit.unchanged:
        item = record.items.get(read.memory_id)
        require_unchanged(read, item.value if item and isinstance(item.value, Memory) else None)
    if any(memory_id in record.items for memory_id in commit.absent):
        raise StaleVersion
    names = [turn.turn_id for turn in commit.turns]
    if len(set(names)) < len(names) or any(
        turn.turn_id in record.turns.get(turn.session_id, {}) for turn in commit.turns
    ):
        raise DuplicateTurn


def _check_version(then: Session | Sitting, held: Session | Sitting | None) -> None:
    if then.version != (held.version if held else 0) + 1:
        raise StaleVersion
    if isinstance(then, Session) and isinstance(held, Session) and then.incarnation != held.incarnation:
        raise StaleVersion


def forget_requests(record: Record, made_before: datetime) -> None:
    for key in [key for key, (made_at, _) in record.effects.items() if made_at < made_before]:
        del record.effects[key]


def by_token(items: Iterable[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.token)


def memories_of(record: Record) -> Iterator[Memory]:
    return (item.value for item in record.items.values() if isinstance(item.value, Memory))


def aged_sessions(records: Mapping[Scope, Record], whose: Tenants, untouched_since: datetime) -> list[SessionKey]:
    aged = [
        (session.touched_at, SessionKey(scope=scope, session_id=session.session_id))
        for scope, record in records.items()
        for session in record.sessions.values()
        if whose.include(scope.tenant_id) and session.touched_at <= untouched_since
    ]
    return [key for _, key in sorted(aged, key=lambda found: found[0])]


def aged_memories(records: Mapping[Scope, Record], whose: Tenants, unchanged_since: datetime) -> list[AgedMemory]:
    aged = [
        AgedMemory(scope=scope, memory=memory)
        for scope, record in records.items()
        for memory in memories_of(record)
        if whose.include(scope.tenant_id)
        and is_aged(memory, unchanged_since)
        and memory.session_id not in record.sessions
    ]
    return sorted(aged, key=lambda one: one.memory.created_at)
