"""The to-do columns: what background work is derived from."""

from __future__ import annotations

from typing import Any

import pytest

from memory_service.stores.base import Commit, Store
from memory_service.values import Hot, SessionKey, Sitting
from tests.support.values import NOON, a_key, a_scope, a_sitting, begin, minutes, next_turn


async def hand_over(store: Store, key: SessionKey, **changes: Any) -> Sitting:
    """A session with three turns and a sitting of them."""
    await begin(store, key, turns=3)
    sitting = a_sitting(key.session_id, **changes)
    await store.commit(Commit(scope=key.scope, sittings=(sitting,)))
    return sitting


async def due_ids(store: Store, when: float = 60, limit: int = 100, **choice: Any) -> list[str]:
    return [sitting.session_id for _, sitting in await store.due_reflections(minutes(when), limit, **choice)]


class DueContract:
    # Reflections

    async def test_a_pending_sitting_is_due_from_its_moment_on(self, store: Store) -> None:
        sitting = await hand_over(store, a_key(), due_at=minutes(5))
        assert await due_ids(store, 4.99) == []
        assert await store.due_reflections(minutes(5), 10) == [(a_scope(), sitting)]

    @pytest.mark.parametrize("state", ["none", "done", "dead"])
    async def test_a_sitting_that_is_not_pending_is_never_due(self, store: Store, state: Any) -> None:
        await hand_over(store, a_key(), reflection=state)
        assert await due_ids(store) == []

    async def test_a_leased_sitting_is_not_due_until_the_lease_ends(self, store: Store) -> None:
        key = a_key()
        sitting = await hand_over(store, key)
        claimed = sitting.claimed(minutes(10))
        await store.commit(Commit(scope=key.scope, sittings=(claimed,)))
        assert await due_ids(store, 9.99) == []
        assert await store.due_reflections(minutes(10), 10) == [(key.scope, claimed)]

    async def test_reflections_are_listed_by_state_and_tenant_longest_due_first(self, store: Store) -> None:
        late, early = a_key(session_id="late"), a_key(session_id="early")
        await hand_over(store, late, reflection="dead", due_at=minutes(9))
        await hand_over(store, early, reflection="dead", due_at=minutes(2))
        await hand_over(store, a_key(session_id="open"))
        listed = await store.reflections("default", "dead", 10)
        assert [(scope, sitting.session_id) for scope, sitting in listed] == [(a_scope(), "early"), (a_scope(), "late")]
        assert len(await store.reflections("default", "dead", 1)) == 1
        assert [sitting.session_id for _, sitting in await store.reflections("default", "pending", 10)] == ["open"]
        assert await store.reflections("another", "dead", 10) == []

    async def test_a_sitting_follows_its_life(self, store: Store) -> None:
        """Claimed, failed and waiting, claimed again, done, extended by more turns, given up on, replayed."""
        key = a_key()
        sitting = await hand_over(store, key)
        steps = [
            (sitting := sitting.claimed(minutes(10)), 1, []),
            (sitting := sitting.failed("no answer", minutes(20)), 19, []),
            (sitting, 20, ["s"]),
            (sitting := sitting.claimed(minutes(40)), 30, []),
            (sitting := sitting.done("talked of tea", 2, NOON), 60, []),
            (sitting := sitting.extended(5, minutes(61), ended=True), 61, ["s"]),
            (sitting := sitting.failed("for good", None), 90, []),
            (sitting := sitting.extended(5, minutes(91), ended=True), 91, ["s"]),
        ]
        committed = None
        for state, when, expected in steps:
            if state is not committed:
                await store.commit(Commit(scope=key.scope, sittings=(state,)))
                committed = state
            assert await due_ids(store, when) == expected, state
            assert await store.sittings(key) == [state]

    async def test_sittings_come_longest_due_first_up_to_the_limit(self, store: Store) -> None:
        for session_id, when in {"c": 3, "a": 1, "d": 4, "b": 2}.items():
            await hand_over(store, a_key(session_id, f"user-{session_id}"), due_at=minutes(when))
        assert await due_ids(store) == ["a", "b", "c", "d"]
        assert await due_ids(store, limit=2) == ["a", "b"]
        assert await due_ids(store, limit=0) == []

    async def test_one_users_due_sittings_can_be_asked_for_alone(self, store: Store) -> None:
        await hand_over(store, a_key("first", "ben"), due_at=minutes(1))
        await hand_over(store, a_key("second", "ana"), due_at=minutes(2))
        await hand_over(store, a_key("third", "ana", "acme"), due_at=minutes(3))
        assert await due_ids(store) == ["first", "second", "third"]
        assert await due_ids(store, scope=a_scope()) == ["second"]
        assert await due_ids(store, scope=a_scope(), limit=1) == ["second"]
        assert await due_ids(store, scope=a_scope("ana", "acme")) == ["third"]
        assert await due_ids(store, scope=a_scope("nobody")) == []

    async def test_each_owner_is_named_with_its_sitting(self, store: Store) -> None:
        await hand_over(store, a_key("x", "ben", "acme"))
        assert [scope for scope, _ in await store.due_reflections(NOON, 10)] == [a_scope("ben", "acme")]

    async def test_sittings_of_a_session_come_oldest_first(self, store: Store) -> None:
        key = a_key()
        await begin(store, key, turns=9)
        sittings = [a_sitting(first_seq=first, through_seq=first + 2) for first in (7, 1, 4)]
        for sitting in sittings:
            await store.commit(Commit(scope=key.scope, sittings=(sitting,)))
        assert [sitting.first_seq for sitting in await store.sittings(key)] == [1, 4, 7]

    # Sessions

    async def due(self, store: Store, when: float, turns: int = 0, limit: int = 100) -> list[str]:
        return [key.session_id for key in await store.due_sessions(minutes(when), turns, limit)]

    async def test_a_session_is_due_when_it_was_untouched_since_then(self, store: Store) -> None:
        await begin(store, a_key(), touched_at=minutes(5))
        assert await self.due(store, 4.99) == []
        assert await self.due(store, 5) == ["s"]

    async def test_a_turn_touches_its_session(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key)
        assert await self.due(store, 0) == ["s"]
        commit, _ = next_turn(Hot(session=head), key)  # received one minute past noon
        await store.commit(commit)
        assert await self.due(store, 0.5) == []
        assert await self.due(store, 1) == ["s"]

    async def test_only_sessions_with_enough_unreflected_turns_are_due(self, store: Store) -> None:
        await begin(store, a_key("two"), turns=2)
        await begin(store, a_key("three"), turns=3)
        assert sorted(await self.due(store, 60)) == ["three", "two"]
        assert await self.due(store, 60, turns=3) == ["three"]
        assert await self.due(store, 60, turns=4) == []

    async def test_turns_handed_over_do_not_count_as_unreflected(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key, turns=3)
        handed_over = head.handed_over()
        await store.commit(Commit(scope=key.scope, session=handed_over))
        assert await self.due(store, 60, turns=1) == []
        commit, _ = next_turn(Hot(session=handed_over), key)
        await store.commit(commit)
        assert await self.due(store, 60, turns=1) == ["s"]
        assert await self.due(store, 60, turns=2) == []

    @pytest.mark.parametrize("by", ["client", "service"])
    async def test_an_ended_session_is_never_due_until_it_is_reopened(self, store: Store, by: Any) -> None:
        key = a_key()
        ended = (await begin(store, key, turns=3)).ended(by)
        await store.commit(Commit(scope=key.scope, session=ended))
        assert await self.due(store, 60) == []
        await store.commit(Commit(scope=key.scope, session=ended.reopened(minutes(70))))
        assert await self.due(store, 60) == []
        assert await self.due(store, 70) == ["s"]
        assert await self.due(store, 70, turns=1) == [], "turns of an earlier sitting do not count"

    async def test_sessions_come_longest_untouched_first_up_to_the_limit(self, store: Store) -> None:
        for session_id, when in {"c": 3, "a": 1, "d": 4, "b": 2}.items():
            await begin(store, a_key(session_id, f"user-{session_id}"), touched_at=minutes(when))
        assert await self.due(store, 60) == ["a", "b", "c", "d"]
        assert await self.due(store, 60, limit=2) == ["a", "b"]
        assert await self.due(store, 60, limit=0) == []

    async def test_each_owner_is_named_with_its_session(self, store: Store) -> None:
        await begin(store, a_key("x", "ben", "acme"))
        assert await store.due_sessions(NOON, 0, 10) == [a_key("x", "ben", "acme")]
