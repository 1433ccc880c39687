"""Having a stretch of a conversation read, in as many calls as its length needs. No I/O but the reader's."""

from __future__ import annotations

from collections.abc import Sequence

from memory_service.breaker import Breaker
from memory_service.llm.base import Excerpt, Finding, Findings, Reader
from memory_service.values import Memory, Turn

EXCERPT_CHARS = 48_000
"""Text one call reads; a longer stretch is read in several, each with the summary of those before."""
MOST_TOPICS = 8


class Reading:
    """Of one stretch, after an earlier summary, which has words of tools in it or not (`is_low`).

    What is learnt is learnt from what people and agents said. Of what tools said the reader is shown nothing then, nor
    of what rests on that, so that nothing there can make it write an insight, whichever turns it names for it. Where
    tools spoke it is asked for the summary apart, which tells of all.
    """

    def __init__(self, reader: Reader, breaker: Breaker, earlier_summary: str, *, is_low: bool) -> None:
        self._reader, self._breaker = reader, breaker
        self._summary = earlier_summary
        self._heard = "" if is_low else earlier_summary
        self._insights: list[Finding] = []
        self._topics: list[str] = []

    async def read(self, turns: Sequence[Turn], known: Sequence[Memory]) -> Findings:
        """`known` rests on no words of tools either. Turns that have no words any more are not read."""
        for part in parts_of([turn for turn in turns if turn.messages]):
            await self._read(part, tuple(known))
        return Findings(summary=self._summary, topics=tuple(self._topics[:MOST_TOPICS]), insights=tuple(self._insights))

    async def _read(self, part: tuple[Turn, ...], known: tuple[Memory, ...]) -> None:
        spoken = tuple(turn.without_low() for turn in part)
        tells_of_all = spoken == part and self._heard == self._summary
        if spoken == part or any(turn.messages for turn in spoken):
            await self._learn(Excerpt(turns=spoken, earlier_summary=self._heard, known=known))
        if tells_of_all:
            self._summary = self._heard
        else:
            with self._breaker.watched():
                self._summary = await self._reader.compact(self._summary, part)

    async def _learn(self, excerpt: Excerpt) -> None:
        with self._breaker.watched():
            findings = await self._reader.reflect(excerpt)
        self._heard = findings.summary
        self._insights += findings.insights
        self._topics += [topic for topic in findings.topics if topic not in self._topics]


def parts_of(turns: Sequence[Turn]) -> list[tuple[Turn, ...]]:
    """Cut a stretch into parts of whole turns that one call can read."""
    parts: list[list[Turn]] = []
    room = 0
    for turn in turns:
        length = sum(len(message.content) for message in turn.messages)
        if length > room or not parts:  # one whose words were erased has none
            parts.append([])
            room = max(EXCERPT_CHARS, length)
        parts[-1].append(turn)
        room -= length
    return [tuple(part) for part in parts]
