"""Values to rows: JSON through msgspec, times as microseconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from memory_service.values import Memory, Session, Sitting, Turn

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

T = TypeVar("T")
_encoder = msgspec.json.Encoder()

session_of = msgspec.json.Decoder(Session).decode
turn_of = msgspec.json.Decoder(Turn).decode
sitting_of = msgspec.json.Decoder(Sitting).decode
memory_of = msgspec.json.Decoder(Memory).decode


def text_of(value: Session | Turn | Sitting | Memory) -> str:
    return _encoder.encode(value).decode()


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def micros_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else micros(moment)
