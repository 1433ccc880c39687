"""The demo: a service of its own, weeks of conversation replayed through the client, and what is remembered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import msgspec

from client import MemoryServiceClient
from memory_service.server import asked_to_stop, running
from memory_service.settings import Settings

REFLECTION_WAIT_S = 20
QUESTIONS_SHOWN = 6
CONTEXT_LINES_SHOWN = 24


class Exchange(msgspec.Struct):
    """One turn to replay: what the first speaker said and what the other answered; either may be empty."""

    session_id: str
    turn_id: str
    created_at: datetime
    user_name: str | None
    agent_name: str | None
    user_message: str = ""
    agent_message: str = ""


class Conversation(msgspec.Struct):
    user_id: str
    sessions: list[list[Exchange]]
    questions: list[dict[str, Any]]

    @property
    def exchanges(self) -> int:
        return sum(map(len, self.sessions))


async def run_demo(conversations: list[Conversation], *, port: int, stay: bool) -> None:
    """Replay conversations into a service of its own, and tell what it remembers of the first."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="memory-demo-"))
        settings = Settings(
            _env_file=None,
            host="127.0.0.1",
            port=port,
            store_url=f"sqlite:///{folder}/demo.db",
            auth_mode="loopback",
            memory_driver="builtin",  # what is shown here is nothing to be mirrored
        )
        async with running(settings) as url:
            click.secho(f"A memory service is up on {url} (its record is temporary)", bold=True)
            for conversation in conversations:
                await replay(url, conversation)
            await tell(url, conversations[0])
            if stay:
                click.echo(f"\nIt stays up for you to try: curl {url}/stats (Ctrl-C ends it)")
                await asked_to_stop()


async def replay(url: str, conversation: Conversation) -> None:
    """Store every exchange through the client, session by session, each ended so that it is reflected on."""
    async with MemoryServiceClient(url, conversation.user_id) as client:
        title = f"{conversation.exchanges} turns in {len(conversation.sessions)} sessions of {conversation.user_id}"
        with click.progressbar(length=conversation.exchanges, label=title) as bar:
            for session in conversation.sessions:
                await client.start_session(session[0].session_id)
                for exchange in session:
                    await client.store_turn(
                        exchange.user_message,
                        exchange.agent_message,
                        turn_id=exchange.turn_id,
                        user_name=exchange.user_name,
                        agent_name=exchange.agent_name,
                        created_at=exchange.created_at,
                    )
                    bar.update(1)
                await client.end_session(wait_s=REFLECTION_WAIT_S)


async def tell(url: str, conversation: Conversation) -> None:
    """Show what a new session begins with, and what is found on a few questions."""
    async with MemoryServiceClient(url, conversation.user_id) as client:
        context = await client.start_session()
        click.secho("\nA new session begins with this:\n", bold=True)
        lines = context["formatted_context"].splitlines()
        click.echo("\n".join(lines[:CONTEXT_LINES_SHOWN]))
        if len(lines) > CONTEXT_LINES_SHOWN:
            click.echo(f"  ... and {len(lines) - CONTEXT_LINES_SHOWN} lines more")
        click.secho("\nAsked in plain words, it finds what was said:", bold=True)
        for question in spread(conversation.questions, QUESTIONS_SHOWN):
            found = await client.retrieve(question["question"], top_k=2)
            click.secho(f"\n? {question['question']}", fg="cyan")
            for result, fact in zip(found["results"], found["facts"], strict=True):
                click.echo(f"  {result['created_at'][:10]}  {shortened(fact)}")
        stats = await client.stats()
        click.echo(
            f"\n{stats['store']['commits']} commits, each synced to disk before its answer ({stats['durability']});"
            f" {stats['reflection']['reflected']} sessions reflected on by `{stats['tokens']['model']}`."
        )


def read_conversations(path: Path | None) -> list[Conversation]:
    """Read a list of `{conv_id, speakers, turns: [{id, session, date, speaker, text}], questions}`; without a
    path, the conversation that is shipped.
    """
    shipped = resources.files(__package__).joinpath("conversation.json")
    return [read_conversation(raw) for raw in json.loads((path or shipped).read_text("utf-8"))]


def read_conversation(raw: dict[str, Any]) -> Conversation:
    user_id, first = raw["conv_id"], raw["speakers"][0]
    sessions: dict[str, list[Exchange]] = {}
    for message in raw["turns"]:
        exchanges = sessions.setdefault(message["session"], [])
        _add(exchanges, message, user_id, is_user=message["speaker"] == first)
    return Conversation(user_id, list(sessions.values()), raw.get("questions", []))


def _add(exchanges: list[Exchange], message: dict[str, Any], user_id: str, *, is_user: bool) -> None:
    """Join a message to the exchange it answers, or begin the next one."""
    answers = exchanges and not is_user and not exchanges[-1].agent_message
    if not answers:
        exchanges.append(
            Exchange(
                session_id=f"{user_id}-{message['session']}",
                turn_id=f"{message['session']}.{len(exchanges) + 1}",
                created_at=datetime.fromisoformat(message["date"]).replace(tzinfo=UTC),
                user_name=None,
                agent_name=None,
            )
        )
    exchange, name = exchanges[-1], message["speaker"]
    if is_user:
        exchange.user_message, exchange.user_name = message["text"], None if name == "user" else name
    else:
        exchange.agent_message, exchange.agent_name = message["text"], None if name == "assistant" else name


def spread(questions: list[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Take so many, evenly over the list."""
    step = max(1, len(questions) // count)
    yield from questions[::step][:count]


def shortened(text: str, width: int = 110) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
