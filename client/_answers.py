"""How an answer, or the lack of one, is read, and whether the call is sent again. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from client._calls import Call
from client.errors import BadAnswer, ConnectionFailed, MemoryServiceError, error_type

BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 8.0
LONGEST_RETRY_AFTER_S = 60.0

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
# No connection was had, so nothing was sent.
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
# The service may have acted, or may not.
LOST = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError)


def read(response: httpx2.Response) -> dict[str, Any]:
    """Return the JSON object that was answered; any other answer is raised as its typed error."""
    body = _json_object(response)
    if not response.is_success:
        raise _problem(response, body or {})
    if body is None:
        raise BadAnswer(_excerpt(response), status=response.status_code, request_id=_request_id(response))
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """`random` gives numbers in [0, 1)."""

    max_attempts: int
    random: Callable[[], float]

    def pause_s(self, call: Call, failure: MemoryServiceError | httpx2.RequestError, attempt: int) -> float:
        """Return the seconds to wait before the next attempt; `attempt`, from 1, is the one that failed.

        Raises the typed error if there is to be none: not safe, not promising, or the service asks for more than
        LONGEST_RETRY_AFTER_S.
        """
        error = failure if isinstance(failure, MemoryServiceError) else _no_answer(call, failure, attempt)
        asked_s = error.retry_after_s or 0.0
        if attempt >= self.max_attempts or asked_s > LONGEST_RETRY_AFTER_S or not _may_repeat(call, failure):
            raise error from (None if error is failure or _repeats_a_header(failure) else failure)
        return asked_s + self.random() * min(LONGEST_BACKOFF_S, BACKOFF_S * 2.0 ** min(attempt - 1, 10))


def _may_repeat(call: Call, failure: MemoryServiceError | httpx2.RequestError) -> bool:
    if isinstance(failure, NEVER_SENT):
        return True
    if isinstance(failure, MemoryServiceError):
        return call.repeatable and failure.status in RETRIED_STATUSES
    return call.repeatable and isinstance(failure, LOST)


def _repeats_a_header(failure: Exception) -> bool:
    """Whether its words may hold one that cannot be sent: a key."""
    return isinstance(failure, httpx2.LocalProtocolError)


def _no_answer(call: Call, failure: httpx2.RequestError, attempts: int) -> MemoryServiceError:
    place = failure.request.url.netloc.decode("ascii")
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    said = "" if _repeats_a_header(failure) else str(failure)
    reason = f"{type(failure).__name__}: {said}" if said else type(failure).__name__
    if isinstance(failure, httpx2.DecodingError | httpx2.TooManyRedirects):
        return BadAnswer(f"{call.method} {call.path} from {place}: {reason}")
    return ConnectionFailed(f"no answer to {call.method} {call.path} from {place} in {tries} ({reason})")


def _problem(response: httpx2.Response, body: dict[str, Any]) -> MemoryServiceError:
    code = _text(body, "code")
    return error_type(response.status_code, code)(
        _text(body, "detail") or _excerpt(response),
        status=response.status_code,
        code=code or f"http_{response.status_code}",
        request_id=_text(body, "request_id") or _request_id(response),
        retry_after_s=_retry_after_s(response),
    )


def _json_object(response: httpx2.Response) -> dict[str, Any] | None:
    try:
        body = json.loads(response.content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) and value else None


def _request_id(response: httpx2.Response) -> str | None:
    return response.headers.get("x-request-id")


def _retry_after_s(response: httpx2.Response) -> float | None:
    """Only whole seconds are read; a date is left to the backoff."""
    value = response.headers.get("retry-after", "").strip()
    return float(value) if value.isascii() and value.isdigit() else None


def _excerpt(response: httpx2.Response) -> str:
    """Say what came instead of the service's own JSON, in one short line."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
    content = " ".join(response.text[:1000].split())[:200]
    return f"{status}, not in the words of the memory service: {content or 'no body'}"
