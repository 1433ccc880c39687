"""Models that do as they are told, alike for all services: answer, hang until released, fail, talk nonsense.

They really suspend: a fake that never does hides every race.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memory_service.errors import BadModelOutput, ModelUnavailable
from memory_service.llm.base import Excerpt, Finding, Findings
from memory_service.values import Turn

CANARY = re.compile(r"canary[a-z]+")
WORD = re.compile(r"word\d+")
BEYOND = 10_000
"""Added to the number of a turn it makes one that does not exist."""
HALF = 4


@dataclass
class Mood:
    """How the models of all services are."""

    state: Literal["well", "down", "nonsense"] = "well"
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.released.set()

    @property
    def held(self) -> bool:
        return not self.released.is_set()


async def give_way() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


class ScriptedReader:
    """A summary names whose it is and lists its turns; each turn gives one insight, and one more rests on no turn."""

    name, prompt_version = "scripted", "1"

    def __init__(self, mood: Mood) -> None:
        self._mood = mood
        self.prompts: list[str] = []
        self.holding = self.reflections_failed = self.compactions_failed = 0

    async def reflect(self, excerpt: Excerpt) -> Findings:
        known = [memory.text for memory in excerpt.known]
        self.prompts.append("\n".join([excerpt.earlier_summary, *_texts(excerpt.turns), *known]))
        try:
            await self._answer()
        except (ModelUnavailable, BadModelOutput):
            self.reflections_failed += 1
            raise
        insights = [Finding(text=_fact(turn), turns=(turn.seq,)) for turn in excerpt.turns]
        made_up = Finding(text="The user rests on nothing.", turns=(excerpt.turns[0].seq + BEYOND,))
        return Findings(
            summary=_listed(excerpt.earlier_summary, excerpt.turns), topics=("talk",), insights=(*insights, made_up)
        )

    async def compact(self, earlier_summary: str, turns: Sequence[Turn]) -> str:
        self.prompts.append("\n".join([earlier_summary, *_texts(turns)]))
        try:
            await self._answer()
        except (ModelUnavailable, BadModelOutput):
            self.compactions_failed += 1
            raise
        return _listed(earlier_summary, turns)

    async def _answer(self) -> None:
        await give_way()
        self.holding += 1
        try:
            await self._mood.released.wait()
        finally:
            self.holding -= 1
        if self._mood.state == "down":
            raise ModelUnavailable("out of order")
        if self._mood.state == "nonsense":
            raise BadModelOutput("not what was asked for")

    def usage(self) -> dict[str, int]:
        return {"calls": len(self.prompts), "failures": 0, "prompt_tokens": 0, "completion_tokens": 0}


class TaggedEmbedder:
    """Each space has a half of the row for itself, so a vector tells which one it is of."""

    keyword_weight = 0.7
    local = True

    def __init__(self, mood: Mood, number: int) -> None:
        self._mood, self._number = mood, number
        self.space = f"space{number}"
        self.texts: list[str] = []
        self.failed = 0

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        await give_way()
        if self._mood.state == "down":
            self.failed += 1
            raise ModelUnavailable("out of order")
        rows = np.zeros((len(texts), 2 * HALF), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[self.half] = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=HALF).digest(), np.uint8)
            row[self.half] += 1
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    @property
    def half(self) -> slice:
        return slice(0, HALF) if self._number % 2 else slice(HALF, 2 * HALF)

    def usage(self) -> dict[str, int]:
        return {"calls": len(self.texts), "failures": self.failed, "prompt_tokens": 0}


def _texts(turns: Sequence[Turn]) -> list[str]:
    return [message.content for turn in turns for message in turn.messages]


def _fact(turn: Turn) -> str:
    said = "\n".join(_texts([turn]))
    return f"{_found(CANARY, said)} prefers to all others that were ever named {_found(WORD, said)}"


def _listed(earlier: str, turns: Sequence[Turn]) -> str:
    """The summary so far with the numbers of these turns; `turns_told` reads them."""
    begun = earlier or f"{_found(CANARY, ' '.join(_texts(turns)))} said"
    return " ".join([begun, *(str(turn.seq) for turn in turns)])


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    assert found is not None, text
    return found[0]


def turns_told(summary: str) -> list[int]:
    """Numbers of the turns that a scripted summary covers, in its order."""
    return [int(number) for number in summary.split()[2:]]
