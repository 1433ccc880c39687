"""The harness that kills: it passes on this service, and finds a service that lies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from memory_service.chaos import Plan, Report, run_plan, table
from memory_service.chaos.kills import run_kills
from memory_service.chaos.model_trials import MODES, run_model_modes
from memory_service.chaos.power import PowerCuts
from memory_service.chaos.stops import run_stops
from memory_service.cli import main
from memory_service.points import POINTS

SEED = 3
ROOT = Path(__file__).parents[2]
PLANTED = str(ROOT / "tests" / "support" / "planted.py")
HASTY = (sys.executable, PLANTED, "hasty", "serve")
GULLIBLE = (sys.executable, PLANTED, "gullible", "serve")
FIGURES = {"kills", "power_cuts", "acknowledged", "lost", "doubled", "recover_p50_s", "recover_max_s"}


@pytest.fixture(autouse=True)
def this_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that are started run the source that is tested."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


async def test_kills_under_load_lose_nothing_and_double_nothing() -> None:
    told: list[int] = []
    found = await run_kills(9, SEED, progress=told.append)
    assert (found.lost, found.doubled, found.unreflected, found.details) == (0, 0, 0, [])
    assert found.kills == sum(found.by_point.values()) == 9
    assert told == list(range(1, 10))
    points = set(found.by_point) & set(POINTS)
    assert len(points) >= 4, found.by_point
    assert found.acknowledged > 20
    assert 0 < found.recover_p50_s <= found.recover_max_s


async def test_a_service_that_acknowledges_before_it_commits_is_found_out() -> None:
    found = await run_kills(3, SEED, command=HASTY)
    assert found.acknowledged > 0
    assert found.lost > 0
    assert any(detail.startswith("lost: ") for detail in found.details)


async def test_stops_under_load_are_in_order_and_lose_nothing() -> None:
    found = await run_stops(2, SEED)
    assert (found.stops, found.bad, found.lost, found.doubled, found.details) == (2, 0, 0, 0, [])
    assert found.acknowledged > 0


async def test_a_model_in_its_bad_modes_costs_no_turn_no_wait_and_no_wrong_memory() -> None:
    found = await run_model_modes(SEED, modes={name: MODES[name] for name in ("500", "empty", "invented turns")})
    assert found.by_mode == {"500": "model_unavailable", "empty": "bad_model_output", "invented turns": "done"}
    assert (found.lost, found.doubled, found.bad, found.unreflected, found.details) == (0, 0, 0, 0, [])
    assert found.acknowledged > 0


@pytest.mark.long
async def test_a_service_that_believes_what_a_model_makes_up_is_found_out() -> None:
    found = await run_model_modes(SEED, modes={"invented turns": MODES["invented turns"]}, command=GULLIBLE)
    assert found.bad == 1
    assert "an insight rests on" in found.details[0]


async def test_the_command_ends_with_a_table_and_one_object_of_json(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "memory_service", "chaos", "--power-cuts", "5", "--seed", "9", "--json"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    *lines, last = out.decode().splitlines()
    told = json.loads(last)
    assert set(told) >= FIGURES
    assert (told["seed"], told["power_cuts"], told["kills"], told["lost"], told["doubled"]) == (9, 5, 0, 0, 0)
    assert told["acknowledged"] > 0
    assert told["parts"]["power cuts"]["damaged"] == 0
    assert lines[0] == "seed 9: passed"
    assert ["power", "cuts", "5"] in [line.split() for line in lines]
    assert ["acknowledged", str(told["acknowledged"])] in [line.split() for line in lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_when_it_is_stopped_it_leaves_no_service_and_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "memory_service", "chaos", "--kills", "50"),
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    try:
        assert process.stderr is not None
        assert b"of 50 kills" in await process.stderr.readline()
        process.send_signal(number)
        async with asyncio.timeout(30):
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert left_in(tmp_path) == []
    assert processes_of(tmp_path) == []


def heed_interrupts() -> None:
    """What a shell runs in the background ignores them, and so would we."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def processes_of(folder: Path) -> list[Path]:
    """Processes whose temporary files go into this folder."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile
            if f"TMPDIR={folder}\0".encode() in environment.read_bytes():
                found.append(environment.parent)
    return found


@pytest.mark.parametrize("option", ["--kills", "--stops", "--power-cuts"])
def test_numbers_below_nothing_are_refused(option: str) -> None:
    refused = CliRunner().invoke(main, ["chaos", option, "-1"])
    assert refused.exit_code == 2
    assert "-1 is not in the range" in refused.output


def test_without_json_the_plan_gives_the_table_alone() -> None:
    report = run_plan(Plan(power_cuts=3, seed=4))
    assert table(report).splitlines()[:2] == ["seed 4: passed", "power cuts"]


@pytest.mark.parametrize("fault", ["lost", "doubled", "damaged"])
def test_a_report_with_any_fault_has_not_passed(fault: str) -> None:
    figures = {"power_cuts": 3, "acknowledged": 9, "lost": 0, "doubled": 0, "damaged": 0}
    report = Report(seed=1)
    report.add("power cuts", PowerCuts(**figures))
    assert report.passed
    report.add("power cuts again", PowerCuts(**{**figures, fault: 1}))
    assert not report.passed
    assert (report.power_cuts, report.acknowledged) == (6, 18)
    assert table(report).startswith("seed 1: FAILED")
