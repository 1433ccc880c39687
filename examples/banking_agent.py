"""A bank's agent that remembers its customer: who they are, what happened before, what they said in other sessions.

Start the service first (`memory-service serve`), then run `python examples/banking_agent.py [URL] [--session N]`.
Without `--session` it plays three sessions; with it, one of them: restart the service in between, and nothing is
forgotten. The model is scripted and answers only from what it is sent, as any would; with OPENAI_API_KEY set (and
OPENAI_BASE_URL, OPENAI_MODEL, if you like) a real one takes its place.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any

from client import ConnectionFailed, SyncMemoryServiceClient

CUSTOMER = "C-123"
PROFILE = {"name": "Sarah Johnson", "risk_tolerance": "conservative", "tier": "Gold", "years_with_bank": 8}
BEFORE = [
    ("inquiry", "Asked about mortgage rates"),
    ("dispute", "Disputed $50 charge, resolved"),
    ("interest", "Interested in CDs"),
]
SESSIONS = [
    (
        ["What is my balance?", "I want to invest some money", "What about that mortgage I asked about?"],
        "Discussed balance, investments, mortgage",
    ),
    (["I live in Boston since last week.", "I never want a variable rate."], "Told of the move to Boston"),
    (["Which rate did I rule out?", "Where do I live?", "What did we talk about before?"], "Looked back"),
]
SYSTEM = "You are a helpful banking assistant. Be personal, and refer to the customer's history where it matters."

Messages = list[dict[str, Any]]


def scripted(messages: Messages) -> str:
    """Answer by rules from what a model is sent, and from nothing else."""
    known, asked = messages[0]["content"], messages[-1]["content"].lower()
    name = _found(r"- name: (\w+)", known) or "dear customer"
    if "balance" in asked:
        return f"Hi {name}! Your checking account has $5,432.10, your savings $12,500.00."
    if "invest" in asked:
        risk = _found(r"- risk_tolerance: (\w+)", known)
        return f"{name}, as a {risk} investor you may like our 4.5 % CD." if risk else "How much risk do you like?"
    if "mortgage" in asked:
        before = _found(r"(Asked about mortgage rates)", known)
        return "I see that you asked about mortgage rates before: they are at 6.5 % now." if before else "At 6.5 %."
    if "rule out" in asked:
        ruled_out = _found(r"(I never want [^.]*)", known)
        return f"You said: {ruled_out}." if ruled_out else "You have not told me."
    if "where do i live" in asked:
        home = _found(r"I live in (\w+)", known)
        return f"In {home}, {name}." if home else "You have not told me."
    if "before" in asked:
        return f"We had this: {'; '.join(re.findall(r'chat: (.*)', known))}."
    return f"Thank you, {name}. I will remember that."


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def answer(messages: Messages) -> str:
    if not os.environ.get("OPENAI_API_KEY"):
        return scripted(messages)
    import openai

    model = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
    return openai.OpenAI().chat.completions.create(model=model, messages=messages).choices[0].message.content or ""


def chat(memory: SyncMemoryServiceClient, message: str) -> str:
    """Answer with all that is known of the customer, and keep what was said."""
    history = memory.chat_history(message, system_prompt=SYSTEM, include_context=True)["messages"]
    said = answer(history)
    memory.add_pair(message, said)
    return said


def play(memory: SyncMemoryServiceClient, number: int) -> None:
    questions, summary = SESSIONS[number - 1]
    memory.start_session()  # a new one each time: what is known of the customer is found by who they are
    print(f"=== Session {number}")
    for question in questions:
        print(f"customer: {question}\nagent:    {chat(memory, question)}")
    memory.add_episode("chat", summary)
    memory.end_session(wait_s=20)


def main(service_url: str, only: int | None) -> None:
    with SyncMemoryServiceClient(service_url, CUSTOMER) as memory:
        if memory.get_profile()["version"] == 0:  # somebody new
            memory.put_profile(PROFILE)
            for event_type, summary in BEFORE:
                memory.add_episode(event_type, summary)
        for number in [only] if only else range(1, len(SESSIONS) + 1):
            play(memory, number)


if __name__ == "__main__":
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("service_url", nargs="?", default="http://localhost:8000")
    given.add_argument("--session", type=int, choices=range(1, len(SESSIONS) + 1), help="play this one alone")
    chosen = given.parse_args()
    try:
        main(chosen.service_url, chosen.session)
    except ConnectionFailed as failure:
        sys.exit(f"{failure}\nIs the service running? Start it with: memory-service serve")
