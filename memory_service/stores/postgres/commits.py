"""One commit in PostgreSQL: what `commit_change` of the database is given, and what its refusals mean."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection

from memory_service.errors import MemoryServiceError, StaleVersion
from memory_service.points import Point
from memory_service.stores.base import REQUESTS_KEPT, Commit, DuplicateRequest, DuplicateTurn
from memory_service.stores.bodies import micros, micros_or_none, text_of
from memory_service.stores.indexing import Index
from memory_service.stores.postgres.client import Client
from memory_service.values import Memory, Request, Session, Sitting, Turn, Vector, effect_of, turn_item_id

STALE = "AM001"
CONFLICT = "23505"
REFUSALS: dict[str, type[MemoryServiceError]] = {
    "turns_session_turn_id_key": DuplicateTurn,
    "requests_pkey": DuplicateRequest,
}
"""By the constraint that refuses it; any other means that a version moved."""

OWNER_MADE = """owner AS (INSERT INTO owners (tenant_id, user_id) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING id),
made AS (SELECT count(*) AS there FROM owner)"""
"""For what must not be there yet: of a user who is new there is no row at which one commit could wait for another."""

_encode = msgspec.json.Encoder().encode


class Commits:
    def __init__(self, client: Client, index: Index, point: Point) -> None:
        self._client, self._index, self._point = client, index, point
        self.count = 0

    async def write(self, commit: Commit) -> None:
        given = (commit.scope.tenant_id, commit.scope.user_id, await self.change_of(commit))
        sql, states = self.sql, states_of(commit)
        owner = given[:2] if commit.absent else ()
        if owner:
            sql = f"WITH {OWNER_MADE} {sql} FROM made, LATERAL require_unchanged(%s, %s, %s, %s AND there >= 0)"
        elif states:
            sql = f"{sql} FROM require_unchanged(%s, %s, %s, %s)"

        async def work(db: AsyncConnection[Any], again: bool) -> None:
            asked = (*given[:2], _encode(states).decode(), again) if states else ()
            await self._client.execute(db, "commit", sql, (*owner, *given, again, *asked))

        self._point("before_commit")
        try:
            await self._client.call(work)
        except psycopg.Error as exc:
            if exc.sqlstate not in (STALE, CONFLICT):
                raise
            raise REFUSALS.get(exc.diag.constraint_name or "", StaleVersion) from exc
        self._point("after_commit")
        self.count += 1

    @property
    def sql(self) -> str:
        """What makes a commit: it takes the tenant, the user, the change, and whether it may be made already."""
        return f"SELECT {'commit_with_entries' if self._index.kept else 'commit_change'}(%s, %s, %s, %s)"

    async def change_of(self, commit: Commit) -> str:
        """A commit as the function of the database takes it."""
        change = _parts_of(commit, self._index)
        if entries := await entries_of(self._index, commit.turns, commit.memories):
            change["search"] = list(entries.values())
        return _encode(change).decode()


def _parts_of(commit: Commit, index: Index) -> dict[str, Any]:
    """The parts of a commit that are there, as columns."""
    change: dict[str, Any] = {"epoch": commit.epoch} if commit.epoch else {}
    if commit.request is not None:
        change["request"] = _request(commit.request, commit.turns[0])
    if commit.session is not None:
        change["session"] = session_columns(commit.session)
    parts = {
        "turns": [turn_columns(turn) for turn in commit.turns],
        "sittings": [sitting_columns(sitting) for sitting in commit.sittings],
        "memories": [memory_columns(memory) for memory in commit.memories],
        "vectors": [{**_vector(vector), **direction_columns(index, vector)} for vector in commit.vectors],
    }
    change |= {name: columns for name, columns in parts.items() if columns}
    return change


def states_of(commit: Commit) -> list[dict[str, Any]]:
    """The states in which memories must be, each with what it is to become, by which an earlier try is known.

    What is not there has no times.
    """
    wanted = {memory.memory_id: text_of(memory) for memory in commit.memories}
    states = [state_columns(memory) for memory in commit.unchanged]
    states += [{"memory_id": memory_id, "created_at": None, "updated_at": None} for memory_id in commit.absent]
    return [{**state, "wanted": wanted[state["memory_id"]]} for state in states]


def state_columns(memory: Memory) -> dict[str, Any]:
    state = {"created_at": micros(memory.created_at), "updated_at": memory.updated_at}
    return {"memory_id": memory.memory_id, **state}


def _request(request: Request, turn: Turn) -> dict[str, Any]:
    effect = effect_of(request, turn)
    forget_before = micros(request.made_at - REQUESTS_KEPT)
    did = {"digest": effect.digest, "session_id": effect.session_id, "turn_id": effect.turn_id}
    return {"key": request.key, **did, "made_at": micros(request.made_at), "forget_before": forget_before}


def session_columns(head: Session) -> dict[str, Any]:
    return {
        "session_id": head.session_id,
        "version": head.version,
        "status": head.status,
        "touched_at": micros(head.touched_at),
        "unreflected_turns": head.unreflected_turns,
        "live_after": head.live_after,
        "incarnation": head.incarnation,
        "body": text_of(head),
    }


def turn_columns(turn: Turn) -> dict[str, Any]:
    return {"seq": turn.seq, "turn_id": turn.turn_id, "body": text_of(turn)}


def sitting_columns(sitting: Sitting) -> dict[str, Any]:
    return {
        "session_id": sitting.session_id,
        "first_seq": sitting.first_seq,
        "version": sitting.version,
        "reflection": sitting.reflection,
        "due_at": micros(sitting.due_at),
        "lease_until": micros_or_none(sitting.lease_until),
        "body": text_of(sitting),
    }


def memory_columns(memory: Memory) -> dict[str, Any]:
    return {
        "memory_id": memory.memory_id,
        "kind": memory.kind,
        "created_at": micros(memory.created_at),
        "superseded": memory.valid_to is not None,
        "session_id": memory.session_id,
        "updated_at": memory.updated_at,
        "rough": memory.rough is not None,
        "settled": memory.is_settled,
        "body": text_of(memory),
    }


async def entries_of(index: Index, turns: Sequence[Turn], memories: Sequence[Memory]) -> dict[str, dict[str, Any]]:
    """What each is found by, if an index is kept. A superseded memory shall have nothing: it comes without `words`."""
    if not index.kept:
        return {}
    columns = await index.columns(turns, [memory for memory in memories if memory.valid_to is None])
    found_by = {turn_item_id(turn.session_id, turn.seq): {"kind": "message", "seq": turn.seq} for turn in turns}
    found_by |= {memory.memory_id: {"kind": memory.kind} for memory in memories}
    return {
        item_id: {"item_id": item_id, "extract": False, **of_it, **columns.get(item_id, {})}
        for item_id, of_it in found_by.items()
    }


def direction_columns(index: Index, vector: Vector) -> dict[str, Any]:
    """As PostgreSQL reads a vector: a list of numbers, as a text."""
    return {name: numbers and str(numbers) for name, numbers in index.direction(vector).items()}


def _vector(vector: Vector) -> dict[str, Any]:
    data = base64.b64encode(vector.data).decode()
    return {"item_id": vector.item_id, "token": vector.token, "space": vector.space, "data": data}
