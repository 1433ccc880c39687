"""From bytes to a value: read within limits, parse strictly, say where it is wrong without repeating it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from pydantic import BaseModel

from memory_service.api.accept import JSON, NDJSON
from memory_service.api.auth import Headers
from memory_service.api.moving import GoOn, go_on_of
from memory_service.api.problems import validation_failed
from memory_service.errors import ContentTooLarge, MalformedJson, UnsupportedMediaType, ValidationFailed
from memory_service.gateway.reading import read
from memory_service.limits import check_no_nul
from memory_service.whole import SERVED

MAX_BODY_BYTES = 1_000_000
REPEATED, SHORT = 4096, 300
"""So many bodies that hold `only_names` are not read anew when they come again, if they have so few bytes. Of others
nothing is held: they have words of users.
"""
LONG = 100_000
"""Bytes of a body beyond which it is not looked through value by value."""
_JSON = JSON.encode()
_ESCAPE = rb"\u0000"
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""As JSON writes it; behind a backslash that is itself written so, it is text."""


class NoBody:
    async def __call__(self, scope: Any, receive: Any) -> None:
        return None

    def of(self, scope: Any, sent: bytes) -> None:
        return None


class UrlBody:
    """Takes a value from the path and the query. `rest` is a path that ends in a field that takes all that follows."""

    def __init__(self, takes: type[msgspec.Struct], rest: str = "") -> None:
        self._takes = takes
        self._stem, _, name = rest.partition("{")
        self._rest = name.removesuffix("}")

    async def __call__(self, scope: Any, receive: Any) -> Any:
        said = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        query, in_path = dict(said), self._of_path(scope)
        if len(query) < len(said):
            raise ValidationFailed("$", "a parameter of the query is there twice")
        for name in query.keys() & in_path.keys():  # who is meant, if they differ?
            raise ValidationFailed(f"$.{name}", "is in the path; leave it out of the query")
        try:
            return msgspec.convert({**query, **in_path}, self._takes, strict=False)
        except msgspec.ValidationError as exc:
            raise validation_failed(exc) from None

    def _of_path(self, scope: Any) -> dict[str, str]:
        if self._rest:
            return {self._rest: scope["path"].removeprefix(self._stem)}
        path_params: dict[str, str] = scope.get("path_params", {})
        return path_params


class JsonBody:
    """Takes a value from a JSON body, and from the path: strict types, unknown fields refused, no NUL anywhere."""

    most_bytes = MAX_BODY_BYTES

    def __init__(self, takes: type[msgspec.Struct], *, of_path: bool = False, most_bytes: int = MAX_BODY_BYTES) -> None:
        self._takes, self._of_path, self.most_bytes = takes, of_path, most_bytes
        self._decode_all = msgspec.json.Decoder(takes).decode
        self._decode_fields = msgspec.json.Decoder(dict[str, Any]).decode
        self._read: dict[bytes, Any] | None = {} if hasattr(takes, "only_names") else None

    async def __call__(self, scope: Any, receive: Any) -> Any:
        self._check_headers(scope["headers"])
        return self._value(await _read(receive, self.most_bytes), scope)

    def of(self, scope: Any, sent: bytes) -> Any:
        """Do the same with a body that is here, and is not too long."""
        if not scope.get(SERVED):
            self._check_headers(scope["headers"])
        return self._value(sent, scope)

    def _check_headers(self, headers: Headers) -> None:
        for name, value in headers:
            if name == b"content-type" and value != _JSON:  # as nearly everybody writes it
                _check_media_type(value, JSON)
            elif name == b"content-length" and int(value) > self.most_bytes:
                raise ContentTooLarge(self.most_bytes)  # not read at all

    def _value(self, raw: bytes, scope: Any) -> Any:
        if scope["query_string"]:
            raise ValidationFailed("$", "takes no query; all that is said is in the body")
        if self._read is None:
            return self._checked(raw, scope)
        body = self._read.get(raw)
        if body is None:
            body = self._checked(raw, scope)
            if body.only_names and len(raw) <= SHORT:
                if len(self._read) >= REPEATED:
                    self._read.clear()
                self._read[raw] = body
        return body

    def _checked(self, raw: bytes, scope: Any) -> Any:
        try:
            body = self._decoded(raw, scope) if self._of_path else self._decode_all(raw)
            if _ESCAPE in raw and _NUL.search(raw):
                if len(raw) > LONG:  # to find its place would take long
                    raise ValidationFailed("$", "holds a NUL character", "invalid_character")
                check_no_nul(msgspec.to_builtins(body), "$")
        except msgspec.ValidationError as exc:
            raise validation_failed(exc) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise MalformedJson(f"not valid JSON ({type(exc).__name__})") from None
        return body

    def _decoded(self, raw: bytes, scope: Any) -> Any:
        fields, named = self._decode_fields(raw), scope["path_params"]
        if fields.keys() & named.keys():
            raise ValidationFailed("$", "an unknown field")
        return msgspec.convert({**fields, **named}, self._takes)


class Sent(msgspec.Struct):
    """A file that is being sent: what the query says of it, its parts, and what tells that it is being worked on."""

    query: Any
    parts: AsyncIterator[bytes]
    go_on: GoOn


class FileBody:
    """Takes a value from the query, and lines of JSON part by part: nothing of them is held here."""

    def __init__(self, takes: type[msgspec.Struct]) -> None:
        self._of_url = UrlBody(takes)

    async def __call__(self, scope: Any, receive: Any) -> Sent:
        for name, value in scope["headers"]:
            if name == b"content-type":
                _check_media_type(value, NDJSON)
        go_on = go_on_of(scope)
        return Sent(await self._of_url(scope, receive), _parts(receive, go_on), go_on)


async def _parts(receive: Any, go_on: GoOn) -> AsyncIterator[bytes]:
    message: Any = {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise MalformedJson("the body was not sent to its end")
        go_on(len(message.get("body", b"")))
        yield message.get("body", b"")


def _check_media_type(sent: bytes, wanted: str) -> None:
    if sent.partition(b";")[0].strip().lower() != wanted.encode():
        raise UnsupportedMediaType(wanted)


class ModelBody(JsonBody):
    """Takes a model of the gateway from a JSON body: unknown fields are ignored."""

    def __init__(self, takes: type[BaseModel]) -> None:
        self._model = takes

    def _value(self, raw: bytes, scope: Any) -> BaseModel:
        return read(self._model, raw)


async def _read(receive: Any, most_bytes: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body") and len(body) <= most_bytes:
        return body
    parts, length = [body], len(body)
    while message.get("more_body") and length <= most_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":  # what came may be whole JSON, and only spaces missing
            raise MalformedJson("the body was not sent to its end")
        parts.append(message.get("body", b""))
        length += len(parts[-1])
    if length > most_bytes:
        raise ContentTooLarge(most_bytes)
    return b"".join(parts)
