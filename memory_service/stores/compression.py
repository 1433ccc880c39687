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
SAMPLED, SAMPLE = 20_000, 4096
"""Bytes from which on so many from the middle tell how the whole is compressed best."""
REPEATS = 0.7
"""Of its size: a text becomes less than that, base64 of what is compressed already does not."""
WORTH = 0.8
"""Of its size, at most: otherwise it is kept as it is, as a text of letters drawn by lot would be."""


def compressed(text: str) -> bytes | None:
    """What to keep of a text in its place; None if that is the text itself."""
    if len(text) < LARGE:
        return None
    whole = text.encode()
    deflate = zlib.compressobj(LEVEL, strategy=_strategy(whole))
    small = deflate.compress(whole) + deflate.flush()
    return small if is_worth(len(small), len(whole)) and len(whole) <= MOST_BYTES else None


def _strategy(whole: bytes) -> int:
    """Of a picture there is only to be had what shorter signs for bytes give: more than by looking for what comes again
    in it, in a third of the time.
    """
    if len(whole) < SAMPLED:
        return zlib.Z_DEFAULT_STRATEGY
    sample = whole[len(whole) // 2 :][:SAMPLE]
    repeats = len(zlib.compress(sample, LEVEL)) < len(sample) * REPEATS
    return zlib.Z_DEFAULT_STRATEGY if repeats else zlib.Z_HUFFMAN_ONLY


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
