"""Whether everything that was acknowledged is there: asked over HTTP, after the runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from benchmarks.load import SERIAL_DIGITS, Answer, Generator, Job, Outcome, Request, lanes
from benchmarks.workload import Session, Workload


class _Stored(msgspec.Struct):
    turn_number: int
    replayed: bool


class _State(msgspec.Struct):
    turns_count: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`problems` is empty if every acknowledged turn is there, once, under its number."""

    turns: int
    sessions: int
    replayed: int
    problems: list[str]


class Ledger:
    """Turn numbers by session and by the serial number under which they were sent."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[int, int]] = defaultdict(dict)

    def add(self, answers: Iterable[Answer]) -> None:
        """Take down answers to /memory/store; others, of a session just started, say nothing of turns."""
        for answer in answers:
            if b'"turn_number"' in answer.body:
                stored = msgspec.json.decode(answer.body, type=_Stored)
                self._numbers[answer.name][answer.serial] = stored.turn_number

    def gaps(self) -> list[str]:
        """Tell sessions whose numbers are not 1, 2, 3 and so on."""
        return [
            f"{name}: the turn numbers of {len(numbers)} acknowledged turns are not dense"
            for name, numbers in self._numbers.items()
            if sorted(numbers.values()) != list(range(1, len(numbers) + 1))
        ]

    def verified(self, generator: Generator, workload: Workload, stores: Sequence[Request]) -> Verdict:
        """Ask for each session's length, and send its last turn again: the answer must be the first one's.

        `stores` are the requests that were sent last to each session.
        """
        states = self._asked(generator, workload, [workload.state_of(s) for s in workload.stored_into])
        counted = {answer.name: msgspec.json.decode(answer.body, type=_State).turns_count for answer in states.answers}
        again = self._asked(generator, workload, [self._again(request) for request in stores if self._sent(request)])
        replies = {answer.name: msgspec.json.decode(answer.body, type=_Stored) for answer in again.answers}
        problems = [*self.gaps(), *self._miscounted(workload.stored_into, counted), *self._not_replayed(replies)]
        problems += [f"{run.errors} questions were refused" for run in (states, again) if run.errors]
        return Verdict(
            turns=sum(len(self._numbers[s.name]) for s in workload.stored_into),
            sessions=len(workload.stored_into),
            replayed=len(replies),
            problems=problems,
        )

    def _asked(self, generator: Generator, workload: Workload, requests: list[Request]) -> Outcome:
        return generator.run(Job(port=workload.port, lanes=lanes(requests, min(16, len(requests))), keep=True))

    def _sent(self, request: Request) -> bool:
        return bool(self._numbers[request.name])

    def _again(self, request: Request) -> Request:
        last = max(self._numbers[request.name])
        return Request(request.name, b"%b%0*d%b" % (request.head, SERIAL_DIGITS, last, request.tail or b""))

    def _miscounted(self, sessions: Iterable[Session], counted: dict[str, int]) -> list[str]:
        return [
            f"{session.name}: {len(self._numbers[session.name])} turns acknowledged, {counted.get(session.name)} there"
            for session in sessions
            if counted.get(session.name) != len(self._numbers[session.name])
        ]

    def _not_replayed(self, replies: dict[str, _Stored]) -> list[str]:
        return [
            f"{name}: its last turn sent again was stored anew or under another number"
            for name, reply in replies.items()
            if not reply.replayed or reply.turn_number != self._numbers[name][max(self._numbers[name])]
        ]
