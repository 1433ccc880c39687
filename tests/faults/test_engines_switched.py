"""Drivers are switched while callers write: each of them finds the same, at once and afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.automem.launcher import AutoMemServer
from tests.faults.engines import PATIENCE_S, World, beside_engines

WAYS: list[list[str]] = [["pgvector"], ["automem"], [], ["automem", "pgvector"], ["pgvector", "automem"], ["builtin"]]
QUESTIONS = ("said", "noted", "once", "here", "I said it once", "noted here")


async def switch(world: World, drivers: list[str]) -> None:
    answer = await world.http.post("/drivers/switch", json={"drivers": drivers})
    assert answer.status_code == 200, answer.text
    assert answer.json()["asked"] == [name for name in drivers if name != "builtin"]


async def found(world: World, user: str, question: str) -> dict[str, str]:
    """What bears a word of the question, by id."""
    body = {"user_id": user, "query": question, "top_k": 100}
    degraded = ["driver"]
    async with asyncio.timeout(PATIENCE_S):
        while degraded == ["driver"]:  # on a machine that stands still an engine may be too late
            answer = (await world.http.post("/memory/retrieve", json=body)).json()
            degraded = answer["degraded"]
    assert degraded == []
    words = set(question.lower().split())
    return {one["id"]: one["text"] for one in answer["results"] if words & set(one["text"].lower().split())}


async def all_found(world: World) -> dict[Any, dict[str, str]]:
    asked = [(writer.name, question) for writer in world.writers for question in QUESTIONS]
    return dict(zip(asked, await asyncio.gather(*(found(world, *one) for one in asked)), strict=True))


async def test_switching_under_load_gives_the_same(
    tmp_path: Path, postgres_url: str, automem_server: AutoMemServer
) -> None:
    settings = {"DATABASE_URL": postgres_url, "AUTOMEM_URL": automem_server.url}
    async with beside_engines(tmp_path, "builtin", **settings) as world:
        async with world.writing():
            for way in WAYS:
                await switch(world, way)
                labels = await world.a_while(3)
                assert labels[""] > 0
                assert set(labels) <= {"", "driver"}
        await world.caught_up()
        told = {}
        for way in WAYS:
            await switch(world, way)
            before = await world.answered()
            told[",".join(way)] = await all_found(world)
            by_engine = await world.answered() - before
            asked = len(world.writers) * len(QUESTIONS)
            assert by_engine >= asked if set(way) - {"builtin"} else by_engine == 0
        alone = told.pop("builtin")
        for writer in world.writers:
            assert len(alone[writer.name, "said"]) == writer.said
        assert all(way == alone for way in told.values())
