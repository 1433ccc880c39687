"""A head that was good enough once is not looked at again, but what may change is: the body, the key, the session."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from memory_service.access import PERMISSIONS
from memory_service.server import serving
from memory_service.settings import Settings
from tests.support.guarded import called
from tests.support.raw_http import Caller

NAMED = {"user_id": "ana", "session_id": "s"}
TURN = {**NAMED, "user_message": "hello", "agent_message": "hello Ana"}


def posted(path: str, body: Any, *more: str) -> bytes:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(sent)}", *more, "", ""]
    return "\r\n".join(lines).encode() + sent


async def told(caller: Caller, *asked: Any) -> tuple[int, Any]:
    await caller.say(posted(*asked))
    answer = await caller.hear()
    assert answer is not None
    return answer.status, json.loads(answer.body)


REFUSED: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "malformed_json"),
    "no session": ({**TURN, "session_id": "unknown"}, 404, "session_not_found"),
    "an unknown field": ({**TURN, "more": 1}, 422, "validation_failed"),
    "nothing said": ({**NAMED, "user_message": "", "agent_message": ""}, 422, "validation_failed"),
    "a NUL": ({**TURN, "user_message": "a\0b"}, 422, "invalid_character"),
}


@pytest.mark.parametrize(("body", "status", "code"), REFUSED.values(), ids=list(REFUSED))
async def test_a_body_under_a_head_that_was_served_is_checked_like_the_first(
    serve: Callable[..., Awaitable[str]], body: Any, status: int, code: str
) -> None:
    url = urlsplit(await serve())
    async with called((url.hostname, url.port)) as call:
        caller = await call()
        assert (await told(caller, "/sessions/start", NAMED))[0] == 200
        for number in (1, 2, 3):
            assert (await told(caller, "/memory/store", TURN))[1]["turn_number"] == number
        refused, problem = await told(caller, "/memory/store", body)
        assert (refused, problem["code"]) == (status, code)
        assert (await told(caller, "/memory/store", TURN))[1]["turn_number"] == 4


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ("Accept: text/html", "not_acceptable"),
        ("Content-Type: text/html", "unsupported_media_type"),
        ("Origin: http://elsewhere.example", "unauthenticated"),
        ("X-Forwarded-For: 10.0.0.1", "unauthenticated"),
    ],
)
async def test_a_head_that_was_refused_is_refused_again(
    serve: Callable[..., Awaitable[str]], more: str, code: str
) -> None:
    url = urlsplit(await serve())
    async with called((url.hostname, url.port)) as call:
        caller = await call()
        assert (await told(caller, "/sessions/start", NAMED))[0] == 200
        for _ in range(4):
            assert (await told(caller, "/memory/store", TURN, more))[1]["code"] == code
        assert (await told(caller, "/memory/store", TURN))[1]["turn_number"] == 1


async def test_a_key_that_is_revoked_opens_nothing_under_a_head_it_has_served(
    make_settings: Callable[..., Settings],
) -> None:
    async with serving(make_settings(auth_mode="keys")) as (url, service):
        key, text = await service.keys.create("of a test", "default", permissions=PERMISSIONS)
        at = urlsplit(url)
        async with called((at.hostname, at.port)) as call:
            caller, bearer = await call(), f"Authorization: Bearer {text}"
            for path, body in (("/sessions/start", NAMED), ("/memory/store", TURN)):
                for _ in range(3):
                    assert (await told(caller, path, body, bearer))[0] == 200
            await service.keys.revoke(key)
            for path, body in (("/sessions/start", NAMED), ("/memory/store", TURN)):
                status, problem = await told(caller, path, body, bearer)
                assert (status, problem["code"]) == (401, "unauthenticated")


async def test_of_two_users_of_one_connection_each_has_a_memory_of_its_own(
    serve: Callable[..., Awaitable[str]],
) -> None:
    url = urlsplit(await serve())
    async with called((url.hostname, url.port)) as call:
        caller = await call()
        for number in range(4):
            for user_id in ("ana", "ben"):
                named = {"user_id": user_id, "session_id": "s"}
                assert (await told(caller, "/sessions/start", named))[0] == 200
                said = {**named, "user_message": f"{user_id} {number}", "agent_message": ""}
                assert (await told(caller, "/memory/store", said))[1]["turn_number"] == number + 1
                context = (await told(caller, "/memory/context", named))[1]
                words = [message["content"] for message in context["active_context"]]
                assert words == [f"{user_id} {earlier}" for earlier in range(number + 1)][-5:]
