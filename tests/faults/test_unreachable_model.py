"""A model whose name does not resolve, whose port speaks no TLS or does not answer: nobody notices but the operator."""

from __future__ import annotations

import asyncio

import pytest

from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, ModelServer
from tests.faults.conftest import MakeProcess
from tests.faults.doors import Answer, Door, started
from tests.faults.test_model_outage import Timed, provenance
from tests.support.background import until

USERS = ("ana", "ben", "cem")
AT_ONCE_S = 3.0
"""Less than it takes to give up connecting."""
NOWHERE = {
    "a name that does not resolve": ("http://model.invalid/v1", "ConnectError"),
    "a port that speaks no TLS": ("https://127.0.0.1:{port}/v1", "ConnectError"),
    "a port where nobody listens": ("http://127.0.0.1:{unused}/v1", "ConnectError"),
}


@pytest.mark.parametrize("place", NOWHERE)
async def test_an_endpoint_that_cannot_be_reached_holds_up_nobody_and_what_waits_is_read_once_it_can(
    make_process: MakeProcess, model: ModelServer, unused_tcp_port: int, place: str
) -> None:
    url, error = NOWHERE[place]
    url = url.format(port=model.url.rpartition(":")[2], unused=unused_tcp_port)
    settings = {
        "OPENAI_API_KEY": API_KEY,
        "OPENAI_MODEL": CHAT_MODEL,
        "REFLECTION_RETRY_SECONDS": "0.05",
        "SWEEP_INTERVAL_SECONDS": "0.2",
        "BREAKER_FAILURES": "3",
        "BREAKER_REST_SECONDS": "0.5",
        "REFLECTION_MAX_ATTEMPTS": "1000",
    }
    process = make_process(**settings, OPENAI_BASE_URL=url)
    await started(process)
    timed = Timed()
    async with Door(process.url) as door:
        await door.post("/memory/retrieve", user_id="nobody", query="The first of a process takes longer")
        for user_id in USERS:
            await timed(door.start(user_id, "s"))
            for number in range(3):
                await timed(door.store(user_id, "s", f"I prefer {user_id} number {number}."))
                await timed(door.context(user_id, "s"))
                await timed(door.post("/memory/retrieve", user_id=user_id, query=f"number {number}"))
            assert (await timed(door.end(user_id, "s")))["reflection"] == "pending"

        async def told() -> Answer | None:
            stats: Answer = (await door.get("/stats"))["reflection"]
            return stats if stats["breaker"] in ("open", "half-open") else None

        assert (await until(told))["failed_attempts"] >= 3
        tried = [await timed(door.reflection(user_id, "s")) for user_id in USERS]
        assert {one["reflection"] for one in tried} == {"pending"}
        assert any(error in (one["last_error"] or "") and "OPENAI_BASE_URL" in one["last_error"] for one in tried)
        assert await timed(door.summaries("ana")) == []
        assert (await door.get("/reflections", state="pending"))["count"] == len(USERS)
        assert timed.slowest_s < AT_ONCE_S
    assert await asyncio.to_thread(process.stop) == 0
    assert "Traceback" not in process.log.read_text()

    process = make_process(**settings, OPENAI_BASE_URL=model.openai_url)  # somebody mended the setting
    await started(process)
    async with Door(process.url) as door:
        for user_id in USERS:
            await until(lambda user_id=user_id: door.reflected(user_id, "s"))
            assert provenance(await door.insights(user_id)) == [("s", seq) for seq in (1, 2, 3)]
        assert (await door.get("/stats"))["reflection"]["breaker"] == "closed"
