"""Large turns, which some stores keep compressed: each comes back as it was, and is erased like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.stores.base import Commit, Store
from memory_service.stores.exports import Exported
from memory_service.stores.forgetting import Forgetting
from memory_service.values import Message, Turn
from tests.stores.contract_quarantine import named
from tests.support.large import image, incompressible, prose, rows
from tests.support.values import NOON, a_key, a_scope, a_session, a_turn

ANA, KEY = a_scope(), a_key()


def said(content: str = "see there", **more: Any) -> Turn:
    return replace(a_turn(1), messages=(Message(role="user", content=content, **more),))


LARGE = [
    said(prose()),
    said(parts={"parts": [{"type": "image_url", "image_url": {"url": image()}}]}),
    said(parts={"rows": rows(), "more": {"n": 2**60, "f": 1.5}}),
    said(incompressible()),
    said("word " * 800),
]
TURNS = [replace(turn, seq=seq, turn_id=f"t{seq}") for seq, turn in enumerate(LARGE, 1)]


async def stored(store: Store, *turns: Turn) -> None:
    head = a_session()
    await store.commit(Commit(scope=ANA, session=head))
    for turn in turns:
        head = head.with_turn(turn)
        await store.commit(Commit(scope=ANA, session=head, turns=(turn,)))


async def exported(store: Store) -> list[Turn]:
    page, turns = await store.export(ANA), list[Turn]()
    while True:
        turns += [thing.turn for thing in page.things if thing.turn]
        if not page.more:
            return turns
        page = await store.export(ANA, page.cursor)


class LargeContract:
    everything: Callable[[Store], Any]

    async def test_large_turns_come_back_as_they_were_wherever_they_are_read(self, store: Store) -> None:
        await stored(store, *TURNS)
        hot, found = await store.load(KEY), [await store.find_turn(KEY, turn.turn_id) for turn in TURNS]
        together = await store.find_turns(KEY, [turn.turn_id for turn in TURNS])
        entries = await store.entries(ANA, None, "space")
        items = await store.items(ANA, [f"s#{turn.seq}" for turn in TURNS], "space")
        due = [item.turn for item in await store.due_vectors("space", 10)]
        assert hot is not None
        read = [hot.turns, await store.turns(KEY), found, entries.turns, items.turns, due, await exported(store)]
        read.append(sorted(together, key=lambda turn: turn.seq))
        assert [list(turns) for turns in read] == [TURNS] * len(read)

    async def test_a_large_turn_and_a_small_one_take_the_place_of_one_another(self, store: Store) -> None:
        await store.restore(ANA, [Exported(session=a_session(turn_count=1))])
        small = said("small")
        for turn in (LARGE[0], small, LARGE[2], small, LARGE[3]):
            await store.restore(ANA, [Exported(turn=turn)])
            assert await store.turns(KEY) == [turn]

    async def test_a_large_turn_is_withheld_and_given_back(self, store: Store) -> None:
        await stored(store, TURNS[0])
        await store.quarantine(ANA, named(1))
        assert [turn.messages for turn in await store.turns(KEY)] == [()]
        await store.quarantine(ANA, named(1, release=True))
        assert await store.turns(KEY) == TURNS[:1]

    @pytest.mark.parametrize("seq", [1, None], ids=["the turn", "its session"])
    async def test_of_a_large_turn_that_is_erased_nothing_is_left(self, store: Store, seq: int | None) -> None:
        await stored(store, TURNS[0])
        await store.forget(ANA, Forgetting(session_id="s", seq=seq, now=NOON))
        left = self.everything(store)
        assert len(repr(left)) < 5000
        assert [turn.messages for turn in await store.turns(KEY)] == ([()] if seq else [])
