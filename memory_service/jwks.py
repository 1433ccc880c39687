"""The public keys of an identity provider (JWKS), as it tells them over HTTP.

They are fetched beside the requests that need them: a known key goes on working while they are fetched anew, and
however the provider fares. Those who bring unknown ids of keys cause one fetch now and then, and wait for that alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import msgspec
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from memory_service.errors import IdentityProviderUnavailable

logger = logging.getLogger(__name__)

KEPT_S = 600.0
"""After so long they are fetched anew, when the next one asks."""
REST_S = 30.0
"""Between the beginnings of two fetches."""
FETCH_S = 5.0


class _Told(msgspec.Struct):
    keys: list[dict[str, Any]]


class KeySet:
    """`clock` counts seconds. Started, it has a connection of its own, and no keys yet."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._clock = url, clock
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = self._next_at = -math.inf
        self._failed = True
        self._fetching: asyncio.Task[None] | None = None

    async def start(self, stack: AsyncExitStack) -> None:
        self._http = await stack.enter_async_context(httpx2.AsyncClient())
        stack.push_async_callback(self._stop)

    async def _stop(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def find(self, key_id: str) -> PyJWK | None:
        """Return the key of this id; None if the provider has none.

        Raises IdentityProviderUnavailable for an id that is unknown here while the provider does not answer.
        """
        key = self._keys.get(key_id)
        if key is not None:
            if self._clock() >= self._fetched_at + KEPT_S:
                self._fetch_if_due()
            return key
        fetching = self._fetch_if_due()
        if fetching is not None:
            await asyncio.shield(fetching)
        key = self._keys.get(key_id)
        if key is None and self._failed:
            raise IdentityProviderUnavailable(max(1, math.ceil(self._next_at - self._clock())))
        return key

    def _fetch_if_due(self) -> asyncio.Task[None] | None:
        """The fetch that is under way, or that is begun now; None if there was one a moment ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        if self._clock() < self._next_at:
            return None
        self._next_at = self._clock() + REST_S
        self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                answer = await self._http.get(self._url, timeout=FETCH_S)
            told = msgspec.json.decode(answer.raise_for_status().content, type=_Told)
        except (httpx2.HTTPError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError) as exc:
            self._failed = True
            logger.warning("the identity provider does not tell its keys", extra={"reason": type(exc).__name__})
            return
        self._failed, self._fetched_at = False, self._clock()
        self._keys = {key.key_id: key for key in map(_usable, told.keys) if key is not None and key.key_id}


def _usable(told: dict[str, Any]) -> PyJWK | None:
    """A key by which signatures of ours are checked; a provider may tell others too. Never a secret that both know."""
    if told.get("kty") == "oct" or told.get("use", "sig") != "sig" or not isinstance(told.get("kid"), str):
        return None
    try:
        return PyJWK(told)
    except (PyJWTError, ValueError, TypeError):
        return None
