"""Large values as a store keeps them: compressed by zlib, where that makes them really smaller. Pure."""

from __future__ import annotations

import zlib

import msgspec

LARGE = 4096
"""Characters; what is smaller is kept as it is: of a few hundred bytes little is to be had."""
MOST_BYTES = 16_000_000
"""That a value may have: a larger one is kept as it is, so what claims to be larger is damaged or forged."""
LEVEL = 1
"""The higher ones take two to five times as long, for a tenth."""
WORTH = 0.8
"""Of its size, at most: otherwise it is kept as it is, as a text of letters drawn by lot would be."""


def compressed(text: str) -> bytes | None:
    """What to keep of a text in its place; None if that is the text itself."""
    if len(text) < LARGE:
        return None
    whole = text.encode()
    small = zlib.compress(whole, LEVEL)
    return small if is_worth(len(small), len(whole)) and len(whole) <= MOST_BYTES else None


def is_worth(small: int, whole: int) -> bool:
    return small <= whole * WORTH


def restored(small: bytes) -> bytes:
    """The text, in UTF-8. Raises msgspec.DecodeError for what is damaged, however large it claims to be."""
    reading = zlib.decompressobj()
    try:
        whole = reading.decompress(small, MOST_BYTES + 1)  # one more, or the end of the largest may not be read
    except zlib.error as exc:
        raise msgspec.DecodeError("not compressed by zlib") from exc
    if not reading.eof or reading.unused_data:
        raise msgspec.DecodeError("not a whole value")
    return whole
