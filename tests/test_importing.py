"""`memory-service memories import`: a file of memories, line by line, into a running service."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from client import MemoryServiceClient
from memory_service.cli import main
from memory_service.importing import AT_ONCE, memory_of
from tests.conftest import Serve


def lines(*memories: Any) -> bytes:
    return b"".join(json.dumps(memory).encode() + b"\n" for memory in memories)


def a_line(content: str, user_id: str = "ana", **more: Any) -> dict[str, Any]:
    return {"user_id": user_id, "content": content, **more}


async def imported(url: str, file: Path) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["memories", "import", str(file), "--url", url])


async def known(url: str, user_id: str = "ana") -> list[str]:
    async with MemoryServiceClient(url, user_id) as client:
        return sorted(one["text"] for one in (await client.retrieve("walnuts note", 100))["results"])


async def test_a_file_is_stored_and_again_nothing_is_doubled(serve: Serve, tmp_path: Path) -> None:
    url, file = await serve(), tmp_path / "memories.jsonl"
    file.write_bytes(lines(a_line("walnuts one"), a_line("walnuts two", "ben"), a_line("walnuts one"), a_line("note")))
    for _ in range(2):
        result = await imported(url, file)
        assert (result.exit_code, result.stdout) == (0, "memories 4, left out 0\n")
        assert await known(url) == ["note", "walnuts one"]
        assert await known(url, "ben") == ["walnuts two"]


async def test_a_line_that_holds_no_memory_holds_up_no_other(serve: Serve, tmp_path: Path) -> None:
    url, file = await serve(), tmp_path / "memories.jsonl"
    wrong = b"no json\n\n[1]\n" + lines(a_line(""), {"user_id": "ana"}, a_line("x", colour="red"), a_line("y", "a b"))
    file.write_bytes(lines(a_line("walnuts one")) + wrong + lines(a_line("walnuts two")) + b"\xff\xfe\n")
    result = await imported(url, file)
    assert (result.exit_code, result.stdout) == (1, "memories 2, left out 7\n")
    told = [line for line in result.stderr.splitlines() if line.startswith("line ")]
    assert [line.split()[1] for line in told] == ["2", "4", "5", "6", "7", "8", "10"]
    assert told[0] == "line 2 was left out: is no JSON"
    assert told[4] == "line 7 was left out: has a field that is unknown: colour"
    assert await known(url) == ["walnuts one", "walnuts two"]


async def test_a_large_file_goes_in_batches(serve: Serve, tmp_path: Path) -> None:
    url, file = await serve(), tmp_path / "memories.jsonl"
    file.write_bytes(lines(*(a_line(f"note {number}", f"user{number % 3}") for number in range(AT_ONCE + 30))))
    result = await imported(url, file)
    assert (result.exit_code, result.stdout) == (0, f"memories {AT_ONCE + 30}, left out 0\n")
    assert len(await known(url, "user0")) == 100
    long = [a_line(f"{number} walnuts " + "x" * 90_000) for number in range(20)]
    file.write_bytes(lines(*long))
    assert (await imported(url, file)).exit_code == 0
    assert len(await known(url)) == 20


async def test_what_is_piped_in_is_stored_too(serve: Serve) -> None:
    url = await serve()
    words = ["memories", "import", "-", "--url", url]
    result = await asyncio.to_thread(CliRunner().invoke, main, words, input=lines(a_line("walnuts")))
    assert (result.exit_code, result.stdout) == (0, "memories 1, left out 0\n")


def test_where_no_service_runs_it_is_said_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "memories.jsonl"
    file.write_bytes(lines(a_line("walnuts")))
    result = CliRunner().invoke(main, ["memories", "import", str(file), "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("other", [{"tags": ["a"]}, {"conversation_id": "c"}, {"user_id": "ben"}])
def test_a_memory_is_named_by_all_that_its_line_says(other: dict[str, Any]) -> None:
    name = memory_of(json.dumps(a_line("walnuts")).encode())["memory_id"]
    assert memory_of(json.dumps(dict(reversed(a_line("walnuts").items()))).encode())["memory_id"] == name
    assert memory_of(json.dumps({**a_line("walnuts"), **other}).encode())["memory_id"] != name
    assert memory_of(json.dumps(a_line("walnuts", memory_id="mine")).encode())["memory_id"] == "mine"
