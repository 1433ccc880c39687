"""The load: keep-alive connections, requests made beforehand, each answer timed. Runs in a process of its own.

Two drivers. Closed loop: each connection sends its next request when it has the answer to the last. Open
loop: requests fall due on a fixed schedule, and an answer's time counts from when it was due, so a server
that stalls is charged for all who would have come meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import selectors
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import cycle
from multiprocessing import get_context
from typing import Any, NamedTuple

import msgspec

from benchmarks.servers import cpu_seconds

LATE_S = 30
"""Answers that are not there so long after the end are errors."""
SERIAL_DIGITS = 12
SELECTABLE = 900
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STATUS = slice(9, 12)


class Request(NamedTuple):
    """Bytes to send. With a `tail`, a serial number of its own is put between head and tail each time it is sent."""

    name: str
    head: bytes
    tail: bytes | None = None


class Answer(NamedTuple):
    """`name` and `serial` are of the request."""

    name: str
    serial: int
    body: bytes


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run. A lane is what one connection sends, in order.

    `seconds`: send the lanes over and over for so long; None: once. `rate`: requests per second on a fixed
    schedule; None: closed loop; `lead_s`: for so long before, sent and not timed, for connections are dear only once.
    `pid`: whose processor time to read. `keep`: give back the answers.
    """

    port: int
    lanes: list[list[Request]]
    seconds: float | None = None
    rate: float | None = None
    lead_s: float = 0.0
    pid: int | None = None
    first_serial: int = 0
    keep: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds`: from the first request that is timed to the last answer. `errors`: whatever was not answered 200."""

    seconds: float
    latencies: array[float]
    errors: int
    answer_bytes: float
    cpu_s: float | None
    own_cpu_s: float
    answers: list[Answer]


def lanes(requests: Sequence[Request], connections: int) -> list[list[Request]]:
    """Deal requests out to connections; each gets at least one, no two the same if there are enough."""
    return [list(requests[i::connections]) or [requests[i % len(requests)]] for i in range(connections)]


class Generator:
    """Runs jobs in a process of its own, so that the load takes no time of the server's or of the caller's."""

    def __enter__(self) -> Generator:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, job: Job) -> Outcome:
        return self._pool.submit(run, job).result(timeout=(job.seconds or 300) + 2 * LATE_S)


def run(job: Job) -> Outcome:
    """Run a job in this process."""
    with asyncio.Runner(loop_factory=_loop_for(job)) as runner:
        return runner.run(_run(job))


def _loop_for(job: Job) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fastest loop; for a schedule one whose timers are good for less than the usual millisecond."""
    if job.rate is not None and len(job.lanes) <= SELECTABLE:
        return lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


async def _run(job: Job) -> Outcome:
    driver: ClosedLoop | OpenLoop = ClosedLoop(job) if job.rate is None else OpenLoop(job, job.rate)
    loop = asyncio.get_running_loop()
    made = [loop.create_connection(_lane(driver, lane), "127.0.0.1", job.port) for lane in job.lanes]
    connections = [connection for _, connection in await asyncio.gather(*made)]
    cpu, own_cpu = job.pid and cpu_seconds(job.pid), time.process_time()
    driver.start(connections)
    with suppress(TimeoutError):
        await asyncio.wait_for(driver.over, job.seconds and job.seconds + LATE_S)
    outcome = driver.outcome(cpu, time.process_time() - own_cpu)
    driver.stopped = True
    for connection in connections:
        connection.close()
    return outcome


def _lane(driver: ClosedLoop | OpenLoop, lane: list[Request]) -> Callable[[], Connection]:
    return lambda: Connection(driver, lane)


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way; `sent_at` is when that counts from."""

    def __init__(self, driver: ClosedLoop | OpenLoop, lane: list[Request]) -> None:
        self._driver = driver
        self._requests = iter(lane if driver.job.seconds is None else cycle(lane))
        self._got, self._needed = b"", 0
        self.sent_at = 0.0
        self.waiting = False
        self.name, self.serial = "", 0

    def connection_made(self, transport: Any) -> None:
        self._write, self._close = transport.write, transport.close

    def close(self) -> None:
        self._close()

    def send(self, counted_from: float, serial: int) -> bool:
        """Send the next request; False if there is none left."""
        request = next(self._requests, None)
        if request is None:
            return False
        self.name, self.serial, self.waiting, self.sent_at = request.name, serial, True, counted_from
        head, tail = request.head, request.tail
        self._write(head if tail is None else b"%b%0*d%b" % (head, SERIAL_DIGITS, serial, tail))
        return True

    def data_received(self, data: bytes) -> None:
        if self._got:
            data = self._got + data
        if not self._needed:
            head = data.find(b"\r\n\r\n")
            length = _LENGTH.search(data, 0, head + 2) if head > 0 else None
            self._needed = head + 4 + int(length[1]) if length else 0
        if not self._needed or len(data) < self._needed:
            self._got = data
            return
        self._got, self._needed, self.waiting = b"", 0, False
        self._driver.answered(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._driver.lost(self)


class _Driver:
    """What both keep of a run: the times, the errors, the answers."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopped = False
        self.serial = job.first_serial
        self._latencies = array("d")
        self._errors = self._bytes = self._answered = 0
        self._answers: list[Answer] = []
        self._connections: list[Connection] = []

    def start(self, connections: list[Connection]) -> None:
        self._connections = connections
        self._began = self._last = time.perf_counter()
        self._timed_from = self._began + self.job.lead_s
        self._end = self._began + (self.job.seconds or float("inf"))

    def _note(self, connection: Connection, data: bytes) -> float:
        """Take down an answer; returns the time."""
        now = time.perf_counter()
        if connection.sent_at >= self._timed_from:
            self._latencies.append(now - connection.sent_at)
        self._answered += 1
        self._last = now
        body = data[data.find(b"\r\n\r\n") + 4 :]
        self._bytes += len(body)
        if data[_STATUS] != b"200":
            self._errors += 1
        elif self.job.keep:
            self._answers.append(Answer(connection.name, connection.serial, body))
        return now

    def _finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def _unsent(self) -> int:
        return 0

    def outcome(self, cpu: float | None, own_cpu_s: float) -> Outcome:
        after = self.job.pid and cpu_seconds(self.job.pid)
        timed = len(self._latencies) / max(self._answered, 1)  # of the lead nothing is counted
        return Outcome(
            seconds=self._last - self._timed_from,
            latencies=self._latencies,
            errors=self._errors + sum(connection.waiting for connection in self._connections) + self._unsent(),
            answer_bytes=self._bytes / max(self._answered, 1),
            cpu_s=(after - cpu) * timed if after is not None and cpu is not None else None,
            own_cpu_s=own_cpu_s * timed,
            answers=self._answers,
        )


class ClosedLoop(_Driver):
    """As many requests under way as there are connections, until the time is over or the lanes are sent."""

    def start(self, connections: list[Connection]) -> None:
        super().start(connections)
        self._busy = len(connections)
        for connection in connections:
            self._send(connection, time.perf_counter())

    def _send(self, connection: Connection, now: float) -> None:
        self.serial += 1
        if now >= self._end or not connection.send(now, self.serial):
            self._leave()

    def answered(self, connection: Connection, data: bytes) -> None:
        self._send(connection, self._note(connection, data))

    def lost(self, connection: Connection) -> None:
        if connection.waiting and not self.stopped:
            self._leave()  # stays `waiting`: that is counted as an error

    def _leave(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._finish()


class OpenLoop(_Driver):
    """Requests at times fixed beforehand, on any connection that is free; those due wait their turn, and it counts."""

    def __init__(self, job: Job, rate: float) -> None:
        super().__init__(job)
        self._gap = 1 / rate
        self._total = max(1, round((job.lead_s + (job.seconds or 0)) * rate))
        self._sent = 0
        self._free: deque[Connection] = deque()

    def start(self, connections: list[Connection]) -> None:
        super().start(connections)
        self._free.extend(connections)
        self._tick()

    def _tick(self) -> None:
        self._send_due(time.perf_counter())
        if self._sent < self._total and not self.stopped:
            wait_s = self._began + self._sent * self._gap - time.perf_counter()
            # behind the schedule with no free connection: the next answer sends
            asyncio.get_running_loop().call_later(max(wait_s, 0.0 if self._free else 0.001), self._tick)

    def _send_due(self, now: float) -> None:
        while self._free and self._sent < self._total and (due := self._began + self._sent * self._gap) <= now:
            self._sent += 1
            self.serial += 1
            self._free.popleft().send(due, self.serial)

    def answered(self, connection: Connection, data: bytes) -> None:
        now = self._note(connection, data)
        self._free.append(connection)
        self._send_due(now)
        if self._sent == self._total == self._answered:
            self._finish()

    def _unsent(self) -> int:
        return self._total - self._sent

    def lost(self, connection: Connection) -> None:
        if connection in self._free:
            self._free.remove(connection)
