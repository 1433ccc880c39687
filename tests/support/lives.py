"""A user of whom everything is kept that can be, as exported things."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from memory_service.stores.exports import Exported
from memory_service.values import Effect, Memory, Message, Request, Source, Turn
from tests.support.values import NOON, a_memory, a_session, a_sitting, minutes

LATER = datetime(2150, 1, 1, tzinfo=UTC)
"""When what is pending is due, so that nothing is made of it meanwhile."""
PATIENT: dict[str, Any] = {"session_abandon_hours": 800_000, "session_ttl_minutes": 500_000}
"""Settings of a service that ends no session by itself."""


def a_long_turn(seq: int, session_id: str, **changes: Any) -> Turn:
    at = NOON + timedelta(seconds=seq, microseconds=seq)
    messages = (
        Message(role="system", content="Be kind.\u2028 \U0001f642 \u0645"),
        Message(role="user", content=f"I keep {seq} cats in {session_id}.\r\n\ttab", name="Ana \u00e9"),
        Message(role="assistant", content='"Noted", \\ said </memory>'),
        Message(role="tool", content="{}", name="search"),
    )
    given = {"created_at": at - timedelta(days=900), "received_at": at, "messages": messages, **changes}
    return Turn(session_id=session_id, seq=seq, turn_id=f"{session_id}.t{seq}", **given)


def everything(turns: int = 30) -> list[Exported]:
    """Sessions that go on, were ended by either, begun afresh and are empty, with all that can be theirs."""
    heads = [
        a_session(
            "s1", turn_count=turns, version=turns + 4, compacted_through=5, cumulative_summary="cats", agent_id="a"
        ),
        a_session("Z:2", turn_count=4, version=9, status="ended", ended_by="client", handed_over_through=4),
        a_session("b@3", turn_count=6, version=12, opened_at_seq=4, handed_over_through=3, incarnation="i" * 32),
        a_session("c.4", turn_count=2, version=5, status="ended", ended_by="service", handed_over_through=2),
        a_session("empty"),
    ]
    sittings = [
        a_sitting(
            "Z:2",
            through_seq=4,
            version=3,
            reflection="done",
            reflected_through=4,
            summary="of Z",
            summary_trust="low",
            started_at=NOON,
        ),
        a_sitting("b@3", version=7, reflection="dead", attempts=8, last_error="bad_model_output"),
        a_sitting("c.4", through_seq=2, version=2, attempts=1, last_error="x", due_at=LATER, ended=True),
        a_sitting("s1", through_seq=3, version=4, due_at=LATER, attempts=1, lease_until=minutes(9)),
    ]
    request = Request(key='!key~"1', digest="d" * 32, made_at=datetime.now(UTC))
    effect = Effect(digest=request.digest, session_id="s1", turn_id="s1.t1")
    named = Exported(request=request, effect=effect)
    spoken = [a_long_turn(seq, head.session_id) for head in heads for seq in range(1, head.turn_count + 1)]
    spoken[0] = replace(spoken[0], metadata={"n": 2**53 - 1, "x": [None, 1.5, -0.0, {"b": "\u00fc"}], "a": True})
    spoken[1] = replace(spoken[1], messages=(Message(role="assistant", content="I speak first."),))
    return [
        *(Exported(session=head) for head in heads),
        *(Exported(sitting=sitting) for sitting in sittings),
        named,
        *(Exported(request=replace(request, key=key), effect=effect) for key in ("a", "B", "~")),
        *(Exported(turn=turn) for turn in spoken[::2] + spoken[1::2]),  # as if written by turns
        *(Exported(memory=memory) for memory in memories()),
    ]


def memories() -> list[Memory]:
    newer = a_memory("insight_b", text="Five cats", sources=(Source(session_id="s1", seq=2),), category="pets")
    older = a_memory(
        "insight_a", trust="low", confidence=0.25, importance=1.0, model="m", prompt_version="1"
    ).superseded(newer)
    told = {"started_at": NOON.isoformat(), "topics": ["cats"], "turn_count": 4}
    return [
        newer,
        older,
        a_memory("insight_gone", text="never").deleted(minutes(5)),
        a_memory("summary_z", kind="summary", session_id="Z:2", metadata=told, text="Of cats"),
        a_memory("chunk_z", kind="chunk", session_id="Z:2", metadata={"topics": ["a"], "entities": []}),
        a_memory("memory_1", kind="memory", tags=("x y", "z"), metadata={"k": 1}, session_id="elsewhere"),
        a_memory("M", kind="memory", trust="high", text="In capitals \U0001f600"),
    ]
