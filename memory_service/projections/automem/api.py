"""AutoMem's HTTP API: one question, one answer, bounded in time and size. Nothing here is tried twice.

No error tells what was sent: neither words of users nor the token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import httpx2
import msgspec

from memory_service.errors import UnsafeStart

LONGEST_ANSWER = 64_000_000
"""Bytes that are read of one answer, whatever it holds."""
TAGS_A_URL = 80
"""What AutoMem is asked for stands in the URL, and some servers read no more than 4,094 bytes of that line."""
TAKES_NOT_WHAT_WAS_SENT = (400, 413, 422)

T = TypeVar("T")


class Unusable(Exception):
    """AutoMem answered, but not with what was asked for."""


class Refused(Unusable):
    """It does not take what it was sent; something else it may."""


class TokenRefused(Unusable):
    def __init__(self) -> None:
        super().__init__("AutoMem refuses the token; check AUTOMEM_API_TOKEN")


# Of its answers what is looked at. A memory may be anybody's, and is looked at when it is known whose it is.


class Health(msgspec.Struct):
    status: str
    falkordb: str | None = None
    qdrant: str | None = None
    memory_count: int | None = None
    vector_count: int | None = None
    sync_status: str | None = None


class Stored(msgspec.Struct):
    stored: int


class Deleted(msgspec.Struct):
    deleted_count: int


class Tagged(msgspec.Struct):
    memories: list[dict[str, Any]]
    has_more: bool


class Result(msgspec.Struct):
    memory: dict[str, Any]


class Recalled(msgspec.Struct):
    results: list[Result]


class Api:
    """One AutoMem. All verbs raise Unusable, httpx2.HTTPError or TimeoutError. Push `close` on the stack."""

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._http = httpx2.AsyncClient(
            base_url=_address(url),
            headers=_signed(token),
            timeout=httpx2.Timeout(timeout_s, connect=min(5.0, timeout_s)),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def health(self) -> Health:
        return await self._ask("GET", "/health", Health)

    async def tagged(self, tag: str, *, limit: int, offset: int = 0) -> Tagged:
        return await self._ask("GET", "/memory/by-tag", Tagged, {"tags": tag, "limit": limit, "offset": offset})

    async def delete(self, tags: Sequence[str]) -> None:
        """Delete what bears any of these, at most TAGS_A_URL."""
        await self._ask("DELETE", "/memory/by-tag", Deleted, {"tags": list(tags)})

    async def store(self, memories: Sequence[bytes]) -> None:
        """Store these, each in JSON; raises Refused, and then none of them is stored."""
        body = msgspec.json.encode({"memories": [msgspec.Raw(memory) for memory in memories]})
        answer = await self._ask("POST", "/memory/batch", Stored, body=body)
        if answer.stored != len(memories):
            raise Unusable("AutoMem did not store all that it took")

    async def recall(self, asked: Mapping[str, Any]) -> Recalled:
        return await self._ask("GET", "/recall", Recalled, asked)

    async def _ask(
        self, method: str, path: str, answer: type[T], asked: Mapping[str, Any] | None = None, body: bytes | None = None
    ) -> T:
        headers = {} if body is None else {"Content-Type": "application/json"}
        read = bytearray()
        request = self._http.stream(method, path, params=asked, content=body, headers=headers)
        async with asyncio.timeout(self._timeout_s), request as response:
            async for piece in response.aiter_bytes():
                read += piece
                if len(read) > LONGEST_ANSWER:
                    raise Unusable(f"AutoMem's answer is longer than {LONGEST_ANSWER} bytes")
        status = response.status_code
        if status == 401:
            raise TokenRefused
        if status not in (200, 201):
            kind = Refused if status in TAKES_NOT_WHAT_WAS_SENT else Unusable
            raise kind(f"AutoMem answered {status} to {method} {path}")
        try:
            return msgspec.json.decode(read, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unusable(f"what answers to {method} {path} is not AutoMem") from None


def _address(url: str) -> httpx2.URL:
    try:
        address = httpx2.URL(url.strip())
    except httpx2.InvalidURL:
        raise UnsafeStart("AUTOMEM_URL is no URL") from None
    if address.scheme not in ("http", "https") or not address.host or not 0 < (address.port or 80) < 65536:
        raise UnsafeStart("AUTOMEM_URL is no URL such as http://localhost:8001")
    if address.userinfo or address.query or address.fragment:
        raise UnsafeStart("AUTOMEM_URL is for an address alone; what lets us in goes into AUTOMEM_API_TOKEN")
    return address


def _signed(token: str) -> dict[str, str]:
    given = token.strip()
    if not given.isascii() or not given.isprintable():
        raise UnsafeStart("AUTOMEM_API_TOKEN holds characters that cannot be sent")
    return {"Authorization": f"Bearer {given}"} if given else {}
