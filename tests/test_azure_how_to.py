"""The page on Azure Cosmos DB: its policies are the code's, its arithmetic follows from what it assumes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from memory_service.settings import Settings, known_settings
from memory_service.stores.cosmos.containers import INTERACTIONS, MEMORIES, SEARCH, searched
from memory_service.stores.indexing import READ_WHOLE_TURNS
from tests.cosmos.launcher import CosmosServer
from tests.stores.cosmos_account import create_database, settings_for
from tests.support.stores import opened

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "azure-cosmos.md").read_text()
SAY_HOW_LARGE = ("README.md", ".env.example", "CHANGELOG.md")
DAY_S, HOURS, DAYS = 86_400, 730, 30.4
SWEEPS_A_DAY = DAY_S / Settings.model_fields["sweep_interval_seconds"].default
PARTITION_GB, PARTITION_RU_S = 50, 10_000


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def rows(title: str) -> dict[str, list[float]]:
    """The numbers of the table under a heading, by what stands in the first column."""
    section = PAGE.split(f"### {title}\n")[1].split("\n#")[0]
    table = [line.strip(" |").split("|") for line in section.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [number(cell) for cell in cells[1:]] for cells in table[2:]}


READING, READING_EACH = map(float, re.findall(r"(\d+) RU, and ([\d.]+) for each document", PAGE)[0])
ASSUMED, CHARGES, PRICES, RESULTS = map(rows, ("Assumed", "Charged", "Prices", "What it comes to"))


def computed(column: int) -> dict[str, float]:
    """The page's results from the page's assumptions."""
    given = {name: cells[column] for name, cells in ASSUMED.items()}
    ru = {name: cells[0] for name, cells in CHARGES.items()}
    price = {name: cells[0] for name, cells in PRICES.items()}
    active = given["users"] * given["share of them active on a day"]
    sessions = active * given["sessions of an active user a day"]
    turns = sessions * given["turns of a session"]
    record_turns = turns * 365 * given["years on record"] / given["users"]
    record_sessions = sessions * 365 * given["years on record"] / given["users"]
    kilobytes = record_turns * given["KB of a turn on record"] + record_sessions * given["KB of what a session taught"]
    storage_gb = given["users"] * kilobytes * given["with the index, times"] / 1e6

    documents = record_turns + record_sessions * given["documents a session leaves beside its turns"]
    read_whole = READING + READING_EACH * documents + (given["searches of a session"] - 1) * ru["retrieve, hot"]
    by_store = given["searches of a session"] * ru["retrieve, large memory"]
    is_large = record_turns > given["turns of a memory that is read whole, at most"]
    begun_and_ended = sessions * (ru["start: new session"] + ru["start: restore, cold"] + ru["end"])
    talk = begun_and_ended + turns * (ru["context, hot"] + ru["store"])
    vectors = turns * ru["vectors of a turn"]
    searches = sessions * (by_store if is_large else read_whole)
    reflections = sessions * (ru["reflection of a sitting"] + ru["vectors of a reflection"])
    in_person = talk + vectors + searches + reflections
    peak_alone = in_person / DAY_S * given["peak over mean"]
    partitions = max(math.ceil(storage_gb / PARTITION_GB), math.ceil(peak_alone / PARTITION_RU_S))
    looks = partitions * given["replicas"] * SWEEPS_A_DAY * ru["sweep, nothing to do"]
    day, peak = in_person + looks, peak_alone + looks / DAY_S
    hundreds = max(4, math.ceil(peak / 100))
    return {
        "turns a day": turns,
        "turns on record of one user": record_turns,
        "storage, GB": storage_gb,
        "physical partitions": partitions,
        "million RU a day for sessions, contexts and turns": talk / 1e6,
        "million RU a day for vectors of turns": vectors / 1e6,
        "million RU a day for searches": searches / 1e6,
        "million RU a day for searches, all in the process": sessions * read_whole / 1e6,
        "million RU a day for reflection": reflections / 1e6,
        "million RU a day for the looks of the sweeps": looks / 1e6,
        "RU/s, mean": day / DAY_S,
        "RU/s, peak": peak,
        "a month, serverless": day * DAYS / 1e6 * price["a million RU, serverless"],
        "a month, provisioned for the peak": hundreds * HOURS * price["100 RU/s for an hour, provisioned"],
        "a month, storage": storage_gb * price["a GB for a month"],
    }


@pytest.mark.parametrize("column", [0, 1])
def test_the_results_follow_from_the_assumptions_and_the_charges(column: int) -> None:
    told = {name: cells[column] for name, cells in RESULTS.items()}
    expected = computed(column)
    assert list(told) == list(expected)
    for name, value in expected.items():
        assert told[name] == pytest.approx(value, rel=0.005, abs=0.006), f"{name} should be {value:,.1f}"


PARTS = {
    "sessions": "million RU a day for sessions, contexts and turns",
    "vectors": "million RU a day for vectors of turns",
    "searches": "million RU a day for searches",
    "reflection": "million RU a day for reflection",
    "looks of the sweeps": "million RU a day for the looks of the sweeps",
}


@pytest.mark.parametrize("column", [0, 1])
def test_what_it_says_of_the_largest_parts_is_so(column: int) -> None:
    results = computed(column)
    shares = {part: results[row] / sum(results[name] for name in PARTS.values()) for part, row in PARTS.items()}
    (largest,) = re.findall(r"The largest part is (\w+)", PAGE)
    assert largest == max(shares, key=lambda part: shares[part])
    for part in ("searches", "looks of the sweeps"):
        told = re.findall(rf"\*\*The [a-z ]*{part}\*\*,? (?:are )?(\d+) %[a-z ]* and (\d+) %", PAGE)
        assert float(told[0][column]) == pytest.approx(100 * shares[part], abs=0.6), part


def test_it_has_the_size_up_to_which_a_memory_is_read_whole() -> None:
    assert ASSUMED["turns of a memory that is read whole, at most"] == [READ_WHOLE_TURNS] * 2
    assert f"no more than {READ_WHOLE_TURNS} turns" in PAGE
    for page in (PAGE, *((ROOT / name).read_text() for name in SAY_HOW_LARGE)):
        assert f"more than {READ_WHOLE_TURNS} turns" in page


def policies() -> list[Any]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def test_the_policies_are_those_of_the_code() -> None:
    now = [searched(INTERACTIONS), searched(MEMORIES), *SEARCH.values()]
    assert policies() == now, "now:\n" + "\n".join(map(json.dumps, now))


async def test_the_account_searches_containers_that_were_made_by_its_policies(cosmos_server: CosmosServer) -> None:
    interactions, memories, vectors, texts = policies()
    search = {"vector_embedding_policy": vectors, "full_text_policy": texts}
    made = {"interactions": interactions, "session_summaries": memories, "insights": memories}
    create_database(cosmos_server, {name: (policy, -1) for name, policy in made.items()}, **search)
    async with opened(settings_for(cosmos_server, store_search="store")) as store:
        assert store.searched_by == "store"


async def test_containers_without_what_it_says_to_leave_out_are_searched_in_the_process(
    cosmos_server: CosmosServer,
) -> None:
    (left_out,) = re.findall(r"leave out the two options, and of the policies\n(.*?)\. ", PAGE)
    names = set(re.findall(r"`(.*?)`", left_out))

    def plain(policy: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in policy.items() if name not in names}
        paths = ("includedPaths", "excludedPaths")
        return {**kept, **{name: [path for path in kept[name] if path["path"] not in names] for name in paths}}

    interactions, memories, *_ = policies()
    assert [plain(interactions), plain(memories)] == [INTERACTIONS, MEMORIES]
    made = {"interactions": interactions, "session_summaries": memories, "insights": memories}
    create_database(cosmos_server, {name: (plain(policy), -1) for name, policy in made.items()})
    async with opened(settings_for(cosmos_server)) as store:
        assert (store.searched_by, "interactions" in store.searched_why) == ("process", True)


def test_every_setting_it_names_is_there() -> None:
    named = set(re.findall(r"\bCOSMOS_[A-Z_]+\b", PAGE))
    assert named
    assert named <= set(known_settings())
