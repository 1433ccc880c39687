"""The fifteen invariants, by number and name. Each takes what was seen and what must be, and asserts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memory_service.context import estimated_tokens, summary_id
from memory_service.reflection import KNOWN_INSIGHTS
from memory_service.stores.base import Entries
from memory_service.values import Memory, Scope, Session, Sitting, Turn, Unembedded, is_less, turn_item_id
from tests.properties.lanes import BUDGET_TOKENS, Answer, K, Lane
from tests.properties.model import CANARIES, Said, Told
from tests.properties.models import CANARY, WORD, turns_told
from tests.properties.stores import MAX_ATTEMPTS

API = (Path(__file__).parents[2] / "docs/reference/http-api.md").read_text()
LISTED = {
    (int(status), code)
    for status, codes in re.findall(r"^\| (\d{3}) \| (.*) \|$", API, re.MULTILINE)
    for code in re.findall(r"`(\w+)`", codes)
}


def invariant_1_durable(told: Told, turns: Sequence[Turn]) -> None:
    """Every acknowledged turn is there, whatever happened since."""
    kept = {turn.turn_id for turn in turns}
    assert [said.word for said in told.turns if said.answer["turn_id"] not in kept] == []


def invariant_2_once(told: Told, turns: Sequence[Turn]) -> None:
    """Nothing is there twice, nor what was never acknowledged."""
    assert Counter(turn.turn_id for turn in turns) == Counter(said.answer["turn_id"] for said in told.turns)
    assert len({turn.turn_id for turn in turns}) == len(turns)
    for said in told.turns:
        assert said.answer["turn_id"] == said.body.get("turn_id", said.answer["turn_id"])


def invariant_3_replay_equal(said: Said, again: Answer) -> None:
    """A repeat gets the first answer, and is told that it is one."""
    assert again.status == 200
    assert again.body == {**said.answer, "replayed": True}


def invariant_4_dense_and_ordered(told: Told, turns: Sequence[Turn]) -> None:
    """Turns are numbered 1..n, in the order in which they were acknowledged."""
    assert [turn.seq for turn in turns] == list(range(1, len(turns) + 1))
    assert [turn.turn_id for turn in turns] == [said.answer["turn_id"] for said in told.turns]
    assert [said.answer["turn_number"] for said in told.turns] == [turn.seq for turn in turns]


def invariant_5_read_your_writes(told: Told, head: Session, turns: Sequence[Turn], context: Answer) -> None:
    """What was acknowledged is read at once. That versions rise by one each, the book of commits checks."""
    assert context.status == 200
    assert head.turn_count == len(turns) == len(told.turns)
    assert head.opened_at_seq == told.opened_at
    assert (head.ended_by or head.status) == told.status
    if told.sitting_turns:
        assert [message["content"] for message in context.body["active_context"]][-1] == told.turns[-1].messages[-1]


def invariant_5_a_refusal_changes_nothing(commits_before: int, commits_after: int) -> None:
    assert commits_after == commits_before


def invariant_6_byte_fidelity(told: Told, turns: Sequence[Turn]) -> None:
    """What comes out is what went in."""
    for said, turn in zip(told.turns, turns, strict=True):
        assert [message.content for message in turn.messages] == said.messages
        assert turn.metadata == said.body.get("metadata", {})


def invariant_7_isolation(scope: Scope, answer: Answer) -> None:
    """No answer to a user holds another's words."""
    assert set(CANARY.findall(answer.text)) <= {CANARIES[scope]}


def invariant_7_isolation_of_prompts(texts: Iterable[str]) -> None:
    """No model is given the words of two users at once."""
    for text in texts:
        assert len(set(CANARY.findall(text))) <= 1, text


def invariant_7_isolation_of_tenants(tenant: str, lane: Lane, answer: Answer) -> None:
    """The list of what was given up is of the caller's tenant alone."""
    listed = [(s["user_id"], s["session_id"], s["first_turn"], s["last_turn"]) for s in answer.body["reflections"]]
    dead = [
        (scope.user_id, sitting.session_id, sitting.first_seq, sitting.through_seq)
        for (scope, *_), sitting in lane.book.sittings.items()
        if sitting.reflection == "dead" and scope.tenant_id == tenant
    ]
    assert sorted(listed) == sorted(dead)


def invariant_8_pool_transparency(answers: dict[Lane, Any]) -> None:
    """Of one store, pools of every size give the same answers."""
    for name in {lane.name for lane in answers}:
        _all_alike({lane: answer for lane, answer in answers.items() if lane.name == name})


def invariant_9_store_equivalence(answers: dict[Lane, Any]) -> None:
    """Of one size of pool, all stores give the same answers, codes included."""
    for size in {lane.size for lane in answers}:
        _all_alike({lane: answer for lane, answer in answers.items() if lane.size == size})


def _all_alike(answers: dict[Lane, Any]) -> None:
    (first, expected), *others = answers.items()
    for lane, answer in others:
        assert answer == expected, f"{lane} differs from {first}: {answer} is not {expected}"


def invariant_10_coverage(told: Told, head: Session, context: Answer) -> None:
    """The cumulative summary tells of the sitting's turns up to one, the context shows those after it."""
    shown = [said.messages for said in told.turns[head.live_after :]]
    assert [message["content"] for message in context.body["active_context"]] == [m for ms in shown for m in ms]
    compacted = range(told.opened_at, head.live_after + 1)
    assert turns_told(context.body["cumulative_summary"]) == list(compacted)
    assert len(compacted) % K == 0
    text = context.body["formatted_context"]
    known = re.split("### (?:Current Session Summary|Recent Conversation)", text)[0].partition("###")[2]
    assert sum(estimated_tokens(line) for line in known.splitlines() if line.startswith("- ")) <= BUDGET_TOKENS
    assert (text.count("<memory>"), text.count("</memory>")) == ((1, 1) if text else (0, 0))


def invariant_10_coverage_at_rest(head: Session) -> None:
    """Once the model is well, no more is live than is to be."""
    if head.status == "active":
        assert head.live_turns < 2 * K


def invariant_11_provenance(scope: Scope, memories: Iterable[Memory], turns: dict[str, list[Turn]]) -> None:
    """Each derived record cites turns that exist, and are of the same user; it is trusted no more than they are."""
    for memory in memories:
        assert memory.sources, memory
        for source in memory.sources:
            assert 1 <= source.seq <= len(turns.get(source.session_id, []))
            cited = turns[source.session_id][source.seq - 1]
            assert cited.seq == source.seq
            assert memory.edited or not is_less(cited.trust, memory.trust)
            if memory.kind == "insight":
                assert memory.text.split()[-1] in " ".join(message.content for message in cited.messages)


def invariant_12_effect_once(sittings: Sequence[Sitting], memories: Sequence[Memory], session_id: str) -> None:
    """What a reflection is to leave is there exactly once, if it was done, and not at all otherwise."""
    read = {sitting.first_seq: sitting for sitting in sittings if sitting.reflected_through}
    summaries = {m.memory_id: m for m in memories if m.kind == "summary" and m.session_id == session_id}
    assert set(summaries) == {summary_id(session_id, first) for first in read}
    numbers = []
    for first, sitting in read.items():
        span = list(range(first, sitting.reflected_through + 1))
        assert turns_told(summaries[summary_id(session_id, first)].text) == span == turns_told(sitting.summary)
        numbers += span
    for kind in ("insight", "chunk"):
        cited = [s.seq for m in memories if m.kind == kind for s in m.sources if s.session_id == session_id]
        assert sorted(cited) == sorted(numbers), kind


def invariant_12_liveness(told: Told, sittings: Sequence[Sitting]) -> None:
    """Every sitting that was closed is known, done or dead, and nobody holds it any more."""
    spans = {(sitting.first_seq, sitting.through_seq) for sitting in sittings if sitting.ended}
    assert spans == set(told.closed)
    for sitting in sittings:
        assert sitting.reflection in ("done", "dead"), sitting
        assert sitting.lease_until is None
        assert (sitting.reflection == "done") == (sitting.reflected_through == sitting.through_seq)
        assert sitting.attempts <= MAX_ATTEMPTS + 1


def invariant_13_erasure(erased: set[str], answer: Answer) -> None:
    """Nothing that was erased is told any more, and nothing brings it back."""
    assert not erased & set(WORD.findall(answer.text)), answer.path


def invariant_14_index_truth(lane: Lane, corpus: Any, turns: Iterable[Turn], memories: Iterable[Memory]) -> None:
    """What is searched is what is there: no more, no less; all vectors are finite and of the present space."""
    rows = {f"{turn_item_id(t.session_id, t.seq)}.{i}" for t in turns for i in range(len(t.messages))}
    rows |= {memory.memory_id for memory in memories if memory.valid_to is None}
    alive = corpus._alive.used(len(corpus))
    searchable = [item.id for item, lives in zip(corpus._items, alive, strict=True) if lives]
    assert sorted(searchable) == sorted(rows)
    vectors = corpus._vectors.used(len(corpus))
    assert np.isfinite(vectors).all()
    if vectors.ndim == 2:
        others = np.delete(vectors, np.arange(vectors.shape[1])[lane.embedder.half], axis=1)
        assert not others.any()


def invariant_14_every_item_has_a_vector(lane: Lane, corpus: Any, due: Sequence[Unembedded], entries: Entries) -> None:
    """Once the model is well, nothing waits for a vector."""
    assert due == []
    assert {vector.space for vector in entries.vectors} <= {lane.embedder.space}
    items = {turn_item_id(turn.session_id, turn.seq) for turn in entries.turns}
    items |= {memory.memory_id for memory in entries.memories}
    assert {vector.item_id for vector in entries.vectors} == items
    if len(corpus):
        lengths = np.linalg.norm(corpus._vectors.used(len(corpus)), axis=1)
        assert np.allclose(lengths[corpus._alive.used(len(corpus))], 1, atol=1e-5)


def invariant_15_honest_refusals(answer: Answer) -> None:
    """What is refused is refused in the agreed form, with a listed code; nothing fails for a reason of our own."""
    if answer.status == 200:
        assert answer.content_type == "application/json"
        return
    assert answer.content_type == "application/problem+json"
    assert (answer.status, answer.body["code"]) in LISTED
    assert answer.status == answer.body["status"] == answer.body["status_code"] < 500
    assert answer.body["type"] == f"/problems/{answer.body['code']}"
    assert answer.body["detail"] == answer.body["error"] != ""


def invariant_15_bounded_and_honest(lane: Lane, stats: dict[str, Any]) -> None:
    """The pool keeps to its limit, and each counter is what was counted from outside."""
    assert stats["total_sessions"] <= lane.size == stats["max_capacity"]
    assert stats["utilization"] == (stats["total_sessions"] / lane.size if lane.size else 0)
    assert stats["dirty_sessions"] == 0
    book, reflection = lane.book, stats["reflection"]
    counted = {
        "reflected": book.reflected,
        "failed_attempts": lane.reader.reflections_failed + book.never_ended,
        "dead": book.gave_up,
        "compacted": book.compacted,
        "compactions_failed": lane.reader.compactions_failed,
        "insights_dropped": book.reflected,
    }
    assert {name: reflection[name] for name in counted} == counted
    assert stats["recall"]["embedded"] == book.embedded
    assert stats["tokens"]["calls"] == len(lane.reader.prompts)
    if max(map(len, book.insights.values()), default=0) <= KNOWN_INSIGHTS:  # beyond, reflection searches too
        assert stats["recall"]["searches"] == lane.searches
        assert stats["recall"]["degraded"] == lane.degraded
    assert stats["recall"]["embedding_failures"] == lane.embedder.failed - stats["recall"]["degraded"]
    assert stats["queues"]["failed"] == 0


def invariant_15_the_pool_counts_right(lane: Lane, before: dict[str, Any], once: dict[str, Any], sessions: int) -> None:
    """After everything was dropped and each session read once, the pool holds what fits."""
    assert once["hits"] + once["misses"] - before["hits"] - before["misses"] == sessions
    assert once["total_sessions"] == min(sessions, lane.size)
    if lane.size:
        assert once["evictions"] - before["evictions"] == max(0, sessions - lane.size)
