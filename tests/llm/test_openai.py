"""Reading with the real `openai` client, over real HTTP, from a model that does as it is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memory_service import prompts
from memory_service.chaos import model_modes as model
from memory_service.chaos.model_modes import Mode
from memory_service.chaos.model_server import API_KEY, API_VERSION, CHAT_MODEL, EMBEDDING_MODEL
from memory_service.errors import ModelError, ModelRefused, ModelUnavailable
from memory_service.llm.base import Excerpt
from memory_service.llm.openai import openai_client
from tests.llm.asking import REFLECTION, REFUSED_FORMATS, embedder, excerpt, insight, reader, turn


async def test_a_reflection_comes_back_with_the_turns_its_insights_rest_on(server, client) -> None:
    findings = await reader(client).reflect(excerpt("I prefer tea.", "What time is it?", "My sister is Ana."))
    assert findings.summary == "A conversation of 3 turns (7 to 9)."
    assert [(one.turns, one.category) for one in findings.insights] == [((7,), "preference"), ((9,), "fact")]
    assert findings.insights[0].text == "Caroline said: I prefer tea."
    assert findings.topics == ("fact", "preference")


async def test_a_compaction_comes_back_as_text(server, client) -> None:
    assert (await reader(client).compact("Before.", [turn(1, "Hello")])).startswith("So far 1 turns: Hello")


async def test_openai_is_asked_at_its_path_with_a_bearer_key(server, client) -> None:
    await reader(client).reflect(excerpt())
    await embedder(client).embed(["tea"])
    chat, embedding = server.calls
    assert (chat.path, embedding.path) == ("/v1/chat/completions", "/v1/embeddings")
    assert chat.headers["authorization"] == embedding.headers["authorization"] == f"Bearer {API_KEY}"
    assert (chat.body["model"], embedding.body["model"]) == (CHAT_MODEL, EMBEDDING_MODEL)
    assert "api-version" not in chat.query


async def test_azure_is_asked_at_the_path_of_the_deployment_with_a_version_and_an_api_key(server, azure) -> None:
    await reader(azure).reflect(excerpt())
    await embedder(azure).embed(["tea"])
    chat, embedding = server.calls
    assert chat.path == f"/openai/deployments/{CHAT_MODEL}/chat/completions"
    assert embedding.path == f"/openai/deployments/{EMBEDDING_MODEL}/embeddings"
    assert chat.query == embedding.query == {"api-version": API_VERSION}
    assert chat.headers["api-key"] == embedding.headers["api-key"] == API_KEY
    assert "authorization" not in chat.headers


async def test_an_endpoint_without_keys_needs_none(server) -> None:
    async with openai_client("", server.openai_url) as keyless:
        assert (await reader(keyless).reflect(excerpt())).summary


async def test_openai_itself_is_meant_where_no_url_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.invalid")
    async with openai_client(API_KEY, "") as client:
        assert str(client.base_url) == "https://api.openai.com/v1/"


async def test_a_reflection_asks_for_strict_structured_output(server, client) -> None:
    await reader(client).reflect(excerpt())
    body = server.calls[0].body
    asked = body["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["strict"] is True
    assert asked["json_schema"]["schema"] == prompts.REFLECTION_SCHEMA
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


async def test_nothing_is_sent_that_some_models_refuse(server, client) -> None:
    """Reasoning models take neither a temperature nor max_tokens, older ones no max_completion_tokens."""
    await reader(client).reflect(excerpt())
    await reader(client).compact("", [turn(1, "Hello")])
    assert [sorted(call.body) for call in server.calls] == [
        ["messages", "model", "response_format"],
        ["messages", "model"],
    ]


async def test_the_prompt_holds_the_turns_the_earlier_summary_and_what_is_known(server, client) -> None:
    asked = Excerpt(turns=(turn(12, "Hello\nagain"),), earlier_summary="They met.", known=excerpt(known=("A.",)).known)
    await reader(client).reflect(asked)
    prompt = server.calls[0].prompt
    assert "[12] 2026-05-08 14:03 Caroline (user): Hello\n  again\n[12] 2026-05-08 14:03 assistant: Noted.\n" in prompt
    assert "<earlier_summary>\nThey met.\n</earlier_summary>" in prompt
    assert "<known_insights>\n1. A.\n</known_insights>" in prompt


async def test_a_reader_says_who_it_is_and_which_words_it_used(client) -> None:
    assert (reader(client).name, reader(client).prompt_version) == (CHAT_MODEL, prompts.PROMPT_VERSION)


# Endpoints without structured outputs.


async def test_an_endpoint_without_structured_outputs_is_asked_in_json_mode_from_then_on(server, client) -> None:
    server.reject_response_format = {"json_schema"}
    reads = reader(client)
    for _ in range(2):
        assert (await reads.reflect(excerpt("I prefer tea."))).insights[0].turns == (7,)
    assert [call.format for call in server.calls] == ["json_schema", "json_object", "json_object"]
    assert reads.usage()["failures"] == 0


async def test_an_endpoint_without_json_mode_is_asked_for_text_from_then_on(server, client) -> None:
    server.reject_response_format = True
    server.rule = lambda call: model.answer(f"Gladly! {{yes}}\n```json\n{json.dumps(REFLECTION)}\n``` Anything else?")
    reads = reader(client)
    for _ in range(2):
        assert (await reads.reflect(excerpt())).summary == "They met."
    assert [call.format for call in server.calls] == ["json_schema", "json_object", None, None]


async def test_an_endpoint_that_ignores_the_format_is_understood_all_the_same(server, client) -> None:
    server.play(model.answer(f"<think>Should it be {{}}?</think>\n```json\n{json.dumps(REFLECTION)}\n```"))
    assert (await reader(client).reflect(excerpt())).summary == "They met."


@pytest.mark.parametrize("said", REFUSED_FORMATS)
async def test_a_refused_format_is_known_in_the_words_of_many_endpoints(server, client, said: str) -> None:
    server.play(REFUSED_FORMATS[said])
    assert (await reader(client).reflect(excerpt())).summary
    assert [call.format for call in server.calls] == ["json_schema", "json_object"]


OTHER_COMPLAINTS: dict[str, Mode] = {
    "nothing about a format": model.status(400, message="The model is not available in your region."),
    "another parameter, quoting a talk about JSON": model.status(400, message="json_schema", param="messages"),
    "too long": model.status(400, message="response_format counts too", error_code="context_length_exceeded"),
    "the key": model.status(401, message="This key may not use response_format."),
    "too often": model.status(429, message="response_format requests are limited"),
    "no such model": model.status(404, message="The model does not exist", error_code="model_not_found"),
}


@pytest.mark.parametrize("complaint", OTHER_COMPLAINTS)
async def test_other_complaints_do_not_change_the_format(server, client, complaint: str) -> None:
    reads = reader(client)
    server.play(OTHER_COMPLAINTS[complaint])
    with pytest.raises((ModelUnavailable, ModelRefused)):
        await reads.reflect(excerpt())
    await reads.reflect(excerpt())
    assert [call.format for call in server.calls] == ["json_schema", "json_schema"]


async def test_a_format_is_given_up_only_for_one_that_is_taken(server, client) -> None:
    reads = reader(client)
    server.play(REFUSED_FORMATS["OpenAI"], model.status(503))
    with pytest.raises(ModelUnavailable):
        await reads.reflect(excerpt())
    await reads.reflect(excerpt())
    assert [call.format for call in server.calls] == ["json_schema", "json_object", "json_schema"]


async def test_a_refusal_in_text_mode_is_told_and_not_tried_for_ever(server, client) -> None:
    server.rule = lambda call: REFUSED_FORMATS["OpenAI"]
    with pytest.raises(ModelRefused, match="400; check OPENAI_MODEL, OPENAI_BASE_URL"):
        await reader(client).reflect(excerpt())
    assert [call.format for call in server.calls] == ["json_schema", "json_object", None]


# What is made of an answer.


async def test_only_what_is_needed_must_be_there(server, client) -> None:
    server.play(
        model.answer({"summary": "They met.", "mood": "good", "insights": [{"text": "Likes tea.", "sure": True}]})
    )
    findings = await reader(client).reflect(excerpt())
    found = findings.insights[0]
    assert (findings.topics, found.turns, found.replaces) == ((), (), None)
    assert (found.category, found.confidence, found.importance) == ("general", 0.5, 0.5)


async def test_null_is_as_good_as_missing(server, client) -> None:
    server.play(
        model.answer({"summary": "They met.", "topics": None, "insights": [{"text": "A.", "confidence": None}]})
    )
    assert (await reader(client).reflect(excerpt())).insights[0].confidence == 0.5


async def test_words_are_trimmed_and_hold_nothing_that_cannot_be_stored(server, client) -> None:
    said = {
        "summary": " They\x00 met\ud800.\n",
        "topics": [" tea ", " "],
        "insights": [{"text": "\x00A.\n"}, {"text": " "}],
    }
    server.play(model.answer(said))
    findings = await reader(client).reflect(excerpt())
    assert (findings.summary, findings.topics) == ("They met.", ("tea",))
    assert [found.text for found in findings.insights] == ["A."]
    server.play(model.answer(" They\x00 met.\n"))
    assert await reader(client).compact("", [turn(1, "Hello")]) == "They met."


@pytest.mark.parametrize(("claimed", "kept"), [(7, 1.0), (-3, 0.0), (1, 1.0), (0.25, 0.25), ("0.7", 0.7)])
async def test_shares_are_brought_between_nothing_and_all(server, client, claimed: Any, kept: float) -> None:
    server.play(model.answer(insight(confidence=claimed, importance=claimed)))
    found = (await reader(client).reflect(excerpt())).insights[0]
    assert (found.confidence, found.importance) == (kept, kept)


async def test_turn_numbers_are_passed_on_as_claimed(server, client) -> None:
    server.play(model.answer(insight(turns=[7, 7, -1, 999_999])))
    assert (await reader(client).reflect(excerpt())).insights[0].turns == (7, 7, -1, 999_999)


@pytest.mark.parametrize(("claimed", "kept"), [(1, 1), (2, 2), (3, None), (0, None), (-1, None), (None, None)])
async def test_what_an_insight_replaces_is_one_of_the_known_or_nothing(server, client, claimed: Any, kept: Any) -> None:
    server.play(model.answer(insight(replaces=claimed)))
    assert (await reader(client).reflect(excerpt(known=("A.", "B.")))).insights[0].replaces == kept


@pytest.mark.parametrize(("claimed", "kept"), [(" Preference", "preference"), ("hobby", "general"), (3, "general")])
async def test_a_category_is_one_of_ours(server, client, claimed: Any, kept: str) -> None:
    server.play(model.answer(insight(category=claimed)))
    assert (await reader(client).reflect(excerpt())).insights[0].category == kept


@pytest.mark.parametrize(
    ("claimed", "kept"),
    [
        (("home", "Lisbon"), ("home", "Lisbon")),
        (("Risk tolerance ", " low\n"), ("risk_tolerance", "low")),
        (("years_with_bank", 8), ("years_with_bank", "8")),
        ((["home"], {"city": "Lisbon"}), (None, None)),
        ((True, True), (None, None)),
        ((None, None), (None, None)),
    ],
)
async def test_a_field_and_its_value_are_texts_or_nothing(server, client, claimed: Any, kept: Any) -> None:
    server.play(model.answer(insight(field=claimed[0], value=claimed[1])))
    found = (await reader(client).reflect(excerpt())).insights[0]
    assert (found.field, found.value) == kept


async def test_what_a_model_thinks_aloud_is_not_its_answer(server, client) -> None:
    server.play(model.answer("<think>\nShort, please.\n</think>\n\nThey met."))
    assert await reader(client).compact("", [turn(1, "Hello")]) == "They met."


# Counting.


async def test_calls_failures_and_tokens_of_a_reader_are_counted(server, client) -> None:
    reads = reader(client)
    used = {"prompt_tokens": 100, "completion_tokens": 10}
    server.play(
        model.answer(REFLECTION, usage=used),
        model.answer("no JSON", usage=used),
        model.answer(REFLECTION, usage=None),
        model.answer(REFLECTION, usage={"prompt_tokens": None, "completion_tokens": "many", "calls": 50}),
        model.status(429),
        model.answer("They met.", usage=used),
    )
    for _ in range(5):
        try:
            await reads.reflect(excerpt())
        except ModelError:
            continue
    await reads.compact("", [turn(1, "Hello")])
    assert reads.usage() == {"calls": 6, "failures": 2, "prompt_tokens": 300, "completion_tokens": 30}


async def test_a_count_that_was_handed_out_is_the_callers_own(client) -> None:
    reads = reader(client)
    reads.usage()["calls"] = 99
    assert reads.usage()["calls"] == 0
