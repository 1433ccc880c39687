"""One conversation over three servers: each request goes to another, and each of them knows all of it.

Start the service first, then run `python examples/distributed_sessions.py [URL ...]`: with the addresses of several
servers that share a record (PostgreSQL or Azure Cosmos DB, see docs/how-to/many-replicas.md), or of one, which then
plays all three. No model and no key are needed.
"""

from __future__ import annotations

import sys
from itertools import cycle
from uuid import uuid4

from client import ConnectionFailed, SyncMemoryServiceClient

SAID = ["Hi, I need help with my account.", "What's my account balance?", "What did I ask about first?"]


def answer(question: str, history: list[dict[str, str]]) -> str:
    """What a model would say, which reads the whole history."""
    asked = [message["content"] for message in history if message["role"] == "user"]
    if "first" in question:
        return f'You began with: "{asked[0]}"'
    return "Your checking account has $5,432.10." if "balance" in question else "Of course. What about it?"


def main(*service_urls: str) -> None:
    customer, session_id = f"C-{uuid4().hex[:6]}", uuid4().hex
    for server, url, question in zip("ABC", cycle(service_urls), SAID, strict=False):
        # Each request finds the session by its id: no server has to be the one that was asked before.
        with SyncMemoryServiceClient(url, customer, session_id) as memory:
            history = memory.chat_history(question, system_prompt="You help customers of a bank.")["messages"]
            said = answer(question, history)
            memory.add_pair(question, said)
            print(f"--- Server {server} was sent {len(history)} messages")
            print(f"customer: {question}\nagent: {said}")
    with SyncMemoryServiceClient(service_urls[0], customer, session_id) as memory:
        print(f"Messages in the session, as server A has it: {memory.get_messages()['count']}")


if __name__ == "__main__":
    try:
        main(*(sys.argv[1:] or ["http://localhost:8000"]))
    except ConnectionFailed as failure:
        sys.exit(f"{failure}\nIs the service running? Start it with: memory-service serve")
