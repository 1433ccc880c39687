"""What a service still has to reflect on, asked over HTTP."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import httpx2

PATIENCE_S = 30


async def settled(http: httpx2.AsyncClient) -> None:
    """Wait until no reflection is pending: each is done, or given up with a reason. As long as there are ever fewer."""
    fewest, until = sys.maxsize, time.monotonic() + PATIENCE_S
    while (left := len(await listed(http, "pending"))) and time.monotonic() < until:
        if left < fewest:
            fewest, until = left, time.monotonic() + PATIENCE_S
        await asyncio.sleep(0.1)


async def replayed(http: httpx2.AsyncClient) -> list[dict[str, Any]]:
    """Ask for what was given up anew, and wait until that is settled; returns what it was."""
    dead = await listed(http, "dead")
    for row in dead:
        session = {"user_id": row["user_id"], "session_id": row["session_id"]}
        (await http.post("/reflections/replay", json=session)).raise_for_status()
    await settled(http)
    return dead


async def undone(http: httpx2.AsyncClient) -> int:
    return len(await listed(http, "dead")) + len(await listed(http, "pending"))


async def listed(http: httpx2.AsyncClient, state: str) -> list[dict[str, Any]]:
    answer = await http.get("/reflections", params={"state": state, "limit": 1000})
    answer.raise_for_status()
    rows: list[dict[str, Any]] = answer.json()["reflections"]
    return rows
