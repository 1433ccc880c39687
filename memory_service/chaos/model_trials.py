"""A model that misbehaves in every way there is: nobody waits, nothing made up is kept, all is read later."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
from msgspec import Struct

from memory_service.chaos import model_modes as model
from memory_service.chaos.model_modes import Mode
from memory_service.chaos.model_server import ModelServer
from memory_service.chaos.oracle import Oracle, Verdict
from memory_service.chaos.process import SERVE, ServiceProcess
from memory_service.chaos.reflections import listed, replayed, settled, undone

TURNS = 30
LONGEST_ANSWER_S = 1.0
"""Of a request that needs no model; the model has twice as long before it is given up."""
ANSWER_S = 30
SETTINGS = {
    "MODEL_TIMEOUT_SECONDS": "2",
    "EMBEDDING_TIMEOUT_SECONDS": "0.5",
    "REFLECTION_RETRY_SECONDS": "0.05",
    "REFLECTION_MAX_ATTEMPTS": "2",
    "BREAKER_REST_SECONDS": "0.2",
    "SWEEP_INTERVAL_SECONDS": "0.5",
    "SHUTDOWN_GRACE_SECONDS": "0.5",
}
INVENTED = {
    "summary": "They talked.",
    "topics": [],
    "insights": [{"text": "Lives on Mars", "turns": [999], "category": "fact", "confidence": 1, "importance": 1}],
}
FOREIGN = {"summary": "利用者は覚えておくことを話しました。", "topics": ["記憶"], "insights": []}
MODES: dict[str, Mode] = {
    "hang": model.hang(),
    "drip": model.drip(),
    "429": model.status(429, retry_after=1),
    "500": model.status(500),
    "reset": model.reset(),
    "not JSON": model.not_json(),
    "wrong schema": model.wrong_schema(),
    "refusal": model.refusal(),
    "empty": model.empty(),
    "5 MB": model.huge(5_000_000),
    "invented turns": model.answer(INVENTED),
    "another language": model.answer(FOREIGN),
}
USABLE = ("invented turns", "another language")
"""Modes whose summary is one: what they claim beyond it has to stand on turns that exist."""


class ModelModes(Struct, kw_only=True):
    """What came of each mode. `slowest_s` is of requests that need no model, while it misbehaved, but for two a mode.

    `bad`: modes in which such a request waited, or something was kept that rests on nothing. `unreflected`:
    sessions that were not read once the model was well.
    """

    model_modes: int
    by_mode: dict[str, str]
    acknowledged: int
    lost: int
    doubled: int
    bad: int
    unreflected: int
    slowest_s: float
    details: list[str]


class _Trial(Struct, kw_only=True):
    """One mode: what was said of it while it lasted, and what was wrong."""

    verdict: Verdict
    reasons: list[str]
    faults: list[str]
    unreflected: int
    slowest_s: float


async def run_model_modes(
    seed: int, *, modes: Mapping[str, Mode] = MODES, command: Sequence[str] = SERVE
) -> ModelModes:
    trials: dict[str, _Trial] = {}
    with ModelServer() as server:
        for name, mode in modes.items():
            server.forget()
            with TemporaryDirectory(prefix="memory-model-") as folder:
                settings = {**SETTINGS, **server.openai_environment}
                async with ServiceProcess(Path(folder), command, **settings) as service:
                    await service.start()
                    trials[name] = await _try(service.url, server, mode, name, random.Random(f"{seed} {name}"))
    found = trials.values()
    return ModelModes(
        model_modes=len(trials),
        by_mode={name: ", ".join(trial.reasons) or "done" for name, trial in trials.items()},
        acknowledged=sum(trial.verdict.acknowledged for trial in found),
        lost=sum(trial.verdict.lost for trial in found),
        doubled=sum(trial.verdict.doubled for trial in found),
        bad=sum(bool(trial.faults) for trial in found),
        unreflected=sum(trial.unreflected for trial in found),
        slowest_s=round(max(trial.slowest_s for trial in found), 3),
        details=[f"{name}: {d}" for name, trial in trials.items() for d in trial.faults + trial.verdict.details][:20],
    )


async def _try(url: str, server: ModelServer, mode: Mode, name: str, chance: random.Random) -> _Trial:
    """Talk and end every session under the mode, wait until all is done or given up, then let the model be well."""
    oracle = Oracle(chance)
    server.rule = lambda call: mode
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=ANSWER_S) as http:
        slowest_s = await _talk(http, oracle)
        await settled(http)
        faults = [] if slowest_s < LONGEST_ANSWER_S else [f"a request took {slowest_s:.2f} s"]
        faults += await _kept(http, oracle) if name in USABLE else []
        if name not in USABLE and await listed(http, "done"):
            faults.append("something was made of it")
        server.forget()
        reasons = sorted({row["last_error"].partition(":")[0] for row in await replayed(http)})
        faults += await _kept(http, oracle)
        unreflected = await undone(http)
    await oracle.settle(url)
    return _Trial(verdict=oracle.verdict, reasons=reasons, faults=faults, unreflected=unreflected, slowest_s=slowest_s)


async def _talk(http: httpx2.AsyncClient, oracle: Oracle) -> float:
    """Start, store, ask for context and end; returns how long the slowest of it took, but for two.

    A machine may stand still for a moment; a service that waits for its model does so each time.
    """
    took_s: list[float] = []

    async def timed(path: str, **body: Any) -> Any:
        began = time.monotonic()
        answer = await _post(http, path, **body)
        took_s.append(time.monotonic() - began)
        return answer

    sessions = [{"user_id": user_id, "session_id": session_id} for user_id, session_id in oracle.all_sessions()]
    for session in sessions:
        await timed("/sessions/start", **session)
    for _ in range(TURNS):
        intent = oracle.intend()
        oracle.acknowledge(intent, (await timed("/memory/store", **intent.body))["turn_number"])
        await timed("/memory/context", user_id=intent.user_id, session_id=intent.session_id)
    for session in sessions:
        await timed("/sessions/end", **session)
    return sorted(took_s)[-3]


async def _kept(http: httpx2.AsyncClient, oracle: Oracle) -> list[str]:
    """Look at what was made of the sessions: one summary each, and no insight without turns that were stored."""
    faults = []
    for user_id in sorted({user_id for user_id, _ in oracle.all_sessions()}):
        summaries = (await _post(http, "/summaries", user_id=user_id, limit=1000))["summaries"]
        if len(summaries) > len({summary["session_id"] for summary in summaries}):
            faults.append(f"{user_id}: a session has two summaries")
        stored = {(intent.session_id, intent.number) for intent in oracle.open if intent.user_id == user_id}
        for insight in (await _post(http, "/insights", user_id=user_id))["insights"]:
            sources = {(source["session_id"], source["turn_number"]) for source in insight["sources"]}
            if not sources or not sources <= stored:
                faults.append(f"{user_id}: an insight rests on {sorted(sources)}")
    return faults


async def _post(http: httpx2.AsyncClient, path: str, **body: Any) -> Any:
    answer = await http.post(path, json=body)
    answer.raise_for_status()
    return answer.json()
