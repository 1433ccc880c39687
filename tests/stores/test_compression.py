"""What is kept of a large text, and what is made of what is damaged."""

from __future__ import annotations

import json
import tracemalloc
import zlib

import msgspec
import pytest

from memory_service.stores.compression import LARGE, MOST_BYTES, compressed, restored
from tests.support.large import image, incompressible, prose, rows

SMALL = compressed(prose()) or b""


@pytest.mark.parametrize("text", [prose(), image(100_000), "word " * (LARGE // 5 + 1), "\0\ud7ff\U0001f95c" * LARGE])
def test_a_large_text_is_kept_smaller_and_comes_back_byte_for_byte(text: str) -> None:
    small = compressed(text)
    assert small is not None
    assert len(small) <= 0.8 * len(text.encode())
    assert restored(small) == text.encode()


def test_a_picture_is_made_three_quarters_and_a_document_a_third() -> None:
    document = json.dumps(rows())
    assert len(compressed(image()) or b"") < 0.76 * len(image())
    assert len(compressed(document) or b"") < 0.33 * len(document)


@pytest.mark.parametrize(
    "text",
    ["", "a" * (LARGE - 1), incompressible(), "a" * (MOST_BYTES + 1)],
    ids=["nothing", "small", "hardly smaller", "too large to be read again"],
)
def test_what_compression_does_not_pay_for_is_kept_as_it_is(text: str) -> None:
    assert compressed(text) is None


def test_the_largest_that_is_compressed_is_read_again() -> None:
    small = compressed("a" * MOST_BYTES)
    assert small is not None
    assert len(restored(small)) == MOST_BYTES


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{}", SMALL[:-1], SMALL[:-5], SMALL + b"x", SMALL[:1000] + b"\xff" + SMALL[1001:], SMALL[2:]],
    ids=["nothing", "no zlib", "cut", "cut short", "with more", "another byte", "beheaded"],
)
def test_what_is_damaged_is_told(damaged: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        restored(damaged)


def test_what_claims_to_be_gigabytes_is_refused_before_it_takes_the_room() -> None:
    bomb = zlib.compress(bytes(8 * MOST_BYTES), 1)
    tracemalloc.start()
    with pytest.raises(msgspec.DecodeError):
        restored(bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3 * MOST_BYTES
