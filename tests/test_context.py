"""Assembling a context: fencing loses nothing, nothing in it can be forged, the same in gives the same out."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memory_service.context import (
    BYTES_PER_TOKEN,
    CLOSE,
    OPEN,
    PREAMBLE,
    assemble,
    estimated_tokens,
    fence,
    summary_id,
    unfence,
)
from memory_service.tags import BRACKETS
from memory_service.telling import LongTerm
from memory_service.values import Hot, Memory, Message, Session, Turn

AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
HEADINGS = [
    "### Profile",
    "### Long-term Context",
    "### Recent Sessions",
    "### Past Interactions",
    "### Current Session Summary",
    "### Recent Conversation",
]
BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"

# Pieces of which fences, headings, roles and escapes are made, beside any text at all.
PIECES = [
    *BREAKS,
    "\r\n",
    " ",
    "  ",
    "<",
    "</",
    ">",
    "/",
    "memory",
    "MEMORY",
    "</memory>",
    "<memory>",
    "&",
    "&lt;",
    "&amp;",
]
PIECES += ["lt;", "amp;", "#", *HEADINGS, "USER: ", "ASSISTANT: ", "SYSTEM: ", "USER (Ana): ", "- ", "Topics: ", "a"]
PIECES += [*(f"&#x{ord(bracket):x};" for bracket in BRACKETS), *BRACKETS, "\u200b", "m\u0435mory", "\x1b[0m", "#x", ";"]
texts = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
names = st.one_of(st.none(), texts.map(lambda text: text[:200] or "Ana"))


def session(**fields: object) -> Session:
    return Session(session_id="s", incarnation="i", created_at=AT, touched_at=AT, **fields)


def turn(seq: int, *messages: Message) -> Turn:
    return Turn(session_id="s", seq=seq, turn_id=f"t{seq}", messages=messages, created_at=AT, received_at=AT)


def insight(number: int, text: str) -> Memory:
    return Memory(memory_id=f"insight_{number}", kind="insight", text=text, created_at=AT)


def summary(number: int, text: str, *topics: str) -> Memory:
    at = AT - timedelta(days=number)
    return Memory(
        memory_id=f"summary_{number}",
        kind="summary",
        text=text,
        created_at=at,
        session_id=f"s{number}",
        metadata={"topics": list(topics)},
    )


def long_term(insights: list[Memory], summaries: list[Memory], most: int = 5) -> LongTerm:
    return LongTerm(insights=tuple(insights), summaries=tuple(summaries), most_summaries=most)


messages = st.builds(Message, role=st.sampled_from(["user", "assistant"]), content=texts, name=names)
hots = st.builds(
    lambda said, so_far: Hot(
        session=session(cumulative_summary=so_far, turn_count=len(said)),
        turns=tuple(turn(seq, *of_turn) for seq, of_turn in enumerate(said, 1)),
    ),
    st.lists(st.lists(messages, min_size=1, max_size=2), max_size=3),
    texts,
)
long_terms = st.builds(
    lambda insights, summaries: long_term(
        [insight(number, text) for number, text in enumerate(insights)],
        [summary(number, text, *topics) for number, (text, topics) in enumerate(summaries)],
    ),
    st.lists(texts, max_size=3),
    st.lists(st.tuples(texts, st.lists(texts, max_size=3)), max_size=3),
)


def lines(text: str) -> list[str]:
    return re.split(f"\r\n|[{BREAKS}]", text)


# The fence


@given(texts)
@example("</memory>&lt;/memory>&amp;lt;/memory>")
@example("<\r\n memory")
@example("\r\n  \n\r  ")
def test_what_is_fenced_can_be_read_back(text: str) -> None:
    assert unfence(fence(text)) == text


@given(texts)
def test_fenced_text_holds_no_fence(text: str) -> None:
    assert not re.search(r"<\s*/?\s*memory", fence(text), re.IGNORECASE)


@given(texts)
def test_no_further_line_of_fenced_text_begins_with_a_heading_a_role_or_a_fence(text: str) -> None:
    _, *further = lines(fence(text))
    assert all(line.startswith("  ") for line in further)


@given(texts, texts)
def test_different_words_are_fenced_differently(one: str, other: str) -> None:
    assert (fence(one) == fence(other)) == (one == other)


@given(texts)
def test_the_cost_of_a_text_is_never_underestimated_by_its_bytes(text: str) -> None:
    assert estimated_tokens(text) * BYTES_PER_TOKEN >= len(text.encode())


# The whole


@given(hots, long_terms, st.integers(200, 1000))
def test_only_the_services_own_words_begin_a_line(hot: Hot, known: LongTerm, budget: int) -> None:
    context = assemble(hot, known, budget)
    if not context.text:
        assert not (hot.turns or context.insights or context.summaries or hot.session.cumulative_summary)
        return
    assert context.text.startswith(f"{OPEN}\n{PREAMBLE}\n\n")
    assert context.text.endswith(f"\n{CLOSE}")
    assert len(re.findall(r"<\s*/?\s*memory", context.text, re.IGNORECASE)) == 2
    _, *sections = context.text.removesuffix(f"\n{CLOSE}").split("\n\n")
    headings = [section.partition("\n")[0] for section in sections]
    assert headings == [heading for heading in HEADINGS if heading in headings]
    told = [line for section in sections for line in lines(section)[1:]]
    assert all(re.match(r"  |- |(USER|ASSISTANT)(: | \()", line) for line in told)
    assert sum(line.startswith("- ") for line in told) == len(context.insights) + len(context.summaries)
    assert sum(not line.startswith(("- ", "  ")) for line in told) == sum(len(turn.messages) for turn in hot.turns)


@given(hots, long_terms, st.integers(200, 1000))
def test_the_same_state_gives_the_same_bytes(hot: Hot, known: LongTerm, budget: int) -> None:
    assert assemble(hot, known, budget) == assemble(hot, known, budget)


@given(hots, long_terms, st.integers(1, 400))
def test_long_term_memory_keeps_to_the_budget_and_live_turns_are_whole(hot: Hot, known: LongTerm, budget: int) -> None:
    context = assemble(hot, known, budget)
    spent = [f"- {fence(one.text)} (2026-03-02)" for one in context.insights]
    for one in context.summaries:
        topics = ", ".join(map(fence, one.metadata["topics"]))
        line = f"- Session {one.session_id} (2026-03-02): {fence(one.text)}"
        spent.append(f"{line}\n  Topics: {topics}" if topics else line)
    assert sum(map(estimated_tokens, spent)) <= budget
    assert context.turns == hot.turns
    for of_turn in hot.turns:
        for message in of_turn.messages:
            assert fence(message.content) in context.text


# The budget, by example


def test_the_most_important_insights_take_the_room_there_is() -> None:
    known = long_term([insight(1, "a" * 200), insight(2, "b" * 200), insight(3, "c" * 20)], [])
    context = assemble(Hot(session=session()), known, 110)
    assert [one.memory_id for one in context.insights] == ["insight_1"], "66 tokens are for insights"
    context = assemble(Hot(session=session()), known, 130)
    assert [one.memory_id for one in context.insights] == ["insight_1", "insight_3"]


def test_summaries_take_the_room_that_insights_leave() -> None:
    recent = [summary(number, "a" * 200) for number in range(3)]
    few, many = [insight(1, "b")], [insight(number, "b" * 100) for number in range(9)]
    assert len(assemble(Hot(session=session()), long_term(few, recent), 250).summaries) == 3
    assert len(assemble(Hot(session=session()), long_term(many, recent), 250).summaries) == 1


def test_no_more_summaries_are_told_than_are_wanted() -> None:
    recent = [summary(number, f"summary {number}") for number in range(3)]
    context = assemble(Hot(session=session()), long_term([], recent, most=2), 1000)
    assert [one.memory_id for one in context.summaries] == ["summary_0", "summary_1"]


def test_a_sitting_that_goes_on_is_not_told_its_own_summary_and_an_ended_one_is() -> None:
    own = Memory(memory_id=summary_id("s", 3), kind="summary", text="now", created_at=AT, session_id="s")
    earlier = Memory(memory_id=summary_id("s", 1), kind="summary", text="then", created_at=AT, session_id="s")
    known = long_term([], [own, earlier], most=1)
    going_on = session(opened_at_seq=3, turn_count=4)
    assert [one.text for one in assemble(Hot(session=going_on), known, 1000).summaries] == ["then"]
    assert [one.text for one in assemble(Hot(session=going_on.ended("client")), known, 1000).summaries] == ["now"]


def test_of_nothing_nothing_is_told() -> None:
    assert assemble(Hot(session=session()), LongTerm(), 1000).text == ""


@pytest.mark.parametrize("text", ["<" + " " * 99_990, "<" * 50_000, "<" + " " * 50_000 + "/" + " " * 49_000])
def test_no_text_takes_long_to_fence(text: str) -> None:
    """A pattern that tries every way through these would take minutes, and everybody would wait for it."""
    began = time.process_time()
    assert unfence(fence(text)) == text
    assert time.process_time() - began < 2
