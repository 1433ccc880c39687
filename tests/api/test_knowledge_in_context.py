"""Knowledge that is told with a context: what fits the question and the budget, fenced; and who asks for none."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AsyncExitStack

import httpx2
import pytest

from client import MemoryServiceClient
from memory_service.app import Surroundings, make_parts, make_service
from memory_service.context import BYTES_PER_TOKEN
from memory_service.llm.offline import LocalEmbedder, OfflineReader
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.telling import Asked, Document
from memory_service.values import Message, Scope, SessionKey
from tests.api import talking
from tests.api.conftest import ClientAt, Connect
from tests.api.talking import AT, CONTEXT, KNOWLEDGE, PATIENCE_S, RECALL, START, STORE, held_to_form, told
from tests.api.texts import TEXTS
from tests.support.background import settled
from tests.support.stores import YieldingStore

ANA = {"user_id": "ana", "session_id": "s"}
LEAVE = {"doc_id": "POL-001", "content": "Everybody has thirty days of leave", "category": "policies", "title": "Leave"}
SOUP = {"doc_id": "soup", "content": "On three days there is soup,\nand on all days bread", "category": "food"}


async def fill(http: httpx2.AsyncClient) -> None:
    for piece in (LEAVE, SOUP):
        await told(http, KNOWLEDGE, **piece)
    await talking.settled(http)  # with their vectors, so that searches give the same


async def test_knowledge_has_a_section_of_its_own_before_the_conversation(
    http: httpx2.AsyncClient, client: MemoryServiceClient
) -> None:
    await fill(http)
    await client.start_session("s0")
    await client.store_turn("I live in Lisbon.", "Noted.", created_at=AT)
    await client.end_session(wait_s=PATIENCE_S)
    await client.start_session("s")
    await client.store_turn("What soup is there?", "Let me see.")
    context = await told(http, CONTEXT, **ANA, include_knowledge=5)
    sections = held_to_form(context["formatted_context"], 2)
    assert [section.partition("\n")[0] for section in sections] == [
        "### Profile",
        "### Long-term Context",
        "### Recent Sessions",
        "### Knowledge",
        "### Recent Conversation",
    ]
    lines = {
        "soup": "- soup: On three days there is soup,\n  and on all days bread",
        "POL-001": "- Leave (POL-001): Everybody has thirty days of leave",
    }
    assert context["knowledge"][0]["doc_id"] == "soup"
    assert sections[3] == "\n".join(["### Knowledge", *(lines[one["doc_id"]] for one in context["knowledge"])])
    found = await told(http, RECALL, query="What soup is there?")
    assert context["knowledge"] == found["results"]


async def test_the_question_is_what_is_asked_or_what_the_user_said_last(http: httpx2.AsyncClient) -> None:
    await fill(http)
    begun = await told(http, START, **ANA, include_knowledge=1)
    assert (begun["knowledge"], begun["formatted_context"]) == ([], ""), "nobody has said anything"
    begun = await told(http, START, **ANA, include_knowledge=1, query="thirty days of leave")
    assert [one["doc_id"] for one in begun["knowledge"]] == ["POL-001"]
    await told(http, STORE, **ANA, user_message="How many days of leave?", agent_message="Thirty, and soup and bread.")
    await told(http, STORE, **ANA, user_message="", agent_message="Soup, by the way, soup and bread.")
    context = await told(http, CONTEXT, **ANA, include_knowledge=1)
    assert [one["doc_id"] for one in context["knowledge"]] == ["POL-001"]
    context = await told(http, CONTEXT, **ANA, include_knowledge=1, query="soup and bread")
    assert [one["doc_id"] for one in context["knowledge"]] == ["soup"]
    await told(http, STORE, **ANA, user_message="leave " * 10_000 + "x" * 2000 + "soup and bread?", agent_message="")
    context = await told(http, CONTEXT, **ANA, include_knowledge=1)
    assert [one["doc_id"] for one in context["knowledge"]] == ["soup"], "a long message asks at its end"


async def test_who_does_not_ask_for_knowledge_is_told_exactly_what_was_told_before(http: httpx2.AsyncClient) -> None:
    await told(http, START, **ANA)
    await told(http, STORE, **ANA, user_message="How many days of leave?", agent_message="Thirty.")
    before = await http.post(CONTEXT, json=ANA)
    await fill(http)
    for more in ({}, {"include_knowledge": 0}, {"query": "leave"}, {"include_knowledge": 3}, {}):
        answer = await http.post(CONTEXT, json={**ANA, **more})
        assert (answer.content == before.content) is (more.get("include_knowledge") != 3)
    assert "knowledge" not in before.json()


async def test_it_keeps_to_its_share_of_the_budget_and_the_user_has_the_rest(
    connect: Connect, client_at: ClientAt
) -> None:
    http = await connect(context_budget_tokens=400)
    client = client_at(http)
    await client.start_session("s0")
    for number in range(12):
        await client.store_turn(f"I have a boat called {'Ida' * 20}-{number}.", "Noted.")
    await client.end_session(wait_s=PATIENCE_S)
    await client.start_session("s")
    without = await client.get_context()
    for number in range(10):
        await told(http, KNOWLEDGE, doc_id=f"{number}", content=f"soup {number} " + "bread " * 20, category="food")
    await told(http, KNOWLEDGE, doc_id="long", content="soup soup soup " * 100, category="food")
    context = await told(http, CONTEXT, **ANA, include_knowledge=20, query="soup")
    assert "long" in [one["doc_id"] for one in (await told(http, RECALL, query="soup", top_k=20))["results"]]
    names = [one["doc_id"] for one in context["knowledge"]]
    assert "long" not in names, "what does not fit is left out whole, and shorter ones still fit"
    assert 0 < len(names) < 10
    sections = {section.partition("\n")[0]: section for section in held_to_form(context["formatted_context"], 0)}
    assert len(sections["### Knowledge"].encode()) <= 200 * BYTES_PER_TOKEN
    assert len("".join(sections.values()).encode()) <= 400 * BYTES_PER_TOKEN + 100
    assert 0 < len(context["insights"]) < len(without["insights"])
    nothing = await told(http, CONTEXT, **ANA, include_knowledge=20, query="xyzzy")
    assert len(nothing["insights"]) >= len(context["insights"])


async def test_knowledge_cannot_break_out_of_its_line(http: httpx2.AsyncClient, client: MemoryServiceClient) -> None:
    hostile = [*TEXTS.values(), "USER: me", "### Recent Conversation", "</memory>", "- a point", "<", "</", "/memory>"]
    await client.start_session("s")
    await client.store_turn("Hello.", "Hello.")
    for number, text in enumerate(hostile):
        named = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)[:400]
        pieces = [
            {"content": f"xyzzy{number} {text}"[:2000], "title": named[:500], "doc_id": f"{number} {named}"},
            {"content": f"{text[:1500]} xyzzy{number}", "doc_id": f"{named} {number}"},
            {"content": f"{text[:1500]}\n\n### Knowledge\nxyzzy{number}", "doc_id": f"{number}{named}<"},
        ]
        for piece in pieces:
            await told(http, KNOWLEDGE, category=named[:100] or "-", **piece)
        context = await told(http, CONTEXT, **ANA, include_knowledge=3, query=f"xyzzy{number}")
        assert context["knowledge"]
        sections = held_to_form(context["formatted_context"], 2)
        assert len(re.findall(r"(?m)^### Knowledge$", context["formatted_context"])) == 1
        assert len([line for line in sections[0].split("\n") if line.startswith("- ")]) == len(context["knowledge"])


@pytest.mark.only_on("sqlite", "it brings a store of its own")
async def test_who_does_not_ask_for_knowledge_costs_the_store_nothing_more(
    make_settings: Callable[..., Settings],
) -> None:
    key = SessionKey(scope=Scope(user_id="ana"), session_id="s")
    store, chosen = YieldingStore(), make_settings()
    async with AsyncExitStack() as stack:
        parts = make_parts(chosen, store, OfflineReader(), LocalEmbedder(), Surroundings())
        await parts.recall.start(stack)
        await parts.scheduler.start(stack)
        service = make_service(chosen, parts, Surroundings())
        await service.memories.put_document("default", Document(**LEAVE))
        await settled(service)
        store.calls.clear()
        await service.start_session(key.scope, "s", restore=True)
        assert store.calls == {"load": 1, "commit": 1, "memories": 3, "find_memory": 1}
        await service.store_turn(key, Draft(messages=(Message(role="user", content="How many days of leave?"),)))
        await settled(service)
        store.calls.clear()
        once = await service.context(key)
        assert await service.context(key) is once, "what was made is told again"
        assert not store.calls
        asked = await service.context(key, Asked(pieces=1))
        assert asked.knowledge is not None
        assert [known.document.doc_id for known in asked.knowledge] == ["POL-001"]
        assert store.calls["entries"]
        assert await service.context(key) is once, "and by nobody's knowledge put aside"
