"""What it takes to tell messages: how much of a session is read, however long it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service import messages
from memory_service.errors import MessageIdReused, StaleVersion, StoreUnavailable
from memory_service.messages import Window
from memory_service.service import MemoryService
from memory_service.sessions import Draft, RequestName
from memory_service.stores.base import Commit, Store
from memory_service.values import Message, Scope, SessionKey, Turn
from tests.conftest import Open
from tests.support.background import settled

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
    """Say this; few turns are live then, and the rest has to be read."""
    drafts = [Draft(messages=(Message(role="user", content=text),)) for text in texts]
    await service.messages.append(KEY, drafts)
    await settled(service)


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
        (Window(before=2**53, limit=20), length - 19, length),
    ):
        found = await service.messages.told(KEY, window)
        assert [int(one.message.content) for one in found] == list(range(first, last + 1))
    assert all(read <= 20 for read in reads.read)
    assert len(reads.read) <= 4


async def test_where_many_were_erased_it_is_looked_further_back_in_few_steps(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await opened()
    await said(service, *map(str, range(1, 101)))
    for seq in range(41, 101):
        await service.erasing.turn(KEY, seq)
    await service.start_session(KEY.scope, KEY.session_id, restore=False)  # none of them is live any more
    await settled(service)  # reflections read too
    reads = Reads(service._store, monkeypatch)
    found = await service.messages.told(KEY, Window(latest=2, replaced=True))
    assert [one.message.content for one in found] == ["39", "40"]
    assert len(reads.read) <= 6


async def test_of_turns_of_two_messages_the_latest_are_as_many_as_asked_for(opened: Open) -> None:
    service = await opened()
    pairs = [[Message(role="user", content=f"q{n}"), Message(role="assistant", content=f"a{n}")] for n in range(40)]
    await service.messages.append(KEY, [Draft(messages=tuple(pair)) for pair in pairs])
    await settled(service)
    found = await service.messages.told(KEY, Window(latest=31))
    assert [one.message for one in found] == [message for pair in pairs for message in pair][-31:]


async def test_what_comes_again_is_looked_up_together_however_many_there_are(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, asked = await opened(), list[int]()
    find_turns = service._store.find_turns

    async def noted(key: SessionKey, turn_ids: Sequence[str]) -> list[Turn]:
        asked.append(len(turn_ids))
        return await find_turns(key, turn_ids)

    monkeypatch.setattr(service._store, "find_turns", noted)
    monkeypatch.setattr(messages, "LOOKED_UP_AT_ONCE", 2)
    drafts = [Draft(messages=(Message(role="user", content=text),), turn_id=text) for text in "abcde"]
    first = await service.messages.append(KEY, drafts[1:])
    again = await service.messages.append(KEY, drafts)
    assert asked == [2, 2, 1]
    assert again.replayed == 4
    assert again.turns[1:] == first.turns
    assert again.turns[0].seq == 5, "what is new of it is added"
    with pytest.raises(MessageIdReused):
        await service.messages.append(KEY, [*drafts[:4], replace(drafts[0], turn_id="e")])


async def test_a_list_that_takes_several_commits_is_there_once_also_if_it_was_cut_off(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await opened()
    store, commits = service._store, []
    monkeypatch.setattr(store, "capabilities", replace(store.capabilities, most_turns=2))
    write = service._pool._write

    async def cut_off_once(commit: Commit) -> None:
        commits.append(len(commit.turns))
        if len(commits) == 2:
            raise StoreUnavailable("cut off")
        await write(commit)

    monkeypatch.setattr(service._pool, "_write", cut_off_once)
    drafts = [Draft(messages=(Message(role="user", content=text),), turn_id=text) for text in "abcde"]
    request = RequestName(key="k", digest="d")
    with pytest.raises(StoreUnavailable):
        await service.messages.append(KEY, drafts, request=request)
    for replayed in (2, 5):
        appended = await service.messages.append(KEY, drafts, request=request)
        assert [turn.seq for turn in appended.turns] == [1, 2, 3, 4, 5]
        assert appended.replayed == replayed
    others = [replace(draft, turn_id=f"{draft.turn_id}2") for draft in drafts]
    assert (await service.messages.append(KEY, others, request=RequestName(key="k2", digest="d"))).replayed == 0
    found = await service.messages.told(KEY, Window(latest=10))
    assert [one.message.content for one in found] == list("abcdeabcde")
    assert commits[:2] == [2, 2]
    told_of = []

    async def overtaken_once(commit: Commit) -> None:
        told_of.append(commit)
        if len(told_of) == 2:
            raise StaleVersion
        await write(commit)

    monkeypatch.setattr(service._pool, "_write", overtaken_once)
    more = [replace(draft, turn_id=f"{draft.turn_id}3") for draft in drafts]
    assert (await service.messages.append(KEY, more)).replayed == 0, "what it has stored itself was not there before"
    assert max(commits) == 2
