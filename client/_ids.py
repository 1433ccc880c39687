"""Names of what nobody else has named."""

from __future__ import annotations

import time
from uuid import uuid4


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562) as 32 hexadecimal digits: the milliseconds since 1970, then chance.

    What is made one after the other stands side by side in an index, which then writes one page for many.
    """
    return f"{time.time_ns() // 1_000_000:012x}7{uuid4().hex[13:]}"
