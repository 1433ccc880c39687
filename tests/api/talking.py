"""What these tests have in common: raw requests, answers held to their form, the record as it can be read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import httpx2

from client import MemoryServiceClient
from memory_service.context import PREAMBLE

AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
"""When things are said in these tests, where that matters."""
PATIENCE_S = 20
SAME = {"X-Request-Id": "same"}
"""Sent with two requests, it makes their refusals the same to the byte."""

START, END, STORE, CONTEXT = "/sessions/start", "/sessions/end", "/memory/store", "/memory/context"
RETRIEVE, INSIGHTS, SUMMARIES, STATS = "/memory/retrieve", "/insights", "/summaries", "/stats"
KNOWLEDGE, RECALL = "/knowledge", "/knowledge/recall"
ALL_KINDS = ["message", "chunk", "summary", "insight", "memory", "episode", "knowledge", "profile"]
HEADINGS = [
    "### Profile",
    "### Long-term Context",
    "### Recent Sessions",
    "### Past Interactions",
    "### Current Session Summary",
    "### Knowledge",
    "### Recent Conversation",
]
"""Of the sections of a context, in their order."""
BREAK = re.compile("\r\n|[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")


async def told(http: httpx2.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    """Post a body that must be served, and return the answer."""
    response = await http.post(path, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer: dict[str, Any] = response.json()
    return answer


def problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Hold a refusal to its form, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    refusal: dict[str, Any] = response.json()
    assert set(refusal) - {"errors"} == {
        "type",
        "title",
        "status",
        "code",
        "detail",
        "request_id",
        "error",
        "status_code",
    }
    assert refusal["code"] == code, refusal
    assert refusal["type"] == f"/problems/{code}"
    assert refusal["status"] == refusal["status_code"] == status
    assert refusal["title"]
    assert refusal["error"] == refusal["detail"] != ""
    assert refusal["request_id"] == response.headers["x-request-id"] != ""
    return refusal


async def settled(http: httpx2.AsyncClient | MemoryServiceClient) -> dict[str, Any]:
    """Wait until nothing is left to be done in the background; returns the counters."""
    async with asyncio.timeout(3 * PATIENCE_S):
        while True:
            stats = await _stats(http)
            if not stats["queues"]["waiting"] and not stats["queues"]["running"]:
                return stats


async def _stats(http: httpx2.AsyncClient | MemoryServiceClient) -> dict[str, Any]:
    if isinstance(http, MemoryServiceClient):
        return await http.stats()
    stats: dict[str, Any] = (await http.get("/stats")).json()
    return stats


async def commits(http: httpx2.AsyncClient | MemoryServiceClient) -> int:
    """How often anything was written, background included."""
    count: int = (await settled(http))["store"]["commits"]
    return count


async def everything(http: httpx2.AsyncClient, sessions: Iterable[tuple[str, str]], query: str) -> dict[str, Any]:
    """Read all there is to read of these sessions and their users, byte by byte, once the background is at rest."""
    await settled(http)
    read: dict[str, Any] = {}
    for user_id, session_id in sessions:
        one = {"user_id": user_id, "session_id": session_id}
        asked = {
            CONTEXT: one,
            RETRIEVE: {"user_id": user_id, "query": query, "top_k": 100, "kinds": ALL_KINDS},
            INSIGHTS: {"user_id": user_id},
            SUMMARIES: {"user_id": user_id, "limit": 1000},
        }
        for path, body in asked.items():
            read[f"{user_id}/{session_id}{path}"] = (await http.post(path, json=body, headers=SAME)).content
        state = await http.get(f"/sessions/{session_id}/reflection", params={"user_id": user_id}, headers=SAME)
        read[f"{user_id}/{session_id} reflection"] = state.content
    read["commits"] = await commits(http)
    return read


def spoken(answer: dict[str, Any]) -> list[str]:
    """The words of the live turns, in order."""
    return [message["content"] for message in answer["active_context"]]


def held_to_form(text: str, messages: int) -> list[str]:
    """Check that every line is where the service put it; returns the sections."""
    assert len(re.findall(r"<\s*/?\s*memory", text, re.IGNORECASE)) == 2
    assert text.startswith(f"<memory>\n{PREAMBLE}\n\n")
    assert text.endswith("\n</memory>")
    _, *sections = text.removesuffix("\n</memory>").split("\n\n")
    said = 0
    for section in sections:
        heading, *lines = BREAK.split(section)
        assert heading in HEADINGS
        said += sum(line.startswith(("USER", "ASSISTANT")) for line in lines)
        stray = [line for line in lines if not re.match(r"  |- |(USER|ASSISTANT)( \(|: )", line)]
        assert not stray
    headings = [section.partition("\n")[0] for section in sections]
    assert headings == [heading for heading in HEADINGS if heading in headings], "each once, in their order"
    assert said == messages
    return sections


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
