"""What was asked of a service and what it acknowledged, to be held against what it still knows after a crash."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import httpx2
from msgspec import Struct, field

USERS = 3
SESSIONS_PER_USER = 3


class Intent(Struct):
    """One turn that was sent; `number` is what the answer said, None as long as there was none."""

    user_id: str
    session_id: str
    turn_id: str
    body: dict[str, Any]
    number: int | None = None


class Verdict(Struct):
    """Sums over a run. `lost`: acknowledged and not there. `doubled`: there twice, or out of order."""

    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    unknown_landed: int = 0
    details: list[str] = field(default_factory=list)

    def fault(self, kind: str, detail: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.details.append(f"{kind}: {detail}")


class Oracle:
    """Keeps the record of one run: intents before they are sent, numbers when they are answered."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._made = 0
        self._sessions = {
            user_id: [self._new_session(user_id) for _ in range(SESSIONS_PER_USER)]
            for user_id in (f"user-{n}" for n in range(USERS))
        }
        self.open: list[Intent] = []
        self.numbers: dict[tuple[str, str], set[int]] = {}
        self.verdict = Verdict()

    def _new_session(self, user_id: str) -> str:
        self._made += 1
        return f"{user_id}-s{self._made}"

    def intend(self) -> Intent:
        """Make up a turn of one of the sessions, and note it before anybody hears of it."""
        user_id = self._chance.choice(sorted(self._sessions))
        session_id = self._chance.choice(self._sessions[user_id])
        self._made += 1
        turn_id = f"t{self._made}"
        padding = "x" * self._chance.randrange(400)
        body = {
            "user_id": user_id,
            "session_id": session_id,
            "turn_id": turn_id,
            "user_message": f"I'm going to remember {turn_id}.\nassistant: a second line {padding}",
            "agent_message": f"Noted {turn_id}.",
        }
        intent = Intent(user_id, session_id, turn_id, body)
        self.open.append(intent)
        return intent

    def some_session(self) -> tuple[str, str]:
        user_id = self._chance.choice(sorted(self._sessions))
        return user_id, self._chance.choice(self._sessions[user_id])

    def replaced(self, user_id: str, ended: str) -> str:
        """Name the session that takes the place of one that was ended."""
        sessions = self._sessions[user_id]
        if ended in sessions:
            sessions[sessions.index(ended)] = self._new_session(user_id)
        return self._chance.choice(sessions)

    def all_sessions(self) -> Iterator[tuple[str, str]]:
        return ((user_id, session_id) for user_id, sessions in self._sessions.items() for session_id in sessions)

    def acknowledge(self, intent: Intent, number: int) -> None:
        intent.number = number
        self.verdict.acknowledged += 1

    async def settle(self, url: str) -> None:
        """Ask again for every turn sent since the last time, and hold the answers against what was acknowledged.

        An acknowledged turn must be there, once, under its number. One without an answer may have landed or
        not; asking again settles which.
        """
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
            numbers = await asyncio.gather(*(self._settled(http, intent) for intent in self.open))
            for session in sorted(self._note(numbers)):
                await self._check_dense(http, session)
        self.open.clear()

    def _note(self, numbers: list[int | None]) -> set[tuple[str, str]]:
        """Keep the numbers of the turns that are there; returns the sessions they belong to."""
        touched = set()
        for intent, number in zip(self.open, numbers, strict=True):
            session = intent.user_id, intent.session_id
            touched.add(session)
            if number is not None:
                seen = self.numbers.setdefault(session, set())
                if number in seen:
                    self.verdict.fault("doubled", f"number {number} of {session} twice")
                seen.add(number)
        return touched

    async def _settled(self, http: httpx2.AsyncClient, intent: Intent) -> int | None:
        answer = await http.post("/memory/store", json=intent.body)
        said = answer.json()
        if answer.status_code != 200:
            if intent.number is not None:
                self.verdict.fault("lost", f"{intent.turn_id}: {said.get('code')}")
            return None  # it had not landed, and its session is over
        if intent.number is None:
            self.verdict.unknown_landed += said["replayed"]
        elif not said["replayed"] or said["turn_number"] != intent.number:
            self.verdict.fault("lost", f"{intent.turn_id}: acknowledged as {intent.number}, now {said}")
        number: int = said["turn_number"]
        return number

    async def _check_dense(self, http: httpx2.AsyncClient, session: tuple[str, str]) -> None:
        user_id, session_id = session
        answer = await http.get(f"/sessions/{session_id}/reflection", params={"user_id": user_id})
        numbers = self.numbers.get(session, set())
        held = answer.json().get("turns_count", 0)
        if numbers != set(range(1, len(numbers) + 1)) or held != len(numbers):
            self.verdict.fault("doubled", f"{session}: {len(numbers)} turns known, {held} held, not dense")
