"""The built-in driver keeps the contract over SQLite and PostgreSQL; and what it alone does with the record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from memory_service.app import open_service
from memory_service.drivers import BaseMemoryDriver
from memory_service.drivers.builtin import BuiltinDriver, BuiltinMemoryDriver
from memory_service.errors import Overloaded, UnsafeStart, ValidationFailed
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.values import EXTRACTIVE, Memory, Message, Scope, SessionKey
from tests.drivers.contract import DriverContract, content, contents
from tests.support.background import until

MakeSettings = Callable[..., Settings]
ANA = Scope(user_id="ana")


class TestOverSQLite(DriverContract):
    @pytest.fixture
    def driver(self, make_settings: MakeSettings) -> Iterator[BaseMemoryDriver]:
        with BuiltinMemoryDriver(make_settings()) as driver:
            yield driver


class TestOverPostgres(DriverContract):
    @pytest.fixture
    def driver(self, make_settings: MakeSettings, postgres_url: str) -> Iterator[BaseMemoryDriver]:
        with BuiltinMemoryDriver(make_settings(store_url=postgres_url)) as driver:
            yield driver


def test_a_store_that_keeps_what_it_is_given_is_given_a_copy(make_settings: MakeSettings) -> None:
    with BuiltinMemoryDriver(make_settings(store_url="transient://")) as driver:
        DriverContract().test_what_a_caller_does_with_what_it_gave_or_got_changes_no_memory(driver)


# Awaited, over a service that is open already


@pytest.fixture
async def service(make_settings: MakeSettings) -> AsyncIterator[MemoryService]:
    async with open_service(make_settings()) as service:
        yield service


@pytest.fixture
def driver(service: MemoryService) -> BuiltinDriver:
    return BuiltinDriver(service)


async def say(service: MemoryService, session_id: str, said: str, answered: str) -> None:
    await service.start_session(ANA, session_id, restore=True)
    messages = (Message(role="user", content=said, name="Ana"), Message(role="assistant", content=answered))
    await service.store_turn(SessionKey(scope=ANA, session_id=session_id), Draft(messages=messages))


async def test_stored_and_recalled_is_the_same_dictionary(driver: BuiltinDriver) -> None:
    stored = await driver.store("ana", "Ana eats no walnuts", "c", ["food"], {"a": [1]})
    assert stored == {
        "id": stored["id"],
        "memory_id": stored["id"],
        "memory": {"content": "Ana eats no walnuts", "tags": ["food"], "metadata": {"a": [1]}},
        "user_id": "ana",
        "conversation_id": "c",
        "created_at": stored["created_at"],
    }
    assert await driver.recall("ana") == [stored]
    (found,) = await driver.recall("ana", query="walnuts")
    assert found.pop("score") > 0
    assert found == stored

    known = await driver.store_global_knowledge("Walnuts are nuts", "Food", None, "n-1", {"a": [1]})
    assert known == {
        "id": known["id"],
        "memory_id": known["id"],
        "memory": {
            "content": "Walnuts are nuts",
            "tags": [],
            "metadata": {"a": [1], "category": "food", "title": None, "doc_id": "n-1"},
        },
        "category": "food",
        "created_at": known["created_at"],
    }
    (found,) = await driver.recall_global_knowledge("walnuts")
    assert found.pop("score") > 0
    assert found == known
    assert await driver.recall_global_knowledge(" ", category="FOOD") == [known]


async def test_what_was_said_in_turns_is_recalled_beside_what_was_stored(
    service: MemoryService, driver: BuiltinDriver
) -> None:
    await say(service, "c1", "I eat no walnuts", "Noted, no walnuts")
    await driver.store("ana", "Ana likes walnuts after all", "c2")
    found = {content(told): told for told in await driver.recall("ana", query="walnuts")}
    assert set(found) == {"I eat no walnuts", "Noted, no walnuts", "Ana likes walnuts after all"}
    said, answered = found["I eat no walnuts"], found["Noted, no walnuts"]
    assert said["memory"]["metadata"] == {"kind": "message", "role": "user", "name": "Ana"}
    assert answered["memory"]["metadata"] == {"kind": "message", "role": "assistant"}
    assert (said["memory"]["tags"], said["conversation_id"], said["user_id"]) == ([], "c1", "ana")
    assert contents(await driver.recall("ana")) == [
        "Ana likes walnuts after all",
        "Noted, no walnuts",
        "I eat no walnuts",
    ]
    assert contents(await driver.recall("ana", "c1", top_k=1)) == ["Noted, no walnuts"]
    assert contents(await driver.recall("ana", "c1", "walnuts", 1, True)) != []
    assert len(await driver.recall("ana", exclude_tags=["food"])) == 3


async def test_what_was_learned_says_what_it_is(service: MemoryService, driver: BuiltinDriver) -> None:
    from memory_service.stores.base import Commit

    store = service._store
    learned = {"text": "Ana eats no walnuts", "created_at": service._now(), "session_id": "c"}
    for memory in (
        Memory(memory_id="i", kind="insight", category="health", metadata={"x": 1}, model="m", **learned),
        Memory(memory_id="e", kind="insight", model=EXTRACTIVE, **learned),
    ):
        await store.commit(Commit(scope=ANA, memories=(memory,)))
    for found in (await driver.recall("ana"), await driver.recall("ana", query="walnuts")):
        assert [(told["id"], told["memory"]["metadata"]) for told in found] == [
            ("i", {"kind": "insight", "category": "health", "x": 1})
        ]
    assert await driver.delete("i", "ana")
    assert await driver.recall("ana") == []


async def test_where_meaning_does_not_count_words_alone_find(driver: BuiltinDriver) -> None:
    await driver.store("ana", "We adopted a kitten last week")
    await driver.store("ana", "Ana eats no walnuts")
    assert contents(await driver.recall("ana", query="walnut", use_vector=False)) == ["Ana eats no walnuts"]
    await until(lambda: driver.recall("ana", query="felines"))  # vectors follow in the background
    assert await driver.recall("ana", query="felines", use_vector=False) == []


async def test_a_message_of_a_turn_cannot_be_deleted_and_that_is_said(
    service: MemoryService, driver: BuiltinDriver
) -> None:
    await say(service, "c", "I eat no walnuts", "Noted")
    for told in await driver.recall("ana"):
        with pytest.raises(ValidationFailed, match="stays on record"):
            await driver.delete(told["id"], "ana")
    assert len(await driver.recall("ana")) == 2


async def test_without_a_user_it_is_knowledge_that_is_deleted(driver: BuiltinDriver) -> None:
    stored = await driver.store("ana", "Ana eats no walnuts")
    known = await driver.store_global_knowledge("Walnuts are nuts", "food")
    assert not await driver.delete(stored["id"])
    assert not await driver.delete(known["id"], "ana")
    assert await driver.delete(known["id"])
    assert not await driver.delete(known["id"])
    assert await driver.recall_global_knowledge("walnuts") == []
    assert contents(await driver.recall("ana")) == ["Ana eats no walnuts"]


async def test_knowledge_without_a_doc_id_is_named_by_what_it_says(driver: BuiltinDriver) -> None:
    first = await driver.store_global_knowledge("Walnuts are nuts", "Food", "On nuts")
    assert await driver.store_global_knowledge("Walnuts are nuts", "food", "On nuts") == first
    for content_, category, title in (("Nuts", "food", "On nuts"), ("Walnuts are nuts", "trees", "On nuts")):
        assert (await driver.store_global_knowledge(content_, category, title))["id"] != first["id"]
    doc_id = first["memory"]["metadata"]["doc_id"]
    again = await driver.store_global_knowledge("Walnuts are seeds", "food", doc_id=doc_id)
    assert again["id"] == first["id"]


async def test_another_tenant_shares_nothing(service: MemoryService, driver: BuiltinDriver) -> None:
    other = BuiltinDriver(service, tenant_id="other")
    stored = await driver.store("ana", "Ana eats no walnuts")
    known = await driver.store_global_knowledge("Walnuts are nuts", "food")
    assert await other.recall("ana") == await other.recall_global_knowledge("walnuts") == []
    assert not await other.delete(stored["id"], "ana")
    assert not await other.delete(known["id"])


@pytest.mark.parametrize(
    ("call", "place"),
    [
        (lambda driver: driver.recall(True), "user_id"),
        (lambda driver: driver.recall("~knowledge"), "user_id"),
        (lambda driver: driver.recall("ana", top_k=101), "top_k"),
        (lambda driver: driver.recall("ana", query=7), "query"),
        (lambda driver: driver.store("ana", "x" * 100_001), "content"),
        (lambda driver: driver.store_global_knowledge("x", "food", "two\nlines"), "title"),
        (lambda driver: driver.store_global_knowledge("x", "food", doc_id="a\nb"), "doc_id"),
    ],
)
async def test_a_refusal_names_the_argument(driver: BuiltinDriver, call: Any, place: str) -> None:
    with pytest.raises(ValidationFailed, match=f"^{place}: ") as caught:
        await call(driver)
    assert caught.value.place == place


# How it fares


async def test_a_record_that_does_not_answer_is_told(make_settings: MakeSettings) -> None:
    async with BuiltinDriver.opened(make_settings()) as driver:
        assert await driver.health_check() == {"status": "healthy", "driver": "builtin", "connected": True}
    told = await driver.health_check()
    assert (told["status"], told["driver"], told["connected"]) == ("unhealthy", "builtin", False)
    assert told["error"].startswith("The store did not answer: ")


async def test_a_record_that_takes_no_more_is_told(
    service: MemoryService, driver: BuiltinDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise Overloaded

    monkeypatch.setattr(service._store, "require_room", full)
    told = await driver.health_check()
    assert (told["status"], told["connected"]) == ("unhealthy", True)
    assert told["error"].startswith("Too much is waiting to be written: ")


def test_a_record_that_cannot_be_opened_is_told_by_its_health_and_raised_by_all_else(
    make_settings: MakeSettings,
) -> None:
    with BuiltinMemoryDriver(make_settings()) as owner, BuiltinMemoryDriver(make_settings()) as second:
        owner.store("ana", "Ana eats no walnuts")
        told = second.health_check()
        assert (told["status"], told["connected"]) == ("unhealthy", False)
        assert "memory.db" in told["error"]
        with pytest.raises(UnsafeStart, match=r"memory\.db"):
            second.recall("ana")
        owner.close()
        assert contents(second.recall("ana")) == ["Ana eats no walnuts"]
