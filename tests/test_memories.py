"""Memories that callers write and delete, and a tenant's knowledge: over every store, through the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from memory_service.app import open_service
from memory_service.memories import Document
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.values import Message, Only, Scope, SessionKey, knowledge_of
from tests.cosmos.launcher import KEY

ANA, BEN = Scope(user_id="ana"), Scope(user_id="ben")
LEAVE = Document(doc_id="POL-001", content="Everybody has thirty days of leave", category="Policies", title="Leave")
REMOTE = Document(doc_id="POL-002", content="Remote work is fine on three days", category="policies")
SOUP = Document(doc_id="soup", content="On three days there is soup, and on all days bread", category="food")


@pytest.fixture(params=["sqlite", "postgres", "cosmos", "transient"])
async def service(
    request: pytest.FixtureRequest, make_settings: Callable[..., Settings]
) -> AsyncIterator[MemoryService]:
    changes = {}
    if request.param == "postgres":
        changes = {"store_url": request.getfixturevalue("postgres_url")}
    if request.param == "cosmos":
        url = request.getfixturevalue("cosmos_server").url
        changes = {"store_url": "cosmos:", "cosmos_endpoint": url, "cosmos_key": KEY}
    if request.param == "transient":
        changes = {"store_url": "transient://"}
    async with open_service(make_settings(**changes)) as service:
        yield service


async def recalled(service: MemoryService, scope: Scope, question: str, **only: object) -> list[str]:
    found = await service.recall(scope, question, 10, Only(**only))  # type: ignore[arg-type]
    return [hit.item.text for hit in found.hits]


async def known(
    service: MemoryService, question: str, category: str | None = None, tenant: str = "default"
) -> list[str]:
    found = await service.recall_knowledge(tenant, question, 10, category)
    return [str(hit.item.metadata["doc_id"]) for hit in found.hits]


# Memories of a user


async def test_what_is_remembered_is_found_at_once_and_by_its_user_alone(service: MemoryService) -> None:
    memory = await service.memories.remember(
        ANA, "Ana eats no walnuts", session_id="s", tags=("food",), metadata={"from": "x"}
    )
    assert await recalled(service, ANA, "walnuts") == ["Ana eats no walnuts"]
    assert await recalled(service, BEN, "walnuts") == []
    (hit,) = (await service.recall(ANA, "walnuts", 1, Only())).hits
    assert (hit.item.id, hit.item.session_id, hit.item.tags, hit.item.metadata) == (
        memory.memory_id,
        "s",
        ("food",),
        {"from": "x"},
    )
    assert await service.newest(ANA, 10, Only()) == [hit.item]


async def test_a_search_is_restricted_before_it_takes_the_best(service: MemoryService) -> None:
    for number in range(5):
        await service.memories.remember(
            ANA, f"walnuts walnuts walnuts {number}", session_id="noisy", tags=("noise", "x")
        )
    await service.memories.remember(ANA, "and once walnuts were spoken of, among many other things", session_id="quiet")
    (quiet,) = await recalled(service, ANA, "walnuts", session_id="quiet")
    assert await recalled(service, ANA, "walnuts", without_tags=frozenset({"noise"})) == [quiet]
    assert await recalled(service, ANA, "walnuts", session_id="nowhere") == []
    assert await recalled(service, ANA, "walnuts", session_id="noisy", without_tags=frozenset({"x"})) == []
    assert len(await recalled(service, ANA, "walnuts", without_tags=frozenset({"other"}))) == 6


async def test_without_a_question_the_newest_come_first_whatever_they_are(service: MemoryService) -> None:
    key = SessionKey(scope=ANA, session_id="s")
    await service.start_session(ANA, "s", restore=True)
    await service.memories.remember(ANA, "Ana eats no walnuts", session_id="t", tags=("food",))
    await service.store_turn(key, Draft(messages=(Message(role="user", content="Hello"),)))
    await service.memories.remember(ANA, "Ana likes tea", session_id="s")

    async def newest(limit: int = 10, scope: Scope = ANA, **only: object) -> list[str]:
        return [item.text for item in await service.newest(scope, limit, Only(**only))]  # type: ignore[arg-type]

    assert await newest() == ["Ana likes tea", "Hello", "Ana eats no walnuts"]
    assert await newest(2) == ["Ana likes tea", "Hello"]
    assert await newest(1, session_id="t") == ["Ana eats no walnuts"]
    assert await newest(without_tags=frozenset({"food"})) == ["Ana likes tea", "Hello"]
    assert await newest(session_id="nowhere") == await newest(scope=BEN) == []


async def test_a_deleted_memory_is_nowhere_any_more(service: MemoryService) -> None:
    memory = await service.memories.remember(ANA, "Ana eats no walnuts")
    other = await service.memories.remember(ANA, "Ana likes tea")
    assert await recalled(service, ANA, "walnuts") == [memory.text]
    assert not await service.delete_memory(BEN, memory.memory_id), "of another it looks as if it were missing"
    assert await service.delete_memory(ANA, memory.memory_id)
    assert not await service.delete_memory(ANA, memory.memory_id)
    assert not await service.delete_memory(ANA, "memory_unknown")
    assert memory.text not in await recalled(service, ANA, "walnuts")
    assert [item.id for item in await service.newest(ANA, 10, Only())] == [other.memory_id]
    assert {hit.item.id for hit in (await service.retrieve(ANA, "walnuts", 10, None)).hits} <= {other.memory_id}


async def test_to_ask_for_the_deletion_of_what_is_not_there_drops_nothing(service: MemoryService) -> None:
    await service.memories.put_document("default", LEAVE)
    await service.memories.remember(ANA, "Ana eats no walnuts")
    assert await known(service, "leave")
    assert await recalled(service, ANA, "walnuts")
    assert service.stats()["recall"]["cached_users"] == 2
    assert not await service.delete_document("default", "POL-002")
    assert not await service.delete_memory(ANA, "memory_unknown")
    assert service.stats()["recall"]["cached_users"] == 2, "or the next search would read everything again"


# Knowledge of a tenant


async def test_knowledge_is_found_for_all_users_of_its_tenant_and_for_no_other(service: MemoryService) -> None:
    for document in (LEAVE, REMOTE, SOUP):
        await service.memories.put_document("default", document)
    assert (await known(service, "How many days of leave?"))[0] == "POL-001"
    assert set(await known(service, "days")) == {"POL-001", "POL-002", "soup"}
    assert await known(service, "days", tenant="other") == []
    assert (await service.retrieve(ANA, "days of leave", 10, None)).hits == [], "it is no memory of a user"


async def test_knowledge_is_found_by_category_however_it_is_written(service: MemoryService) -> None:
    for document in (LEAVE, REMOTE, SOUP):
        await service.memories.put_document("default", document)
    for category in ("policies", "Policies", "POLICIES"):
        assert set(await known(service, "three days", category)) == {"POL-001", "POL-002"}
    assert await known(service, "three days", "unknown") == []


async def test_knowledge_that_comes_again_takes_the_place_of_the_former(service: MemoryService) -> None:
    first = await service.memories.put_document("default", LEAVE)
    again = await service.memories.put_document("default", LEAVE)
    assert (first.change, again.change, again.memory) == ("created", "unchanged", first.memory)
    again = await service.memories.put_document(
        "default", Document(doc_id="POL-001", content="Leave was cut", category="news")
    )
    assert (again.change, again.memory.memory_id) == ("replaced", first.memory.memory_id)
    held = await service.newest(knowledge_of("default"), 10, Only())
    assert {item.trust for item in held} == {"high"}, "its writers answer for it"
    assert [item.text for item in held] == ["Leave was cut"]
    assert await known(service, "leave", "policies") == []
    found = await service.recall_knowledge("default", "thirty days of leave", 10, None)
    assert [hit.item.text for hit in found.hits] == ["Leave was cut"]


async def test_deleted_knowledge_is_gone_and_may_come_again(service: MemoryService) -> None:
    await service.memories.put_document("default", LEAVE)
    assert not await service.delete_document("other", "POL-001")
    assert await service.delete_document("default", "POL-001")
    assert not await service.delete_document("default", "POL-001")
    assert await known(service, "leave") == []
    await service.memories.put_document("default", LEAVE)
    assert await known(service, "leave") == ["POL-001"]
