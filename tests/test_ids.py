"""Names that the service and the client make for what nobody else has named."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import RFC_4122, UUID

import pytest

import client._ids
import memory_service.ids


@pytest.fixture(params=[memory_service.ids.new_id, client._ids.new_id], ids=["service", "client"])
def new_id(request: pytest.FixtureRequest) -> Callable[[], str]:
    made: Callable[[], str] = request.param
    return made


def test_they_are_uuids_of_version_7_that_tell_when_they_were_made(new_id: Callable[[], str]) -> None:
    before, name, after = time.time_ns(), new_id(), time.time_ns()
    assert len(name) == 32
    assert (UUID(name).version, UUID(name).variant) == (7, RFC_4122)
    assert before // 1_000_000 <= int(name[:12], 16) <= after // 1_000_000


def test_those_of_one_moment_differ(new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    assert len({new_id() for _ in range(1000)}) == 1000


def test_what_is_made_later_comes_later(new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(0, 10**18, 10**15))  # from 1970 on, in steps of some days
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    names = [new_id() for _ in range(1000)]
    assert names == sorted(names)
