"""Proof under fire, on your own machine: kill it, cut its power, break its disk, drive its model mad, and count.

Everything happens in temporary folders and on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from memory_service.chaos.kills import run_kills
from memory_service.chaos.model_trials import run_model_modes
from memory_service.chaos.power import run_io_faults, run_power_cuts
from memory_service.chaos.stops import run_stops


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    kills: int = 0
    power_cuts: int = 0
    stops: int = 0
    io_faults: bool = False
    model_modes: bool = False
    seed: int = 1


class Report(msgspec.Struct, kw_only=True):
    """Sums over all that was run, and each part's own figures."""

    seed: int
    kills: int = 0
    power_cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    recover_p50_s: float = 0.0
    recover_max_s: float = 0.0
    parts: dict[str, dict[str, Any]] = {}

    def add(self, name: str, part: Any) -> None:
        figures = msgspec.to_builtins(part)
        self.parts[name] = figures
        for total in ("kills", "power_cuts", "acknowledged", "lost", "doubled"):
            setattr(self, total, getattr(self, total) + figures.get(total, 0))

    @property
    def passed(self) -> bool:
        kept = not self.lost and not self.doubled
        bad = ("unreflected", "damaged", "bad", "details")
        return kept and not any(figures.get(name) for figures in self.parts.values() for name in bad)


def run_plan(plan: Plan, progress: Callable[[str], None] = lambda line: None) -> Report:
    """Run what the plan asks for; the same seed makes the same choices."""
    report = Report(seed=plan.seed)
    if plan.kills:
        kills = asyncio.run(run_kills(plan.kills, plan.seed, progress=lambda n: progress(f"{n} of {plan.kills} kills")))
        report.add("kills", kills)
        report.recover_p50_s, report.recover_max_s = kills.recover_p50_s, kills.recover_max_s
    if plan.stops:
        report.add("stops", asyncio.run(run_stops(plan.stops, plan.seed)))
    if plan.power_cuts:
        progress(f"{plan.power_cuts} power cuts")
        report.add("power cuts", run_power_cuts(plan.power_cuts, plan.seed))
    if plan.io_faults:
        progress("disk faults at every call")
        report.add("disk faults", run_io_faults())
    if plan.model_modes:
        progress("a model in all its bad modes")
        report.add("model modes", asyncio.run(run_model_modes(plan.seed)))
    return report


def table(report: Report) -> str:
    """The report as lines to read, one figure each."""
    lines = [f"seed {report.seed}: {'passed' if report.passed else 'FAILED'}"]
    for name, figures in report.parts.items():
        lines.append(name)
        for figure, value in figures.items():
            shown = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else value
            if shown or figure != "details":
                lines.append(f"  {figure.replace('_', ' '):<16} {shown}")
    return "\n".join(lines)
