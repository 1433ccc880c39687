"""A model that answers badly, late or not at all: the right error, once, in time, and telling nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import traceback
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from openai import AsyncOpenAI

from memory_service.chaos import model_modes as model
from memory_service.chaos.model_modes import Mode
from memory_service.chaos.model_server import API_KEY, ModelServer
from memory_service.errors import BadModelOutput, ModelError, ModelRefused, ModelUnavailable, UnsafeStart
from memory_service.llm.openai import openai_client
from tests.llm.asking import (
    HASTY_S,
    REFLECTION,
    REFUSED_FORMATS,
    SECRET,
    embedder,
    excerpt,
    insight,
    reader,
    silent,
    turn,
)


async def reflection_error(server: ModelServer, client: AsyncOpenAI, mode: Mode) -> ModelError:
    server.play(mode)
    with pytest.raises(ModelError) as caught:
        await reader(client).reflect(excerpt())
    return caught.value


# Answers that cannot be used.

UNUSABLE: dict[str, Mode] = {
    "prose": model.not_json(),
    "another schema": model.wrong_schema(),
    "a refusal": model.refusal(SECRET),
    "a refusal beside an answer": model.answer(REFLECTION, refusal=SECRET),
    "nothing": model.empty(),
    "nothing but a thought": model.answer("<think>hm</think> "),
    "an empty summary": model.answer({**REFLECTION, "summary": " \x00 "}),
    "no summary": model.answer({"topics": [], "insights": [], SECRET: 1}),
    "an insight without text": model.answer({**REFLECTION, "insights": [{"turns": [7]}]}),
    "turns in words": model.answer(insight(turns=[SECRET])),
    "an array": model.answer("[1, 2]"),
    "too much": model.huge(),
    "too much in few characters": model.answer(
        json.dumps({**REFLECTION, "summary": "茶" * 80_000}, ensure_ascii=False)
    ),
    "a flood": model.flood(),
    "what the limit left": model.length(),
    "what the limit left, though it can be read": model.answer(REFLECTION, finish_reason="length"),
    "what the filter left": model.content_filter(),
    "the filter's refusal": model.status(400, error_code="content_filter", message=f"filtered: {SECRET}"),
    "JSON the endpoint itself refused": model.status(400, error_code="json_validate_failed", message="response_format"),
    "NaN": model.answer(json.dumps(insight(confidence=math.nan))),
    "NaN in quotes": model.answer(insight(confidence="NaN")),
    "infinity": model.answer(json.dumps(insight(importance=0.125)).replace("0.125", "1e999")),
    "half a character outside": model.raw('{"choices": [{"message": {"content": "\\ud800"}}]}'),
    "half a character": model.answer(json.dumps({**REFLECTION, "summary": "\ud800"})),
    "a number without end": model.answer(json.dumps(insight(turns=[5])).replace("[5]", f"[{'5' * 5000}]")),
    "a bottomless pit": model.answer('{"summary": ' + "[" * 50_000),
    "braces without end": model.answer("{" * 150_000),
    "no choice": model.raw({"object": "chat.completion", "choices": []}),
    "an error that looks like success": model.raw({"error": {"message": SECRET}}),
    "a page": model.raw(f"<html>{SECRET}</html>", media_type="text/html"),
    "no body": model.raw(""),
    "content that is no text": model.raw({"choices": [{"message": {"content": [{"text": "x"}]}}]}),
}


@pytest.mark.parametrize("what", UNUSABLE)
async def test_an_answer_that_cannot_be_used_is_bad_output_and_asked_for_once(server, client, what: str) -> None:
    error = await reflection_error(server, client, UNUSABLE[what])
    assert isinstance(error, BadModelOutput)
    assert silent(error)
    assert len(server.calls) == 1


@pytest.mark.parametrize("what", ["nothing", "a refusal", "what the limit left", "too much", "nothing but a thought"])
async def test_a_compaction_that_cannot_be_used_is_bad_output(server, client, what: str) -> None:
    server.play(UNUSABLE[what])
    with pytest.raises(BadModelOutput):
        await reader(client).compact("", [turn(1, "Hello")])


async def test_an_answer_that_does_not_fit_says_where_and_not_what(server, client) -> None:
    error = await reflection_error(server, client, model.answer(insight(confidence=SECRET)))
    assert "insights.0.confidence" in str(error)
    assert silent(error)


# Answers that do not come.

UNAVAILABLE: dict[str, tuple[Mode, str]] = {
    "busy": (model.status(429, message=SECRET), "answered 429"),
    "broken": (model.status(500, message=SECRET), "answered 500"),
    "overloaded": (model.status(503), "answered 503"),
    "timed out there": (model.status(408), "answered 408"),
    "in conflict": (model.status(409), "answered 409"),
    "unauthorised": (model.status(401, message=f"Incorrect API key: {API_KEY}"), "401; check OPENAI_API_KEY"),
    "forbidden": (model.status(403), "403; check OPENAI_API_KEY"),
    "lost": (model.status(404, error_code="model_not_found"), "404; check OPENAI_MODEL, OPENAI_BASE_URL"),
    "cut off": (model.reset(), "no answer from the model"),
}


@pytest.mark.parametrize("what", UNAVAILABLE)
async def test_an_answer_that_does_not_come_is_unavailability_and_asked_for_once(server, client, what: str) -> None:
    mode, told = UNAVAILABLE[what]
    error = await reflection_error(server, client, mode)
    assert isinstance(error, ModelUnavailable)
    assert told in str(error)
    assert silent(error)
    assert len(server.calls) == 1


REFUSED: dict[str, tuple[Mode, str]] = {
    "refused": (model.status(400, message=SECRET), "400; check OPENAI_MODEL, OPENAI_BASE_URL"),
    "too large": (model.status(413, message=SECRET), "413; check OPENAI_MODEL"),
    "not processable": (model.status(422, message=SECRET), "422; check OPENAI_MODEL"),
    "too long": (model.status(400, error_code="context_length_exceeded"), "more text than the model reads"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_request_that_is_turned_down_is_no_outage(server, client, what: str) -> None:
    mode, told = REFUSED[what]
    error = await reflection_error(server, client, mode)
    assert isinstance(error, ModelRefused)
    assert told in str(error)
    assert silent(error)


@pytest.mark.parametrize("mode", [model.hang(), model.drip()], ids=["silence", "a drip"])
async def test_a_model_that_does_not_finish_is_left_in_time(server, client, mode: Mode) -> None:
    await reader(client).reflect(excerpt())  # the first call of a process takes longer than there is time
    server.forget()
    server.play(mode, mode, mode)
    async with asyncio.timeout(6):
        with pytest.raises(ModelUnavailable, match=r"within 0\.3 s") as caught:
            await reader(client, timeout_s=HASTY_S).reflect(excerpt())
        with pytest.raises(ModelUnavailable, match=r"within 0\.3 s"):
            await reader(client, timeout_s=HASTY_S).compact("", [turn(1, SECRET)])
        with pytest.raises(ModelUnavailable, match=r"within 0\.3 s"):
            await embedder(client, timeout_s=HASTY_S).embed([SECRET])
    assert silent(caught.value)
    assert len(server.calls) == 3


async def test_looking_for_a_format_does_not_prolong_the_time(server, client) -> None:
    async def slow_refusal(call: model.Call) -> Any:
        await call.wait(0.2)
        return await REFUSED_FORMATS["OpenAI"](call)

    server.rule = lambda call: slow_refusal
    with pytest.raises(ModelUnavailable, match=r"within 0\.3 s"):
        await reader(client, timeout_s=HASTY_S).reflect(excerpt())


async def test_a_client_is_good_for_more_after_a_time_out(server, client) -> None:
    server.hanging = True
    with pytest.raises(ModelUnavailable):
        await reader(client, timeout_s=HASTY_S).reflect(excerpt())
    server.hanging = False
    assert (await reader(client).reflect(excerpt())).summary


async def test_a_question_may_be_called_off(server, client) -> None:
    server.hanging = True
    asking = asyncio.create_task(reader(client).reflect(excerpt()))
    await server.until(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_nobody_listening_is_unavailability(unused_tcp_port: int) -> None:
    async with openai_client(API_KEY, f"http://127.0.0.1:{unused_tcp_port}/v1") as nowhere:
        with pytest.raises(ModelUnavailable, match=r"ConnectError.*check OPENAI_BASE_URL"):
            await reader(nowhere).reflect(excerpt())
        with pytest.raises(ModelUnavailable):
            await embedder(nowhere).embed(["tea"])


async def test_a_key_that_cannot_be_sent_is_told_by_the_name_of_its_setting(server) -> None:
    async with openai_client("“sk-0815”", server.openai_url) as mispasted:
        with pytest.raises(ModelUnavailable, match="OPENAI_API_KEY holds characters") as caught:
            await reader(mispasted).reflect(excerpt())
    assert "sk-0815" not in "".join(traceback.format_exception(caught.value))


async def test_azure_is_told_of_by_the_names_of_its_own_settings(server, azure) -> None:
    server.play(model.status(401), model.status(404), model.status(404))
    with pytest.raises(ModelUnavailable, match="401; check AZURE_OPENAI_API_KEY"):
        await reader(azure).reflect(excerpt())
    with pytest.raises(ModelUnavailable, match="404; check AZURE_OPENAI_DEPLOYMENT, AZURE_OPENAI_ENDPOINT and"):
        await reader(azure).reflect(excerpt())
    with pytest.raises(ModelUnavailable, match="404; check AZURE_OPENAI_EMBEDDING_DEPLOYMENT, AZURE_OPENAI_ENDPOINT"):
        await embedder(azure).embed(["tea"])


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": 7}, 7.0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after_ms": 30}, 0.03),
        ({"retry_after_ms": 30, "retry_after": 7}, 0.03),
        ({"retry_after_ms": "soon", "retry_after": 7}, 7.0),
        ({"retry_after": -5}, 0.0),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "later"}, None),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
async def test_the_wish_of_a_busy_endpoint_is_passed_on(
    server, client, code: int, headers: dict[str, Any], seconds: float | None
) -> None:
    error = await reflection_error(server, client, model.status(code, **headers))
    assert isinstance(error, ModelUnavailable)
    assert error.retry_after_s == seconds


async def test_a_date_to_come_back_at_is_counted_from_the_endpoints_own_clock(server, client) -> None:
    later = datetime.fromtimestamp(time.time() + 60, tz=UTC)
    error = await reflection_error(server, client, model.status(429, retry_after=format_datetime(later, usegmt=True)))
    assert isinstance(error, ModelUnavailable)
    assert error.retry_after_s == pytest.approx(60, abs=3)


async def test_the_most_talkative_log_holds_neither_words_nor_key(server, client, caplog) -> None:
    server.play(model.status(400, message=SECRET), model.answer({"summary": SECRET}))
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(ModelRefused):
            await reader(client).reflect(excerpt(SECRET))
        server.reject_response_format = {"json_schema"}
        await reader(client).reflect(excerpt(SECRET))
        await embedder(client).embed([SECRET])
    assert caplog.records
    assert SECRET not in caplog.text
    assert API_KEY not in caplog.text


def test_an_address_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(UnsafeStart, match="OPENAI_BASE_URL is no URL"):
        openai_client(API_KEY, "http://[::bad")
