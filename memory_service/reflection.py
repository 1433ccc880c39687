"""Reading conversations in the background: compact a long one, reflect on a sitting.

Every job may be cut off anywhere and run twice: what is to be done is in the store, a claim is a versioned
commit, and all effects of a job are one commit that fails if the claim was overtaken. No lease on the
session is held while a model is asked.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from memory_service import extract
from memory_service.breaker import Breaker
from memory_service.consolidation import LONGEST_INSIGHT, consolidate
from memory_service.context import summary_id
from memory_service.errors import BadModelOutput, ModelError, ModelUnavailable, StaleVersion, Unavailable
from memory_service.learned import stated
from memory_service.llm.base import Finding, Findings, Reader
from memory_service.long_term import LongTermCache
from memory_service.points import Point, nowhere
from memory_service.pool import SessionPool
from memory_service.reading import Reading, parts_of
from memory_service.recall import Recall
from memory_service.redaction import Redactor
from memory_service.stores.base import ALL, Commit, Store
from memory_service.values import (
    EXTRACTIVE,
    Hot,
    Memory,
    Scope,
    Session,
    SessionKey,
    Sitting,
    Source,
    Trust,
    Turn,
    Value,
    derived_id,
    least,
)

logger = logging.getLogger(__name__)

KNOWN_INSIGHTS = 30
CHUNK_WORDS = 60
LEASE_MARGIN_S = 30.0


class Retry(Value, frozen=True, kw_only=True):
    """When a failed reflection is tried again: after `first_s`, then ever later, up to `longest_s`, with jitter."""

    first_s: float = 5
    max_attempts: int = 8
    longest_s: float = 3600

    def delay_s(self, attempts: int, wished_s: float | None, chance: Callable[[], float]) -> float:
        """Seconds to wait after so many attempts; a model's own wish is honoured, with jitter on top."""
        backoff = min(self.first_s * 5.0 ** min(attempts - 1, 20), self.longest_s)
        return min(wished_s or 0, self.longest_s) + backoff * (0.5 + 0.5 * chance())


class Reflector:
    def __init__(
        self,
        store: Store,
        pool: SessionPool,
        long_term: LongTermCache,
        recall: Recall,
        reader: Reader,
        *,
        buffer_turns: int,
        chunk_turns: int,
        timeout_s: float,
        retry: Retry,
        now: Callable[[], datetime],
        chance: Callable[[], float] = random.random,
        breaker: Breaker,
        point: Point = nowhere,
        redactor: Redactor,
    ) -> None:
        self._redactor = redactor
        self._point, self._breaker = point, breaker
        self._store, self._pool, self._long_term, self._recall, self._reader = store, pool, long_term, recall, reader
        self._buffer_turns, self._chunk_turns = buffer_turns, chunk_turns
        self._timeout_s, self._retry, self._now, self._chance = timeout_s, retry, now, chance
        self._watchers: dict[SessionKey, list[asyncio.Future[None]]] = {}
        self.reflected = self.failed = self.dead = self.insights_dropped = 0
        self.compacted = self.compactions_failed = 0

    # Compaction

    def needs_compaction(self, session: Session) -> bool:
        return session.status == "active" and session.live_turns >= 2 * self._buffer_turns

    async def compact(self, key: SessionKey) -> None:
        """Fold the live turns but the newest few into the cumulative summary, as many in one call as it can read.

        By whole multiples of `buffer_turns`, so that where it ends does not hang on when it began. If the model
        fails nothing changes, and the next turn asks for it again.
        """
        while True:
            epoch = await self._store.epoch(key.scope)
            read = (await self._pool.read(key)).hot
            if read is None or not self.needs_compaction(read.session) or self._breaker.wait_s():
                return
            count = (len(read.turns) // self._buffer_turns - 1) * self._buffer_turns
            oldest = parts_of(read.turns[:count])[0]
            clean, earlier = await self._cleaned(oldest, read.session.cumulative_summary)
            try:
                with self._breaker.watched():
                    summary = await self._reader.compact(earlier, clean)
            except ModelError as exc:
                logger.warning("compaction failed", extra={"reason": exc.code})
                self.compactions_failed += 1
                return
            self._point("in_compaction")
            if await self._fold(key, read.session, oldest, summary, epoch):
                self.compacted += 1

    async def _cleaned(self, turns: Sequence[Turn], summary: str) -> tuple[list[Turn], str]:
        """What may be read of these: all but secrets, which nothing that is derived shall hold."""
        return await asyncio.to_thread(lambda: ([*map(self._redactor.turn, turns)], self._redactor.text(summary)))

    async def _fold(self, key: SessionKey, read: Session, oldest: tuple[Turn, ...], summary: str, epoch: str) -> bool:
        """Commit a summary of these turns; returns whether the session is still where it was when they were read."""
        async with self._pool.lease(key) as entry:
            hot = entry.hot
            if hot is None or hot.session.live_after != read.live_after:
                return False  # it was compacted or begun afresh meanwhile
            session = hot.session.compacted(oldest[-1].seq, summary)
            then = Hot(session=session, turns=hot.turns[len(oldest) :])
            await self._pool.commit(key, entry, Commit(scope=key.scope, session=session, epoch=epoch), then)
        return True

    # Reflection

    async def reflect_due(self, scope: Scope) -> datetime | None:
        """Reflect on what is due of one user, one sitting after the other; returns when to look again, or None.

        To be run once at a time per user: what one sitting teaches, the next one knows.
        """
        again: list[datetime] = []
        while due := await self._store.due_reflections(self._now(), 10, scope):
            for _, sitting in due:
                if rest_s := self._breaker.wait_s():
                    return self._now() + timedelta(seconds=rest_s)
                retry_at = await self._reflect(SessionKey(scope=scope, session_id=sitting.session_id), sitting)
                if retry_at is not None:
                    again.append(retry_at)
        return min(again, default=None)

    async def _reflect(self, key: SessionKey, sitting: Sitting) -> datetime | None:
        """Claim a sitting and reflect on it; returns when to try again, or None."""
        claimed = sitting.claimed(self._now() + timedelta(seconds=self._timeout_s * 2 + LEASE_MARGIN_S))
        epoch = await self._store.epoch(key.scope)  # before anything is read: nothing erased since shall come back
        try:
            await self._store.commit(Commit(scope=key.scope, sittings=(claimed,)))
        except StaleVersion:
            return self._now()  # somebody else has it
        try:
            self._point("after_claim")
            if claimed.attempts > self._retry.max_attempts:
                # every attempt so far was cut off without a word, by a crash or a bug: the next would be too
                raise BadModelOutput("the reflection never came to an end")
            await self._read_and_commit(key, claimed, epoch)
        except ModelError as exc:
            return await self._give_back(key, claimed, exc)
        except asyncio.CancelledError:
            await self._release(key, claimed)
            raise
        except StaleVersion:
            return self._now()  # more turns were handed over, a memory was changed, or something was erased meanwhile
        finally:
            self._wake(key)
        self.reflected += 1
        return None

    async def _release(self, key: SessionKey, claimed: Sitting) -> None:
        """Give a claim back, if it is still ours."""
        with suppress(StaleVersion, Unavailable):
            await self._store.commit(Commit(scope=key.scope, sittings=(claimed.released(),)))

    async def _read_and_commit(self, key: SessionKey, sitting: Sitting, epoch: str) -> None:
        covered = sitting.reflect_after - sitting.first_seq + 1
        chunk_start = sitting.first_seq + covered // self._chunk_turns * self._chunk_turns
        turns = await self._store.turns(key, chunk_start - 1, sitting.through_seq - chunk_start + 1)
        turns, earlier_summary = await self._cleaned(turns, sitting.summary)
        unread = [turn for turn in turns if turn.seq > sitting.reflect_after]
        if not unread:
            raise StaleVersion  # they were erased since it was claimed
        known, settled = await self._known(key.scope, unread, epoch, anew=sitting.begun_anew > 0)
        trust = least([*(turn.trust for turn in unread), *([sitting.summary_trust] if sitting.summary else [])])
        shown = [self._redactor.memory(memory) for memory in known if memory.trust != "low"]
        reading = Reading(self._reader, self._breaker, earlier_summary, is_low=sitting.summary_trust == "low")
        findings = await reading.read(unread, shown)
        self._point("after_model")
        said = {turn.seq: turn for turn in unread if turn.messages}  # nothing rests on what is not there
        new = [_insight(key, sitting, place, one, said, self._reader) for place, one in enumerate(findings.insights)]
        times = [turn.created_at for turn in unread]  # in any order, where old talk is brought in
        started_at = min([*times, sitting.started_at] if sitting.started_at else times)
        summary = _summary(key, sitting, findings, started_at, max(times), self._reader, trust)
        chunks = await asyncio.to_thread(self._chunks, key, turns)
        others = [memory for memory in (summary, *chunks) if memory.text]  # nothing is left to tell of what is withheld
        held = await self._held(key.scope, known, settled, new, others)
        settled = [memory for memory in held.values() if memory.is_settled]
        known = [held[memory.memory_id] for memory in known]
        insights = await asyncio.to_thread(consolidate, findings.insights, known, new, settled)
        done = sitting.done(findings.summary, insights.added, started_at, trust)
        taken = {memory.memory_id for memory in settled}
        written = [memory for memory in (*others, *insights.memories) if memory.memory_id not in taken]
        unchanged = tuple(held[memory.memory_id] for memory in written if memory.memory_id in held)
        memories = tuple(written)
        commit = Commit(scope=key.scope, sittings=(done,), memories=memories, unchanged=unchanged, epoch=epoch)
        await self._write(commit, sitting)
        self._long_term.forget(key.scope)
        self.insights_dropped += insights.dropped

    async def _write(self, commit: Commit, claimed: Sitting) -> None:
        """Commit the effects. If a memory was changed, or something erased, the claim is given back, to read anew."""
        try:
            await self._store.commit(commit)
        except StaleVersion:
            again = claimed.failed("version_conflict: changed meanwhile", self._now())
            with suppress(StaleVersion, Unavailable):  # refused if it is the sitting that moved
                await self._store.commit(Commit(scope=commit.scope, sittings=(again,)))
            raise

    async def _known(
        self, scope: Scope, turns: Iterable[Turn], epoch: str, *, anew: bool
    ) -> tuple[list[Memory], list[Memory]]:
        """Insights held that these turns may touch, nearest first, those of low trust last; and all on which somebody
        had the last word: if the turns are read anew, what was deleted of what they taught, too.
        """
        forgotten = self._recall.forgotten
        insights = await self._store.memories(scope, ["insight"], limit=ALL if anew else 1000, superseded=anew)
        settled = [memory for memory in insights if memory.is_settled]
        held = {memory.memory_id: memory for memory in insights if memory.valid_to is None}
        if len(held) <= KNOWN_INSIGHTS:
            return _low_last(held.values()), settled
        said = " ".join(message.content for turn in turns for message in turn.messages if message.role == "user")
        found = await self._recall.among(
            scope, list(held.values()), said[-4000:], KNOWN_INSIGHTS, epoch=epoch, forgotten=forgotten
        )
        return _low_last(held[hit.item.id] for hit in found), settled

    async def _held(
        self, scope: Scope, known: Iterable[Memory], settled: Iterable[Memory], *made: Iterable[Memory]
    ) -> dict[str, Memory]:
        """What of these is on record, as it is now; what was known and is gone stays as it was, and will be refused."""
        read = {memory.memory_id: memory for memory in (*known, *settled)}
        ids = {*read, *(memory.memory_id for of_a_kind in made for memory in of_a_kind)}
        now = (await self._store.items(scope, ids, "")).memories
        return read | {memory.memory_id: memory for memory in now}

    def _chunks(self, key: SessionKey, turns: list[Turn]) -> list[Memory]:
        """One extract per so many turns; one that grew since it was written is written over."""
        blocks = [turns[i : i + self._chunk_turns] for i in range(0, len(turns), self._chunk_turns)]
        return [_chunk(key, block) for block in blocks]

    async def _give_back(self, key: SessionKey, sitting: Sitting, reason: ModelError) -> datetime | None:
        wished_s = reason.retry_after_s if isinstance(reason, ModelUnavailable) else None
        retry_at = None
        if sitting.attempts < self._retry.max_attempts:
            delay_s = self._retry.delay_s(sitting.attempts, wished_s, self._chance)
            retry_at = self._now() + timedelta(seconds=delay_s)
        failed = sitting.failed(f"{reason.code}: {reason}", retry_at)
        logger.warning("reflection failed", extra={"reason": reason.code, "attempts": sitting.attempts})
        self.failed += 1
        try:
            await self._store.commit(Commit(scope=key.scope, sittings=(failed,)))
        except StaleVersion:
            return self._now()  # more turns were handed over meanwhile: nothing is given up
        self.dead += retry_at is None
        return retry_at

    # Waiting for it

    async def attempt_ended(self, key: SessionKey, timeout_s: float) -> None:
        """Wait until an attempt at one of the session's sittings ends in this process, or the time is over."""
        future = asyncio.get_running_loop().create_future()
        self._watchers.setdefault(key, []).append(future)
        await asyncio.wait([future], timeout=timeout_s)
        future.cancel()

    def _wake(self, key: SessionKey) -> None:
        for future in self._watchers.pop(key, []):
            if not future.done():
                future.set_result(None)

    def stats(self) -> dict[str, Any]:
        return {
            "reflected": self.reflected,
            "failed_attempts": self.failed,
            "dead": self.dead,
            "compacted": self.compacted,
            "compactions_failed": self.compactions_failed,
            "insights_dropped": self.insights_dropped,
            "breaker": self._breaker.state,
        }


def _insight(
    key: SessionKey, sitting: Sitting, number: int, finding: Finding, said: dict[int, Turn], reader: Reader
) -> Memory:
    seqs = sorted({seq for seq in finding.turns if seq in said})
    return Memory(
        memory_id=derived_id(
            "insight", key.session_id, sitting.first_seq, sitting.through_seq, number, *_again(sitting)
        ),
        kind="insight",
        text=finding.text[:LONGEST_INSIGHT],
        created_at=said[seqs[-1]].created_at if seqs else max(turn.created_at for turn in said.values()),
        session_id=key.session_id,
        category=finding.category,
        confidence=finding.confidence,
        importance=finding.importance,
        sources=tuple(Source(session_id=key.session_id, seq=seq) for seq in seqs),
        model=reader.name,
        prompt_version=reader.prompt_version,
        metadata=stated(finding.field, finding.value),
        trust=least(said[seq].trust for seq in seqs),
    )


def _again(sitting: Sitting) -> tuple[int, ...]:
    """What tells insights of another reading of a sitting: those of the one before may be in quarantine."""
    return (sitting.begun_anew,) if sitting.begun_anew else ()


def _summary(
    key: SessionKey,
    sitting: Sitting,
    findings: Findings,
    started_at: datetime,
    ended_at: datetime,
    reader: Reader,
    trust: Trust,
) -> Memory:
    return Memory(
        memory_id=summary_id(key.session_id, sitting.first_seq),
        kind="summary",
        text=findings.summary,
        created_at=ended_at,
        session_id=key.session_id,
        sources=tuple(Source(session_id=key.session_id, seq=seq) for seq in (sitting.first_seq, sitting.through_seq)),
        metadata={
            "topics": list(findings.topics),
            "started_at": started_at.isoformat(),
            "turn_count": sitting.turns_count,
        },
        model=reader.name,
        prompt_version=reader.prompt_version,
        trust=trust,
    )


def _low_last(memories: Iterable[Memory]) -> list[Memory]:
    return sorted(memories, key=lambda memory: memory.trust == "low")


def _chunk(key: SessionKey, turns: list[Turn]) -> Memory:
    spoken = extract.said(turns)
    return Memory(
        memory_id=derived_id("chunk", key.session_id, turns[0].seq),
        kind="chunk",
        text=extract.extract("", spoken, CHUNK_WORDS),
        created_at=turns[-1].created_at,
        session_id=key.session_id,
        sources=tuple(Source(session_id=key.session_id, seq=turn.seq) for turn in turns if turn.messages),
        metadata={"topics": list(extract.topics(spoken)), "entities": list(extract.entities(spoken))},
        model=EXTRACTIVE,
        trust=least(turn.trust for turn in turns),
    )
