"""Dictionaries, for tests and trials: everything is gone with the process, and `durability` says so.

Not called "memory": that word is taken here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import count
from typing import Any, Self
from uuid import uuid4

from msgspec.structs import replace

from memory_service.errors import StaleVersion
from memory_service.points import Point, nowhere
from memory_service.settings import Settings
from memory_service.stores.aging import AgedMemory, Tenants
from memory_service.stores.base import ALL, REQUESTS_KEPT, Capabilities, Commit, Entries, Store
from memory_service.stores.bodies import EVER, Kinds, Place, micros
from memory_service.stores.exports import Erased, Exported, Exports, Users
from memory_service.stores.forgetting import Forgetting, Held, forgotten
from memory_service.stores.gateway import Unrefined
from memory_service.stores.keys import ApiKey
from memory_service.stores.mirrors import Mirror
from memory_service.stores.quarantine import Concerned, Quarantine, Quarantined, rewritten
from memory_service.stores.transient_mirrors import Lags
from memory_service.stores.transient_record import (
    Item,
    Record,
    aged_memories,
    aged_sessions,
    by_token,
    check,
    drop,
    drop_vectors,
    forget_requests,
    memories_of,
    things_of,
)
from memory_service.values import (
    Effect,
    Hot,
    Memory,
    ReflectionState,
    Scope,
    Session,
    SessionKey,
    Sitting,
    Turn,
    Unembedded,
    Vector,
    effect_of,
    turn_item_id,
)


class TransientStore(Store):
    capabilities = Capabilities(durability="none", exclusive=True)

    def __init__(self) -> None:
        self._records: dict[Scope, Record] = {}
        self._lags = Lags()
        self._api_keys: dict[str, ApiKey] = {}
        self._tokens = count(1)
        self._erased: set[str] = set()

    @classmethod
    def from_settings(cls, settings: Settings, point: Point = nowhere) -> Self:
        return cls()

    async def start(self, stack: AsyncExitStack) -> None:
        """Nothing to open."""

    async def _commit(self, commit: Commit) -> None:
        record = self._of(commit.scope)
        if commit.epoch not in (None, await self._epoch(commit.scope)):
            raise StaleVersion
        check(record, commit)
        if commit.session is not None or commit.memories:
            self._records[commit.scope] = record
        self._write(record, commit)
        if commit.is_searchable:
            self._lags.mark(commit.scope)

    def _write(self, record: Record, commit: Commit) -> None:
        if commit.session is not None:
            record.sessions[commit.session.session_id] = commit.session
        for turn in commit.turns:
            record.turns.setdefault(turn.session_id, {})[turn.turn_id] = turn
            record.items[turn_item_id(turn.session_id, turn.seq)] = Item(next(self._tokens), turn)
        if commit.request is not None:
            forget_requests(record, commit.request.made_at - REQUESTS_KEPT)
            effect = effect_of(commit.request, commit.turns[0])
            record.effects[commit.request.key] = (commit.request.made_at, effect)
        for sitting in commit.sittings:
            record.sittings[sitting.session_id, sitting.first_seq] = sitting
        for memory in commit.memories:
            record.items[memory.memory_id] = Item(next(self._tokens), memory)
        for vector in commit.vectors:
            self._put_vector(record, vector)

    def _put_vector(self, record: Record, vector: Vector) -> None:
        item = record.items.get(vector.item_id)
        if item is not None and item.token == vector.token:
            item.space = vector.space
            record.vectors[vector.item_id, vector.space] = (next(self._tokens), vector)

    def _of(self, scope: Scope) -> Record:
        return self._records.get(scope) or Record()

    async def _load(self, key: SessionKey) -> Hot | None:
        session = self._of(key.scope).sessions.get(key.session_id)
        if session is None:
            return None
        return Hot(session=session, turns=tuple(await self._turns(key, session.live_after, session.turn_count)))

    async def _head(self, key: SessionKey) -> Session | None:
        return self._of(key.scope).sessions.get(key.session_id)

    async def _turns(self, key: SessionKey, after: int, limit: int) -> list[Turn]:
        turns = self._of(key.scope).turns.get(key.session_id, {}).values()
        return [turn for turn in turns if turn.seq > after][:limit]

    async def _find_turn(self, key: SessionKey, turn_id: str) -> Turn | None:
        return self._of(key.scope).turns.get(key.session_id, {}).get(turn_id)

    async def _find_turns(self, key: SessionKey, turn_ids: tuple[str, ...]) -> list[Turn]:
        turns = self._of(key.scope).turns.get(key.session_id, {})
        return [turns[turn_id] for turn_id in turn_ids if turn_id in turns]

    async def _find_effect(self, scope: Scope, request_key: str) -> Effect | None:
        found = self._of(scope).effects.get(request_key)
        return found[1] if found else None

    async def _sittings(self, key: SessionKey) -> list[Sitting]:
        sittings = self._of(key.scope).sittings.values()
        return sorted((s for s in sittings if s.session_id == key.session_id), key=lambda s: s.first_seq)

    async def _memories(
        self, scope: Scope, kinds: Kinds, since: datetime | None, limit: int, superseded: bool, after: Place | None
    ) -> list[Memory]:
        found = [
            item.value
            for item in self._of(scope).items.values()
            if isinstance(item.value, Memory)
            and item.value.kind in kinds
            and (since is None or item.value.created_at >= since)
            and (superseded or item.value.valid_to is None)
        ]
        placed = sorted((-micros(memory.created_at), memory.memory_id, memory) for memory in found)
        behind = (-micros(after[0]), after[1]) if after else (-EVER, "")
        return [memory for *place, memory in placed if tuple(place) > behind][:limit]

    async def _find_memory(self, scope: Scope, memory_id: str) -> Memory | None:
        item = self._of(scope).items.get(memory_id)
        return item.value if item and isinstance(item.value, Memory) else None

    async def _entries(self, scope: Scope, cursor: Any, space: str, limit: int) -> Entries:
        record, after = self._of(scope), cursor or 0
        tokens = [item.token for item in record.items.values()] + [token for token, _ in record.vectors.values()]
        page = sorted(token for token in tokens if token > after)[:limit]
        taken = set(page)
        values = [item.value for item in by_token(record.items.values()) if item.token in taken]
        return Entries(
            turns=[value for value in values if isinstance(value, Turn)],
            memories=[value for value in values if isinstance(value, Memory)],
            vectors=[
                vector
                for token, vector in record.vectors.values()
                if token in taken and vector.space == space and vector.token == record.items[vector.item_id].token
            ],
            cursor=page[-1] if page else after,
            more=len(page) == limit,
            epoch=await self._epoch(scope),
        )

    async def _items(self, scope: Scope, item_ids: tuple[str, ...], space: str) -> Entries:
        record = self._of(scope)
        found = {item_id: item for item_id in item_ids if (item := record.items.get(item_id))}
        turns = [item.value for item in by_token(found.values()) if isinstance(item.value, Turn)]
        held = [record.vectors.get((item_id, space)) for item_id in found]
        return Entries(
            turns=turns,
            memories=[item.value for item in found.values() if isinstance(item.value, Memory)],
            vectors=[pair[1] for pair in held if pair is not None and pair[1].token == found[pair[1].item_id].token],
            cursor=None,
            more=False,
        )

    # What drivers lack

    async def _follow(self, driver: str, anew: bool) -> None:
        self._lags.follow(driver, anew, self._records)

    async def _unfollow(self, driver: str) -> None:
        self._lags.unfollow(driver)

    async def _claim_mirrors(self, driver: str, now: datetime, lease_until: datetime, limit: int) -> list[Mirror]:
        return self._lags.claim(driver, now, lease_until, limit)

    async def _put_mirror(self, mirror: Mirror, caught_up: bool, lease_until: datetime | None) -> bool:
        return self._lags.put(mirror, caught_up, lease_until, mirror.scope in self._records)

    async def _mirror(self, scope: Scope, driver: str) -> Mirror:
        return self._lags.mirror(scope, driver)

    async def _lagging(self, driver: str) -> int:
        return self._lags.lagging(driver)

    # What the gateway asks

    async def _sessions(self, scope: Scope) -> list[Session]:
        return list(self._of(scope).sessions.values())

    async def _whose(self, tenant_id: str, session_id: str) -> list[Scope]:
        return [
            scope
            for scope, record in self._records.items()
            if scope.tenant_id == tenant_id
            and (
                session_id in record.sessions
                or any(memory.kind == "memory" and memory.session_id == session_id for memory in memories_of(record))
            )
        ]

    async def _due_memories(self, limit: int) -> list[Unrefined]:
        due = [
            (item.token, Unrefined(scope=scope, memory=item.value))
            for scope, record in self._records.items()
            for item in record.items.values()
            if isinstance(item.value, Memory) and item.value.rough is not None
        ]
        return [item for _, item in sorted(due, key=lambda found: found[0])[:limit]]

    # What nobody has touched for long

    async def _aged_sessions(self, whose: Tenants, untouched_since: datetime, limit: int) -> list[SessionKey]:
        return aged_sessions(self._records, whose, untouched_since)[:limit]

    async def _aged_memories(self, whose: Tenants, unchanged_since: datetime, limit: int) -> list[AgedMemory]:
        return aged_memories(self._records, whose, unchanged_since)[:limit]

    # To-do columns

    async def _due_reflections(self, now: datetime, limit: int, scope: Scope | None) -> list[tuple[Scope, Sitting]]:
        records = self._records if scope is None else {scope: self._of(scope)}
        due = [
            (owner, sitting)
            for owner, record in records.items()
            for sitting in record.sittings.values()
            if sitting.reflection == "pending"
            and sitting.due_at <= now
            and (sitting.lease_until is None or sitting.lease_until <= now)
        ]
        return sorted(due, key=lambda found: found[1].due_at)[:limit]

    async def _reflections(self, tenant_id: str, state: ReflectionState, limit: int) -> list[tuple[Scope, Sitting]]:
        found = [
            (owner, sitting)
            for owner, record in self._records.items()
            for sitting in record.sittings.values()
            if owner.tenant_id == tenant_id and sitting.reflection == state
        ]
        return sorted(found, key=lambda pair: pair[1].due_at)[:limit]

    async def _due_sessions(self, untouched_since: datetime, unreflected_turns: int, limit: int) -> list[SessionKey]:
        due = [
            (session.touched_at, SessionKey(scope=scope, session_id=session.session_id))
            for scope, record in self._records.items()
            for session in record.sessions.values()
            if session.status == "active"
            and session.touched_at <= untouched_since
            and session.unreflected_turns >= unreflected_turns
        ]
        return [key for _, key in sorted(due, key=lambda found: found[0])][:limit]

    async def _due_vectors(self, space: str, limit: int, users: Collection[Scope] | None) -> list[Unembedded]:
        due = [
            (item.space is not None, item.token, scope, item.value)
            for scope, record in self._records.items()
            for item in record.items.values()
            if item.space != space
        ]
        return [
            Unembedded(scope=scope, token=token, turn=value)
            if isinstance(value, Turn)
            else Unembedded(scope=scope, token=token, memory=value)
            for _, token, scope, value in sorted(due, key=lambda found: found[:2])[:limit]
        ]

    async def _users(self, cursor: Any, limit: int) -> Users:
        after = cursor or 0
        scopes = list(self._records)[after : after + limit]
        return Users(scopes=scopes, cursor=after + len(scopes), more=len(scopes) == limit)

    async def _export(self, scope: Scope, cursor: Any, limit: int) -> Exports:
        things: list[Exported] = list(things_of(self._of(scope))) if cursor is None else cursor
        return Exports(things=things[:limit], cursor=things[limit:], more=len(things) > limit)

    async def _restore(self, scope: Scope, things: Sequence[Exported]) -> None:
        record = self._records.setdefault(scope, Record())
        self._lags.mark(scope)
        for thing in things:
            if thing.session is not None:
                record.sessions[thing.session.session_id] = thing.session
            elif thing.sitting is not None:
                record.sittings[thing.sitting.session_id, thing.sitting.first_seq] = thing.sitting
            elif thing.request is not None and thing.effect is not None:
                record.effects[thing.request.key] = (thing.request.made_at, thing.effect)
            else:
                self._restore_item(record, thing)

    def _restore_item(self, record: Record, thing: Exported) -> None:
        if thing.turn is not None:
            record.turns.setdefault(thing.turn.session_id, {})[thing.turn.turn_id] = thing.turn
        item_id, value = thing.item_id, thing.turn or thing.memory
        assert value is not None
        item = record.items[item_id] = Item(next(self._tokens), value)
        if thing.vector is not None:
            item.space = thing.vector.space
            record.vectors[item_id, item.space] = next(self._tokens), replace(thing.vector, token=item.token)

    async def _epoch(self, scope: Scope) -> str:
        return self._records[scope].epoch if scope in self._records else ""

    async def _erase(self, scope: Scope, erasure_id: str) -> Erased:
        self._erased.add(erasure_id)
        record = self._records.pop(scope, None) or Record()
        self._lags.begin_anew(scope)
        turns = sum(isinstance(item.value, Turn) for item in record.items.values())
        return Erased(
            sessions=len(record.sessions),
            sittings=len(record.sittings),
            requests=len(record.effects),
            turns=turns,
            memories=len(record.items) - turns,
        )

    async def _forget(self, scope: Scope, what: Forgetting, erasure_id: str) -> Erased:
        self._erased.add(erasure_id)
        record = self._of(scope)
        session = record.sessions.get(what.session_id)
        turns = [turn for turn in record.turns.get(what.session_id, {}).values() if what.is_of(turn)]
        sittings = await self._sittings(SessionKey(scope=scope, session_id=what.session_id))
        if session is None or what.spares(session, sittings) or (what.seq is not None and not turns):
            return Erased()
        held = turns if what.seq is not None else []
        with_it = forgotten(what, Held(session=session, sittings=sittings, turns=held, memories=[*memories_of(record)]))
        erased = drop(record, what, turns if what.after is None else with_it.turns, with_it.memories)
        await self._restore(scope, with_it.left)
        record.epoch = uuid4().hex
        if not (record.sessions or record.items or record.effects):
            del self._records[scope]
        self._lags.begin_anew(scope)
        return erased

    async def _quarantine(self, scope: Scope, what: Quarantine) -> Quarantined:
        record, key = self._of(scope), SessionKey(scope=scope, session_id=what.session_id)
        session = record.sessions.get(what.session_id)
        if session is None:
            return Quarantined()
        sittings, turns = await self._sittings(key), sorted(await self._turns(key, 0, ALL), key=lambda turn: turn.seq)
        held = Concerned(session=session, sittings=sittings, turns=turns, memories=list(memories_of(record)))
        then = rewritten(what, held)
        if then.session is not None:
            drop_vectors(record, [thing.item_id for thing in then.things])
            await self._restore(scope, then.things)
            record.epoch = uuid4().hex
            self._lags.begin_anew(scope)
        return then.counts

    async def _note_erasures(self, erasure_ids: Collection[str]) -> None:
        self._erased.update(erasure_ids)

    async def _erasures(self) -> set[str]:
        return self._erased - {""}

    async def _put_key(self, key: ApiKey) -> None:
        held = self._api_keys.get(key.key_id)
        if held is None or held.revoked_at is None:
            self._api_keys[key.key_id] = key

    async def _find_key(self, key_id: str) -> ApiKey | None:
        return self._api_keys.get(key_id)

    async def _keys(self, tenant_id: str | None) -> list[ApiKey]:
        return [key for key in self._api_keys.values() if tenant_id in (None, key.tenant_id)]

    async def _ping(self) -> None:
        """Always there."""
