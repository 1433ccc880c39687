"""A long conversation in few tokens: older messages become a summary by themselves, the last stay word for word.

Start the service first (`memory-service serve`), then run
`python examples/summarising_memory.py [http://localhost:8000]`. How many turns stay as they are says K_TURN_BUFFER
(5); when twice as many are there, the oldest are folded into the summary, in the background. Without a model the
summary is an extract.
"""

from __future__ import annotations

import sys
import time
from uuid import uuid4

from client import ConnectionFailed, SyncMemoryServiceClient

SAID = [
    ("What's my balance?", "Your balance is $5,000."),
    ("Transfer $100 to savings.", "Done! New balance: $4,900."),
    ("What's my savings balance?", "Savings: $12,600."),
    ("I plan to buy a house in Porto in 2027.", "Then let us look at what you can save until then."),
    ("I can put aside $800 a month.", "That makes $14,400 by the end of 2027."),
    ("My partner Ana earns $3,100 a month.", "With both incomes a loan of $240,000 is within reach."),
    ("I never want a variable rate.", "Noted: fixed rates only."),
    ("Send me the offers by mail, please.", "You will have them on Monday."),
    ("Is my card still valid?", "Yes, until May 2028."),
    ("Can I raise its limit?", "To $2,000 at once."),
    ("Please do that.", "Done."),
    ("Thanks!", "You're welcome!"),
]
PATIENCE_S = 30


def main(service_url: str) -> None:
    with SyncMemoryServiceClient(service_url, f"C-{uuid4().hex[:6]}", "advice") as memory:
        memory.start_session()
        for user_message, agent_message in SAID:
            memory.store_turn(user_message, agent_message)
        context = memory.get_context()
        deadline = time.monotonic() + PATIENCE_S
        while not context["cumulative_summary"] and time.monotonic() < deadline:
            time.sleep(0.1)  # requests never wait for a summary, so whoever wants to see it looks again
            context = memory.get_context()
        print(f"Stored: {memory.get_messages()['count']} messages, none of them lost")
        print(f"Word for word in a context: {len(context['active_context'])} messages")
        print(f"Summary of those before:\n{context['cumulative_summary']}")
        print("=== What a model is sent")
        for message in memory.chat_history("What did I say of rates?", latest=6, include_context=True)["messages"]:
            print(f"{message['role']}: {message['content']}")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000")
    except ConnectionFailed as failure:
        sys.exit(f"{failure}\nIs the service running? Start it with: memory-service serve")
