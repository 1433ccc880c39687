"""Whether a caller can do with JSON, which is all the service answers."""

from __future__ import annotations

import re

from memory_service.api.auth import Headers
from memory_service.errors import NotAcceptable

_MET = {b"*/*", b"application/json"}
"""What nearly everybody sends; decided without a look into it."""
_JSON = (b"application/json", b"application/*", b"*/*")
_PROBLEM = b"application/problem+json"
_NONE_OF_IT = re.compile(rb"q\s*=\s*0(\.0*)?")


def check_accept(headers: Headers) -> None:
    """Raise NotAcceptable if there is an `Accept` that JSON does not meet. Parameters of media types do not count."""
    asked = []
    for name, value in headers:
        if name == b"accept":
            if value in _MET:
                return
            asked.append(value)
    if asked and not _meets(b",".join(asked)):
        raise NotAcceptable


def _meets(accept: bytes) -> bool:
    """The most particular range that JSON falls under decides; an empty list asks for nothing."""
    wanted: dict[bytes, bool] = {}
    for each in filter(None, (part.strip() for part in accept.lower().split(b","))):
        media_type, *parameters = (part.strip() for part in each.split(b";"))
        wanted[media_type] = not any(_NONE_OF_IT.fullmatch(parameter) for parameter in parameters)
    json = next((wanted[media_type] for media_type in _JSON if media_type in wanted), not wanted)
    return json or wanted.get(_PROBLEM, False)
