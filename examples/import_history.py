"""A year of old conversations brought in: everything is dated right, and to bring it in again changes nothing.

Start the service first (`memory-service serve`), then run
`python examples/import_history.py [http://localhost:8000] [history.json]`. The file is a list of conversations,
`[{"session_id": ..., "messages": [{"role": ..., "content": ..., "timestamp": "2025-03-04T09:30:00Z"}, ...]}, ...]`;
without one, a year of them is made up. No model and no key are needed.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from client import ConnectionFailed, SyncMemoryServiceClient

BEGAN = datetime(2025, 1, 6, 9, tzinfo=UTC)
NEWS = {
    3: "I moved to Lisbon yesterday.",
    9: "I adopted a dog called Pixel two days ago.",
    17: "I'm going to start as a nurse at the harbour clinic next Monday.",
    26: "My sister Rita had twins last month.",
    34: "I moved to Porto a week ago, close to the river.",
    47: "I bought a red bicycle yesterday.",
}
"""What is told in which week."""
QUESTIONS = ["When did I move to Lisbon?", "What is the name of my dog?", "When did I move to Porto?"]


def made_up() -> list[dict[str, Any]]:
    """A talk of twenty messages a week, for a year."""
    return [{"session_id": f"week-{week:02}", "messages": _talk(week)} for week in range(52)]


def _talk(week: int) -> list[dict[str, Any]]:
    news = NEWS.get(week, f"This is week {week}, and all is well.")
    said = [news, "Thank you for telling me."] + [f"Small talk {number}." for number in range(18)]
    return [
        {
            "role": ("user", "assistant")[place % 2],
            "content": content,
            "timestamp": (BEGAN + timedelta(weeks=week, minutes=place)).isoformat(),
        }
        for place, content in enumerate(said)
    ]


def progress(name: str) -> Any:
    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{name} [{'#' * (20 * done // total):20}] {done}/{total}", end="", file=sys.stderr)

    return show


def bring_in(memory: SyncMemoryServiceClient, history: list[dict[str, Any]]) -> int:
    """Import all conversations and have them read; returns how many messages were new."""
    stored = 0
    for talk in history:
        name = talk["session_id"]
        done = memory.import_messages(talk["messages"], on_progress=progress(name), session_id=name)
        if done["stored"]:
            memory.end_session(wait_s=20, session_id=name)
        stored += done["stored"]
    return stored


def main(service_url: str, file: str = "") -> None:
    history = json.loads(Path(file).read_text()) if file else made_up()
    with SyncMemoryServiceClient(service_url, f"ana-{uuid4().hex[:6]}") as memory:
        print(f"Brought in: {bring_in(memory, history)} messages of {len(history)} conversations")
        print(f"Once more:  {bring_in(memory, history)} messages")
        print("=== What was learnt, with the day on which each was said")
        for insight in reversed(memory.get_insights()["insights"]):
            print(f"{insight['timestamp'][:10]}  {insight['content']}")
        for question in QUESTIONS:
            best = memory.retrieve(question, 1)["results"]
            print(f"? {question}")
            for result in best:
                print(f"  {result['created_at'][:10]}  {result['text']}")


if __name__ == "__main__":
    try:
        main(*(sys.argv[1:] or ["http://localhost:8000"]))
    except ConnectionFailed as failure:
        sys.exit(f"{failure}\nIs the service running? Start it with: memory-service serve")
