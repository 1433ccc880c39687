"""What is sent: one value a call, the same for both clients. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import index
from typing import Any
from urllib.parse import quote

from client._ids import new_id
from client.errors import InvalidRequest

LONGEST_IMPORT_S = 600
"""For which a service may be writing a file that was taken in whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`repeatable`: sent twice, it does the same as sent once. `wait_s`: how long the service may hold its answer.

    `media_type`: of a body that is not JSON.
    """

    method: str
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    wait_s: float = 0
    media_type: str = ""


def start(
    user_id: str,
    session_id: str | None,
    restore: bool,
    agent_id: str | None,
    include_knowledge: int,
    query: str | None,
    min_trust: str | None,
) -> Call:
    """Name the session here when nobody did, so that a repeat finds it and does not open another.

    Under an id just made there is nothing to restore: `restore=true` starts it just as afresh, and an attempt that
    arrives late cannot set aside what was stored since. Starting afresh under a known id is the one unsafe call.
    """
    made = session_id is None
    restore = restore or made
    session_id = new_id() if session_id is None else session_id
    body = present(
        user_id=user_id,
        session_id=session_id,
        restore=restore,
        agent_id=agent_id,
        include_knowledge=include_knowledge or None,
        query=query,
        min_trust=min_trust,
    )
    return Call(method="POST", path="/sessions/start", body=body, repeatable=restore)


def end(user_id: str, session_id: str, wait_s: float) -> Call:
    body = present(user_id=user_id, session_id=session_id, wait_s=wait_s)
    return Call(method="POST", path="/sessions/end", body=body, wait_s=wait_s)


def store(
    user_id: str,
    session_id: str,
    user_message: str,
    agent_message: str,
    *,
    turn_id: str | None,
    user_name: str | None,
    agent_name: str | None,
    created_at: datetime | None,
    metadata: Mapping[str, Any] | None,
) -> Call:
    """Always carries a `turn_id`: a repeat is a replay."""
    body = present(
        user_id=user_id,
        session_id=session_id,
        user_message=user_message,
        agent_message=agent_message,
        turn_id=new_id() if turn_id is None else turn_id,
        user_name=user_name,
        agent_name=agent_name,
        created_at=None if created_at is None else created_at.isoformat(),
        metadata=None if metadata is None else dict(metadata),
    )
    return Call(method="POST", path="/memory/store", body=body)


def context(user_id: str, session_id: str, include_knowledge: int, query: str | None, min_trust: str | None) -> Call:
    body = present(
        user_id=user_id,
        session_id=session_id,
        include_knowledge=include_knowledge or None,
        query=query,
        min_trust=min_trust,
    )
    return Call(method="POST", path="/memory/context", body=body)


def retrieve(
    user_id: str,
    query: str,
    top_k: int,
    kinds: Sequence[str] | None,
    session_id: str | None,
    min_trust: str | None,
) -> Call:
    body = present(
        user_id=user_id,
        query=query,
        top_k=top_k,
        kinds=None if kinds is None else list(kinds),
        session_id=session_id,
        min_trust=min_trust,
    )
    return Call(method="POST", path="/memory/retrieve", body=body)


def insights(user_id: str, recent_only: bool) -> Call:
    return Call(method="POST", path="/insights", body=present(user_id=user_id, recent_only=recent_only))


def summaries(user_id: str, limit: int) -> Call:
    return Call(method="POST", path="/summaries", body=present(user_id=user_id, limit=limit))


def store_memories(memories: Iterable[Mapping[str, Any]]) -> Call:
    """Each carries a `memory_id`: a repeat changes nothing."""
    named = [{"memory_id": new_id(), **memory} for memory in memories]
    return Call(method="POST", path="/memories", body={"memories": named})


def memories(user_id: str, kinds: Sequence[str] | None, limit: int, cursor: str | None, superseded: bool) -> Call:
    asked = present(user_id=user_id, kinds=",".join(kinds) if kinds else None, limit=str(limit), cursor=cursor)
    return Call(method="GET", path="/memories", query=asked | ({"superseded": "true"} if superseded else {}))


def memory(user_id: str, memory_id: str) -> Call:
    return Call(method="GET", path=f"/memories/{in_path(memory_id)}", query={"user_id": user_id})


def edit_memory(user_id: str, memory_id: str, changes: Mapping[str, Any]) -> Call:
    return Call(method="PATCH", path=f"/memories/{in_path(memory_id)}", body={"user_id": user_id, **changes})


def delete_memory(user_id: str, memory_id: str) -> Call:
    return Call(method="DELETE", path=f"/memories/{in_path(memory_id)}", query={"user_id": user_id})


def what_to_forget(user_id: str, query: str, kinds: Sequence[str] | None, top_k: int, min_score: float) -> Call:
    body = present(user_id=user_id, query=query, kinds=list(kinds) if kinds else None, top_k=top_k, min_score=min_score)
    return Call(method="POST", path="/memories/forget", body=body)


def forget(user_id: str, ids: Iterable[str]) -> Call:
    return Call(method="POST", path="/memories/forget", body={"user_id": user_id, "dry_run": False, "ids": list(ids)})


def profile(user_id: str) -> Call:
    return Call(method="GET", path=f"/users/{in_path(user_id)}/profile")


def put_profile(user_id: str, profile: Mapping[str, Any], expected_version: int | None) -> Call:
    body = present(profile=dict(profile), expected_version=expected_version)
    return Call(method="PUT", path=f"/users/{in_path(user_id)}/profile", body=body)


def patch_profile(user_id: str, patch: Mapping[str, Any], expected_version: int | None) -> Call:
    body = present(patch=dict(patch), expected_version=expected_version)
    return Call(method="PATCH", path=f"/users/{in_path(user_id)}/profile", body=body)


def delete_profile(user_id: str) -> Call:
    return Call(method="DELETE", path=f"/users/{in_path(user_id)}/profile")


def add_episode(
    user_id: str,
    event_type: str,
    summary: str,
    *,
    timestamp: str | None,
    session_id: str | None,
    episode_id: str | None,
    metadata: Mapping[str, Any] | None,
) -> Call:
    """Always carries an `episode_id`: a repeat changes nothing."""
    body = present(
        event_type=event_type,
        summary=summary,
        timestamp=timestamp,
        session_id=session_id,
        episode_id=f"episode_{new_id()}" if episode_id is None else episode_id,
        metadata=None if metadata is None else dict(metadata),
    )
    return Call(method="POST", path=f"/users/{in_path(user_id)}/episodes", body=body)


def episodes(user_id: str, limit: int, event_type: str | None, cursor: str | None) -> Call:
    query = present(limit=str(limit), event_type=event_type, cursor=cursor)
    return Call(method="GET", path=f"/users/{in_path(user_id)}/episodes", query=query)


def store_knowledge(
    content: str, category: str, *, title: str | None, doc_id: str | None, metadata: Mapping[str, Any] | None
) -> Call:
    """Always carries a `doc_id`: a repeat changes nothing."""
    body = present(
        content=content,
        category=category,
        title=title,
        doc_id=new_id() if doc_id is None else doc_id,
        metadata=None if metadata is None else dict(metadata),
    )
    return Call(method="POST", path="/knowledge", body=body)


def recall_knowledge(query: str, top_k: int, category: str | None) -> Call:
    return Call(method="POST", path="/knowledge/recall", body=present(query=query, top_k=top_k, category=category))


def delete_knowledge(doc_id: str) -> Call:
    return Call(method="DELETE", path=f"/knowledge/{in_path(doc_id)}")


def erase_user(user_id: str) -> Call:
    return Call(method="DELETE", path=f"/users/{in_path(user_id)}")


def erase_session(user_id: str, session_id: str) -> Call:
    return Call(method="DELETE", path=f"/sessions/{in_path(session_id)}", query={"user_id": user_id})


def quarantine(user_id: str, session_id: str, turn_numbers: Iterable[int] | None) -> Call:
    body = present(user_id=user_id, turn_numbers=None if turn_numbers is None else list(turn_numbers))
    return Call(method="POST", path=f"/sessions/{in_path(session_id)}/quarantine", body=body)


def release(user_id: str, session_id: str, turn_number: int | None) -> Call:
    named = {} if turn_number is None else {"turn_number": str(turn_number)}
    path = f"/sessions/{in_path(session_id)}/quarantine"
    return Call(method="DELETE", path=path, query={"user_id": user_id, **named})


def erase_turn(user_id: str, session_id: str, turn_number: int) -> Call:
    path = f"/sessions/{in_path(session_id)}/turns/{_whole(turn_number)}"
    return Call(method="DELETE", path=path, query={"user_id": user_id})


def reflection(user_id: str, session_id: str) -> Call:
    return Call(method="GET", path=f"/sessions/{in_path(session_id)}/reflection", query={"user_id": user_id})


def export_user(user_id: str) -> Call:
    return Call(method="GET", path=f"/users/{in_path(user_id)}/export")


def import_user(user_id: str | None) -> Call:
    """What is there already is left as it is: a repeat changes nothing."""
    return Call(
        method="POST",
        path="/users/import",
        query=present(user_id=user_id),
        wait_s=LONGEST_IMPORT_S,
        media_type="application/x-ndjson",
    )


def health() -> Call:
    return Call(method="GET", path="/health")


def stats() -> Call:
    return Call(method="GET", path="/stats")


def in_path(name: str) -> str:
    """Encode all of it, slashes too. Raises InvalidRequest for what would name something else there, or nothing.

    Dots by themselves are steps within a path, encoded or not; half a character (a lone surrogate) is in no UTF-8.
    """
    if name in ("", ".", ".."):
        raise InvalidRequest("an id is empty or dots alone, by which a path names something else")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as exc:
        raise InvalidRequest("an id holds half a character, which cannot be sent") from exc


def _whole(number: int) -> int:
    """Raises InvalidRequest: what is no number may be a path."""
    try:
        return index(number)
    except TypeError as exc:
        raise InvalidRequest("a turn is named by a whole number") from exc


def present(**fields: Any) -> dict[str, Any]:
    """Leave out what was not given: the defaults are the service's."""
    return {name: value for name, value in fields.items() if value is not None}
