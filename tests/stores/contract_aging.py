"""What every store must do: tell what nobody has touched for long, and erase only what nobody has touched meanwhile."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.errors import StaleVersion
from memory_service.stores.aging import Tenants
from memory_service.stores.base import Commit, Store
from memory_service.stores.exports import Erased
from memory_service.stores.forgetting import Forgetting
from memory_service.values import Memory, Scope, SessionKey, Source, knowledge_of
from tests.support.values import NOON, a_key, a_memory, a_scope, a_session, begin, minutes

EVERYBODY = Tenants()
MOMENT = timedelta(microseconds=1)


async def aged(store: Store, when: float | datetime = 60, limit: int = 100, whose: Tenants = EVERYBODY) -> list[str]:
    since = when if isinstance(when, datetime) else minutes(when)
    return [key.session_id for key in await store.aged_sessions(whose, since, limit)]


async def aged_memories(
    store: Store, when: float | datetime = 60, limit: int = 100, whose: Tenants = EVERYBODY
) -> list[str]:
    since = when if isinstance(when, datetime) else minutes(when)
    return [one.memory.memory_id for one in await store.aged_memories(whose, since, limit)]


async def ended(store: Store, key: SessionKey, when: datetime) -> None:
    head = await begin(store, key, touched_at=when)
    await store.commit(Commit(scope=key.scope, session=head.ended("service")))


async def keep(store: Store, memory_id: str, scope: Scope | None = None, **changes: Any) -> Memory:
    memory = a_memory(memory_id, **{"kind": "memory", "text": "a NUL: \0", **changes})
    await store.commit(Commit(scope=scope or a_scope(), memories=(memory,)))
    return memory


async def users(store: Store) -> set[str]:
    found, page = set[str](), await store.users()
    while True:
        found |= {scope.user_id for scope in page.scopes}
        if not page.more:
            return found
        page = await store.users(page.cursor)


class AgingContract:
    # Sessions

    @pytest.mark.parametrize("moment", [minutes(5), minutes(5) + MOMENT, minutes(5) - MOMENT])
    async def test_a_session_is_aged_from_the_microsecond_of_its_last_touch_on(
        self, store: Store, moment: datetime
    ) -> None:
        await begin(store, a_key("open"), touched_at=moment)
        await ended(store, a_key("over"), moment)
        assert await aged(store, moment - MOMENT) == []
        assert sorted(await aged(store, moment)) == ["open", "over"]

    async def test_aged_sessions_come_longest_untouched_first_whether_ended_or_not_up_to_a_limit(
        self, store: Store
    ) -> None:
        for session_id, when in {"c": 3, "e": 5, "a": 1}.items():
            await ended(store, a_key(session_id, f"user-{session_id}"), minutes(when))
        for session_id, when in {"d": 4, "b": 2, "f": 6}.items():
            await begin(store, a_key(session_id, f"user-{session_id}"), touched_at=minutes(when))
        assert await aged(store, 5) == ["a", "b", "c", "d", "e"]
        assert await aged(store, 60, limit=3) == ["a", "b", "c"]
        assert await aged(store, limit=0) == []

    async def test_a_session_that_goes_on_is_aged_no_more(self, store: Store) -> None:
        head = await begin(store, a_key())
        over = head.ended("service")
        await store.commit(Commit(scope=a_scope(), session=over))
        assert await aged(store, 1) == ["s"]
        await store.commit(Commit(scope=a_scope(), session=over.reopened(minutes(9))))
        assert await aged(store, 8) == []
        assert await aged(store, 9) == ["s"]

    async def test_aged_sessions_are_asked_for_by_tenant_or_without_some(self, store: Store) -> None:
        for tenant_id in ("acme", "acme2", "ACME", "other", "a%|b"):
            await ended(store, a_key(f"of {tenant_id}", tenant_id=tenant_id), NOON)
            await begin(store, a_key(f"now of {tenant_id}", tenant_id=tenant_id))
        assert sorted(await aged(store, whose=Tenants(only="acme"))) == ["now of acme", "of acme"]
        assert sorted(await aged(store, whose=Tenants(only="a%|b"))) == ["now of a%|b", "of a%|b"]
        assert await aged(store, whose=Tenants(only="nobody")) == []
        rest = await aged(store, whose=Tenants(but=("acme", "ACME", "a%|b")))
        assert sorted(rest) == ["now of acme2", "now of other", "of acme2", "of other"]
        (key, _) = await store.aged_sessions(Tenants(only="other"), NOON, 10)
        assert key.scope == a_scope(tenant_id="other")

    async def test_a_page_is_not_filled_by_those_of_other_tenants(self, store: Store) -> None:
        for number in range(4):
            await ended(store, a_key(f"kept {number}", tenant_id="globex"), minutes(number))
        await ended(store, a_key("due", tenant_id="acme"), minutes(30))
        assert await aged(store, limit=2, whose=Tenants(only="acme")) == ["due"]
        assert await aged(store, limit=2, whose=Tenants(but=("globex",))) == ["due"]

    # Memories

    async def test_a_memory_is_aged_from_the_microsecond_it_was_written_on(self, store: Store) -> None:
        memory = await keep(store, "m", created_at=minutes(5))
        assert await aged_memories(store, minutes(5) - MOMENT) == []
        (aged,) = await store.aged_memories(EVERYBODY, minutes(5), 10)
        assert (aged.scope, aged.memory) == (a_scope(), memory)

    @pytest.mark.parametrize("moment", [minutes(5), minutes(5) + MOMENT, minutes(5) + 10 * MOMENT])
    async def test_a_memory_that_was_written_anew_ages_from_then_on(self, store: Store, moment: datetime) -> None:
        await keep(store, "m", updated_at=moment)
        assert await aged_memories(store, moment - MOMENT) == []
        assert await aged_memories(store, moment) == ["m"]

    async def test_aged_memories_come_oldest_first_up_to_a_limit(self, store: Store) -> None:
        for memory_id, when in {"summary_c": 3, "a": 1, "chunk_d": 4, "b": 2}.items():
            await keep(store, memory_id, a_scope(f"user-{memory_id}"), created_at=minutes(when))
        assert await aged_memories(store) == ["a", "b", "summary_c", "chunk_d"]
        assert await aged_memories(store, limit=3) == ["a", "b", "summary_c"]
        assert await aged_memories(store, 3.5) == ["a", "b", "summary_c"]
        assert await aged_memories(store, limit=0) == []

    async def test_what_somebody_had_the_last_word_on_is_not_aged_nor_what_was_learnt_or_is_nobodys(
        self, store: Store
    ) -> None:
        await keep(store, "edited", edited=True)
        await keep(store, "pinned", pinned=True)
        await keep(store, "says so", metadata={"edited": True, "pinned": True})
        deleted = await keep(store, "deleted")
        await store.commit(Commit(scope=a_scope(), memories=(deleted.deleted(NOON),)))
        await keep(store, "insight", kind="insight")
        await keep(store, "knowledge", knowledge_of("default"), kind="knowledge")
        assert await aged_memories(store) == ["says so"]

    async def test_a_memory_of_a_session_on_record_is_not_aged_whoever_elses_has_its_id(self, store: Store) -> None:
        await begin(store, a_key("here"))
        await begin(store, a_key("elsewhere", "ben"))
        await keep(store, "with it", session_id="here")
        await keep(store, "left alone", session_id="gone", created_at=minutes(1))
        await keep(store, "of another", session_id="elsewhere", created_at=minutes(2))
        assert await aged_memories(store, limit=2) == ["left alone", "of another"]

    async def test_aged_memories_are_asked_for_by_tenant_or_without_some(self, store: Store) -> None:
        for number, tenant_id in enumerate(("globex", "globex", "acme", "other")):
            await keep(store, f"{tenant_id} {number}", a_scope(tenant_id=tenant_id), created_at=minutes(number))
        assert await aged_memories(store, limit=1, whose=Tenants(only="acme")) == ["acme 2"]
        assert await aged_memories(store, limit=2, whose=Tenants(but=("globex",))) == ["acme 2", "other 3"]
        assert await aged_memories(store, whose=Tenants(but=("globex", "acme"))) == ["other 3"]

    # Erasing what is aged

    async def test_of_what_was_learnt_from_it_alone_only_what_its_user_had_the_last_word_on_stays(
        self, store: Store
    ) -> None:
        head = await begin(store, a_key(), turns=1)
        source = (Source(session_id="s", seq=1),)
        learnt = {"plain": {}, "pinned": {"pinned": True}, "edited": {"edited": True}}
        memories = [a_memory(name, session_id="s", sources=source, **more) for name, more in learnt.items()]
        await store.commit(Commit(scope=a_scope(), memories=tuple(memories)))
        what = Forgetting(session_id="s", now=minutes(60), untouched_since=head.touched_at)
        assert (await store.forget(a_scope(), what)).memories == 1
        left = await store.memories(a_scope(), ["insight"])
        assert {memory.memory_id for memory in left} == {"pinned", "edited"}
        assert {(memory.sources, memory.session_id) for memory in left} == {((), None)}
        await begin(store, a_key("asked"))
        of_it = a_memory("pinned", session_id="asked", sources=(Source(session_id="asked", seq=1),), pinned=True)
        await store.commit(Commit(scope=a_scope(), memories=(of_it,)))
        asked = await store.forget(a_scope(), Forgetting(session_id="asked", now=minutes(60)))
        assert asked.memories == 1, "who asks for a session to be erased has the last word on what was pinned too"

    async def test_of_whom_nothing_is_left_not_even_the_name_stays_and_nothing_comes_back(self, store: Store) -> None:
        for session_id in ("s", "s2"):
            await begin(store, a_key(session_id), turns=2)
        await begin(store, a_key("s", "ben"), turns=1)
        epoch = await store.epoch(a_scope())
        await store.forget(a_scope(), Forgetting(session_id="s", now=NOON))
        assert await users(store) == {"ana", "ben"}
        await store.forget(a_scope(), Forgetting(session_id="s2", now=NOON))
        assert await users(store) == {"ben"}
        with pytest.raises(StaleVersion):
            await store.commit(Commit(scope=a_scope(), memories=(a_memory("late"),), epoch=epoch))
        assert await users(store) == {"ben"}
        await keep(store, "m")
        await begin(store, a_key(), turns=1)
        await store.forget(a_scope(), Forgetting(session_id="s", now=NOON))
        assert await users(store) == {"ana", "ben"}, "a memory is left"

    async def test_a_session_is_erased_unless_it_was_touched_since(self, store: Store) -> None:
        await store.commit(Commit(scope=a_scope(), session=a_session(touched_at=minutes(5))))
        epoch = await store.epoch(a_scope())
        what = Forgetting(session_id="s", now=minutes(60), untouched_since=minutes(5) - MOMENT)
        assert await store.forget(a_scope(), what) == Erased()
        assert await store.head(a_key()) is not None
        assert await store.epoch(a_scope()) == epoch, "work that has read it goes on"
        assert (await store.forget(a_scope(), replace(what, untouched_since=minutes(5)))).sessions == 1
        assert await store.head(a_key()) is None
