"""A financial adviser that remembers: two sessions of one client against a running service.

Start the service first (`memory-service serve`, or `python run_server.py`), then run
`python examples/demo1_remote.py [http://localhost:8000]`. The answers of the adviser are scripted, so no
model and no key are needed; what it remembers is real.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import uuid4

from client import ConnectionFailed, MemoryServiceClient

FIRST_SESSION = [
    ("Hi, I'm Sam. I'm a teacher and I'm 42.", "Welcome, Sam. What would you like to plan for?"),
    ("I want to retire at 65, and I prefer conservative investments.", "Then we look at bonds and broad funds first."),
    ("My daughter Lea starts university in 2031.", "We should keep a separate pot for that, safe by then."),
    ("What is a 401k?", "A retirement savings plan that an employer offers, with tax advantages."),
]
QUESTION = "At what age do I want to retire?"


async def main(service_url: str) -> None:
    user_id = f"sam-{uuid4().hex[:8]}"  # a new user each time, so that every run begins from nothing
    async with MemoryServiceClient(service_url=service_url, user_id=user_id) as client:
        print("=== First session")
        started = await client.start_session()
        print(f"known at the start: {started['formatted_context'] or 'nothing'}")
        for user_message, agent_message in FIRST_SESSION:
            stored = await client.store_turn(user_message=user_message, agent_message=agent_message)
            print(f"turn {stored['turn_number']} stored ({stored['durability']}): {user_message}")
        ended = await client.end_session(wait_s=20)
        print(f"ended: reflection {ended['reflection']}, {ended['insights_count']} insights")

        print("\n=== Second session, begun with what the first one taught")
        started = await client.start_session()
        print(started["formatted_context"])
        print(f"\n? {QUESTION}")
        for fact in (await client.retrieve(QUESTION, top_k=3))["facts"]:
            print(f"  {fact}")
        await client.end_session()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000"))
    except ConnectionFailed as failure:
        sys.exit(f"{failure}\nIs the service running? Start it with: memory-service serve")
