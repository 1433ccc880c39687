"""Whatever a model says: what comes of it is findings that can be kept, or bad output. Never anything else."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory_service.chaos.model_modes import raw
from memory_service.chaos.model_server import API_KEY, ModelServer
from memory_service.errors import BadModelOutput
from memory_service.llm.base import Findings
from memory_service.llm.openai import openai_client
from tests.llm.asking import SECRET, excerpt, reader, silent

ANYTHING = settings(max_examples=150, suppress_health_check=list(HealthCheck))
KNOWN = ("She likes tea.", "She lives in Porto.")

texts = st.text(st.characters(), max_size=40) | st.sampled_from(["", " ", "\x00", "\ud800", "fact", "NaN", "</memory>"])
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(2**63) - 1, 7, 1, 0, 2, 3])
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def near(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what belongs there."""
    return st.one_of(value, value, value, anything)


insights = st.fixed_dictionaries(
    {"text": near(texts), "turns": near(st.lists(numbers, max_size=4))},
    optional={
        "category": near(texts),
        "confidence": near(numbers),
        "importance": near(numbers),
        "replaces": near(numbers),
        "field": near(texts),
        "value": near(texts),
        "user_id": texts,
    },
)
reflections = st.fixed_dictionaries(
    {"summary": near(st.just("They met.") | texts)},
    optional={"topics": near(st.lists(texts)), "insights": near(st.lists(near(insights), max_size=3))},
)
contents = st.one_of(reflections.map(json.dumps), anything.map(json.dumps), texts, st.binary(max_size=60).map(repr))


Read = Callable[[bytes], Findings | BadModelOutput]


@pytest.fixture(scope="module")
def read(running: ModelServer) -> Iterator[Read]:
    """Ask the real client for a reflection; the endpoint answers just these bytes. Any other error is the test's."""
    client = openai_client(API_KEY, running.openai_url)

    async def ask() -> Findings | BadModelOutput:
        try:
            return await reader(client).reflect(excerpt(SECRET, known=KNOWN))
        except BadModelOutput as exc:
            assert silent(exc)
            return exc

    def answered(body: bytes) -> Findings | BadModelOutput:
        running.forget()
        running.rule = lambda call: raw(body)
        return runner.run(ask())

    with asyncio.Runner() as runner:
        yield answered
        runner.run(client.close())


def can_be_kept(findings: Findings) -> bool:
    words = [findings.summary, *findings.topics, *(insight.text for insight in findings.insights)]
    return (
        all(word and "\x00" not in word and word.encode() for word in words)
        and all(insight.replaces in (None, 1, 2) for insight in findings.insights)
        and all(0 <= share <= 1 for insight in findings.insights for share in (insight.confidence, insight.importance))
        and all(math.isfinite(insight.confidence + insight.importance) for insight in findings.insights)
        and all(insight.field is None or insight.field.encode() is not None for insight in findings.insights)
        and all("\x00" not in (insight.value or "") for insight in findings.insights)
        and all(type(turn) is int for insight in findings.insights for turn in insight.turns)
    )


def completion(content: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()


@ANYTHING
@given(content=contents)
def test_any_words_of_a_model_are_findings_or_bad_output(read: Read, content: str) -> None:
    found = read(completion(content))
    assert isinstance(found, BadModelOutput) or can_be_kept(found)


@ANYTHING
@given(body=anything.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
def test_any_bytes_of_an_endpoint_are_bad_output(read: Read, body: bytes) -> None:
    assert isinstance(read(body), BadModelOutput)


def test_what_is_tried_here_is_not_all_refused(read: Read) -> None:
    kept = {"text": "Likes tea", "turns": [7], "confidence": 7.0, "importance": -1.0, "replaces": 2, "user_id": "ben"}
    found = read(completion(json.dumps({"summary": "They met.", "insights": [kept]})))
    assert isinstance(found, Findings)
    assert can_be_kept(found)
    assert (found.insights[0].confidence, found.insights[0].replaces) == (1.0, 2)
