"""The page on many replicas: its sizes follow from what it assumes and measured, and what it quotes is the files'."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from memory_service.settings import Settings, known_settings
from memory_service.stores.base import CANDIDATES
from memory_service.stores.indexing import READ_WHOLE_TURNS
from memory_service.stores.postgres.client import MOST_CONNECTIONS
from tests.test_azure_how_to import number

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "many-replicas.md").read_text()
DAY_S = 86_400
STICKY, DEALT = 0, 1
OTHER_VARIABLES = {"REDIS_URL", "POSTGRES_PASSWORD", "REDIS_PASSWORD"}


def rows(title: str) -> dict[str, list[float]]:
    """The numbers of the tables under a heading, by what stands in the first column."""
    section = PAGE.split(f"### {title}\n")[1].split("\n#")[0]
    lines = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return {line[0]: list(map(number, line[1:])) for line in cells if re.search(r"\d", "".join(line[1:]))}


MEASURED, ASSUMED, RESULTS = map(rows, ("Measured", "Assumed", "What it comes to"))


def touched(replicas: float, requests: float) -> float:
    """How many of the replicas so many requests reach, each of them dealt out anew."""
    return replicas * (1 - (1 - 1 / replicas) ** requests)


def computed(routing: int) -> dict[str, float]:
    """The page's results from the page's assumptions and measures."""
    given = {name: cells[0] for name, cells in ASSUMED.items()}
    one = {name: cells[0] for name, cells in MEASURED.items()}
    row = {name: sum(cells) for name, cells in MEASURED.items() if len(cells) == 2}
    sessions = given["users"] * given["share of them active on a day"] * given["sessions of an active user a day"]
    turns = sessions * given["turns of a session"]
    contexts, searches = turns * given["contexts of a turn"], sessions * given["searches of a session"]
    days = 365 * given["years on record"]
    turns_of_user, sessions_of_user = turns * days / given["users"], sessions * days / given["users"]
    memories_of_user = sessions_of_user * given["memories a session leaves"]
    peak = given["peak over mean"] / DAY_S

    searching = searches * one["a search by PostgreSQL, ms of CPU of the replica"] / 1000 * peak
    milliseconds = turns * one["a turn with all that follows it, ms of CPU"]
    milliseconds += contexts * one["a context, hot, ms of CPU"]
    needed = searching + milliseconds / 1000 * peak
    replicas = max(given["least replicas"], math.ceil(needed / given["share of a core a replica shall use"]))
    assert turns_of_user > READ_WHOLE_TURNS, "these are narrowed by the database"
    scanned = searches * one["and of PostgreSQL, over a thousand turns"] * turns_of_user / 1000
    found = 2 * CANDIDATES * (MEASURED["turns"][0] + MEASURED["vectors"][0])
    hot = sessions * peak * 60 * (given["minutes a session lasts"] + given["minutes it stays in the pool"])
    uses = 1 + given["turns of a session"] * (1 + given["contexts of a turn"])
    share = 1 / replicas if routing == STICKY else touched(replicas, uses) / replicas
    context = 1 if routing == STICKY else given["statements of a context, dealt out"]
    store = 1 if routing == STICKY else given["statements of a store, dealt out"]
    statements = contexts * context + turns * store + searches * given["statements of a search"]
    statements += sessions * (4 + given["statements of an end and its reflection"])
    per_user = row["owners"] + sessions_of_user * (row["sessions"] + row["sittings"])
    searchable = turns_of_user + memories_of_user
    per_user += turns_of_user * row["turns"] + memories_of_user * row["memories"]
    per_user += searchable * (row["vectors"] + row["search_entries"])
    names = turns * given["days a name of a request is kept"] * row["requests"]
    value = hot * one["head and live turns of a session as JSON, bytes"]
    return {
        "requests a second, peak": (sessions * 2 + turns + contexts + searches) * peak,
        "cores for them, peak": needed,
        "of them for searches": searching,
        "cores of PostgreSQL for searches, peak": scanned / 1000 * peak,
        "replicas": replicas,
        "connections": replicas * MOST_CONNECTIONS,
        "sessions that are hot, peak": hot,
        "sessions in the pool of one replica": hot * share,
        "MB of them in one replica": hot
        * share
        * one["a session in the pool with what is known of its user, KB"]
        / 1e3,
        "statements a second, peak": statements * peak,
        "MB a second sent for searches, peak": searches * found * peak / 1e6,
        "turns on record of one user": turns_of_user,
        "million rows of turns": turns_of_user * given["users"] / 1e6,
        "million rows of vectors": searchable * given["users"] / 1e6,
        "GB in PostgreSQL": (per_user * given["users"] + names) / 1e9,
        "of them vectors, GB": searchable * row["vectors"] * given["users"] / 1e9,
        "of them entries to search by, GB": searchable * row["search_entries"] * given["users"] / 1e9,
        "MB in Redis": value * one["Redis: bytes kept for a byte of value"] / 1e6,
    }


@pytest.mark.parametrize("routing", [STICKY, DEALT])
def test_the_sizes_follow_from_what_is_assumed_and_what_was_measured(routing: int) -> None:
    told = {name: cells[routing] for name, cells in RESULTS.items()}
    expected = computed(routing)
    assert list(told) == list(expected)
    for name, value in expected.items():
        assert told[name] == pytest.approx(value, rel=0.005, abs=0.06), f"{name} should be {value:,.1f}"


def test_what_a_replica_holds_follows_from_the_defaults() -> None:
    fields = Settings.model_fields
    held_kb = MEASURED["a session in the pool with what is known of its user, KB"][0]
    parts = [
        MEASURED["a replica that has done all that, MB"][0],
        fields["max_sessions"].default * held_kb / 1e3,
        fields["recall_cache_mb"].default,
    ]
    assert f"{' + '.join(f'{part:.0f}' for part in parts)} = {sum(parts):.0f} MB" in PAGE


def test_what_it_says_of_replicas_is_what_it_comes_to() -> None:
    with_them, without = RESULTS["replicas"]
    assert re.search(rf"take {with_them:.0f} replicas with them and {without:.0f}\s+without", PAGE)


def test_what_it_quotes_of_others_is_so() -> None:
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", PAGE)) - OTHER_VARIABLES
    assert named <= set(known_settings())
    for link in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / "how-to" / link).exists(), link
    for file in re.findall(r"`(\w+\.yaml)`", PAGE):
        assert (ROOT / "deploy" / "kubernetes" / file).exists(), file
    assert "# What it costs" in (ROOT / "docs" / "how-to" / "azure-cosmos.md").read_text()
