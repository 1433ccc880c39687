"""What drivers lack: whoever has something new is due to each of them, until it says that it has it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.stores.base import ALL, Commit, Entries, Store
from memory_service.stores.exports import Exported
from memory_service.stores.mirrors import Mirror
from memory_service.values import Scope, turn_item_id
from tests.support.values import NOON, a_key, a_memory, a_scope, a_vector, begin, embed_all, minutes

DRIVER = "engine"
SOON = minutes(1)
ANA, BEN = a_scope(), a_scope("ben")


async def remember(store: Store, text: str = "likes tea", scope: Scope = ANA, memory_id: str = "m") -> None:
    await store.commit(Commit(scope=scope, memories=(a_memory(memory_id, text=text),)))


async def claim(
    store: Store, driver: str = DRIVER, *, now: datetime = NOON, until: datetime = SOON, limit: int = 100
) -> list[Mirror]:
    return sorted(await store.claim_mirrors(driver, now, until, limit), key=lambda mirror: mirror.scope.user_id)


def users(mirrors: list[Mirror]) -> list[str]:
    return [mirror.scope.user_id for mirror in mirrors]


async def read_on(store: Store, mirror: Mirror, limit: int = ALL) -> tuple[Entries, Mirror]:
    """What a driver lacks, and its mirror when it has that."""
    entries = await store.entries(mirror.scope, mirror.cursor, "space", limit)
    return entries, replace(mirror, target="engine", cursor=entries.cursor)


@dataclass
class Engine:
    """What a driver does, in the least there can be of it: texts by name, of each user."""

    store: Store
    name: str = DRIVER
    held: dict[Scope, dict[str, str]] = field(default_factory=dict)

    async def catch_up(self, **when: Any) -> list[str]:
        """Take what is lacking; returns the users it was of."""
        claimed = await claim(self.store, self.name, **when)
        for mirror in claimed:
            if mirror.cursor is None:
                self.held.pop(mirror.scope, None)
            texts = self.held.setdefault(mirror.scope, {})
            entries, then = await read_on(self.store, mirror)
            texts |= {turn_item_id(turn.session_id, turn.seq): turn.messages[0].content for turn in entries.turns}
            for memory in entries.memories:
                texts.pop(memory.memory_id, None)
                if memory.valid_to is None:
                    texts[memory.memory_id] = memory.text
            assert await self.store.put_mirror(then)
        return users(claimed)


class MirrorContract:
    async def test_nobody_is_due_to_a_driver_that_is_not_followed(self, store: Store) -> None:
        await remember(store)
        assert (await claim(store), await store.lagging(DRIVER)) == ([], 0)
        assert (await store.mirror(ANA, DRIVER)).cursor is None

    async def test_who_was_there_before_is_due_with_everything(self, store: Store) -> None:
        await begin(store, a_key(), turns=2)
        await remember(store, scope=BEN)
        await store.follow(DRIVER)
        assert await store.lagging(DRIVER) == 2
        mirrors = await claim(store)
        assert (users(mirrors), [mirror.cursor for mirror in mirrors]) == (["ana", "ben"], [None, None])

    async def test_whoever_has_something_new_is_due_until_it_is_mirrored(self, store: Store) -> None:
        await store.follow(DRIVER)
        engine = Engine(store)
        hot = await begin(store, a_key(), turns=1)
        assert await engine.catch_up() == ["ana"]
        assert (await engine.catch_up(), await store.lagging(DRIVER)) == ([], 0)
        await remember(store, "likes tea")
        assert (await engine.catch_up(), engine.held) == (["ana"], {ANA: {"s#1": "hello", "m": "likes tea"}})
        await remember(store, "likes rum")
        (item,) = (await store.due_vectors("space", 10))[1:]
        await store.commit(Commit(scope=ANA, memories=(a_memory("m").deleted(NOON),)))
        assert (await engine.catch_up(), engine.held) == (["ana"], {ANA: {"s#1": "hello"}})
        await store.commit(Commit(scope=ANA, session=hot.touched(NOON)))  # nothing to search
        assert await engine.catch_up() == []
        assert item.memory is not None

    async def test_a_vector_that_comes_later_is_something_new(self, store: Store) -> None:
        await store.follow(DRIVER)
        engine = Engine(store)
        await remember(store)
        await engine.catch_up()
        await embed_all(store)
        (mirror,) = await claim(store)
        entries, _ = await read_on(store, mirror)
        assert (entries.turns, entries.memories) == ([], [])
        assert [vector.item_id for vector in entries.vectors] == ["m"]

    async def test_drivers_are_followed_each_for_itself(self, store: Store) -> None:
        await store.follow("one")
        await remember(store)
        await Engine(store, "one").catch_up()
        await store.follow("two")
        assert (await claim(store, "one"), users(await claim(store, "two"))) == ([], ["ana"])
        await remember(store, "likes rum")
        assert users(await claim(store, "one")) == ["ana"]
        await store.unfollow("one")
        await remember(store, scope=BEN)
        assert (await claim(store, "one"), await store.lagging("one")) == ([], 0)
        assert users(await claim(store, "two")) == ["ben"]
        await store.follow("one")
        assert [(m.scope.user_id, m.cursor) for m in await claim(store, "one")] == [("ana", None), ("ben", None)]

    async def test_following_again_changes_nothing_unless_all_shall_begin_anew(self, store: Store) -> None:
        await store.follow(DRIVER)
        await remember(store)
        engine = Engine(store)
        await engine.catch_up()
        await store.follow(DRIVER)
        assert await claim(store) == []
        await store.follow(DRIVER, anew=True)
        (mirror,) = await claim(store)
        assert mirror.cursor is None

    async def test_as_many_are_claimed_as_were_asked_for(self, store: Store) -> None:
        await store.follow(DRIVER)
        for number in range(5):
            await remember(store, scope=a_scope(f"user{number}"))
        first, rest = await claim(store, limit=2), await claim(store)
        assert (len(first), len(rest)) == (2, 3)
        assert sorted(users(first) + users(rest)) == [f"user{number}" for number in range(5)]
        assert await claim(store, limit=0) == []

    async def test_who_is_claimed_is_not_claimed_again_until_the_lease_ends(self, store: Store) -> None:
        await store.follow(DRIVER)
        await remember(store)
        (mirror,) = await claim(store, until=minutes(5))
        assert (mirror.lease_until, await store.lagging(DRIVER)) == (minutes(5), 1)
        assert await claim(store, now=minutes(4.99)) == []
        (again,) = await claim(store, now=minutes(5), until=minutes(9))
        assert not await store.put_mirror(mirror)  # it is another's now
        assert await store.put_mirror(again)
        assert await claim(store, now=minutes(99)) == []

    async def test_a_claim_that_is_given_back_leaves_its_user_due(self, store: Store) -> None:
        await store.follow(DRIVER)
        await remember(store)
        (mirror,) = await claim(store)
        assert await store.put_mirror(mirror, caught_up=False)
        assert [(m.scope, m.cursor) for m in await claim(store)] == [(ANA, None)]

    async def test_a_long_way_is_gone_in_steps_that_are_kept(self, store: Store) -> None:
        await store.follow(DRIVER)
        for number in range(5):
            await remember(store, memory_id=f"m{number}")
        (mirror,) = await claim(store)
        entries, then = await read_on(store, mirror, limit=2)
        assert await store.put_mirror(then, caught_up=False, lease_until=minutes(7))
        assert await claim(store, now=minutes(6)) == []
        (later,) = await claim(store, now=minutes(7))
        rest, _ = await read_on(store, later)
        found = [memory.memory_id for memory in (*entries.memories, *rest.memories)]
        assert sorted(found) == [f"m{number}" for number in range(5)]
        assert len(entries.memories) == 2

    async def test_what_is_written_during_a_claim_makes_its_user_due_again(self, store: Store) -> None:
        await store.follow(DRIVER)
        await remember(store)
        (mirror,) = await claim(store)
        _, then = await read_on(store, mirror)
        await remember(store, memory_id="n")
        assert await store.put_mirror(then)
        (again,) = await claim(store)
        entries, _ = await read_on(store, again)
        assert [memory.memory_id for memory in entries.memories] == ["n"]

    async def test_how_far_a_driver_is_can_be_asked(self, store: Store) -> None:
        await store.follow(DRIVER)
        await remember(store)
        await Engine(store).catch_up()
        await remember(store, memory_id="n")
        mirror = await store.mirror(ANA, DRIVER)
        assert mirror.target == "engine"
        entries = await store.entries(ANA, mirror.cursor, "space")
        assert [memory.memory_id for memory in entries.memories] == ["n"]
        assert (await store.mirror(BEN, DRIVER)).cursor is None

    async def test_an_erased_user_is_due_to_be_forgotten_and_then_kept_nowhere(self, store: Store) -> None:
        await store.follow(DRIVER)
        await remember(store)
        await remember(store, scope=BEN)
        engine = Engine(store)
        await engine.catch_up()
        await store.erase(ANA)
        assert (await store.mirror(ANA, DRIVER)).cursor is None
        assert (await engine.catch_up(), engine.held[ANA]) == (["ana"], {})
        assert await store.lagging(DRIVER) == 0
        await store.follow(DRIVER, anew=True)
        assert await engine.catch_up() == ["ben"]

    async def test_one_who_comes_back_after_an_erasure_begins_anew(self, store: Store) -> None:
        await store.follow(DRIVER)
        engine = Engine(store)
        await remember(store, "before")
        await engine.catch_up()
        await store.erase(ANA)
        await remember(store, "after", memory_id="n")
        assert (await engine.catch_up(), engine.held) == (["ana"], {ANA: {"n": "after"}})

    @pytest.mark.parametrize("anew", [True, False], ids=["begun anew", "erased"])
    async def test_one_who_begins_anew_during_a_claim_stays_to_be_forgotten(self, store: Store, anew: bool) -> None:
        await store.follow(DRIVER)
        await remember(store)
        await Engine(store).catch_up()
        await remember(store, memory_id="n")
        (mirror,) = await claim(store, until=minutes(5))
        _, then = await read_on(store, mirror)
        await (store.follow(DRIVER, anew=True) if anew else store.erase(ANA))
        assert not await store.put_mirror(then, caught_up=False, lease_until=minutes(9))
        (again,) = await claim(store, now=minutes(6))
        assert again.cursor is None

    async def test_what_is_restored_is_something_new(self, store: Store) -> None:
        await store.follow(DRIVER)
        await store.restore(ANA, [Exported(memory=a_memory("m", text="likes tea"))])
        engine = Engine(store)
        assert (await engine.catch_up(), engine.held) == (["ana"], {ANA: {"m": "likes tea"}})

    async def test_nothing_is_missed_while_others_write(self, store: Store) -> None:
        await store.follow(DRIVER)
        engine, scopes = Engine(store), [a_scope(f"user{number}") for number in range(3)]
        writing = True

        async def write(scope: Scope) -> None:
            for number in range(8):
                await remember(store, f"{number}", scope, f"m{number % 5}")

        async def follow() -> None:
            while writing:
                await engine.catch_up()
                await asyncio.sleep(0)

        following = asyncio.create_task(follow())
        await asyncio.gather(*map(write, scopes))
        writing = False
        await following
        await engine.catch_up()
        last = {"m0": "5", "m1": "6", "m2": "7", "m3": "3", "m4": "4"}
        assert engine.held == dict.fromkeys(scopes, last)
        assert await store.lagging(DRIVER) == 0

    # Items by name

    async def test_items_are_found_by_name_with_their_vectors(self, store: Store) -> None:
        await begin(store, a_key(), turns=3)
        await begin(store, a_key("t"), turns=1)
        await remember(store)
        for item in (await store.due_vectors("space", 10))[:3]:
            await store.commit(Commit(scope=ANA, vectors=(a_vector(item),)))
        asked = ["m", "s#3", "t#1", "s#1", "s#4", "u#1", "unknown"]
        found = await store.items(ANA, asked, "space")
        assert sorted((turn.session_id, turn.seq) for turn in found.turns) == [("s", 1), ("s", 3), ("t", 1)]
        assert [turn.seq for turn in found.turns if turn.session_id == "s"] == [1, 3]
        assert [memory.text for memory in found.memories] == ["likes tea"]
        every = (await store.entries(ANA, None, "space")).vectors
        names = {"m", "s#3", "t#1", "s#1"}
        assert {(v.item_id, v.data) for v in found.vectors} == {
            (v.item_id, v.data) for v in every if v.item_id in names
        }
        alone = await store.vectors(ANA, asked, "space")
        assert {(v.item_id, v.data) for v in alone} == {(v.item_id, v.data) for v in found.vectors}
        assert alone
        assert await store.vectors(BEN, asked, "space") == await store.vectors(ANA, asked, "another") == []
        assert (await store.items(ANA, ["m", "s#1"], "another")).vectors == []
        assert await store.items(ANA, [], "space") == await store.items(BEN, ["m", "s#1"], "space")

    async def test_what_names_no_item_is_passed_over(self, store: Store) -> None:
        await begin(store, a_key(), turns=1)
        odd = [
            "s#x",
            "s#",
            "#",
            "#1",
            "s#-1",
            "s#1.0",
            f"s#{'9' * 30}",
            "s#1 ",
            "S#1",
            "",
            "日本#1",
            "'; --",
            "x" * 5000,
        ]
        found = await store.items(ANA, odd, "space")
        assert (found.turns, found.memories, found.vectors) == ([], [], [])

    async def test_items_are_as_they_are_now(self, store: Store) -> None:
        await remember(store, "likes tea")
        await embed_all(store)
        await remember(store, "likes rum")
        found = await store.items(ANA, ["m"], "space")
        assert ([memory.text for memory in found.memories], found.vectors) == (["likes rum"], [])
        gone = a_memory("m").deleted(NOON)
        await store.commit(Commit(scope=ANA, memories=(gone,)))
        assert (await store.items(ANA, ["m"], "space")).memories == [gone]
