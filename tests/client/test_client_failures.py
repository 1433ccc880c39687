"""What the Python client makes of failures: typed errors, and what is sent again. Over real HTTP, with both clients."""

from __future__ import annotations

import traceback
from functools import partial, reduce
from io import BytesIO
from typing import Any

import httpx2
import msgspec
import pytest

from client import MemoryServiceClient, SyncMemoryServiceClient, errors
from client._caller import API_KEY_VARIABLE
from memory_service.api import schemas
from tests.support.scripted_http import Answer, CutOff, Silence

SESSION = "s1"
STORED = {"status": "success", "turn_number": 1}


def problem(status: int, code: str, **more: Any) -> Answer:
    content = {"type": "about:blank", "title": "T", "status": status, "code": code, "detail": "what to do"}
    content |= {"request_id": "req-7", "error": "T", "status_code": status, **more}
    return Answer(status=status, content=content, headers={"content-type": "application/problem+json"})


# What is answered

MAPPED = [
    (400, "malformed_json", errors.InvalidRequest),
    (401, "unauthenticated", errors.Unauthenticated),
    (403, "forbidden", errors.Forbidden),
    (403, "scope_mismatch", errors.Forbidden),
    (404, "not_found", errors.NotFound),
    (404, "session_not_found", errors.SessionNotFound),
    (404, "knowledge_not_found", errors.KnowledgeNotFound),
    (405, "method_not_allowed", errors.InvalidRequest),
    (409, "version_conflict", errors.Conflict),
    (409, "session_ended", errors.SessionEnded),
    (410, "gone", errors.InvalidRequest),
    (413, "body_too_large", errors.InvalidRequest),
    (415, "unsupported_media_type", errors.InvalidRequest),
    (422, "validation_failed", errors.InvalidRequest),
    (429, "rate_limited", errors.RateLimited),
    (500, "internal_error", errors.Unavailable),
    (502, "model_unavailable", errors.Unavailable),
    (503, "store_unavailable", errors.Unavailable),
]


@pytest.mark.parametrize(("status", "code", "kind"), MAPPED)
async def test_a_problem_is_raised_as_its_typed_error(service, connect, status, code, kind):
    service.answers(problem(status, code))
    with pytest.raises(errors.MemoryServiceError) as caught:
        await connect(max_attempts=1).health()
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.detail, error.request_id) == (status, code, "what to do", "req-7")
    assert str(error) == f"{code} ({status}): what to do [request req-7]"


FOREIGN = [
    (502, "<html>\n <h1>Bad  Gateway</h1>", errors.Unavailable, "502 Bad Gateway", "<html> <h1>Bad Gateway</h1>"),
    (404, "", errors.NotFound, "404 Not Found", "no body"),
    (422, {"detail": [{"loc": 1}], "code": ["x"]}, errors.InvalidRequest, "422", "loc"),
    (307, "", errors.BadAnswer, "307 Temporary Redirect", "no body"),
    (200, "<html>log in</html>", errors.BadAnswer, "200 OK", "log in"),
    (200, b"\xff\xfe{", errors.BadAnswer, "200 OK", "{"),
    (200, ["not", "an object"], errors.BadAnswer, "200 OK", "an object"),
]


@pytest.mark.parametrize(("status", "content", "kind", "named", "quoted"), FOREIGN)
async def test_an_answer_that_is_not_the_services_is_typed_too(service, connect, status, content, kind, named, quoted):
    service.answers(Answer(status=status, content=content, headers={"x-request-id": "edge-1"}))
    with pytest.raises(errors.MemoryServiceError) as caught:
        await connect(max_attempts=1).health()
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.request_id) == (status, "edge-1")
    assert named in str(caught.value)
    assert quoted in str(caught.value)


async def test_an_answer_whose_compression_is_broken_is_a_bad_answer(service, connect):
    service.answers(Answer(content="not gzip", headers={"content-encoding": "gzip"}))
    with pytest.raises(errors.BadAnswer, match="GET /health"):
        await connect().health()
    assert len(service.asked) == 1


# What is sent again


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_passing_failure_is_tried_again(service, connect, pauses, status):
    service.answers(problem(status, "x"), Answer(content=STORED))
    assert await connect(session_id=SESSION).store_turn("hi", "hello") == STORED
    first, second = service.asked
    assert first.body == second.body
    assert pauses == [0.25]


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 500, 501])
async def test_a_lasting_failure_is_never_tried_again(service, connect, pauses, status):
    service.answers(problem(status, "x"))
    with pytest.raises(errors.MemoryServiceError):
        await connect(session_id=SESSION).store_turn("hi", "hello")
    assert len(service.asked) == 1
    assert pauses == []


async def test_pauses_double_up_to_a_limit_and_attempts_end(service, connect, pauses):
    service.answers(*[problem(503, "overloaded")] * 9)
    with pytest.raises(errors.Unavailable, match="overloaded"):
        await connect(max_attempts=8).health()
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 8]
    assert len(service.asked) == 8


async def test_pauses_are_jittered_from_nothing_up(service, connect, pauses):
    service.answers(*[problem(503, "overloaded")] * 4)
    chances = iter([0.0, 0.5, 0.25])
    with pytest.raises(errors.Unavailable):
        await connect(_random=lambda: next(chances)).health()
    assert pauses == [0, 0.25, 0.25]


@pytest.mark.parametrize(("value", "pause"), [("7", 7.25), ("0", 0.25), ("soon", 0.25), ("-1", 0.25), ("²", 0.25)])
async def test_the_service_may_say_how_long_to_wait(service, connect, pauses, value, pause):
    service.answers(Answer(status=503, headers={"retry-after": value}), Answer())
    await connect().health()
    assert pauses == [pause]


async def test_a_wait_too_long_is_left_to_the_caller(service, connect, pauses):
    service.answers(Answer(status=429, headers={"retry-after": "3600"}))
    with pytest.raises(errors.Unavailable) as caught:
        await connect().health()
    assert caught.value.retry_after_s == 3600
    assert pauses == []


async def test_a_store_that_timed_out_is_sent_again_with_the_same_turn_id(service, connect):
    service.answers(Silence(), Answer(content=STORED))
    assert await connect(session_id=SESSION, timeout_s=1.5).store_turn("hi", "hello") == STORED
    first, second = service.asked
    assert first.json()["turn_id"] == second.json()["turn_id"]


async def test_a_store_whose_answer_was_cut_off_is_sent_again_unchanged(service, connect):
    service.answers(CutOff(), Answer(content=STORED))
    assert await connect(session_id=SESSION).store_turn("hi", "hello") == STORED
    assert service.asked[0].body == service.asked[1].body


@pytest.mark.parametrize("restore", [True, False])
async def test_a_start_that_was_lost_is_sent_again_for_the_same_session(service, connect, restore):
    service.answers(CutOff(), Answer())
    await connect().start_session(restore=restore)
    first, second = (msgspec.json.decode(asked.body, type=schemas.SessionStart) for asked in service.asked)
    assert first == second
    assert first.restore


@pytest.mark.parametrize("failure", [CutOff(), Silence(), problem(503, "overloaded"), problem(429, "overloaded")])
async def test_starting_afresh_under_a_known_id_is_never_sent_twice(service, connect, pauses, failure):
    service.answers(failure, Answer())
    with pytest.raises((errors.ConnectionFailed, errors.Unavailable)):
        await connect(timeout_s=1.5).start_session(SESSION, restore=False)
    assert len(service.asked) == 1
    assert pauses == []


async def test_starting_afresh_is_tried_again_if_no_connection_was_made(unborn, connect):
    unborn.answers(Answer(content={"session_id": SESSION}))
    client = connect(unborn.url, before_retry=unborn.start)
    await client.start_session(SESSION, restore=False)
    assert len(unborn.asked) == 1


async def test_a_service_that_is_not_there_is_named_without_its_password(unborn, connect, pauses):
    place = unborn.url.removeprefix("http://")
    with pytest.raises(errors.ConnectionFailed) as caught:
        await connect(f"http://ann:secret@{place}").health()
    error = caught.value
    assert (error.status, error.code, error.request_id) == (None, "connection_failed", None)
    assert isinstance(error.__cause__, httpx2.ConnectError)
    assert f"GET /health from {place} in 4 attempts (ConnectError" in str(error)
    assert "secret" not in str(error)
    assert len(pauses) == 3


async def test_half_a_character_is_refused_by_the_name_of_its_field(service, connect):
    with pytest.raises(errors.InvalidRequest, match="user_message holds half a character"):
        await connect(session_id="s").store_turn("\ud800", "Noted.")
    with pytest.raises(errors.InvalidRequest, match="an id holds half a character"):
        await connect().delete_knowledge("\ud800")
    assert service.asked == []


@pytest.mark.parametrize("twin", [MemoryServiceClient, SyncMemoryServiceClient])
@pytest.mark.parametrize("rest", ["\nx", "\r\nx: y", "\x7f", "\u00e4", "\udcff"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_repeated(monkeypatch, twin, rest):
    with pytest.raises(ValueError, match="must be") as given:
        twin("http://localhost", "ana", api_key=f"mem_secret{rest}")
    monkeypatch.setenv(API_KEY_VARIABLE, f"mem_secret{rest}")
    with pytest.raises(ValueError, match="must be") as found:
        twin("http://localhost", "ana")
    assert "secret" not in f"{given.value!r} {found.value!r}"


async def test_what_a_header_of_the_callers_own_holds_is_not_repeated_either(service, connect, request):
    kind = httpx2.AsyncClient if "awaited" in request.node.name else httpx2.Client
    client = connect(http=kind(headers={"authorization": "Bearer mem_secret\nx"}))
    with pytest.raises(errors.ConnectionFailed, match="LocalProtocolError") as failed:
        await client.health()
    assert "secret" not in "".join(traceback.format_exception(failed.value))
    assert service.asked == []


HALF = "half a character"
NO_JSON = "holds what JSON has not"
UNSENDABLE = [
    ("store_turn", ["hi", "hello"], {"metadata": {"a": [{"b": "\ud800"}]}}, f"metadata holds {HALF}"),
    ("store_turn", ["hi", "hello"], {"metadata": {"\ud800": 1}}, f"metadata holds {HALF}"),
    ("store_turn", ["hi", "hello"], {"metadata": {"a": float("nan")}}, f"metadata {NO_JSON}"),
    ("store_turn", ["hi", "hello"], {"metadata": {"a": {1}}}, f"metadata {NO_JSON}"),
    ("store_turn", [b"hi", "hello"], {}, f"user_message {NO_JSON}"),
    ("store_turn", ["hi", "hello"], {"metadata": {"a": reduce(lambda a, _: [a], range(10**5), 1)}}, NO_JSON),
    ("store_memories", [[{"user_id": "ana", "content": "\ud800"}]], {}, f"memories holds {HALF}"),
    ("store_knowledge", ["\ud800", "c"], {}, f"content holds {HALF}"),
    ("retrieve", ["q"], {"kinds": ["\ud800"]}, f"kinds holds {HALF}"),
    ("memories", [["\ud800"]], {}, f"kinds holds {HALF}"),
    ("memories", [], {"cursor": "\ud800"}, f"cursor holds {HALF}"),
    ("forget", [["\ud800"]], {}, f"ids holds {HALF}"),
    ("edit_memory", ["m"], {"tags": ["\ud800"]}, f"tags holds {HALF}"),
    ("end_session", [float("inf")], {}, f"wait_s {NO_JSON}"),
    ("import_user", [BytesIO(b"x")], {"user_id": "\ud800"}, f"user_id holds {HALF}"),
    ("memory", ["x" * 70_000], {}, "too long"),
    ("memories", [], {"cursor": "x" * 70_000}, "too long"),
]


async def test_what_cannot_be_sent_is_refused_by_the_name_of_its_field(service, connect):
    client = connect(session_id="s")
    for method, values, named, why in UNSENDABLE:
        with pytest.raises(errors.InvalidRequest, match=why):
            await getattr(client, method)(*values, **named)
    assert service.asked == []


async def test_a_user_of_half_a_character_is_refused_wherever_the_name_is_sent(service, connect):
    client = connect(user_id="\ud800", session_id="s")
    for call in (client.start_session, client.memories, client.reflection, client.erase_session):
        with pytest.raises(errors.InvalidRequest, match=f"user_id holds {HALF}"):
            await call()
    assert service.asked == []


# What is never sent, as it would be about something else


NO_STEPS = ["", ".", "..", "\ud800"]
NAMED = [
    ("erase_session", {}, "session_id"),
    ("erase_turn", {"turn_number": 1}, "session_id"),
    ("quarantine", {}, "session_id"),
    ("release", {}, "session_id"),
    ("reflection", {}, "session_id"),
    ("memory", {}, "memory_id"),
    ("edit_memory", {"pinned": True}, "memory_id"),
    ("delete_memory", {}, "memory_id"),
    ("delete_knowledge", {}, "doc_id"),
]


@pytest.mark.parametrize(("method", "arguments", "named"), NAMED)
async def test_an_id_that_a_path_would_lead_elsewhere_by_is_not_sent(service, connect, method, arguments, named):
    client = connect()
    for name in NO_STEPS:
        with pytest.raises(errors.InvalidRequest, match="an id"):
            await getattr(client, method)(**arguments, **{named: name})
    assert service.asked == []


async def test_a_user_whom_a_path_cannot_name_is_not_sent(service, connect):
    for user_id in NO_STEPS:
        client = connect(user_id=user_id)
        for call in (client.erase_user, partial(client.export_user, BytesIO())):
            with pytest.raises(errors.InvalidRequest, match="an id"):
                await call()
    assert service.asked == []


async def test_a_turn_is_named_by_a_whole_number_and_by_nothing_else(service, connect):
    client = connect(session_id="mine")
    for number in ("../../other", "1?user_id=eve", "1", 1.0, None):
        with pytest.raises(errors.InvalidRequest, match="whole number"):
            await client.erase_turn(number)
    assert service.asked == []


async def test_no_turn_number_erases_another_session(client_of):
    client = client_of("ana")
    for session_id in ("other", "mine"):
        await client.start_session(session_id)
        await client.store_turn("hi", "hello")
    with pytest.raises(errors.InvalidRequest):
        await client.erase_turn("../../other")
    assert (await client.get_context(session_id="other"))["active_context"]
    assert (await client.erase_turn(1))["erased"]["turns"] == 1
