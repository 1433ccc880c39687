"""What every engine must do that follows the record: all that `memory_service/projections/base.py` promises.

An engine's test file subclasses `ProjectionContract` and gives an open `engine` that holds nothing, and `settled`,
which waits for what the engine does only after it has answered.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pytest

from memory_service.corpus import Item
from memory_service.projections.base import Copy, Projection, digest_of
from memory_service.stores.base import Sought
from memory_service.text import Tokenizer
from memory_service.values import KINDS, Kind, Only, Role, Scope
from tests.support.values import NOON, a_scope

ANA, BEN = a_scope(), a_scope("ben")
SPACE, WIDTH = "test/16", 16
ODD_TEXTS = {
    "spaces": "  spaces around walnuts\t",
    "lines": "two\nlines\r\nof walnuts",
    "unicode": "Ünïcode 日本語 walnuts 👩‍👩‍👧",
    "sql": "walnuts'; DROP TABLE memories; --",
    "json": '{"walnuts": "\\u0000"}',
    "percent": "%s $1 ? walnuts %(x)s {x}",
    "long": "walnuts, and then much else " + "word " * 6000,
}
ODD_NAMES = ["Ana", "ANA", "ana:x", "ana.x", "ana-x", "ana_x", "1abc", "_x", "@", "a" * 200, "~knowledge"]


def direction(*numbers: float) -> np.ndarray:
    vector = np.zeros(WIDTH, np.float32)
    vector[: len(numbers)] = numbers
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def a_copy(
    id: str,
    text: str = "",
    *,
    kind: Kind = "memory",
    session_id: str | None = None,
    category: str | None = None,
    tags: tuple[str, ...] = (),
    role: Role | None = None,
    is_extract: bool = False,
    vector: np.ndarray | None = None,
    day: int = 0,
) -> Copy:
    item = Item(
        id=id,
        kind=kind,
        text=text or f"text of {id}",
        created_at=NOON + timedelta(days=day),
        session_id=session_id,
        role=role,
        name=None,
        sources=(),
        category=category,
        tags=tags,
        metadata={"made": "up", "nested": {"of": [1, 2.5, None]}},
    )
    return Copy(item=item, is_extract=is_extract, space=SPACE if vector is not None else "", vector=vector)


EVERYTHING = Only()


@dataclass(frozen=True)
class Question:
    """What is asked of an engine; `vector` is of the same space as those of copies."""

    words: str = "walnuts"
    kinds: tuple[Kind, ...] = KINDS
    only: Only = EVERYTHING
    vector: np.ndarray | None = None
    with_extracts: bool = True

    @property
    def sought(self) -> Sought:
        return Sought(
            stems=tuple(Tokenizer().of_question(self.words)),
            vector=self.vector,
            space=SPACE,
            kinds=self.kinds,
            with_extracts=self.with_extracts,
            question=self.words,
            only=self.only,
        )


WALNUTS = Question()


async def found(engine: Projection, question: Question = WALNUTS, scope: Scope = ANA, limit: int = 50) -> set[str]:
    ids = await engine.search(scope, question.sought, limit)
    assert len(set(ids)) == len(ids) <= 2 * limit
    return set(ids)


class ProjectionContract:
    @pytest.fixture
    async def engine(self) -> Projection:
        raise NotImplementedError

    async def settled(self, engine: Projection) -> None:
        """Wait for what it does after it has answered."""

    async def put(self, engine: Projection, *copies: Copy, scope: Scope = ANA) -> None:
        await engine.put(scope, copies)
        await self.settled(engine)

    # Finding

    async def test_what_was_put_is_found_by_its_words(self, engine: Projection) -> None:
        await self.put(engine, a_copy("m1", "Ana eats no walnuts"), a_copy("m2", "It rained at sea"))
        assert "m1" in await found(engine)

    async def test_what_was_said_is_found_as_what_was_remembered_is(self, engine: Projection) -> None:
        said = a_copy("s#3.0", "Ana eats no walnuts", kind="message", session_id="s", role="user")
        await self.put(engine, said)
        assert await found(engine) == {"s#3.0"}

    async def test_in_an_engine_that_holds_nothing_of_a_user_nothing_is_found(self, engine: Projection) -> None:
        assert await found(engine) == set()
        assert await engine.held(ANA) == {}

    async def test_no_more_than_asked_for_are_found_and_the_nearest_is_among_them(self, engine: Projection) -> None:
        copies = [a_copy(f"m{number}", f"a note on trees {number}") for number in range(60)]
        await self.put(engine, *copies, a_copy("nearest", "walnuts walnuts walnuts"), a_copy("far", "the sea"))
        assert "nearest" in await found(engine, limit=5)

    async def test_nothing_of_another_user_or_tenant_is_found(self, engine: Projection) -> None:
        others = [BEN, a_scope("ana", "acme"), a_scope("an"), a_scope("ana1"), a_scope("Ana")]
        for number, scope in enumerate(others):
            await self.put(engine, a_copy(f"m{number}", "walnuts", session_id="s"), scope=scope)
        assert await found(engine) == set()
        assert await found(engine, Question(only=Only(session_id="s"))) == set()
        for number, scope in enumerate(others):
            assert await found(engine, scope=scope) == {f"m{number}"}

    async def test_one_id_may_be_that_of_many_users(self, engine: Projection) -> None:
        await self.put(engine, a_copy("m", "walnuts"))
        await self.put(engine, a_copy("m", "nothing of that kind"), scope=BEN)
        await engine.remove(BEN, ["m"])
        assert (await found(engine), await engine.held(BEN)) == ({"m"}, {})

    async def test_only_the_kinds_asked_for_are_found(self, engine: Projection) -> None:
        await self.put(engine, *(a_copy(kind, f"walnuts and {kind}", kind=kind) for kind in KINDS))
        assert await found(engine) == set(KINDS)
        assert await found(engine, Question(kinds=("insight", "message"))) == {"insight", "message"}

    async def test_extracts_are_found_where_they_are_asked_for(self, engine: Projection) -> None:
        await self.put(engine, a_copy("whole", "walnuts"), a_copy("extract", "walnuts", is_extract=True))
        assert await found(engine) == {"whole", "extract"}
        assert await found(engine, Question(with_extracts=False)) == {"whole"}

    async def test_of_a_session_nothing_else_is_found(self, engine: Projection) -> None:
        noise = [a_copy(f"n{number}", "walnuts walnuts", session_id="noisy") for number in range(60)]
        await self.put(engine, *noise, a_copy("quiet", "among much else walnuts", session_id="quiet"), a_copy("none"))
        assert await found(engine, Question(only=Only(session_id="quiet")), limit=5) == {"quiet"}
        assert await found(engine, Question(only=Only(session_id="noisY")), limit=5) == set()

    async def test_of_a_category_nothing_else_is_found(self, engine: Projection) -> None:
        noise = [a_copy(f"n{n}", "walnuts walnuts", kind="knowledge", category="food") for n in range(60)]
        await self.put(engine, *noise, a_copy("trees", "walnuts grow", kind="knowledge", category="big trees"))
        assert await found(engine, Question(only=Only(category="big trees")), limit=5) == {"trees"}
        assert await found(engine, Question(only=Only(category="big")), limit=5) == set()

    async def test_what_bears_an_excluded_tag_is_left_out_before_the_best_are_taken(self, engine: Projection) -> None:
        noise = [a_copy(f"n{number}", "walnuts walnuts", tags=("noise", "日本")) for number in range(60)]
        await self.put(engine, *noise, a_copy("kept", "walnuts", tags=("noisy",)), a_copy("bare", "walnuts, plainly"))
        for excluded in (frozenset({"noise"}), frozenset({"日本", "other"})):
            assert await found(engine, Question(only=Only(without_tags=excluded)), limit=5) == {"kept", "bare"}
        both = Question(only=Only(without_tags=frozenset({"noise", "noisy"})))
        assert await found(engine, both, limit=5) == {"bare"}

    # Writing

    async def test_what_is_held_is_told_with_the_digest_of_its_text(self, engine: Projection) -> None:
        copies = [a_copy(name, text) for name, text in ODD_TEXTS.items()]
        await self.put(engine, *copies)
        assert await engine.held(ANA) == {name: digest_of(text) for name, text in ODD_TEXTS.items()}

    async def test_what_is_put_twice_is_there_once(self, engine: Projection) -> None:
        copies = [a_copy(f"m{number}", f"walnuts {number}", tags=("a", "b")) for number in range(5)]
        await self.put(engine, *copies[:3])
        await self.put(engine, *copies)
        await self.put(engine, *copies)
        assert set(await engine.held(ANA)) == await found(engine) == {f"m{number}" for number in range(5)}

    async def test_what_is_written_anew_is_found_by_its_new_words_alone(self, engine: Projection) -> None:
        await self.put(engine, a_copy("m", "walnuts", tags=("old",)), a_copy("other", "the sea at night"))
        await self.put(engine, a_copy("m", "hazelnuts", tags=("new",)))
        assert "m" in await found(engine, Question("hazelnuts"))
        assert (await engine.held(ANA))["m"] == digest_of("hazelnuts")
        assert "m" not in await found(engine, Question("hazelnuts", only=Only(without_tags=frozenset({"new"}))))
        assert "m" in await found(engine, Question("hazelnuts", only=Only(without_tags=frozenset({"old"}))))

    async def test_what_was_removed_is_found_no_more(self, engine: Projection) -> None:
        await self.put(engine, a_copy("m1", "walnuts one"), a_copy("m2", "walnuts two"))
        await engine.remove(ANA, ["m1", "never there"])
        assert (await found(engine), set(await engine.held(ANA))) == ({"m2"}, {"m2"})
        await engine.remove(ANA, ["m1"])
        await engine.remove(BEN, ["m1"])

    async def test_of_a_forgotten_user_nothing_is_left_and_of_others_all(self, engine: Projection) -> None:
        for scope in (ANA, BEN):
            await self.put(engine, *(a_copy(f"m{number}", f"walnuts {number}") for number in range(5)), scope=scope)
        for _ in range(2):
            await engine.forget(ANA)
            assert (await engine.held(ANA), await found(engine)) == ({}, set())
        assert len(await engine.held(BEN)) == 5
        await self.put(engine, a_copy("new", "walnuts"))
        assert await found(engine) == {"new"}

    async def test_many_are_put_at_once(self, engine: Projection) -> None:
        copies = [a_copy(f"s#{number}.0", f"said {number}", kind="message", session_id="s") for number in range(500)]
        await self.put(engine, *copies, a_copy("m", "walnuts"))
        assert len(await engine.held(ANA)) == 501
        assert "m" in await found(engine, limit=10)

    @pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: name[:12])
    async def test_users_sessions_and_items_may_be_called_anything(self, engine: Projection, name: str) -> None:
        scope = Scope(tenant_id=name.replace("~", "t"), user_id=name)
        copy = a_copy(f"{name}#1.0", "walnuts", kind="message", session_id=name, category=name, tags=(name,))
        await self.put(engine, copy, scope=scope)
        assert await found(engine, Question(only=Only(session_id=name)), scope) == {copy.id}
        assert await engine.held(scope) == {copy.id: digest_of("walnuts")}
        await engine.remove(scope, [copy.id])
        assert await engine.held(scope) == {}

    async def test_nothing_to_do_is_nothing_done(self, engine: Projection) -> None:
        await engine.put(ANA, [])
        await engine.remove(ANA, [])
        await engine.put_vectors(ANA, SPACE, {})
        await engine.put_vectors(ANA, SPACE, {"never there": direction(1)})
        assert await engine.held(ANA) == {}

    async def test_vectors_may_come_with_an_item_or_later(self, engine: Projection) -> None:
        await self.put(engine, a_copy("m1", "walnuts", vector=direction(1)), a_copy("m2", "also walnuts"))
        await engine.put_vectors(ANA, SPACE, {"m2": direction(0, 1)})
        await engine.put_vectors(ANA, "another/8", {"m1": direction(0, 1)[:8]})
        assert await found(engine, Question(vector=direction(1))) == {"m1", "m2"}

    async def test_many_users_may_be_written_and_searched_at_once(self, engine: Projection) -> None:
        scopes = [a_scope(f"user{number}") for number in range(6)]

        async def work(scope: Scope) -> set[str]:
            for number in range(4):
                await engine.put(scope, [a_copy(f"{scope.user_id}-{number}", f"walnuts {number}")])
                await found(engine, scope=scope)
            await self.settled(engine)
            return await found(engine, scope=scope)

        for scope, ids in zip(scopes, await asyncio.gather(*map(work, scopes)), strict=True):
            assert ids == {f"{scope.user_id}-{number}" for number in range(4)}

    # All the rest

    async def test_an_engine_that_works_says_so(self, engine: Projection) -> None:
        assert isinstance(await engine.check(), dict)

    async def test_after_a_drop_it_holds_nothing_and_works(self, engine: Projection) -> None:
        await self.put(engine, a_copy("m", "walnuts"))
        await self.put(engine, a_copy("m", "walnuts"), scope=BEN)
        await engine.drop()
        assert await engine.held(ANA) == await engine.held(BEN) == {}
        await self.put(engine, a_copy("m", "walnuts"))
        assert await found(engine) == {"m"}
