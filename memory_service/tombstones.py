"""What was erased, noted apart from the record: so that a record restored from before is rid of it again.

A file of lines. The first holds a key, by which the others name what was erased: nobody can tell from a line whose it
was without the file and the name to look for.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import msgspec

from memory_service.errors import StorageFull, StoreUnavailable, UnsafeStart
from memory_service.values import Scope, Value

What = Literal["user", "session", "turn", "memory"]
LONGEST_LINE = 1000
"""Bytes; so far back at most is where the last line that was written whole ends."""


class Tombstone(Value, frozen=True, kw_only=True):
    """`of` names what was erased, by the key of the file."""

    erasure_id: str
    what: What
    of: str
    erased_at: datetime


class _Key(Value, frozen=True, kw_only=True):
    key: str


_line = msgspec.json.Encoder().encode
_tombstone_of = msgspec.json.Decoder(Tombstone).decode
_key_of = msgspec.json.Decoder(_Key).decode


class Tombstones:
    """The file at a path; it is made with the first one. Blocking: it syncs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add(self, what: What, scope: Scope, things: Sequence[Sequence[str | int]], erased_at: datetime) -> list[str]:
        """Note erasures, each thing by its names, and return their ids; they are on the disk when this returns.

        Raises StoreUnavailable, StorageFull.
        """
        ids = [secrets.token_hex(16) for _ in things]
        with self._lock:
            try:
                key = self._key() or self._begin()
                named = [
                    (erasure_id, name_of(key, scope, names)) for erasure_id, names in zip(ids, things, strict=True)
                ]
                noted = [Tombstone(erasure_id=one, what=what, of=of, erased_at=erased_at) for one, of in named]
                self._append([_line(tombstone) for tombstone in noted])
            except (OSError, msgspec.DecodeError) as exc:
                raise _not_noted(exc) from exc
        return ids

    def read(self) -> tuple[str, list[Tombstone]]:
        """Return the key and all that were noted, oldest first. Raises UnsafeStart for a file that is none of ours."""
        try:
            key = self._key()
            lines = _whole_lines(self._path.read_bytes()).splitlines()[1:] if key else []
            return key or "", [_tombstone_of(line) for line in lines]
        except (OSError, msgspec.DecodeError) as exc:
            raise UnsafeStart(f"{self._path} cannot be read as a file of erasures ({type(exc).__name__})") from exc

    def _key(self) -> str | None:
        try:
            with self._path.open("rb") as file:
                return _key_of(file.readline()).key
        except FileNotFoundError:
            return None

    def _begin(self) -> str:
        """Make the file; it has its name only when its first line is on the disk."""
        key, new = secrets.token_hex(16), self._path.with_name(f"{self._path.name}.new")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(_line(_Key(key=key)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return key

    def _append(self, lines: Sequence[bytes]) -> None:
        with self._path.open("r+b") as file:
            begins = max(file.seek(0, os.SEEK_END) - LONGEST_LINE, 0)
            file.seek(begins)
            file.seek(begins + len(_whole_lines(file.read())))
            file.write(b"".join(line + b"\n" for line in lines))
            file.truncate()
            file.flush()
            os.fsync(file.fileno())


def _not_noted(exc: Exception) -> StoreUnavailable:
    """What is not noted is not begun, so nothing carries it out later."""
    if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("there is no room to write to ERASURES_FILE; nothing was erased, ask again")
    return StoreUnavailable(f"ERASURES_FILE cannot be written ({type(exc).__name__}); nothing was erased, ask again")


def _whole_lines(text: bytes) -> bytes:
    """All but a last line that a power cut has torn: it was never acknowledged."""
    return text[: text.rfind(b"\n") + 1]


def name_of(key: str, scope: Scope, names: Iterable[str | int]) -> str:
    """What is noted of something of a user: it tells nothing to who does not know what to look for."""
    parts = _line([scope.tenant_id, scope.user_id, *names])
    return blake2b(parts, key=key.encode(), digest_size=20).hexdigest()
