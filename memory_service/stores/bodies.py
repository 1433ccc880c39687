"""Values as a store keeps them: JSON through msgspec, times as microseconds since 1970."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from memory_service.errors import StaleVersion
from memory_service.stores.compression import restored
from memory_service.stores.exports import Exported
from memory_service.stores.keys import ApiKey
from memory_service.stores.mirrors import Mirror
from memory_service.values import Effect, Kind, Memory, Request, Scope, Session, Sitting, Turn, Value

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DIGITS = 19
"""A number of so many may not fit a column: no turn has it."""

T = TypeVar("T")
Kinds = tuple[Kind, ...]
Place = tuple[datetime, str]
"""Of a memory in a list: its `created_at`, and its id."""
_encoder = msgspec.json.Encoder()


def reader_of(kind: type[T]) -> Callable[[str | bytes], T]:
    """Make what reads a body back, which is a text or compressed. It raises msgspec.DecodeError for a damaged one."""
    decode = msgspec.json.Decoder(kind).decode

    def read(body: str | bytes) -> T:
        try:
            return decode(restored(body) if isinstance(body, bytes) else body)
        except (TypeError, UnicodeDecodeError) as exc:  # a damaged page may say that its text is a number
            raise msgspec.DecodeError("not a text") from exc

    return read


session_of = reader_of(Session)
turn_of = reader_of(Turn)
sitting_of = reader_of(Sitting)
memory_of = reader_of(Memory)
key_of = reader_of(ApiKey)


def text_of(value: Value) -> str:
    return _encoder.encode(value).decode()


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def micros_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else micros(moment)


def moment(micros: int) -> datetime:
    return EPOCH + micros * MICROSECOND


EVER = 1 << 62


def window_of(since: datetime | None, after: Place | None) -> tuple[int, int, str]:
    """Bounds of a list of memories, newest first, in columns: the least and the last `created_at`, and the name behind
    which it goes on among those of the last.
    """
    least = micros(since) if since else -EVER
    return (least, micros(after[0]), after[1]) if after else (least, EVER, "")


def require_unchanged(read: Memory, held: Memory | None) -> None:
    """Raise StaleVersion if a memory is not in the state any more in which it was read."""
    if held is None or (held.created_at, held.updated_at) != (read.created_at, read.updated_at):
        raise StaleVersion


def turns_named(item_ids: Iterable[str]) -> list[tuple[str, int]]:
    """Session and number of each turn among names of searchable items; what names nothing is passed over."""
    named = (item_id.rpartition("#") for item_id in item_ids)
    return [(session_id, int(seq)) for session_id, _, seq in named if seq.isdecimal() and len(seq) < DIGITS]


def exported_request(_: str, key: str, made_at: int, digest: str, session_id: str, turn_id: str) -> Exported:
    """A row of a request's name, with the key it is found by before it."""
    effect = Effect(digest=digest, session_id=session_id, turn_id=turn_id)
    return Exported(request=Request(key=key, digest=digest, made_at=moment(made_at)), effect=effect)


MIRROR_COLUMNS = "mirrors.tenant_id, mirrors.user_id, target, cursor, changed, begun, lease_until"


def mirror_of(driver: str, row: Sequence[Any]) -> Mirror:
    """A row of `MIRROR_COLUMNS`."""
    tenant_id, user_id, target, cursor, changed, begun, lease_until = row
    return Mirror(
        scope=Scope(tenant_id=tenant_id, user_id=user_id),
        driver=driver,
        target=target,
        cursor=msgspec.json.decode(cursor),
        changed=changed,
        begun=begun,
        lease_until=None if lease_until is None else moment(lease_until),
    )
