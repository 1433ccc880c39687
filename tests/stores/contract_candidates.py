"""What a store must do that narrows a user's memory to a question by indexes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from memory_service.stores.base import Commit, Entries, Sought, Store
from memory_service.text import Tokenizer
from memory_service.values import EXTRACTIVE, KINDS, Kind, Memory, Scope, Turn, turn_item_id
from tests.support.values import a_memory, a_scope, a_session, a_turn, a_vector, item_id_of

ANA, BEN = a_scope(), a_scope("ben")
HOSTILE = {
    "quotes": "he said 'it''s' and \"walnuts\" OR '1'='1",
    "backslashes": "C:\\walnuts\\' \\\" \\n",
    "comment": "walnuts -- ') ORDER BY c.id /* ",
    "braces": "{walnuts} [0] $1 @w0 ${x} {{y}}",
    "nul": "walnuts\0and\0cake",
    "emoji": "walnuts \U0001f95c‍\U0001f525 ‮RTL",
    "long": "walnuts " + "x" * 100_000,
    "many": "walnuts " + " ".join(f"word{number}" for number in range(15_000)),
}
QUESTIONS = {
    "chinese": ("我对核桃过敏，请不要给我", "谁对核桃过敏？", "今天天气很好"),
    "japanese": ("昨日東京タワーに行きました", "東京タワー", "明日は雨です"),
    "thai": ("ฉันแพ้ถั่ววอลนัท", "ถั่ววอลนัท", "อากาศดี"),
    "cyrillic": ("У меня аллергия на грецкие орехи", "орехи", "Сегодня хорошая погода"),
    "accents": ("Crème brûlée à Évian", "creme brulee", "pain au chocolat"),
    "numbers": ("Call me at 555 0199", "0199", "Call me at 555 0188"),
    "inflected": ("She was running marathons", "run marathon", "She was swimming"),
    "ends in q": ("Her brother lives in Iraq", "Iraq", "Her brother lives in Ira"),
}


def row(*numbers: float, width: int = 256) -> np.ndarray:
    """A vector of unit length that begins with these numbers."""
    vector = np.zeros(width, np.float32)
    vector[: len(numbers)] = numbers
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


NOWHERE = row()
"""The vector of a question that nothing is near: what is found is found by words."""


async def said(store: Store, *texts: str, session_id: str = "s", scope: Scope = ANA) -> list[Turn]:
    """A new session of one turn for each text."""
    turns = tuple(a_turn(seq, session_id, text=text) for seq, text in enumerate(texts, 1))
    head = a_session(session_id, turn_count=len(turns))
    await store.commit(Commit(scope=scope, session=head, turns=turns))
    return list(turns)


async def learned(store: Store, *memories: Memory, scope: Scope = ANA) -> None:
    await store.commit(Commit(scope=scope, memories=memories))


async def point(store: Store, vectors: dict[str, Any], space: str = "space") -> None:
    """Give these items these vectors."""
    due = {item_id_of(item): item for item in await store.due_vectors(space, 1000)}
    for item_id, rows in vectors.items():
        vector = a_vector(due[item_id], space, np.atleast_2d(rows).astype(np.float32).tobytes())
        await store.commit(Commit(scope=due[item_id].scope, vectors=(vector,)))


async def asked(
    store: Store,
    question: str = "",
    vector: Any = NOWHERE,
    *,
    scope: Scope = ANA,
    space: str = "space",
    kinds: Sequence[Kind] = KINDS,
    extracts: bool = True,
    limit: int = 50,
) -> Entries:
    stems = tuple(Tokenizer().of_question(question))
    sought = Sought(stems=stems, vector=vector, space=space, kinds=tuple(kinds), with_extracts=extracts)
    return await store.candidates(scope, sought, limit)


def names(entries: Entries) -> list[str]:
    turns = [turn_item_id(turn.session_id, turn.seq) for turn in entries.turns]
    return sorted(turns + [memory.memory_id for memory in entries.memories])


class CandidatesContract:
    async def test_what_holds_a_word_of_the_question_is_found_at_once(self, store: Store) -> None:
        turns = await said(store, "I am allergic to walnuts", "The weather is fine")
        await learned(store, a_memory("m", text="eats no walnut"), a_memory("n", text="likes tea"))
        found = await asked(store, "Which walnuts?")
        assert names(found) == ["m", "s#1"]
        assert found.turns == turns[:1]
        assert found.memories == [a_memory("m", text="eats no walnut")]
        assert (found.vectors, found.more) == ([], False)

    async def test_without_a_vector_the_turns_beside_those_found_come_too(self, store: Store) -> None:
        """What answers a question often has none of its words."""
        for session in ("a", "b", "d"):
            await said(store, "tea", "tea", "tea", f"walnuts of {session}", "cake", "cake", session_id=session)
        await said(store, "walnuts", session_id="c", scope=BEN)
        found = await asked(store, "walnuts a", None)
        assert names(found) == [f"{session}#{seq}" for session in "abd" for seq in (3, 4, 5)]
        assert names(await asked(store, "walnuts", row(1))) == ["a#4", "b#4", "d#4"]

    async def test_what_points_the_same_way_is_found_with_its_exact_vectors(self, store: Store) -> None:
        await said(store, "kitten", "bank")
        near, far = np.stack([row(1, 0.1), row(1, -0.1)]), np.stack([row(0, 1), row(0, 1)])
        await point(store, {"s#1": near, "s#2": far})
        found = await asked(store, "", row(1), limit=1)
        assert names(found) == ["s#1"]
        assert [vector.data for vector in found.vectors] == [near.tobytes()]
        assert found.vectors[0].item_id == "s#1"
        assert found.vectors[0].space == "space"

    async def test_one_that_is_found_both_ways_comes_once(self, store: Store) -> None:
        await said(store, "walnuts")
        await learned(store, a_memory("m", text="walnuts"))
        await point(store, {"s#1": np.stack([row(1), row(1)]), "m": row(1)})
        found = await asked(store, "walnuts", row(1))
        assert names(found) == ["m", "s#1"]
        assert sorted(vector.item_id for vector in found.vectors) == ["m", "s#1"]

    async def test_without_words_and_vector_nothing_is_found(self, store: Store) -> None:
        await said(store, "walnuts")
        await point(store, {"s#1": np.stack([row(1), row(1)])})
        assert names(await asked(store, "", None)) == []
        assert names(await asked(store, "cake", None)) == []
        assert names(await asked(store, "cake", NOWHERE)) == []
        assert names(await asked(store, "walnuts", row(1), kinds=[])) == []

    async def test_another_user_s_same_words_and_vectors_are_never_found(self, store: Store) -> None:
        tenant = a_scope("ana", "other")
        for scope in (ANA, BEN, tenant):
            secret = f"walnuts of {scope.user_id} {scope.tenant_id}"
            await said(store, secret, scope=scope)
            await learned(store, a_memory("m", text=secret), scope=scope)
            due = [item for item in await store.due_vectors("space", 10) if item.scope == scope]
            rows = {item_id_of(item): np.stack([row(1)] * (2 if item.turn else 1)) for item in due}
            vectors = tuple(a_vector(item, data=rows[item_id_of(item)].tobytes()) for item in due)
            await store.commit(Commit(scope=scope, vectors=vectors))
        for scope in (ANA, BEN, tenant):
            found = await asked(store, "walnuts", row(1), scope=scope)
            assert names(found) == ["m", "s#1"]
            texts = [found.memories[0].text, found.turns[0].messages[0].content]
            assert texts == [f"walnuts of {scope.user_id} {scope.tenant_id}"] * 2
        assert names(await asked(store, "walnuts", row(1), scope=a_scope("nobody"))) == []

    async def test_a_superseded_memory_is_not_found(self, store: Store) -> None:
        old, new = a_memory("old", text="lives in Porto"), a_memory("new", text="lives in Lisbon")
        await learned(store, old)
        await point(store, {"old": row(1)})
        await learned(store, old.superseded(new), new)
        await point(store, {"old": row(1), "new": row(1)})
        assert names(await asked(store, "lives in Porto", row(1))) == ["new"]

    async def test_a_memory_written_again_is_found_by_what_it_says_now(self, store: Store) -> None:
        await learned(store, a_memory("m", text="lives in Porto"))
        await point(store, {"m": row(1)})
        await learned(store, a_memory("m", text="lives in Lisbon"))
        assert names(await asked(store, "Porto", row(1))) == []
        assert names(await asked(store, "Lisbon")) == ["m"]
        await point(store, {"m": row(0, 1)})
        await learned(store, a_memory("n", text="another"))
        await point(store, {"n": row(1)})
        assert names(await asked(store, "", row(0, 1), limit=1)) == ["m"]

    async def test_only_the_kinds_asked_for_are_found(self, store: Store) -> None:
        await said(store, "walnuts")
        memories = [kind for kind in KINDS if kind != "message"]
        await learned(store, *(a_memory(f"{kind}_1", kind=kind, text="walnuts") for kind in memories))
        await point(store, {"s#1": np.stack([row(1)] * 2), **{f"{kind}_1": row(1) for kind in memories}})
        for question, vector in (("walnuts", NOWHERE), ("", row(1)), ("walnuts", row(1))):
            assert names(await asked(store, question, vector, kinds=["message"])) == ["s#1"]
            for kind in memories:
                assert names(await asked(store, question, vector, kinds=[kind])) == [f"{kind}_1"]
            assert len(names(await asked(store, question, vector))) == len(KINDS)

    async def test_extracts_are_found_only_when_asked_for(self, store: Store) -> None:
        await learned(store, a_memory("rules", text="walnuts", model=EXTRACTIVE), a_memory("none", text="walnuts"))
        await learned(store, a_memory("model", text="walnuts", model="gpt"))
        await point(store, {name: row(1) for name in ("rules", "none", "model")})
        for question, vector in (("walnuts", NOWHERE), ("", row(1))):
            assert names(await asked(store, question, vector, extracts=False)) == ["model", "none"]
            assert names(await asked(store, question, vector)) == ["model", "none", "rules"]

    @pytest.mark.parametrize("language", QUESTIONS)
    async def test_words_of_any_language_are_found(self, store: Store, language: str) -> None:
        text, question, other = QUESTIONS[language]
        await said(store, text, other)
        await learned(store, a_memory("m", text=text), a_memory("n", text=other))
        assert names(await asked(store, question)) == ["m", "s#1"]

    @pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
    async def test_hostile_text_is_only_text(self, store: Store, text: str) -> None:
        await said(store, text, "nothing of it")
        await learned(store, a_memory("m", text=text), a_memory("n", text="cake and tea"))
        assert {"m", "s#1"} <= set(names(await asked(store, text[:2000])))
        assert names(await asked(store, "walnuts")) == ["m", "s#1"]

    async def test_a_question_of_very_many_words_is_asked_by_those_that_tell_most(self, store: Store) -> None:
        await said(store, "the extraordinarily rare word", "cake")
        question = " ".join([*(f"w{number}" for number in range(600)), "extraordinarily"])
        assert names(await asked(store, question)) == ["s#1"]

    async def test_each_word_of_a_question_counts(self, store: Store) -> None:
        question = "apple mango lemon grape peach melon guava olive papaya cherry orange banana"
        await said(store, *question.split(), "cake")
        assert len(names(await asked(store, question))) == 12

    async def test_words_that_only_look_alike_are_not_found(self, store: Store) -> None:
        await said(store, "nut", "walnut", "nuts2", "2nut")
        assert names(await asked(store, "nuts")) == ["s#1"]

    async def test_vectors_of_another_space_are_not_compared(self, store: Store) -> None:
        await learned(store, a_memory("m"), a_memory("n"))
        await point(store, {"m": row(1), "n": row(1)}, "old")
        await point(store, {"n": row(0, 1, width=3)}, "new")
        found = await asked(store, "", row(1, width=3), space="new")
        assert names(found) == ["n"]
        assert [vector.space for vector in found.vectors] == ["new"]
        assert names(await asked(store, "", row(1), space="old")) == ["m"], "the present vector of n is a new one"
        assert names(await asked(store, "", row(1), space="none")) == []

    @pytest.mark.parametrize("width", [3, 255, 256, 257, 1536, 3072])
    async def test_vectors_of_any_width_narrow_to_the_nearest(self, store: Store, width: int) -> None:
        chance = np.random.default_rng(width)
        rows = chance.standard_normal((12, width)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        await learned(store, *(a_memory(f"m{number}") for number in range(12)))
        await point(store, {f"m{number}": vector for number, vector in enumerate(rows)})
        for number in (0, 5, 11):
            assert names(await asked(store, "", rows[number], limit=1)) == [f"m{number}"]

    async def test_a_turn_is_near_if_its_messages_are(self, store: Store) -> None:
        await said(store, "one", "two", "three")
        rows = {"s#1": [row(1), row(0, 1)], "s#2": [row(0, 0, 1), row(0, 0, 0, 1)], "s#3": [row(-1), row(0, -1)]}
        await point(store, {name: np.stack(of_turn) for name, of_turn in rows.items()})
        for vector in (row(1), row(0, 1), row(1, 1)):
            assert names(await asked(store, "", vector, limit=1)) == ["s#1"]
        assert names(await asked(store, "", row(0, 0, 0, 1), limit=1)) == ["s#2"]

    async def test_what_has_zeros_for_a_vector_is_found_by_its_words_alone(self, store: Store) -> None:
        """A text the model refuses gets zeros: also one that had a vector of another model before."""
        await learned(store, a_memory("m", text="walnuts"), a_memory("n", text="cake"), a_memory("o", text="tea"))
        await point(store, {"m": row(1), "n": row(1), "o": row(1)}, "old")
        await point(store, {"m": np.zeros(256), "n": row(0, 1), "o": np.zeros((1, 0))}, "new")
        assert names(await asked(store, "", row(1), space="new")) == ["n"]
        assert names(await asked(store, "walnuts tea", space="new")) == ["m", "o"]

    async def test_turns_come_in_the_order_of_their_session(self, store: Store) -> None:
        await said(store, *["walnuts"] * 12, session_id="b")
        await said(store, *["walnuts"] * 3, session_id="a")
        found = await asked(store, "walnuts")
        turns = [(turn.session_id, turn.seq) for turn in found.turns]
        assert turns == [("a", seq) for seq in range(1, 4)] + [("b", seq) for seq in range(1, 13)]

    async def test_no_more_is_given_than_the_best_of_each_index(self, store: Store) -> None:
        await said(store, *(f"walnuts and {number} other words" for number in range(12)))
        await point(store, {f"s#{number}": np.stack([row(1, number)] * 2) for number in range(1, 13)})
        assert len(names(await asked(store, "walnuts words", limit=3))) == 3
        assert names(await asked(store, "", row(1, 3), limit=1)) == ["s#3"]
        assert names(await asked(store, "walnuts 7", row(1, 3), limit=1)) == ["s#3", "s#8"]

    async def test_a_long_text_is_found_by_its_last_words(self, store: Store) -> None:
        await said(store, f"{'so it goes on and on ' * 4_000} walnuts", "cake")
        assert names(await asked(store, "walnuts")) == ["s#1"]
