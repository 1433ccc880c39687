"""Power cuts and failing disks under the real commit path: what is acknowledged must be in what is left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apsw
from msgspec import Struct

from memory_service.chaos.disk import Acknowledged, FailingDisk, RecordingDisk, Tape, written
from memory_service.errors import MemoryServiceError, UnsafeStart
from memory_service.stores.base import Commit
from memory_service.stores.sqlite.schema import open_writer
from memory_service.stores.sqlite.writer import Writer
from memory_service.values import Message, Scope, Session, Turn

WRITERS = 4
TURNS_OF_A_WRITER = 12
TAPES = 8
"""Runs that are recorded; each is cut in many places."""
MAX_CALLS = 2_000


class PowerCuts(Struct, kw_only=True):
    """`lost`: acknowledged and not in the image; `damaged`: images that do not open or fail their check."""

    power_cuts: int
    acknowledged: int
    lost: int
    doubled: int
    damaged: int


class IoFaults(Struct, kw_only=True):
    """`faults`: calls that were made to fail, each in a run of its own; `refused`: writes that were told so."""

    faults: int
    refused: int
    lost: int
    damaged: int
    stopped: int


def run_power_cuts(count: int, seed: int, *, synchronous: str | None = None) -> PowerCuts:
    """Record the disk under concurrent commits, cut the power in so many places, and open what is left."""
    chance = random.Random(seed)
    found = PowerCuts(power_cuts=0, acknowledged=0, lost=0, doubled=0, damaged=0)
    tapes = [_recorded(synchronous) for _ in range(min(TAPES, count))]
    for number in range(count):
        tape = tapes[number % len(tapes)]
        until = chance.randrange(len(tape.events) + 1)
        acknowledged = tape.acknowledged(until)
        found.power_cuts += 1
        found.acknowledged += len(acknowledged)
        with TemporaryDirectory(prefix="memory-power-") as name:
            list(written(tape.image(until, chance), Path(name)))
            _judge(Path(name) / "memory.db", acknowledged, found)
    return found


def run_io_faults(*, every: int = 1) -> IoFaults:
    """Let the N-th call that changes the disk fail, for every N there is, once as an I/O error and once as full."""
    found = IoFaults(faults=0, refused=0, lost=0, damaged=0, stopped=0)
    for error in (apsw.IOError, apsw.FullError):
        for number in range(1, MAX_CALLS, every):
            if not _one_fault(number, error, found):
                break
    return found


def _one_fault(number: int, error: type[apsw.Error], found: IoFaults) -> bool:
    """Run with one failing call; returns whether the run got as far as that call."""
    with TemporaryDirectory(prefix="memory-fault-") as name:
        path = Path(name) / "memory.db"
        acknowledged: list[str] = []
        disk = FailingDisk(number, 1, lambda: error("injected"))
        with _registered(disk):
            try:
                refused = asyncio.run(_commit_some(path, disk.vfs_name, acknowledged.append))
            except UnsafeStart:
                refused = 0  # it fell on the opening: the service says so and does not start
                found.stopped += 1
        if disk.calls < number:
            return False
        found.faults += 1
        found.refused += refused
        verdict = PowerCuts(power_cuts=0, acknowledged=0, lost=0, doubled=0, damaged=0)
        if acknowledged or path.exists():
            _judge(path, set(acknowledged), verdict)
        found.lost += verdict.lost + verdict.doubled
        found.damaged += verdict.damaged
        return True


def _recorded(synchronous: str | None) -> Tape:
    tape = Tape()
    with TemporaryDirectory(prefix="memory-tape-") as name:
        disk = RecordingDisk(tape)
        with _registered(disk):
            acknowledge = lambda what: tape.events.append(Acknowledged(what))  # noqa: E731 (a one-line callback)
            asyncio.run(_commit_some(Path(name) / "memory.db", disk.vfs_name, acknowledge, synchronous))
    return tape


@contextmanager
def _registered(disk: Any) -> Iterator[None]:
    try:
        yield
    finally:
        disk.unregister()


async def _commit_some(
    path: Path, vfs: str, acknowledge: Callable[[str], object], synchronous: str | None = None
) -> int:
    """Commit turns from several writers at once, through the store's own writer; returns how many were refused."""
    db = open_writer(path, vfs=vfs)
    if synchronous is not None:  # otherwise what the store itself sets is what is tried
        db.execute(f"PRAGMA synchronous = {synchronous}").fetchall()
    writer = Writer(db, asyncio.get_running_loop())
    writer.start()
    try:
        refused = await asyncio.gather(*(_write(writer, f"user-{n}", acknowledge) for n in range(WRITERS)))
    finally:
        await writer.stop()
    return sum(refused)


async def _write(writer: Writer, user_id: str, acknowledge: Callable[[str], object]) -> int:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    scope, refused = Scope(user_id=user_id), 0
    session = Session(session_id="s", incarnation="i", created_at=now, touched_at=now)
    known = False
    for number in range(TURNS_OF_A_WRITER):
        turn = Turn(
            session_id="s",
            seq=session.turn_count + 1,
            turn_id=f"{user_id}-{number}",
            messages=(Message(role="user", content=f"turn {number} {'x' * 300}"),),
            created_at=now,
            received_at=now,
        )
        then = session.with_turn(turn) if known else Session(**{**_fields(session), "turn_count": turn.seq})
        try:
            await writer.submit(Commit(scope=scope, session=then, turns=(turn,)))
        except MemoryServiceError:
            refused += 1
        else:
            acknowledge(turn.turn_id)
            session, known = then, True
    return refused


def _fields(session: Session) -> dict[str, Any]:
    return {name: getattr(session, name) for name in session.__struct_fields__}


def _judge(path: Path, acknowledged: set[str], found: PowerCuts) -> None:
    """Open what is left as a service would, and hold it against what was acknowledged."""
    try:
        with closing(open_writer(path)) as db:
            sound = db.execute("PRAGMA integrity_check").get == "ok"
            held = [turn_id for (turn_id,) in db.execute("SELECT turn_id FROM turns")]
    except (UnsafeStart, apsw.Error):
        found.damaged += 1
        found.lost += len(acknowledged)
        return
    found.damaged += not sound
    found.lost += len(acknowledged - set(held))
    found.doubled += len(held) - len(set(held))
