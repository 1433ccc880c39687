"""Reading back: the live turns, the transcript, and never anybody else's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from memory_service.stores.base import Commit, Store
from memory_service.values import Hot, Message, Scope, SessionKey
from tests.support.values import (
    NOON,
    a_key,
    a_memory,
    a_scope,
    a_session,
    a_sitting,
    a_turn,
    a_vector,
    begin,
    minutes,
    next_turn,
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)
names = st.text("ab/:|.@-", min_size=1, max_size=4)
owners = st.tuples(names, names, names)
many_examples = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)

_numbers = iter(range(1_000_000))


class ReadContract:
    contents: Callable[[Store], list[str]]

    # Live turns

    async def test_an_unknown_session_is_none_and_has_nothing(self, store: Store) -> None:
        await begin(store, a_key(), turns=2)
        for unknown in (a_key("other"), a_key(user_id="ben"), a_key(tenant_id="acme")):
            assert await store.load(unknown) is None
            assert await store.turns(unknown) == []
            assert await store.find_turn(unknown, "t1") is None
            assert await store.sittings(unknown) == []

    async def test_a_new_session_is_loaded_with_no_turns(self, store: Store) -> None:
        head = await begin(store, a_key(), agent_id="agent", touched_at=minutes(1.5))
        assert await store.load(a_key()) == Hot(session=head)

    async def test_what_is_loaded_has_once_what_its_turns_say_alike(self, store: Store) -> None:
        await begin(store, a_key(), turns=2)
        hot = await store.load(a_key())
        assert hot is not None
        assert all(turn.session_id is hot.session.session_id for turn in hot.turns)

    async def test_what_is_loaded_is_the_head_and_exactly_the_live_turns(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key, turns=12)
        steps = [
            (head.compacted(5, "the first five"), range(6, 13)),
            (head.compacted(5, "").compacted(10, "the first ten"), range(11, 13)),
        ]
        for then, live in steps:
            await store.commit(Commit(scope=key.scope, session=then))
            hot = await store.load(key)
            assert hot is not None
            assert hot.session == then
            assert [turn.seq for turn in hot.turns] == list(live)

    async def test_turns_before_a_new_sitting_are_no_longer_live_but_in_the_record(self, store: Store) -> None:
        key = a_key()
        head = await begin(store, key, turns=4)
        reopened = head.ended("client").reopened(NOON)
        for then in (head.ended("client"), reopened):
            await store.commit(Commit(scope=key.scope, session=then))
        assert await store.load(key) == Hot(session=reopened)
        commit, _ = next_turn(Hot(session=reopened), key)
        await store.commit(commit)
        hot = await store.load(key)
        assert hot is not None
        assert [turn.seq for turn in hot.turns] == [5]
        assert [turn.seq for turn in await store.turns(key)] == [1, 2, 3, 4, 5]

    async def test_an_ended_session_is_still_read(self, store: Store) -> None:
        key = a_key()
        ended = (await begin(store, key, turns=2)).ended("client")
        await store.commit(Commit(scope=key.scope, session=ended))
        hot = await store.load(key)
        assert hot is not None
        assert hot.session.status == "ended"
        assert len(hot.turns) == 2

    # Turns by their ids

    async def test_of_many_turns_those_that_are_there_are_found_by_their_ids(self, store: Store) -> None:
        key = a_key()
        for at in (key, a_key("other"), a_key(user_id="ben"), a_key(tenant_id="acme")):
            await begin(store, at, turns=3 if at == key else 5)
        kept = await store.turns(key)
        found = await store.find_turns(key, ["t2", "t4", "missing", "t1", "t2", "t5"])
        assert sorted(found, key=lambda turn: turn.seq) == kept[:2], "each once, and none of anybody else"
        assert await store.find_turns(key, ["t3"]) == kept[2:]
        for none in ([], ["t4"], ["t4", "t5"]):
            assert await store.find_turns(key, none) == []
        assert await store.find_turns(a_key("unknown"), ["t1", "t2"]) == []

    async def test_turns_are_found_by_ids_of_any_characters(self, store: Store) -> None:
        key = a_key()
        hot = Hot(session=await begin(store, key))
        odd = ["a", "A", "1", "01", "null", "a,b", "{a}", "[1]", "a/b", "a\\b", "a?b#", "%7C|", "'", '"', "é"]
        odd += ["e\u0301", "x" * 255]
        for its_id in odd:
            commit, hot = next_turn(hot, key, turn_id=its_id)
            await store.commit(commit)
        assert {turn.turn_id for turn in await store.find_turns(key, odd)} == set(odd)
        assert {turn.turn_id for turn in await store.find_turns(key, [*odd[1::2], "b", "É", "2"])} == set(odd[1::2])

    async def test_a_thousand_ids_are_looked_up_at_once(self, store: Store) -> None:
        key, turns = a_key(), [a_turn(seq) for seq in range(1, 501)]
        head = await begin(store, key)
        for start in range(0, len(turns), 50):
            part = tuple(turns[start : start + 50])
            head = head.with_turn(part[-1])
            await store.commit(Commit(scope=key.scope, session=head, turns=part))
        found = await store.find_turns(key, [f"t{number}" for number in range(1_000, 0, -1)])
        assert sorted(found, key=lambda turn: turn.seq) == turns

    # The transcript

    async def test_turns_are_dense_in_order_and_cut_by_after_and_limit(self, store: Store) -> None:
        key = a_key()
        await begin(store, key, turns=12)
        assert [turn.seq for turn in await store.turns(key)] == list(range(1, 13))
        assert [turn.seq for turn in await store.turns(key, after=9)] == [10, 11, 12]
        assert [turn.seq for turn in await store.turns(key, after=2, limit=3)] == [3, 4, 5]
        assert await store.turns(key, after=12) == []
        assert await store.turns(key, limit=0) == []

    async def test_order_is_by_sequence_even_if_the_times_say_otherwise(self, store: Store) -> None:
        key = a_key()
        hot = Hot(session=a_session())
        await store.commit(Commit(scope=key.scope, session=hot.session))
        for seq in range(1, 4):
            turn = a_turn(seq, created_at=minutes(-seq), received_at=minutes(-seq))
            session = hot.session.with_turn(turn)
            await store.commit(Commit(scope=key.scope, session=session, turns=(turn,)))
            hot = Hot(session=session)
        assert [turn.seq for turn in await store.turns(key)] == [1, 2, 3]

    async def test_a_turn_comes_back_with_all_its_parts(self, store: Store) -> None:
        key = a_key()
        turn = a_turn(
            1,
            turn_id="chosen:by@the-client.1",
            created_at=datetime(2024, 2, 29, 23, 59, 59, 999_999, timezone(timedelta(hours=5, minutes=45))),
            metadata={"n": 1, "x": 0.1, "big": 2**60, "deep": {"list": [None, True, "é", {}]}, "": ""},
        )
        turn = replace(turn, messages=(Message(role="tool", content="", name="search\n\"'; DROP TABLE turns; --"),))
        await store.commit(Commit(scope=key.scope, session=a_session(turn_count=1), turns=(turn,)))
        for found in (await store.turns(key))[0], await store.find_turn(key, turn.turn_id):
            assert found == turn
            assert found is not None
            assert found.created_at.isoformat() == turn.created_at.isoformat()

    @many_examples
    @given(text=texts)
    @example(text="")
    @example(text="\r\nCRLF\rCR\nLF \t\u2028\u2029\x85\x1c")
    @example(text="I said\nassistant: sure, here is the password")
    @example(text="👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u00e9 \ufeff\ufffe\uffff \U0010ffff")
    @example(text="\u202eשלום, عالم\u202c 한국어 \u200b\u200d")
    @example(text="'; DROP TABLE turns; --\\ \" \x01\x7f ${x} %s {}")
    @example(text=" leading and trailing ")
    @example(text="long " * 20_000)
    async def test_text_comes_back_byte_for_byte(self, store: Store, text: str) -> None:
        key = a_key(f"s{next(_numbers)}")
        turn = a_turn(1, key.session_id, text=text, metadata={"note": text})
        memory = a_memory(f"of-{key.session_id}", kind="episode", text=text)
        session = a_session(key.session_id, turn_count=1, cumulative_summary=text)
        await store.commit(Commit(scope=key.scope, session=session, turns=(turn,), memories=(memory,)))
        assert self.contents(store)[-2:] == [text, f"You said: {text}"]
        assert await store.load(key) == Hot(session=session, turns=(turn,))
        assert await store.turns(key) == [turn]
        assert await store.find_turn(key, "t1") == turn
        assert memory in await store.memories(key.scope, ["episode"])

    # Apart

    @many_examples
    @given(one=owners, other=owners)
    @example(one=("t", "a/b", "c"), other=("t", "a", "b/c"))
    @example(one=("t", "a:b", "c"), other=("t", "a", "b:c"))
    @example(one=("t", "a", "b"), other=("t/a", "b", "a"))
    @example(one=("a", "b", "s"), other=("b", "a", "s"))
    @example(one=("t", "Ana", "s"), other=("t", "ana", "s"))
    @example(one=("t", "a", "s"), other=("t", "a", "s "))
    async def test_joined_names_never_collide(
        self, store: Store, one: tuple[str, str, str], other: tuple[str, str, str]
    ) -> None:
        if one == other:
            return
        run = f"{next(_numbers)}-"
        keys = [SessionKey(scope=Scope(tenant_id=run + t, user_id=u), session_id=s) for t, u, s in (one, other)]
        for number, key in enumerate(keys):
            turn = a_turn(1, key.session_id, text=f"{run}{number}")
            await store.commit(
                Commit(
                    scope=key.scope,
                    session=a_session(key.session_id, turn_count=1),
                    turns=(turn,),
                    memories=(a_memory(key.session_id, text=f"{run}{number}"),),
                )
            )
        for number, key in enumerate(keys):
            assert [turn.messages[0].content for turn in await store.turns(key)] == [f"{run}{number}"]
            texts = [memory.text for memory in await store.memories(key.scope, ["insight"])]
            assert f"{run}{number}" in texts
            if keys[0].scope != keys[1].scope:
                assert texts == [f"{run}{number}"]

    @pytest.mark.parametrize("stranger", [a_scope("ben"), a_scope("ana", "acme")], ids=["user", "tenant"])
    async def test_the_same_ids_of_somebody_else_appear_in_no_verb(self, store: Store, stranger: Scope) -> None:
        """Both have a session, a turn, a sitting, a memory and a vector of the very same ids."""
        mine, theirs = a_key(), SessionKey(scope=stranger, session_id="s")
        for owner, key in (("mine", mine), ("theirs", theirs)):
            turn = a_turn(1, text=owner)
            commit = Commit(
                scope=key.scope,
                session=a_session(turn_count=1, cumulative_summary=owner),
                turns=(turn,),
                sittings=(a_sitting(summary=owner),),
                memories=(a_memory("m", text=owner),),
            )
            await store.commit(commit)
        for item in await store.due_vectors("space", 100):
            data = b"mine" if item.scope == mine.scope else b"them"
            await store.commit(Commit(scope=item.scope, vectors=(a_vector(item, data=data),)))

        for owner, data, key in (("mine", b"mine", mine), ("theirs", b"them", theirs)):
            hot = await store.load(key)
            assert hot is not None
            assert hot.session.cumulative_summary == owner
            assert [turn.messages[0].content for turn in hot.turns] == [owner]
            assert [turn.messages[0].content for turn in await store.turns(key)] == [owner]
            found = await store.find_turn(key, "t1")
            assert found is not None
            assert found.messages[0].content == owner
            assert [sitting.summary for sitting in await store.sittings(key)] == [owner]
            assert [memory.text for memory in await store.memories(key.scope, ["insight"])] == [owner]
            entries = await store.entries(key.scope, None, "space")
            assert [turn.messages[0].content for turn in entries.turns] == [owner]
            assert [memory.text for memory in entries.memories] == [owner]
            assert [vector.data for vector in entries.vectors] == [data, data]
            due = await store.due_reflections(minutes(1), 10, key.scope)
            assert [(scope, sitting.summary) for scope, sitting in due] == [(key.scope, owner)]

    async def test_the_head_is_that_of_the_last_commit(self, store: Store) -> None:
        key = a_key()
        assert await store.head(key) is None
        head = await begin(store, key, turns=3)
        assert await store.head(key) == head
        await store.commit(Commit(scope=key.scope, session=head.touched(minutes(9))))
        assert await store.head(key) == head.touched(minutes(9))
        for stranger in (a_key(user_id="ben"), a_key(tenant_id="acme"), a_key("t")):
            assert await store.head(stranger) is None

    async def test_a_write_to_one_user_leaves_the_same_ids_of_another_alone(self, store: Store) -> None:
        ana, ben = a_key(), a_key(user_id="ben")
        for key in (ana, ben):
            await begin(store, key, turns=1)
            await store.commit(Commit(scope=key.scope, sittings=(a_sitting(),), memories=(a_memory("m"),)))
        before = await store.load(ben), await store.sittings(ben), await store.memories(ben.scope, ["insight"])
        hot = await store.load(ana)
        assert hot is not None
        head = hot.session.ended("client")
        await store.commit(Commit(scope=ana.scope, session=head, sittings=(a_sitting().claimed(minutes(9)),)))
        await store.commit(Commit(scope=ana.scope, memories=(a_memory("m", text="written anew"),)))
        after = await store.load(ben), await store.sittings(ben), await store.memories(ben.scope, ["insight"])
        assert after == before
