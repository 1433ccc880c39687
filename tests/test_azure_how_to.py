"""The page on Azure Cosmos DB: its policies are the code's, its arithmetic follows from what it assumes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from memory_service.settings import known_settings
from memory_service.stores.cosmos.containers import INTERACTIONS, MEMORIES

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "azure-cosmos.md").read_text()
DAY_S, HOURS, DAYS = 86_400, 730, 30.4
PARTITION_GB, PARTITION_RU_S = 50, 10_000


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def rows(title: str) -> dict[str, list[float]]:
    """The numbers of the table under a heading, by what stands in the first column."""
    section = PAGE.split(f"### {title}\n")[1].split("\n#")[0]
    table = [line.strip(" |").split("|") for line in section.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [number(cell) for cell in cells[1:]] for cells in table[2:]}


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

    first_search = 5 + 0.3 * record_turns
    talk = sessions * (ru["start: new session"] + ru["start: restore, cold"] + ru["end"])
    searches = sessions * (first_search + (given["searches of a session"] - 1) * ru["retrieve, hot"])
    in_person = talk + searches + turns * (ru["store"] + ru["commit: vectors of a turn"])
    reflections = sessions * ru["reflection of a sitting"]
    peak_alone = (in_person + reflections) / DAY_S * given["peak over mean"]
    partitions = max(math.ceil(storage_gb / PARTITION_GB), math.ceil(peak_alone / PARTITION_RU_S))
    passes = min(turns, given["replicas"] * DAY_S * given["passes for vectors a second and replica, at most"])
    look = (ru["vectors of a turn"] - ru["commit: vectors of a turn"]) / 2
    looks = partitions * (passes * 2 * look + given["replicas"] * 1440 * (ru["sweep, nothing to do"] + look))
    day = in_person + reflections + looks
    peak = (in_person + reflections) / DAY_S * given["peak over mean"] + looks / DAY_S
    hundreds = max(4, math.ceil(peak / 100))
    return {
        "turns a day": turns,
        "turns on record of one user": record_turns,
        "storage, GB": storage_gb,
        "physical partitions": partitions,
        "million RU a day for turns, sessions and searches": in_person / 1e6,
        "million RU a day for reflection": reflections / 1e6,
        "million RU a day for looks across all partitions": looks / 1e6,
        "RU/s, mean, without looks": (in_person + reflections) / DAY_S,
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


def policies() -> list[Any]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def test_the_indexing_policies_are_those_of_the_code() -> None:
    assert policies() == [INTERACTIONS, MEMORIES], f"now:\n{json.dumps(INTERACTIONS)}\n{json.dumps(MEMORIES)}"


def test_every_setting_it_names_is_there() -> None:
    named = set(re.findall(r"\bCOSMOS_[A-Z_]+\b", PAGE))
    assert named
    assert named <= set(known_settings())
