"""Several writers on a few sessions of a few users, until the service is gone."""

from __future__ import annotations

import asyncio
import random

import httpx2

from memory_service.chaos.oracle import Oracle

WRITERS = 8
END_SHARE = 0.02
ANSWER_S = 30


async def load(url: str, oracle: Oracle, chance: random.Random) -> None:
    """Store, end and read from several writers until the service is gone."""
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=ANSWER_S) as http:
        try:
            for user_id, session_id in list(oracle.all_sessions()):
                await _start(http, user_id, session_id)
        except httpx2.TransportError:
            return
        await asyncio.gather(*(_write(http, oracle, chance) for _ in range(WRITERS)))


async def _start(http: httpx2.AsyncClient, user_id: str, session_id: str) -> None:
    # restore: if an earlier answer to this was lost in a crash, it goes on
    await http.post("/sessions/start", json={"user_id": user_id, "session_id": session_id, "restore": True})


async def _write(http: httpx2.AsyncClient, oracle: Oracle, chance: random.Random) -> None:
    try:
        while True:
            if chance.random() < END_SHARE:
                user_id, session_id = oracle.some_session()
                await http.post("/sessions/end", json={"user_id": user_id, "session_id": session_id})
                await _start(http, user_id, oracle.replaced(user_id, session_id))
            intent = oracle.intend()
            answer = await http.post("/memory/store", json=intent.body)
            if answer.status_code == 200:
                oracle.acknowledge(intent, answer.json()["turn_number"])
    except httpx2.TransportError:
        return
