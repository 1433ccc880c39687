"""What it takes to tell messages: how much of a session is read, however long it is."""

from __future__ import annotations

from typing import Any

import pytest

from memory_service.messages import Window
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.stores.base import Store
from memory_service.values import Message, Scope, SessionKey, Turn
from tests.conftest import Open

KEY = SessionKey(scope=Scope(user_id="ana"), session_id="s")


class Reads:
    """Notes how many turns a store was asked for, and what it was asked to be between."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[int] = []
        turns = store.turns

        async def noted(key: SessionKey, after: int = 0, limit: int = 0, **more: Any) -> list[Turn]:
            found = await turns(key, after, limit, **more)
            self.read.append(len(found))
            return found

        monkeypatch.setattr(store, "turns", noted)


async def said(service: MemoryService, *texts: str) -> None:
    drafts = [Draft(messages=(Message(role="user", content=text),)) for text in texts]
    await service.messages.append(KEY, drafts)


@pytest.mark.parametrize("length", [100, 3000])
async def test_the_latest_and_a_page_are_read_alone_however_long_the_session_is(
    opened: Open, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    service = await opened()
    await said(service, *map(str, range(1, length + 1)))
    reads = Reads(service._store, monkeypatch)
    for window, first, last in (
        (Window(latest=20), length - 19, length),
        (Window(before=51, limit=20), 31, 50),
        (Window(after=50, limit=20), 51, 70),
    ):
        found = await service.messages.told(KEY, window)
        assert [int(one.message.content) for one in found] == list(range(first, last + 1))
    assert all(read <= 20 for read in reads.read)
    assert len(reads.read) <= 3


async def test_where_many_were_erased_it_is_looked_further_back_in_few_steps(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await opened()
    await said(service, *map(str, range(1, 101)))
    for seq in range(41, 101):
        await service.erasing.turn(KEY, seq)
    reads = Reads(service._store, monkeypatch)
    found = await service.messages.told(KEY, Window(latest=2))
    assert [one.message.content for one in found] == ["39", "40"]
    assert len(reads.read) <= 6
