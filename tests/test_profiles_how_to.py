"""The page on profiles and episodes: its code runs as it stands, and its schema is one."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from pathlib import Path

from memory_service.profiles import rules_of

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "profiles-and-episodes.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"\n```{language}\n(.*?)\n```", PAGE, re.DOTALL)


async def test_the_code_of_the_page_runs_as_it_stands_and_says_what_the_page_says(url: str) -> None:
    script = "\n".join(blocks("python")).replace("http://localhost:8000", url)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        await asyncio.to_thread(exec, script, {})
    profile, home, *episodes = said.getvalue().splitlines()
    assert profile == str(
        {
            "address": {"city": "Lisbon"},
            "name": "Sarah Johnson",
            "risk_tolerance": "conservative",
            "tier": "Platinum",
        }
    )
    assert home == "Lisbon"
    assert [line.split(" ", 1)[1] for line in episodes[:2]] == [
        "interest Interested in CDs",
        "dispute Disputed $50 charge, resolved",
    ]
    assert " session " in episodes[2]
    with contextlib.redirect_stdout(said):
        await asyncio.to_thread(exec, script, {})
    assert said.getvalue().splitlines().count("Lisbon") == 2, "it runs a second time against the same service"


def test_the_schema_of_the_page_is_held_to(tmp_path: Path) -> None:
    (tmp_path / "schemas.json").write_text(blocks("json")[0])
    rules = rules_of(str(tmp_path / "schemas.json"))
    assert rules.keeps("default", "home", "Lisbon")
    assert not rules.keeps("default", "city", "Lisbon")
    assert rules.keeps("acme", "city", "Lisbon")
