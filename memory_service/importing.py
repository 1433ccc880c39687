"""A file of memories, one JSON object a line, sent to a running service in batches."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from client import SyncMemoryServiceClient
from client.errors import InvalidRequest
from memory_service.values import derived_id

AT_ONCE, BYTES_AT_ONCE = 500, 500_000
FIELDS = {"user_id", "content", "conversation_id", "tags", "metadata", "memory_id"}

_encoder = msgspec.json.Encoder(order="deterministic")


def memory_of(line: bytes) -> dict[str, Any]:
    """Read a line. Without a `memory_id` it is named by what it says, so that read again it is the same memory.

    Raises ValueError.
    """
    memory = msgspec.json.decode(line)
    if not isinstance(memory, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 (whatever is wrong with a line is told alike)
    if unknown := memory.keys() - FIELDS:
        raise ValueError(f"has a field that is unknown: {sorted(unknown)[0]}")
    return {"memory_id": derived_id("memory", _encoder.encode(memory).decode()), **memory}


class MemoryImport:
    """`counts`: memories stored; `skipped`: numbers of lines, from 1, that hold none, and why."""

    def __init__(self, client: SyncMemoryServiceClient) -> None:
        self._client = client
        self.stored = 0
        self.skipped: list[tuple[int, str]] = []

    def run(self, file: BinaryIO) -> Iterator[int]:
        """Store what is in a file; yields how many bytes are done, batch by batch."""
        batch: list[tuple[int, dict[str, Any]]] = []
        size = 0
        for number, line in enumerate(file, start=1):
            size += len(line)
            if number == 1:
                line = line.removeprefix(BOM_UTF8)
            if line.strip():
                self._take(number, line, batch)
            if len(batch) == AT_ONCE or size >= BYTES_AT_ONCE:
                self._send(batch)
                yield size
                batch, size = [], 0
        self._send(batch)
        yield size

    def _take(self, number: int, line: bytes, batch: list[tuple[int, dict[str, Any]]]) -> None:
        try:
            batch.append((number, memory_of(line)))
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.skipped.append((number, "is no JSON"))
        except RecursionError:
            self.skipped.append((number, "is nested too deeply"))
        except ValueError as exc:
            self.skipped.append((number, str(exc)))

    def _send(self, batch: list[tuple[int, dict[str, Any]]]) -> None:
        """One memory that is refused holds up no other: the batch is halved until it stands alone."""
        if not batch:
            return
        try:
            self._client.store_memories([memory for _, memory in batch])
            self.stored += len(batch)
        except InvalidRequest as exc:
            if len(batch) == 1:
                self.skipped.append((batch[0][0], exc.detail))
                return
            middle = len(batch) // 2
            self._send(batch[:middle])
            self._send(batch[middle:])
