"""What every store must do: who has a session, and memories that a model is still to write."""

from __future__ import annotations

from msgspec.structs import replace

from memory_service.stores.base import Commit, Store
from memory_service.values import Memory, Message, Rough, Scope
from tests.support.values import a_key, a_memory, a_scope, begin, minutes

ROUGH = Rough(messages=(Message(role="user", content="I like tea"),))


async def rough(store: Store, memory_id: str, scope: Scope | None = None) -> Memory:
    memory = a_memory(memory_id, kind="memory", rough=ROUGH)
    await store.commit(Commit(scope=scope or a_scope(), memories=(memory,)))
    return memory


async def due(store: Store, limit: int = 100) -> list[str]:
    return [item.memory.memory_id for item in await store.due_memories(limit)]


class GatewayContract:
    # Whose a session is

    async def test_sessions_are_listed_newest_first_up_to_a_limit(self, store: Store) -> None:
        for number in (2, 1, 3):
            await begin(store, a_key(f"s{number}"), turns=1, created_at=minutes(number))
        await begin(store, a_key("b", user_id="ben"))
        assert [head.session_id for head in await store.sessions(a_scope(), 10)] == ["s3", "s2", "s1"]
        assert [head.turn_count for head in await store.sessions(a_scope(), 2)] == [1, 1]
        assert await store.sessions(a_scope("nobody.here"), 10) == []

    async def test_all_users_of_a_tenant_who_have_a_session_are_found_by_its_id(self, store: Store) -> None:
        for user_id, tenant_id in (("ana", "acme"), ("ben", "acme"), ("ana", "acme2"), ("ana", "other")):
            await begin(store, a_key("s", user_id, tenant_id))
        await begin(store, a_key("another", "cai", "acme"))
        assert set(await store.whose("acme", "s")) == {a_scope("ana", "acme"), a_scope("ben", "acme")}
        assert await store.whose("acme2", "s") == [a_scope("ana", "acme2")]
        assert await store.whose("acme", "missing") == []

    async def test_who_has_a_memory_of_a_session_is_found_too_and_once(self, store: Store) -> None:
        for scope in (a_scope("ana"), a_scope("ben"), a_scope("ana", "other")):
            memories = tuple(a_memory(f"m{n}", kind="memory", session_id="s") for n in range(2))
            await store.commit(Commit(scope=scope, memories=memories))
        await begin(store, a_key("s"))
        await store.commit(Commit(scope=a_scope("cai"), memories=(a_memory("m", kind="memory", session_id="t"),)))
        assert sorted(scope.user_id for scope in await store.whose("default", "s")) == ["ana", "ben"]
        assert await store.whose("other", "s") == [a_scope("ana", "other")]

    # What a model is still to write

    async def test_a_rough_memory_is_due_and_comes_back_as_it_was(self, store: Store) -> None:
        memory = await rough(store, "m")
        await store.commit(Commit(scope=a_scope(), memories=(a_memory("done", kind="memory"),)))
        (item,) = await store.due_memories(10)
        assert (item.scope, item.memory) == (a_scope(), memory)
        assert await store.find_memory(a_scope(), "m") == memory

    async def test_the_longest_written_is_due_first_of_all_users_up_to_a_limit(self, store: Store) -> None:
        await rough(store, "a")
        await rough(store, "b", a_scope("ben"))
        await rough(store, "c")
        assert await due(store) == ["a", "b", "c"]
        assert await due(store, 2) == ["a", "b"]
        await rough(store, "a")
        assert await due(store) == ["b", "c", "a"]

    async def test_what_takes_its_place_is_all_there_is_and_is_due_no_more(self, store: Store) -> None:
        memory = await rough(store, "m")
        (item,) = await store.due_memories(10)
        assert (item.scope, item.memory) == (a_scope(), memory)
        refined = replace(memory, text="Likes tea", rough=None, updated_at=minutes(5))
        await store.commit(Commit(scope=a_scope(), memories=(refined,), unchanged=(item.memory,)))
        assert await store.memories(a_scope(), ["memory"]) == [refined]
        assert await due(store) == []
