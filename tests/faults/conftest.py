"""Services to be killed, and a model that misbehaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory_service.chaos.model_server import ModelServer
from tests.support.process import ServiceProcess

MakeProcess = Callable[..., ServiceProcess]


@pytest.fixture
def make_process(tmp_path: Path) -> Iterator[MakeProcess]:
    """A service in a process of its own, not started yet; killed at the latest when the test ends."""
    made: list[ServiceProcess] = []

    def make(**environment: str) -> ServiceProcess:
        made.append(ServiceProcess(tmp_path, **environment))
        return made[-1]

    yield make
    for process in made:
        if process.process is not None:
            process.kill()


@pytest.fixture(scope="module")
def running_model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def model(running_model: ModelServer) -> Iterator[ModelServer]:
    running_model.forget()
    yield running_model
    running_model.forget()
