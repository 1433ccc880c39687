"""The scheduler: what is asked for runs, once, a few at a time, and a shutdown neither loses nor starts work.

No test sleeps: jobs wait for events, and say what they did.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from memory_service.scheduler import Calm, Scheduler, no_requests
from tests.support.background import until

PATIENCE_S = 10


@asynccontextmanager
async def started(
    concurrency: int = 4, grace_s: float = PATIENCE_S, calm: Calm = no_requests
) -> AsyncIterator[Scheduler]:
    """A running scheduler; leaving the block is the shutdown."""
    async with AsyncExitStack() as stack:
        scheduler = Scheduler(concurrency=concurrency, grace_s=grace_s, calm=calm)
        await scheduler.start(stack)
        yield scheduler


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    async with asyncio.timeout(PATIENCE_S), started() as scheduler:
        yield scheduler


class Work:
    """A job that tells when it runs, and runs until it is let go."""

    def __init__(self, *, free: bool = False) -> None:
        self.runs = self.ended = self.now = self.most_at_once = 0
        self.cancelled = 0
        self._change = asyncio.Condition()
        self._free = asyncio.Event()
        if free:
            self.let_go()

    async def __call__(self) -> None:
        self.runs += 1
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            async with self._change:
                self._change.notify_all()
            await self._free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
            self.ended += 1
        async with self._change:
            self._change.notify_all()

    def let_go(self) -> None:
        self._free.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self._change:
            await self._change.wait_for(true)

    async def began(self, times: int = 1) -> None:
        await self.until(lambda: self.runs >= times)

    async def done(self, times: int = 1) -> None:
        await self.until(lambda: self.ended >= times)


async def a_while() -> None:
    """Rounds of the loop enough for anything that was about to happen."""
    for _ in range(50):
        await asyncio.sleep(0)


async def idle(scheduler: Scheduler) -> None:
    await until(lambda: not scheduler.stats()["waiting"] and not scheduler.stats()["running"])
    await a_while()


# While there are requests


class Requests:
    """They take all the time until they are over; says who waits for that, and for how long at most."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.waited_for: list[float] = []

    async def calm(self, longest_s: float) -> None:
        self.waited_for.append(longest_s)
        await self.over.wait()


async def test_a_patient_job_waits_for_a_pause_in_the_requests_and_holds_up_no_other() -> None:
    requests = Requests()
    async with started(concurrency=1, calm=requests.calm) as scheduler:
        patient, other = Work(free=True), Work(free=True)
        for number in range(3):
            scheduler.soon(f"patient {number}", patient, patient=True)
        scheduler.soon("patient 0", patient, patient=True)
        scheduler.soon("other", other)
        await other.done()
        assert patient.runs == 0
        assert scheduler.stats()["waiting"] == 3
        assert len(requests.waited_for) == 1, "only the first in line looks"
        requests.over.set()
        await patient.done(3)
        await idle(scheduler)
        assert patient.runs == 3


async def test_a_patient_job_that_is_asked_for_while_it_runs_is_patient_again() -> None:
    requests = Requests()
    requests.over.set()
    async with started(calm=requests.calm) as scheduler:
        work = Work()
        scheduler.soon("a job", work, patient=True)
        await work.began()
        requests.over.clear()
        scheduler.soon("a job", work, patient=True)
        work.let_go()
        await until(lambda: len(requests.waited_for) == 2)
        assert work.runs == 1
        requests.over.set()
        await work.done(2)


async def test_who_is_not_patient_does_not_wait_as_one_who_was() -> None:
    requests = Requests()
    async with started(concurrency=1, calm=requests.calm) as scheduler:
        work = Work()
        scheduler.soon("a job", work, patient=True)
        await until(lambda: requests.waited_for)
        scheduler.soon("a job", work)
        await work.began()
        requests.over.set()  # whose place was taken has nothing left to do
        work.let_go()
        await idle(scheduler)
        assert work.runs == 1


async def test_of_a_patient_one_that_waits_for_a_slot_by_now_there_is_no_second() -> None:
    requests = Requests()
    requests.over.set()
    async with started(concurrency=1, calm=requests.calm) as scheduler:
        other, work = Work(), Work(free=True)
        scheduler.soon("other", other)
        await other.began()
        scheduler.soon("a job", work, patient=True)
        await until(lambda: not scheduler._waiting["a job"])
        scheduler.soon("a job", work)
        other.let_go()
        await work.done()
        await idle(scheduler)
        assert work.runs == 1


async def test_what_is_done_every_so_often_is_left_out_while_it_is_being_done() -> None:
    async with started() as scheduler:
        work = Work()
        scheduler.soon("a job", work)
        await work.began()
        ticks = Work(free=True)
        scheduler.every(0.001, "another", ticks)
        scheduler.every(0.001, "a job", work)
        await ticks.done(20)
        assert work.runs == 1
        work.let_go()
        await work.done(3)
        assert work.most_at_once == 1


async def test_what_rings_at_a_time_may_be_patient() -> None:
    requests = Requests()
    async with started(calm=requests.calm) as scheduler:
        work = Work(free=True)
        scheduler.at(datetime.now(UTC), "a job", work, patient=True)
        await until(lambda: requests.waited_for)
        assert work.runs == 0
        requests.over.set()
        await work.done()


@pytest.mark.parametrize("then", [[True, False], [False, True]])
async def test_a_patient_job_that_runs_is_run_at_once_again_if_any_who_asks_is_not_patient(then: list[bool]) -> None:
    requests = Requests()
    requests.over.set()
    async with started(calm=requests.calm) as scheduler:
        work = Work()
        scheduler.soon("a job", work, patient=True)
        await work.began()
        requests.over.clear()
        for patient in then:
            scheduler.soon("a job", work, patient=patient)
        work.let_go()
        await work.done(2)
        assert len(requests.waited_for) == 1


async def test_patience_has_an_end_and_those_who_waited_in_line_have_less_of_it_left() -> None:
    asked: list[float] = []

    async def calm(longest_s: float) -> None:
        asked.append(longest_s)
        await asyncio.sleep(0.02)  # it gives up: the requests go on

    async with started(calm=calm) as scheduler:
        work = Work(free=True)
        for number in range(3):
            scheduler.soon(f"job {number}", work, patient=True)
        await work.done(3)
    assert asked[0] > asked[1] > asked[2] > 0
    assert asked[2] <= asked[0] - 0.03


async def test_a_shutdown_does_not_wait_for_a_pause_in_the_requests() -> None:
    requests = Requests()
    work = Work(free=True)
    async with started(calm=requests.calm) as scheduler:
        scheduler.soon("a job", work, patient=True)
        await until(lambda: requests.waited_for)
    assert work.runs == 0


# Now


async def test_what_is_asked_for_soon_runs(scheduler: Scheduler) -> None:
    work = Work(free=True)
    scheduler.soon("a job", work)
    await work.done()
    await idle(scheduler)
    assert scheduler.stats() == {"waiting": 0, "running": 0, "completed": 1, "failed": 0}


async def test_asking_does_not_run_it_there_and_then(scheduler: Scheduler) -> None:
    work = Work(free=True)
    scheduler.soon("a job", work)
    assert work.runs == 0
    assert scheduler.stats()["waiting"] == 1
    await work.done()


async def test_the_same_job_can_be_asked_for_again_and_again(scheduler: Scheduler) -> None:
    work = Work(free=True)
    for times in range(1, 6):
        scheduler.soon("a job", work)
        await work.done(times)
        await idle(scheduler)
    assert work.runs == 5


async def test_a_job_that_waits_is_not_queued_twice() -> None:
    async with started(concurrency=1) as scheduler:
        first, second = Work(), Work(free=True)
        scheduler.soon("first", first)
        await first.began()
        for _ in range(5):
            scheduler.soon("second", second)
        assert scheduler.stats()["waiting"] == 1
        assert len(scheduler._tasks) == 2
        first.let_go()
        await second.done()
        await idle(scheduler)
        assert second.runs == 1


async def test_a_job_asked_for_before_the_first_round_of_the_loop_is_not_queued_twice(scheduler: Scheduler) -> None:
    work = Work(free=True)
    for _ in range(5):
        scheduler.soon("a job", work)
    await work.done()
    await idle(scheduler)
    assert work.runs == 1


async def test_a_job_asked_for_while_it_runs_is_run_once_more_however_often(scheduler: Scheduler) -> None:
    """It may have looked already at what it is asked to look at now."""
    work = Work()
    scheduler.soon("a job", work)
    await work.began()
    for _ in range(5):
        scheduler.soon("a job", work)
    assert work.runs == 1
    work.let_go()
    await work.done(2)
    await idle(scheduler)
    assert (work.runs, work.most_at_once) == (2, 1)


async def test_a_job_that_asks_for_itself_at_its_end_is_run_again(scheduler: Scheduler) -> None:
    runs = 0
    enough = asyncio.Event()

    async def again() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            scheduler.soon("again", again)
        else:
            enough.set()

    scheduler.soon("again", again)
    await enough.wait()
    await idle(scheduler)
    assert runs == 4


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_jobs_run_at_once_than_may(concurrency: int) -> None:
    async with started(concurrency=concurrency) as scheduler:
        work = Work()
        for number in range(10):
            scheduler.soon(f"job {number}", work)
        await work.began(concurrency)
        await a_while()
        assert scheduler.stats()["running"] == concurrency
        assert scheduler.stats()["waiting"] == 10 - concurrency
        work.let_go()
        await work.done(10)
        assert (work.runs, work.most_at_once) == (10, concurrency)


async def test_jobs_of_different_names_run_side_by_side(scheduler: Scheduler) -> None:
    one, other = Work(), Work(free=True)
    scheduler.soon("one", one)
    await one.began()
    scheduler.soon("other", other)
    await other.done()
    assert one.now == 1
    one.let_go()


# At a time


async def test_a_job_rings_when_its_time_comes(scheduler: Scheduler) -> None:
    work = Work(free=True)
    scheduler.at(datetime.now(UTC) + timedelta(milliseconds=20), "a job", work)
    assert work.runs == 0
    await work.done()
    assert work.runs == 1


async def test_a_job_whose_time_is_long_past_rings_at_once(scheduler: Scheduler) -> None:
    """APScheduler drops what is over a second late unless told not to."""
    work = Work(free=True)
    scheduler.at(datetime.now(UTC) - timedelta(days=1), "a job", work)
    await work.done()


async def test_a_job_that_is_to_ring_later_does_not_hold_back_the_same_one_now(scheduler: Scheduler) -> None:
    work = Work(free=True)
    scheduler.at(datetime.now(UTC) + timedelta(hours=1), "a job", work)
    scheduler.soon("a job", work)
    await work.done()
    await idle(scheduler)
    assert work.runs == 1
    assert scheduler.stats()["waiting"] == 0


async def test_a_job_that_rings_while_it_runs_is_run_once_more(scheduler: Scheduler) -> None:
    work = Work()
    scheduler.soon("a job", work)
    await work.began()
    scheduler.at(datetime.now(UTC) - timedelta(seconds=1), "a job", work)
    await a_while()
    work.let_go()
    await work.done(2)
    await idle(scheduler)
    assert (work.runs, work.most_at_once) == (2, 1)


# Every so often


async def test_a_job_runs_every_so_often(scheduler: Scheduler) -> None:
    work = Work(free=True)
    scheduler.every(0.01, "tick", work)
    await work.done(3)
    assert work.most_at_once == 1


async def test_an_interval_goes_on_after_a_failure(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    fine = Work(free=True)

    async def tick() -> None:
        await fine()
        raise ZeroDivisionError

    scheduler.every(0.01, "tick", tick)
    await fine.done(3)


async def test_full_slots_do_not_hold_back_what_runs_every_so_often() -> None:
    async with started(concurrency=1) as scheduler:
        slow, tick = Work(), Work(free=True)
        scheduler.soon("slow", slow)
        await slow.began()
        scheduler.every(0.01, "tick", tick)
        await tick.done(2)
        slow.let_go()


async def test_what_runs_every_so_often_never_runs_twice_at_once(scheduler: Scheduler) -> None:
    slow, tick = Work(), Work(free=True)
    scheduler.every(0.01, "slow", slow)
    scheduler.every(0.01, "tick", tick)
    await slow.began()
    await tick.done(tick.runs + 3)  # three more intervals have gone by
    assert slow.runs == 1
    slow.let_go()
    await slow.done(2)
    assert slow.most_at_once == 1


async def test_asking_for_what_runs_every_so_often_while_it_runs_is_not_lost(scheduler: Scheduler) -> None:
    work = Work()
    scheduler.every(0.01, "sweep", work)
    await work.began()
    scheduler.soon("sweep", work)
    work.let_go()
    await work.done(2)


# Failure


async def test_a_failing_job_stops_neither_the_others_nor_itself(scheduler: Scheduler) -> None:
    fails, work = Work(free=True), Work(free=True)

    async def failing() -> None:
        await fails()
        raise ZeroDivisionError

    for times in range(1, 4):
        scheduler.soon("failing", failing)
        scheduler.soon("working", work)
        await fails.done(times)
        await work.done(times)
        await idle(scheduler)
    assert scheduler.stats() == {"waiting": 0, "running": 0, "completed": 3, "failed": 3}


async def test_a_failing_job_gives_its_slot_back() -> None:
    async with started(concurrency=1) as scheduler:
        work = Work(free=True)

        async def failing() -> None:
            raise ZeroDivisionError

        for number in range(5):
            scheduler.soon(f"failing {number}", failing)
        scheduler.soon("working", work)
        await work.done()


async def test_a_failure_is_logged_with_its_traceback_and_without_the_jobs_arguments(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def failing() -> None:
        raise ZeroDivisionError

    scheduler.soon("reflect default/ana-the-user", failing)
    scheduler.at(datetime.now(UTC) - timedelta(hours=1), "compact default/ana-the-user/her-session", failing)
    await until(lambda: scheduler.stats()["failed"] == 2)
    failures = [record for record in caplog.records if record.name == "memory_service.scheduler"]
    assert {(record.levelname, record.getMessage()) for record in failures} == {("ERROR", "background job failed")}
    assert sorted(str(vars(record).get("job")) for record in failures) == ["compact", "reflect"]
    assert all(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in failures)
    formatter = logging.Formatter("%(name)s %(message)s")
    assert "ana-the-user" not in "\n".join(map(formatter.format, caplog.records))
    assert all("ana-the-user" not in str(vars(record).get("job")) for record in caplog.records)


# Shutdown


async def test_what_runs_at_shutdown_may_finish_within_the_grace() -> None:
    work = Work()
    async with started() as scheduler:
        scheduler.soon("a job", work)
        await work.began()
        asyncio.get_running_loop().call_soon(work.let_go)
    assert (work.runs, work.ended, work.cancelled) == (1, 1, 0)
    assert scheduler.stats() == {"waiting": 0, "running": 0, "completed": 1, "failed": 0}


async def test_what_outlasts_the_grace_is_cut_short_and_has_ended_when_shutdown_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Work()
    async with started(grace_s=0.01) as scheduler:
        scheduler.soon("one ana", work)
        scheduler.soon("other ana", work)
        await work.began(2)
    assert (work.ended, work.cancelled, work.now) == (2, 2, 0)
    (warning,) = [record for record in caplog.records if record.getMessage() == "background jobs cut short"]
    assert warning.jobs == 2  # type: ignore[attr-defined]


async def test_one_that_is_cut_short_may_still_put_things_in_order() -> None:
    in_order = asyncio.Event()
    began = asyncio.Event()

    async def careful() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            await a_while()
            in_order.set()

    async with started(grace_s=0) as scheduler:
        scheduler.soon("careful", careful)
        await began.wait()
    assert in_order.is_set()


async def test_nothing_new_starts_during_or_after_shutdown() -> None:
    first, late = Work(), Work(free=True)
    async with AsyncExitStack() as stack:
        scheduler = Scheduler(concurrency=4, grace_s=PATIENCE_S)
        await scheduler.start(stack)
        scheduler.every(0.01, "tick", late)
        scheduler.soon("first", first)
        await first.began()
        await late.done()
        runs = late.runs
        stopping = asyncio.create_task(stack.aclose())
        await asyncio.sleep(0)
        scheduler.soon("late", late)
        scheduler.soon("first", first)  # one that runs: not once more either
        scheduler.at(datetime.now(UTC) - timedelta(hours=1), "late too", late)
        await a_while()
        assert not stopping.done()
        first.let_go()
        await stopping
    scheduler.soon("late", late)
    scheduler.at(datetime.now(UTC), "late too", late)
    await a_while()
    assert (first.runs, first.ended) == (1, 1)
    assert late.runs == runs
    assert scheduler.stats()["waiting"] == 0


@pytest.mark.parametrize("grace_s", [PATIENCE_S, 0], ids=["finished", "cut short"])
async def test_jobs_that_wait_for_a_slot_do_not_start_after_shutdown(
    grace_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    first, waiting = Work(), Work(free=True)
    async with started(concurrency=1, grace_s=grace_s) as scheduler:
        scheduler.soon("first", first)
        await first.began()
        for number in range(20):
            scheduler.soon(f"waiting {number}", waiting)
        await a_while()
        asyncio.get_running_loop().call_later(0.01, first.let_go)
    await a_while()
    assert first.ended == 1
    assert waiting.runs == 0


async def test_a_job_asked_for_just_before_shutdown_does_not_start_after_it() -> None:
    work = Work(free=True)
    async with started() as scheduler:
        scheduler.soon("a job", work)
    await a_while()
    runs = work.runs
    await a_while()
    assert runs == work.ended == 0


async def test_what_runs_every_so_often_has_ended_too_when_shutdown_is_over() -> None:
    """It works with what is closed next."""
    finishes, outlasts = Work(), Work()
    async with started(grace_s=0.5) as scheduler:
        scheduler.every(0.01, "finishes", finishes)
        scheduler.every(0.01, "outlasts", outlasts)
        await finishes.began()
        await outlasts.began()
        asyncio.get_running_loop().call_soon(finishes.let_go)
    assert (finishes.now, finishes.cancelled) == (0, 0)
    assert (outlasts.now, outlasts.cancelled) == (0, 1)


async def test_a_job_still_to_ring_does_not_hold_up_shutdown() -> None:
    work = Work(free=True)
    async with asyncio.timeout(PATIENCE_S):
        async with started() as scheduler:
            scheduler.at(datetime.now(UTC) + timedelta(hours=1), "a job", work)
    assert work.runs == 0


async def test_shutdown_does_not_log_what_it_cut_short_as_errors(caplog: pytest.LogCaptureFixture) -> None:
    running, waiting = Work(), Work(free=True)
    async with started(concurrency=1, grace_s=0) as scheduler:
        scheduler.soon("running", running)
        scheduler.every(0.01, "every so often", running)
        await running.began(2)
        for number in range(20):
            scheduler.soon(f"waiting {number}", waiting)
        await a_while()
    await a_while()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_job_that_needs_no_slot_does_not_wait_for_those_that_do() -> None:
    release, done = asyncio.Event(), asyncio.Event()

    async def finish() -> None:
        done.set()

    async with started(concurrency=1) as scheduler:
        scheduler.soon("slow", release.wait)
        scheduler.soon("queued", release.wait)
        scheduler.soon("free", finish, slotted=False)
        async with asyncio.timeout(5):
            await done.wait()
        assert scheduler.stats()["waiting"] == 1
        release.set()
