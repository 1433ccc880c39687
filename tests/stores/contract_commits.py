"""The one write: versioned, all or nothing, settled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.errors import StaleVersion
from memory_service.stores.base import REQUESTS_KEPT, Commit, DuplicateRequest, DuplicateTurn, Store
from memory_service.values import Effect, Hot, Memory, Request, Session, Sitting, Turn
from tests.support.values import a_key, a_memory, a_scope, a_session, a_sitting, a_turn, begin, minutes, next_turn


class CommitContract:
    everything: Callable[[Store], Any]

    async def must_refuse(self, store: Store, commit: Commit, error: type[Exception]) -> None:
        """The commit is refused with this error, and nothing at all is written."""
        before = self.everything(store)
        with pytest.raises(error):
            await store.commit(commit)
        assert self.everything(store) == before

    # Versions

    async def test_a_session_is_created_once(self, store: Store) -> None:
        key = a_key()
        await begin(store, key)
        await self.must_refuse(store, Commit(scope=key.scope, session=a_session()), StaleVersion)

    async def test_a_session_that_was_never_created_has_no_second_version(self, store: Store) -> None:
        key = a_key()
        await begin(store, a_key("another"))
        await self.must_refuse(store, Commit(scope=key.scope, session=a_session(version=2)), StaleVersion)
        assert await store.load(key) is None

    async def test_a_version_is_neither_repeated_nor_skipped(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key, turns=2)
        for version in (head.version - 1, head.version, head.version + 2):
            wrong = a_session(version=version, turn_count=2, cumulative_summary="lost update")
            await self.must_refuse(store, Commit(scope=key.scope, session=wrong), StaleVersion)
        hot = await store.load(key)
        assert hot is not None
        assert hot.session == head

    async def test_a_stale_commit_is_refused_with_everything_in_it(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key, turns=2)
        turn = a_turn(3)
        await self.must_refuse(store, self._full(key, turn, session=head), StaleVersion)
        assert await store.find_turn(key, turn.turn_id) is None
        assert await store.memories(key.scope, ["insight"]) == []
        assert await store.sittings(key) == []
        assert (await store.entries(key.scope, None, "space")).memories == []

    async def test_a_commit_whose_sitting_moved_is_refused_with_everything_in_it(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key, turns=2)
        turn = a_turn(3)
        overtaken = a_sitting(version=2)
        commit = self._full(key, turn, session=head.with_turn(turn), sittings=(overtaken,))
        await self.must_refuse(store, commit, StaleVersion)

    async def test_a_refused_commit_does_not_stand_in_the_way_of_a_right_one(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key, turns=2)
        turn = a_turn(3)
        await self.must_refuse(store, self._full(key, turn, session=head), StaleVersion)
        await store.commit(self._full(key, turn, session=head.with_turn(turn)))
        assert await store.find_turn(key, turn.turn_id) == turn
        assert await store.memories(key.scope, ["insight"]) == [a_memory("m")]
        assert await store.sittings(key) == [a_sitting()]

    def _full(
        self, key: Any, turn: Turn, *, session: Session, sittings: tuple[Sitting, ...] = (a_sitting(),)
    ) -> Commit:
        memories: tuple[Memory, ...] = (a_memory("m"),)
        return Commit(scope=key.scope, session=session, turns=(turn,), sittings=sittings, memories=memories)

    async def test_a_stale_head_of_another_user_is_nobody_elses_business(self, store: Store) -> None:
        ana, ben = a_key(), a_key(user_id="ben")
        await begin(store, ana, turns=3)
        head = await begin(store, ben, turns=1)
        commit, _ = next_turn(Hot(session=head), ben)
        await store.commit(commit)
        assert len(await store.turns(ben)) == 2
        assert len(await store.turns(ana)) == 3

    async def test_a_sitting_is_fenced_by_its_version(self, store: Store) -> None:
        key = a_key()
        await begin(store, key, turns=3)
        first = a_sitting()
        await store.commit(Commit(scope=key.scope, sittings=(first,)))
        claimed = first.claimed(first.due_at)
        await store.commit(Commit(scope=key.scope, sittings=(claimed,)))
        for overtaken in (first, claimed, claimed.claimed(first.due_at).claimed(first.due_at)):
            late = Commit(scope=key.scope, sittings=(overtaken,), memories=(a_memory("of a late worker"),))
            await self.must_refuse(store, late, StaleVersion)
        assert await store.sittings(key) == [claimed]

    async def test_a_memory_that_was_changed_by_hand_since_it_was_read_is_not_written_over(self, store: Store) -> None:
        key = a_key()
        await begin(store, key, turns=3)
        await store.commit(Commit(scope=key.scope, sittings=(a_sitting(),), memories=(a_memory("m"), a_memory("n"))))
        read, other = a_memory("m"), a_memory("n")
        edited = replace(read, text="by hand", edited=True, updated_at=minutes(1))
        await store.commit(Commit(scope=key.scope, memories=(edited,), unchanged=(read,)))
        late = Commit(
            scope=key.scope,
            sittings=(a_sitting(version=2),),
            memories=(a_memory("new"), other.superseded(read), read.superseded(other)),
            unchanged=(other, read),
        )
        await self.must_refuse(store, late, StaleVersion)
        again = replace(edited, text="by another hand", updated_at=minutes(2))
        for state in (read, replace(edited, updated_at=minutes(2)), replace(edited, created_at=minutes(1))):
            overtaken = Commit(scope=key.scope, memories=(again,), unchanged=(state,))
            await self.must_refuse(store, overtaken, StaleVersion)
        assert await store.find_memory(key.scope, "m") == edited
        await store.commit(Commit(scope=key.scope, memories=(again,), unchanged=(edited,)))
        assert await store.find_memory(key.scope, "m") == again

    async def test_a_memory_that_is_not_there_is_not_as_it_was_read(self, store: Store) -> None:
        key = a_key()
        await begin(store, key)
        gone = a_memory("gone")
        await self.must_refuse(store, Commit(scope=key.scope, memories=(gone,), unchanged=(gone,)), StaleVersion)
        await store.commit(Commit(scope=a_scope("ben"), memories=(gone,)))
        await self.must_refuse(store, Commit(scope=key.scope, memories=(gone,), unchanged=(gone,)), StaleVersion)

    async def test_of_many_who_change_one_memory_at_once_one_does(self, store: Store) -> None:
        scope, read = a_scope(), a_memory("m")
        await store.commit(Commit(scope=scope, memories=(read,)))
        changes = [replace(read, text=f"by {n}", edited=True, updated_at=minutes(n)) for n in range(1, 9)]
        commits = [store.commit(Commit(scope=scope, memories=(one,), unchanged=(read,))) for one in changes]
        outcomes = await asyncio.gather(*commits, return_exceptions=True)
        assert [type(one) for one in outcomes].count(StaleVersion) == len(changes) - 1
        assert await store.find_memory(scope, "m") == changes[outcomes.index(None)]

    async def test_what_must_not_be_there_yet_is_not_written_over(self, store: Store) -> None:
        scope, new = a_scope(), a_memory("new")
        await store.commit(Commit(scope=scope, memories=(new,), absent=("new",)))
        assert await store.find_memory(scope, "new") == new
        deleted = replace(new.deleted(minutes(1)), edited=True)
        for held in (new, deleted):
            await store.commit(Commit(scope=scope, memories=(held,)))
            again = Commit(scope=scope, memories=(a_memory("other"), a_memory("new", text="again")), absent=("new",))
            await self.must_refuse(store, again, StaleVersion)
        assert await store.find_memory(scope, "new") == deleted
        assert await store.find_memory(scope, "other") is None
        both = Commit(scope=scope, memories=(a_memory("other"), new), absent=("other",), unchanged=(deleted,))
        await store.commit(both)
        assert await store.find_memory(scope, "new") == new

    async def test_of_many_who_write_the_first_of_a_name_at_once_one_does_though_the_user_is_new(
        self, store: Store
    ) -> None:
        for scope in (a_scope("new"), a_scope("newer")):
            ones = [a_memory("m", text=f"by {n}", created_at=minutes(n)) for n in range(8)]
            commits = [store.commit(Commit(scope=scope, memories=(one,), absent=("m",))) for one in ones]
            outcomes = await asyncio.gather(*commits, return_exceptions=True)
            assert [type(one) for one in outcomes].count(StaleVersion) == len(ones) - 1
            assert await store.find_memory(scope, "m") == ones[outcomes.index(None)]

    # Turns

    async def test_a_turn_id_is_stored_once_and_its_repeat_writes_nothing(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key, turns=2)
        repeat = a_turn(3, turn_id="t1", text="other words")
        commit = self._full(key, repeat, session=head.with_turn(repeat))
        await self.must_refuse(store, commit, DuplicateTurn)
        assert await store.find_turn(key, "t1") == a_turn(1)

    async def test_a_request_of_one_name_has_one_effect_which_a_clock_set_ahead_by_a_day_does_not_forget(
        self, store: Store
    ) -> None:
        key = a_key()
        commit, hot = next_turn(Hot(session=await begin(store, key)), key, turn_id="t1")
        name = Request(key="k", digest="d", made_at=minutes(0))
        await store.commit(replace(commit, request=name))
        effect = await store.find_effect(key.scope, "k")
        assert effect == Effect(digest="d", session_id=key.session_id, turn_id="t1")
        assert await store.find_effect(a_scope("another"), "k") is None

        commit, _ = next_turn(hot, key, turn_id="t2")
        await self.must_refuse(store, replace(commit, request=name), DuplicateRequest)
        two_days_later = Request(key="l", digest="d", made_at=minutes(2 * 24 * 60))
        await store.commit(replace(commit, request=two_days_later))
        assert await store.find_effect(key.scope, "k") == effect
        commit, _ = next_turn(Hot(session=commit.session or pytest.fail(), turns=commit.turns), key, turn_id="t3")
        await store.commit(replace(commit, request=Request(key="m", digest="d", made_at=minutes(3 * 24 * 60 + 1))))
        assert await store.find_effect(key.scope, "k") is None

    async def test_a_request_name_is_free_again_once_it_is_no_longer_kept(self, store: Store) -> None:
        key = a_key()
        commit, hot = next_turn(Hot(session=await begin(store, key)), key, turn_id="t1")
        await store.commit(replace(commit, request=Request(key="k", digest="d", made_at=minutes(0))))
        commit, _ = next_turn(hot, key, turn_id="t2")
        later = minutes(0) + REQUESTS_KEPT + timedelta(minutes=1)
        await store.commit(replace(commit, request=Request(key="k", digest="e", made_at=later)))
        assert await store.find_effect(key.scope, "k") == Effect(digest="e", session_id=key.session_id, turn_id="t2")

    async def test_a_turn_id_repeated_within_one_commit_is_refused(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key)
        one, two = a_turn(1, turn_id="same"), a_turn(2, turn_id="same")
        commit = Commit(scope=key.scope, session=head.with_turn(two), turns=(one, two))
        await self.must_refuse(store, commit, DuplicateTurn)

    @pytest.mark.parametrize(
        "elsewhere", [a_key("s2"), a_key(user_id="ben"), a_key(tenant_id="acme")], ids=["session", "user", "tenant"]
    )
    async def test_the_same_turn_id_elsewhere_is_another_turn(self, store: Store, elsewhere: Any) -> None:
        await begin(store, a_key(), turns=1)
        await begin(store, elsewhere, turns=1)
        assert await store.find_turn(a_key(), "t1") == a_turn(1, "s")
        assert await store.find_turn(elsewhere, "t1") == a_turn(1, elsewhere.session_id)

    async def test_many_turns_of_one_commit_are_all_there_in_order(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key, turns=1)
        more = tuple(a_turn(seq) for seq in range(2, 30))
        last = more[-1]
        await store.commit(Commit(scope=key.scope, session=head.with_turn(last), turns=more))
        assert [turn.seq for turn in await store.turns(key)] == list(range(1, 30))

    # Concurrency

    async def test_one_hundred_users_at_once_each_have_exactly_their_own_turns(self, store: Store) -> None:
        keys = [a_key(user_id=f"user{number}") for number in range(100)]

        async def talk(number: int) -> None:
            hot = Hot(session=a_session())
            await store.commit(Commit(scope=keys[number].scope, session=hot.session))
            for said in range(3):
                commit, hot = next_turn(hot, keys[number], text=f"{number}/{said}")
                await store.commit(commit)

        await asyncio.gather(*map(talk, range(100)))
        for number, key in enumerate(keys):
            said = [turn.messages[0].content for turn in await store.turns(key)]
            assert said == [f"{number}/0", f"{number}/1", f"{number}/2"]

    async def test_of_many_commits_of_one_version_exactly_one_wins(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key)
        for _ in range(3):
            turns = [a_turn(head.turn_count + 1, turn_id=f"{head.version}-{n}", text=f"by {n}") for n in range(20)]
            commits = [Commit(scope=key.scope, session=head.with_turn(turn), turns=(turn,)) for turn in turns]
            outcomes = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
            assert [type(lost) for lost in outcomes if lost is not None] == [StaleVersion] * 19
            winner = turns[outcomes.index(None)]
            assert (await store.turns(key))[-1] == winner
            head = head.with_turn(winner)
        hot = await store.load(key)
        assert hot is not None
        assert hot.session == head
        assert [turn.seq for turn in hot.turns] == [1, 2, 3]

    async def test_of_many_claims_of_one_sitting_exactly_one_wins(self, store: Store) -> None:
        key = a_key()
        await begin(store, key, turns=3)
        sitting = a_sitting()
        await store.commit(Commit(scope=key.scope, sittings=(sitting,)))
        claims = [Commit(scope=key.scope, sittings=(sitting.claimed(sitting.due_at),)) for _ in range(20)]
        outcomes = await asyncio.gather(*map(store.commit, claims), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType"] + ["StaleVersion"] * 19
        assert (await store.sittings(key))[0].attempts == 1

    # Cancellation

    async def test_what_holds_a_nul_is_written_over_like_anything_else(self, store: Store) -> None:
        """Databases that read the values they keep may not take it for text."""
        key, text = a_key(), "tea\0cake"
        head = replace(await begin(store, key), cumulative_summary=text, version=2)
        memory = replace(a_memory("m", text=text), kind="memory", session_id=key.session_id)
        await store.commit(Commit(scope=key.scope, session=head, memories=(memory,)))
        again, edited = replace(head, version=3), replace(memory, text=f"{text}!", updated_at=memory.created_at)
        await store.commit(Commit(scope=key.scope, session=again, memories=(edited,), unchanged=(memory,)))
        await self.must_refuse(store, Commit(scope=key.scope, memories=(memory,), unchanged=(memory,)), StaleVersion)
        assert await store.head(key) == again
        assert await store.find_memory(key.scope, "m") == edited
        assert await store.whose(key.scope.tenant_id, key.session_id) == [key.scope]
        assert await store.due_memories(10) == []

    async def test_a_commit_under_way_settles_although_its_caller_is_cancelled(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key)
        turn = a_turn(1)
        commit = Commit(scope=key.scope, session=head.with_turn(turn), turns=(turn,))
        task = asyncio.create_task(store.commit(commit))
        await asyncio.sleep(0)  # it has been handed to the store now
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # no matter when this is asked: the outcome stood before the caller was let go
        hot = await store.load(key)
        assert hot == Hot(session=head.with_turn(turn), turns=(turn,))

    async def test_a_refusal_of_a_cancelled_commit_is_taken_note_of(self, store: Store) -> None:
        key = a_key()
        await begin(store, key)
        forgotten: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: forgotten.append(context))
        stale = Commit(scope=key.scope, session=a_session(), memories=(a_memory("m"),))
        task = asyncio.create_task(store.commit(stale))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()
        await asyncio.sleep(0)
        assert forgotten == []
        assert await store.memories(key.scope, ["insight"]) == []

    async def test_commits_cancelled_at_any_moment_are_there_whole_or_not_at_all(self, store: Store) -> None:
        keys = [a_key(f"s{number}") for number in range(20)]
        tasks = []
        for patience, key in enumerate(keys):
            turn = a_turn(1, key.session_id)
            commit = Commit(
                scope=key.scope,
                session=a_session(key.session_id, turn_count=1),
                turns=(turn,),
                memories=(a_memory(f"of-{key.session_id}"),),
            )
            tasks.append(asyncio.create_task(store.commit(commit)))
            for _ in range(patience // 4):
                await asyncio.sleep(0)
            tasks[-1].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        memories = {memory.memory_id for memory in await store.memories(a_key().scope, ["insight"])}
        for key, outcome in zip(keys, outcomes, strict=True):
            hot = await store.load(key)
            assert (hot is not None) == (f"of-{key.session_id}" in memories)
            assert hot is None or len(hot.turns) == 1
            assert outcome is not None or hot is not None, "acknowledged and lost"
