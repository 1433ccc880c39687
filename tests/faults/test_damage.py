"""A damaged record: a start on it is refused and leaves it alone; met while running it costs what it holds, no more."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.faults.conftest import MakeProcess
from tests.faults.doors import Door, damage, on_disk, started
from tests.support.process import ServiceProcess

BROKEN, CANNOT_START = 70, 3
PAGE = 4096
USERS = [f"user{number}" for number in range(12)]
WORDS = "and much more was said of it " * 120
"""So much that what two users said shares no page, and not so much that it is compressed."""


def said_by(user_id: str) -> str:
    return f"I prefer the canary of {user_id}! {WORDS}"


async def talked(process: ServiceProcess) -> None:
    """A conversation of each user, on record; the process runs."""
    await started(process)
    async with Door(process.url) as door:
        for user_id in USERS:
            await door.start(user_id, "s")
            await door.store(user_id, "s", said_by(user_id))
        await door.settled()


def place_of(database: Path, words: str) -> int:
    """Where in the file it stands (the first time)."""
    place = database.read_bytes().find(words.encode())
    assert place > PAGE
    return place


def overwrite(database: Path, place: int, content: bytes) -> None:
    with database.open("r+b") as file:
        file.seek(place)
        file.write(content)


def files(folder: Path) -> dict[str, bytes]:
    """The record: the file and its log."""
    return {path.name: path.read_bytes() for path in folder.glob("memory.db*") if path.name.endswith((".db", "-wal"))}


# At the start


def overwrite_the_header(database: Path) -> None:
    overwrite(database, 0, b"\xff" * 100)


def flip_the_schema(database: Path) -> None:
    overwrite(database, 100, b"\xff" * 900)


def flip_a_page(database: Path) -> None:
    page = place_of(database, "canary of user7") // PAGE
    overwrite(database, page * PAGE, b"\xff" * 200)


def flip_a_pointer(database: Path) -> None:
    """One byte of an inner page: which page comes next."""
    content = database.read_bytes()
    inner = next(at for at in range(PAGE, len(content), PAGE) if content[at] == 5)
    overwrite(database, inner + 8, b"\xff")


def cut_to_nothing(database: Path) -> None:
    database.write_bytes(b"")


def lose_the_file(database: Path) -> None:
    database.unlink()


def cut_in_half(database: Path) -> None:
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // PAGE // 2 * PAGE])


def refusal(process: ServiceProcess) -> subprocess.CompletedProcess[str]:
    """Try to start it."""
    return subprocess.run(
        [sys.executable, "-m", "memory_service", "serve"],
        env=process._environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


IN_ORDER = [overwrite_the_header, flip_the_schema, flip_a_page, flip_a_pointer, cut_in_half]
KILLED = [cut_to_nothing, lose_the_file]


@pytest.mark.parametrize(("kill", "harm"), [(False, harm) for harm in IN_ORDER] + [(True, harm) for harm in KILLED])
async def test_a_start_on_a_damaged_record_is_refused_in_one_line_and_changes_nothing(
    make_process: MakeProcess, tmp_path: Path, kill: bool, harm: Callable[[Path], None]
) -> None:
    process = make_process()
    await talked(process)
    process.kill() if kill else process.stop()
    harm(process.database)
    before = files(tmp_path)
    for _ in range(2):
        refused = refusal(process)
        [line] = refused.stderr.splitlines()
        assert (refused.returncode, refused.stdout) == (CANNOT_START, "")
        assert line.startswith("cannot start: ")
        assert str(process.database) in line
        assert "damaged" in line
        assert "restore it from a backup" in line
        assert files(tmp_path) == before


async def test_a_damaged_record_with_a_log_beside_it_keeps_its_log_over_a_start_that_was_refused(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    """Whoever mends the file still needs what the log holds."""
    process = make_process()
    await talked(process)
    process.stop()
    await started(process)
    async with Door(process.url) as door:
        await door.start("late", "s")
        await door.store("late", "s", "In the log alone.")
    process.kill()
    flip_a_page(process.database)
    before = files(tmp_path)
    assert b"In the log alone." in before["memory.db-wal"]
    assert refusal(process).returncode == CANNOT_START
    assert files(tmp_path) == before


async def test_a_database_of_something_else_is_refused_and_left_as_it_is(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    process = make_process()
    db = apsw.Connection(str(process.database))
    db.execute("CREATE TABLE invoices (x); INSERT INTO invoices VALUES (1)")
    db.close()
    before = files(tmp_path)
    refused = refusal(process)
    assert refused.returncode == CANNOT_START
    assert "is not a record of this service" in refused.stderr
    assert files(tmp_path) == before


# While it runs


def break_the_json(database: Path) -> None:
    place = place_of(database, "I prefer the canary of user7")
    overwrite(database, place, b'"')


def break_a_character(database: Path) -> None:
    overwrite(database, place_of(database, "canary of user7"), b"\xff")


@pytest.mark.parametrize("harm", [break_the_json, break_a_character, flip_a_page])
async def test_a_damaged_page_met_while_running_is_told_of_and_everything_else_goes_on(
    make_process: MakeProcess, harm: Callable[[Path], None]
) -> None:
    process = make_process(SWEEP_INTERVAL_SECONDS="3600")
    await talked(process)
    process.stop()  # what was said moves from the log into the file
    await started(process)
    harm(process.database)
    async with Door(process.url) as door:
        turn = {"user_message": "More.", "agent_message": ""}
        asked = {
            "/memory/context": {"session_id": "s"},
            "/sessions/start": {"session_id": "s"},
            "/memory/store": {"session_id": "s", **turn},
            "/memory/retrieve": {"query": "canary"},
        }
        for path, body in asked.items():
            refused = await door.ask(path, user_id="user7", **body)
            assert (refused.status_code, refused.json()["code"]) == (503, "store_corrupt"), path
            assert int(refused.headers["retry-after"]) > 0
            assert "canary" not in refused.text
        for user_id in ("user0", "user11"):
            assert said_by(user_id).encode() in await door.context(user_id, "s")
            assert (await door.store(user_id, "s", "It goes on."))["turn_number"] == 2
        assert (await door.get("/health"))["status"] == "healthy"
        await door.start("user7", "another")
        assert (await door.store("user7", "another", "Here too."))["turn_number"] == 1


def put_another_in_its_place(path: Path) -> None:
    path.with_name("copy").write_bytes(path.read_bytes())
    path.with_name("copy").replace(path)


@pytest.mark.parametrize("harm", [Path.unlink, put_another_in_its_place])
async def test_a_log_that_is_taken_away_stops_the_service_before_anything_is_acknowledged_that_is_not_there(
    make_process: MakeProcess, harm: Callable[[Path], None]
) -> None:
    process = make_process()
    await talked(process)
    dying = process.process
    assert dying is not None
    harm(process.database.with_name("memory.db-wal"))
    async with Door(process.url) as door:
        turn = {"user_id": "user7", "session_id": "s", "user_message": "Lost?", "turn_id": "lost"}
        refused = await door.ask("/memory/store", **turn, agent_message="Noted.")
        assert (refused.status_code, refused.json()["code"]) == (503, "store_failed")
    assert await asyncio.to_thread(dying.wait, 30) == BROKEN
    process.process = None
    assert damage(process.database) == []
    for user_id in USERS:
        kept = await on_disk(process.database, user_id, "s")
        assert kept[0].messages[0].content == said_by(user_id)
    await started(process)
    async with Door(process.url) as door:
        assert (await door.store("user7", "s", "Lost?", turn_id="lost"))["turn_number"] == 2


async def test_a_record_that_is_taken_away_stops_the_service_at_its_next_write(make_process: MakeProcess) -> None:
    process = make_process()
    await talked(process)
    dying = process.process
    assert dying is not None
    process.database.unlink()
    async with Door(process.url) as door:
        refused = await door.ask(
            "/memory/store", user_id="user7", session_id="s", user_message="Lost?", agent_message=""
        )
        assert (refused.status_code, refused.json()["code"]) == (503, "store_failed")
    assert await asyncio.to_thread(dying.wait, 30) == BROKEN
    process.process = None
