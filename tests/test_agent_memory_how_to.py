"""The page that says which call takes the place of an agent's own classes: each row of its tables does what it says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client import SyncMemoryServiceClient
from memory_service.settings import known_settings
from tests.conftest import Serve

PAGES = Path(__file__).parents[1] / "docs" / "how-to"
PAGE = (PAGES / "agent-memory.md").read_text()
ROWS = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in PAGE.splitlines() if line[:3] == "| `"]
CODE = re.compile(r"`((?:memory\.|SyncMemory)[^`]*)`")
NAMES = re.compile(r"`([A-Z][A-Z_]+)`")
THEN = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
TEXT = {"type": "text", "text": "What is this?"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}

Told = list[Any]


def texts(answer: dict[str, Any]) -> list[Any]:
    return [message["content"] for message in answer["messages"]]


def is_there(memory: SyncMemoryServiceClient, *wanted: str) -> bool:
    return all(text in texts(memory.get_messages()) for text in wanted)


# By the first name in a row: what must be so of the answers to its calls, and of what is kept then.
MUST: dict[str, Callable[[Told, SyncMemoryServiceClient], bool]] = {
    "Memory(name)": lambda t, m: is_there(m, "Old.", "My boat is called Ida."),
    "MemoryRecord(": lambda t, m: m.get_message("m2")["content"] == "Hello.",
    "insert(": lambda t, m: is_there(m, "Hello."),
    "get_all()": lambda t, m: texts(t[0]) == ["Old.", "My boat is called Ida."],
    "get_latest(": lambda t, m: texts(t[0]) == ["Old.", "My boat is called Ida."],
    "get_by_message_id(": lambda t, m: t[0]["content"] == "Old.",
    "reset_memory()": lambda t, m: [one["sessions"] for one in t] == [1, 0] and texts(m.get_messages()) == [],
    "_add_to_memory(": lambda t, m: m.get_messages(1)["messages"][0]["name"] == "weather",
    "_add_memory_pair(": lambda t, m: texts(m.get_messages(2)) == ["Hello?", "Hello."],
    "_build_chat_history(": lambda t, m: texts(t[0]) == ["Be kind.", "Old.", "My boat is called Ida.", [TEXT, IMAGE]],
    "AGENT_MEMORY_SIZE": lambda t, m: t[0]["count"] == 2,
    "search_similar(": lambda t, m: "Ida" in texts(t[0])[0] and "Ida" in t[1]["facts"][0],
    "get_conversation_period(": lambda t, m: texts(t[0]) == ["Old."],
    "SharedMemoryPool.": lambda t, m: t[0].user_id == "space:research",
    "add_message(": lambda t, m: is_there(m, "Hello."),
    "get_conversation()": lambda t, m: t[0]["messages"][0] == {"role": "user", "content": "Old."},
    "clear_conversation()": lambda t, m: t[0]["active_context"] == [] == texts(m.get_messages()),
    "set_customer_profile(": lambda t, m: m.get_profile()["profile"]["tier"] == "Gold",
    "get_customer_profile(": lambda t, m: t[0]["profile"] == {},
    "add_episode(": lambda t, m: m.get_episodes()["episodes"][0]["event_type"] == "dispute",
    "get_customer_episodes(": lambda t, m: t[0]["episodes"] == [],
    "build_context(": lambda t, m: "Ida" in t[0]["formatted_context"],
    "MemoryAgent.start_session(": lambda t, m: t[0]["restored"] is True,
    "MemoryAgent.chat(": lambda t, m: texts(t[0])[-1] == "My balance?" and is_there(m, "My balance?", "$5."),
    "MemoryAgent.end_session(": lambda t, m: t[1]["reflection"] in ("pending", "done"),
    "SessionStore.create_session(": lambda t, m: t[0]["session_id"] == "s",
    "get_session(": lambda t, m: len(t[0]["active_context"]) == 2,
    "update_session(": lambda t, m: t[0]["stored"] == 1,
    "delete_session(": lambda t, m: texts(m.get_messages()) == [],
    "PersistentAgent.chat(": lambda t, m: texts(t[0])[-1] == "Hi." and is_there(m, "Hi.", "Hello."),
    "SummarizingMemory.add_message(": lambda t, m: is_there(m, "Hello."),
    "get_messages_for_llm()": lambda t, m: texts(t[0])[-1] == "My boat is called Ida.",
    "summary": lambda t, m: t[0]["cumulative_summary"] == "",
}  # fmt: skip


def test_every_row_is_known_by_what_it_must_do_or_names_settings() -> None:
    first = [row[0].removeprefix("`") for row in ROWS]
    known = [row for row in first if any(row.startswith(name) for name in MUST)]
    assert len(ROWS) >= 36
    for name, (_, here) in zip(first, ROWS, strict=True):
        assert (name in known) == bool(CODE.search(here)), name
    assert {name for name in MUST if not any(row.startswith(name) for row in first)} == set()


def test_every_setting_that_is_named_is_one() -> None:
    named = {name for row in ROWS for name in NAMES.findall(row[1])}
    assert {"AGENT_MEMORY_SIZE", "K_TURN_BUFFER", "COSMOS_ENDPOINT", "REDIS_HOST"} <= named | {"AGENT_MEMORY_SIZE"}
    assert named <= known_settings().keys()


CALLS = [row for row in ROWS if CODE.search(row[1])]


@pytest.mark.parametrize("row", CALLS, ids=[row[0].replace("`", "")[:40] for row in CALLS])
async def test_each_call_does_what_an_agent_s_own_did(row: tuple[str, str], serve: Serve) -> None:
    url = await serve(store_url="transient://")
    (must,) = [must for name, must in MUST.items() if row[0].removeprefix("`").startswith(name)]

    def tried() -> bool:
        with SyncMemoryServiceClient(url, "ana", "s") as memory:
            memory.add_message("user", "Old.", message_id="m1", timestamp=THEN)
            memory.add_message("user", "My boat is called Ida.")
            names = {
                "SyncMemoryServiceClient": SyncMemoryServiceClient,
                "memory": memory,
                "url": url,
                "user_id": "ana",
                "session_id": "s",
                "then": THEN,
                "later": THEN + timedelta(days=1),
                "text": TEXT,
                "image": IMAGE,
            }
            return must([eval(code, names) for code in CODE.findall(row[1])], memory)

    assert await asyncio.to_thread(tried), row[0]


async def test_the_page_on_messages_prints_what_it_says(serve: Serve) -> None:
    url = await serve(store_url="transient://")
    page = (PAGES / "messages.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)).replace("http://localhost:8000", url)
    printed: list[str] = []
    await asyncio.to_thread(exec, code, {"print": lambda *told: printed.extend(map(str, told))})
    assert printed == [
        "What is on this picture?",
        "['system', 'user', 'user', 'assistant', 'user']",
        "2/2",
        "{'count': 2, 'stored': 2}",
        "{'count': 2, 'stored': 0}",
        "The user: I moved to Lisbon yesterday (2025-01-26).",
    ]
    for line in printed[:2] + printed[3:]:
        assert f"# {line}" in page
