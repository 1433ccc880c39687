"""Services on every store with pools of every size, driven in step: each request goes to all of them.

What they answer is held to what holds for any answer, and compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from memory_service.values import Scope, SessionKey
from tests.properties import invariants as must
from tests.properties.comparing import comparable
from tests.properties.lanes import Ages, Answer, Lane
from tests.properties.model import World
from tests.properties.models import Mood
from tests.properties.stores import GROUNDS

T = TypeVar("T")


class DrivenMachine(RuleBasedStateMachine):
    grounds = GROUNDS

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = TemporaryDirectory()
        self.ages, self.mood, self.world = Ages(), Mood(), World()
        self.space = 1
        self.touched: set[SessionKey] = set()
        self.raced: set[SessionKey] = set()
        """Those whose end came beside turns: it may have been before they were compacted, or after."""
        self.lanes = [
            Lane(name, ground(self.home(f"{name}{size}")), size, self.mood, self.ages)
            for name, ground in self.grounds.items()
            for size in ground.pool_sizes
        ]

    def home(self, name: str) -> Path:
        path = Path(self.folder.name) / name
        path.mkdir()
        return path

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def in_all(self, work: Callable[[Lane], Awaitable[T]]) -> dict[Lane, T]:
        async def together() -> list[T]:
            return await asyncio.gather(*(work(lane) for lane in self.lanes))

        return dict(zip(self.lanes, self.run(together()), strict=True))

    def ask(self, scope: Scope, path: str, *, headers: dict[str, str] | None = None, **body: Any) -> Answer:
        body = {"user_id": scope.user_id, **body}
        return self.judged(scope, self.in_all(lambda lane: lane.ask("POST", path, scope.tenant_id, headers, json=body)))

    def get(self, scope: Scope, path: str) -> Answer:
        return self.judged(scope, self.in_all(lambda lane: lane.ask("GET", path, scope.tenant_id)))

    def delete(self, scope: Scope, path: str, **query: str) -> Answer:
        return self.judged(scope, self.in_all(lambda lane: lane.ask("DELETE", path, scope.tenant_id, params=query)))

    def judged(self, scope: Scope, answers: dict[Lane, Answer]) -> Answer:
        """Hold answers to what holds for any, and return one: they are all alike."""
        for answer in answers.values():
            must.invariant_7_isolation(scope, answer)
            must.invariant_13_erasure(self.world.erased, answer)
            must.invariant_15_honest_refusals(answer)
        plain = {lane: comparable(answer) for lane, answer in answers.items()}
        must.invariant_8_pool_transparency(plain)
        must.invariant_9_store_equivalence(plain)
        return next(iter(answers.values()))

    def refused(self, answer: Answer, status: int, code: str) -> None:
        assert (answer.status, answer.body.get("code")) == (status, code), answer.body
