"""What both clients know: where, who, which session, how long. No I/O."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import httpx2

from client import _calls
from client._answers import Retries
from client._calls import Call
from client.errors import ClientClosed, InvalidRequest, NoSession

API_KEY_VARIABLE = "MEMORY_SERVICE_API_KEY"
_CREDENTIALS = ("authorization", "x-api-key")


def credential(api_key: str | None = None) -> dict[str, str]:
    """The header that a key, or else that of the environment, is sent in; none without one.

    Raises ValueError, which does not repeat it, for one that no header can hold.
    """
    key = (os.environ.get(API_KEY_VARIABLE, "") if api_key is None else api_key).strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"api_key (or {API_KEY_VARIABLE}) must be one line of ASCII characters")
    return {"Authorization": f"Bearer {key}"} if key else {}


def owner(user_id: str | None, space: str | None) -> str:
    """By which id the memory of a user or of a space is named. Raises ValueError unless it is one of them."""
    if (user_id is None) == (space is None):
        raise ValueError("name whose memory it is: either by user_id or by space")
    return f"space:{space}" if user_id is None else user_id


class Caller:
    """What both clients know: where, who, with which key, which session, how long."""

    _http: httpx2.AsyncClient | httpx2.Client

    def __init__(
        self,
        service_url: str,
        user_id: str | None,
        session_id: str | None,
        space: str | None,
        timeout_s: float,
        retries: Retries,
        api_key: str | None,
        http: httpx2.AsyncClient | httpx2.Client | None,
    ) -> None:
        url = httpx2.URL(service_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("service_url must be like http://localhost:8000")
        if retries.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")
        self.service_url = service_url.rstrip("/")
        self.user_id = owner(user_id, space)
        self._chosen_session_id = session_id
        self._session_id = session_id
        self._timeout_s = timeout_s
        self._retries = retries
        has_its_own = api_key is None and http is not None and any(name in http.headers for name in _CREDENTIALS)
        self._headers = {} if has_its_own else credential(api_key)

    @property
    def session_id(self) -> str | None:
        """The session that calls are about: the last one started, ended or not."""
        return self._session_id

    def _start(
        self,
        session_id: str | None,
        restore: bool,
        agent_id: str | None,
        include_knowledge: int,
        query: str | None,
        min_trust: str | None,
    ) -> Call:
        wanted = self._chosen_session_id if session_id is None else session_id
        return _calls.start(self.user_id, wanted, restore, agent_id, include_knowledge, query, min_trust)

    def _bound(self, session_id: str | None) -> str:
        bound = self._session_id if session_id is None else session_id
        if bound is None:
            raise NoSession
        return bound

    def _request(self, call: Call) -> dict[str, Any]:
        """What to send. Raises InvalidRequest for what cannot be, and ClientClosed."""
        if self._http.is_closed:
            raise ClientClosed
        return {
            "method": call.method,
            "url": self._url(call),
            "json": _sendable(call.body) or None,
            "headers": {**self._headers, **({"Content-Type": call.media_type} if call.media_type else {})},
            "timeout": self._timeout_s + call.wait_s,
        }

    def _url(self, call: Call) -> httpx2.URL:
        try:
            return httpx2.URL(self.service_url + call.path, params=_sendable(call.query) or None)
        except httpx2.InvalidURL as exc:
            raise InvalidRequest(f"{call.method} cannot be sent: {exc}") from exc


def _sendable(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises InvalidRequest for what is in no JSON, and for half a character (a lone surrogate), which no UTF-8 has."""
    for name, value in fields.items():
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError as exc:
            raise InvalidRequest(f"{name} holds half a character, which cannot be sent") from exc
        except (TypeError, ValueError, RecursionError) as exc:
            raise InvalidRequest(f"{name} holds what JSON has not, or is nested too deep") from exc
    return fields
