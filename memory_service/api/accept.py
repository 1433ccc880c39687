"""Whether a caller can do with what the service answers: JSON, or lines of JSON where a user is exported."""

from __future__ import annotations

import re

from memory_service.api.auth import Headers
from memory_service.errors import NotAcceptable

JSON, NDJSON = "application/json", "application/x-ndjson"
_ANYTHING = b"*/*"
"""With what is answered, what nearly everybody sends; decided without a look into it."""
_PROBLEM = b"application/problem+json"
_NONE_OF_IT = re.compile(rb"q\s*=\s*0(\.0*)?")


def check_accept(headers: Headers, media_type: str = JSON) -> None:
    """Raise NotAcceptable if there is an `Accept` that the media type does not meet. Parameters do not count."""
    asked, answered = [], media_type.encode()
    for name, value in headers:
        if name == b"accept":
            if value in (_ANYTHING, answered):
                return
            asked.append(value)
    if asked and not _meets(b",".join(asked), answered):
        raise NotAcceptable(media_type)


def _meets(accept: bytes, answered: bytes) -> bool:
    """The most particular range that it falls under decides; an empty list asks for nothing."""
    wanted: dict[bytes, bool] = {}
    for each in filter(None, (part.strip() for part in accept.lower().split(b","))):
        media_type, *parameters = (part.strip() for part in each.split(b";"))
        wanted[media_type] = not any(_NONE_OF_IT.fullmatch(parameter) for parameter in parameters)
    ranges = (answered, b"application/*", _ANYTHING)
    met = next((wanted[media_type] for media_type in ranges if media_type in wanted), not wanted)
    return met or wanted.get(_PROBLEM, False)
