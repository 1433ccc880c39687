"""Each example, run as its first lines say, against a service; what it prints is what it promises."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memory_service.server import running
from memory_service.settings import Settings
from tests.conftest import Serve

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 60
NOBODY_THERE = "http://127.0.0.1:9"


async def run(name: str, *arguments: str, status: int = 0) -> str:
    """Run an example in a process of its own; returns what it prints, or with another status, what it complains of."""
    by = [sys.executable] if name.endswith(".py") else ["bash"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}

    def ended() -> subprocess.CompletedProcess[str]:
        command = [*by, str(ROOT / "examples" / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment)

    done = await asyncio.to_thread(ended)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


async def test_messages_are_kept_found_made_ready_for_a_model_and_reset(serve: Serve) -> None:
    printed = await run("message_memory.py", await serve())
    assert "3. user: What is the weather like today?\n4. assistant: Sunny, 22 degrees." in printed
    assert "=== One by its id\nHello, how are you?" in printed
    assert "user: text + image_url" in printed
    assert "=== Later: 6 messages, the image as it was: True" in printed
    assert printed.endswith("=== Memory reset successfully\nMessages now: 1\n")


async def test_each_server_knows_what_the_others_were_told(serve: Serve, postgres_url: str) -> None:
    urls = [await serve(store_url=postgres_url) for _ in "ABC"]
    printed = await run("distributed_sessions.py", *urls)
    assert [int(count) for count in re.findall(r"was sent (\d+) messages", printed)] == [2, 4, 6]
    assert 'agent: You began with: "Hi, I need help with my account."' in printed
    assert printed.endswith("as server A has it: 6\n")


async def test_a_long_conversation_becomes_a_summary_and_its_last_turns(serve: Serve) -> None:
    printed = await run("summarising_memory.py", await serve())
    assert "Stored: 24 messages, none of them lost" in printed
    before, sent = printed.split("=== What a model is sent")
    word_for_word = re.search(r"Word for word in a context: (\d+) messages", before)
    assert word_for_word
    assert 10 <= int(word_for_word[1]) < 24
    assert "user: What's my balance?" in before
    assert "user: I never want a variable rate." in sent, "nothing is missing between the summary and the last turns"


async def test_a_year_is_brought_in_dated_right_and_once(serve: Serve, tmp_path: Path) -> None:
    url = await serve()
    printed = await run("import_history.py", url)
    assert "Brought in: 1040 messages of 52 conversations\nOnce more:  0 messages" in printed
    assert "2025-03-10  The user: I adopted a dog called Pixel two days ago (2025-03-08)." in printed
    assert "? When did I move to Lisbon?\n  2025-01-27  I moved to Lisbon yesterday." in printed
    talk = {"session_id": "s", "messages": [{"role": "user", "content": "I moved to Rome yesterday."}]}
    talk["messages"][0]["timestamp"] = "2024-02-29T10:00:00Z"
    file = tmp_path / "history.json"
    file.write_text(json.dumps([talk]))
    assert "2024-02-29  The user: I moved to Rome yesterday (2024-02-28)." in await run(
        "import_history.py", url, str(file)
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
async def test_all_it_takes_is_http(serve: Serve) -> None:
    printed = await run("any_language.sh", await serve(), "from-a-shell")
    answers = [json.loads(line) for line in printed.splitlines() if not line.startswith("---")]
    assert [answer.get("stored") for answer in answers[:2]] == [2, 0]
    assert [one["content"] for one in answers[3]["messages"]][-1] == "Where do I live?"
    assert answers[5]["insights"] == ["The user: I live in Porto now."]
    assert answers[6]["facts"] == ["user: I live in Porto now."]
    assert answers[7]["status"] == "erased"


async def test_a_financial_adviser_remembers(serve: Serve) -> None:
    printed = await run("demo1_remote.py", await serve())
    assert "known at the start: nothing" in printed
    assert "? At what age do I want to retire?\n  user: I want to retire at 65" in printed


@pytest.mark.parametrize("name", ["message_memory.py", "distributed_sessions.py"])
async def test_where_no_service_runs_an_example_says_how_to_start_one(name: str) -> None:
    assert (await run(name, NOBODY_THERE, status=1)).endswith("Start it with: memory-service serve\n")


async def test_a_bank_s_agent_remembers_its_customer_over_three_sessions_and_a_restart(
    make_settings: Callable[..., Settings],
) -> None:
    printed = ""
    for session in ("1", "2", "3"):
        async with running(make_settings()) as url:  # another service each time, on the same record
            printed += await run("banking_agent.py", url, "--session", session)
    said = dict(re.findall(r"customer: (.*)\nagent:    (.*)", printed))
    assert said == {
        "What is my balance?": "Hi Sarah! Your checking account has $5,432.10, your savings $12,500.00.",
        "I want to invest some money": "Sarah, as a conservative investor you may like our 4.5 % CD.",
        "What about that mortgage I asked about?": (
            "I see that you asked about mortgage rates before: they are at 6.5 % now."
        ),
        "I live in Boston since last week.": "Thank you, Sarah. I will remember that.",
        "I never want a variable rate.": "Thank you, Sarah. I will remember that.",
        "Which rate did I rule out?": "You said: I never want a variable rate.",
        "Where do I live?": "In Boston, Sarah.",
        "What did we talk about before?": (
            "We had this: Told of the move to Boston; Discussed balance, investments, mortgage."
        ),
    }
