"""One conversation through the gateway over each store, longer than one commit of Cosmos DB holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memory_service.api.gateway import GATEWAY
from memory_service.app import open_service
from memory_service.gateway.models import (
    CreateMemoryRequest,
    GetMemoriesRequest,
    GetSessionContextRequest,
    SessionContext,
)
from memory_service.service import MemoryService
from memory_service.settings import Settings
from tests.cosmos.launcher import KEY
from tests.gateway.conftest import ANYBODY, an_upsert, said

GROUNDS = ("sqlite", "cosmos", "postgres", "transient")


@pytest.fixture
def settings(request: pytest.FixtureRequest, make_settings: Callable[..., Settings], ground: str) -> Settings:
    if ground == "postgres":
        return make_settings(store_url=request.getfixturevalue("postgres_url"))
    if ground == "cosmos":
        server = request.getfixturevalue("cosmos_server")
        return make_settings(store_url="cosmos:", cosmos_endpoint=server.url, cosmos_key=KEY)
    return make_settings(**({"store_url": "transient://"} if ground == "transient" else {}))


async def shown(service: MemoryService) -> list[list[str | None]]:
    request = GetSessionContextRequest(session_id="s")
    results = (await service.gateway.get_session_context(ANYBODY, request)).results
    return [[message.text for message in one.messages] for one in results]


@pytest.mark.parametrize("ground", GROUNDS)
async def test_a_long_conversation_is_stored_goes_on_is_replaced_and_remembered(settings: Settings) -> None:
    words = [f"word {n}" for n in range(130)]
    given = {"system_prompt": "Be brief.", "session_metadata": {"deep": [{"a": 2**70}]}, "user_id": None}
    async with open_service(settings) as service:
        for some in (words[:120], words, words, words[60:]):
            await service.gateway.upsert_session_context(ANYBODY, an_upsert(said(*some), **given))
            assert await shown(service) == [some]
        context = SessionContext(messages=said("I like green tea."))
        request = CreateMemoryRequest(session_id="s", user_id="ana", agent_id="a", session_context=context)
        made = (await service.gateway.create_memory(ANYBODY, request)).memory
        asked = GetMemoriesRequest(session_id="s", embedding=made.embedding)
        (found,) = (await service.gateway.get_memories(ANYBODY, asked)).memories
        assert (found.memory_id, found.similarity) == (made.memory_id, pytest.approx(1))
        (session,) = (
            await service.gateway.get_session_context(ANYBODY, GetSessionContextRequest(session_id="s"))
        ).results
        assert (session.user_id, session.system_prompt) == (None, "Be brief.")
        assert session.session_metadata == {"deep": [{"a": 2**70}]}


def test_what_writes_needs_the_permission_to_write() -> None:
    needed = {verb.path.rpartition("/")[2]: verb.needs for verb in GATEWAY if not verb.open}
    assert needed == {
        "get-session-context": "read",
        "upsert-session-context": "write",
        "get-memories": "read",
        "create-memory": "write",
    }
