"""Values to rows: JSON through msgspec, times as microseconds since 1970."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from memory_service.values import Memory, Session, Sitting, Turn

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

T = TypeVar("T")
_encoder = msgspec.json.Encoder()


def _reader_of(kind: type[T]) -> Callable[[str], T]:
    decode = msgspec.json.Decoder(kind).decode

    def read(body: str) -> T:
        try:
            return decode(body)
        except TypeError as exc:  # a damaged page may say that its text is a number
            raise msgspec.DecodeError("not a text") from exc

    return read


session_of = _reader_of(Session)
turn_of = _reader_of(Turn)
sitting_of = _reader_of(Sitting)
memory_of = _reader_of(Memory)


def text_of(value: Session | Turn | Sitting | Memory) -> str:
    return _encoder.encode(value).decode()


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def micros_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else micros(moment)
