"""Sessions without a user: who may see them has them withheld and erased by their id alone, and by their age."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from memory_service.settings import Settings
from tests.conftest import Open
from tests.gateway.conftest import said
from tests.gateway.test_upserts import sessions, upsert
from tests.support.admitted import admitting
from tests.support.background import Clock

WORD = "zebrafinch"
LIST = [
    {"role": role, "text": f"{word} {number}", "timestamp": 1_795_168_558 + number}
    for number, (role, word) in enumerate([("user", "tea"), ("assistant", WORD), ("user", "trains")])
]


async def sent(http: httpx2.AsyncClient, messages: list[dict[str, Any]], **given: Any) -> None:
    context = {"session_id": "s", "messages": messages, **given}
    assert (await http.post("/upsert-session-context", json={"session_context": context})).status_code == 200


async def shown(http: httpx2.AsyncClient) -> list[str]:
    answer = (await http.post("/get-session-context", json={"session_id": "s"})).json()
    return [message["content"][0]["text"] for one in answer["results"] for message in one["messages"]]


def on_disk(folder: Path) -> bool:
    return any(WORD in file.read_text("latin-1") for file in folder.glob("memory.db*"))


async def test_a_list_that_is_emptied_is_on_disk_until_its_session_is_erased(
    http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    await sent(http, LIST)
    await sent(http, [])
    assert await shown(http) == []
    assert on_disk(tmp_path)
    erased = (await http.delete("/sessions/s")).json()
    assert (erased["user_id"], erased["erased"]["sessions"], erased["erased"]["turns"]) == (None, 1, 3)
    assert not on_disk(tmp_path)
    assert (await http.delete("/sessions/s")).json()["code"] == "session_not_found"


async def test_a_message_of_it_is_erased_by_its_number(http: httpx2.AsyncClient, tmp_path: Path) -> None:
    await sent(http, LIST)
    assert (await http.delete("/sessions/s/turns/2")).json()["erased"]["turns"] == 1
    assert await shown(http) == ["tea 0", "trains 2"]
    assert not on_disk(tmp_path)


async def test_it_is_put_in_quarantine_and_let_out(http: httpx2.AsyncClient) -> None:
    await sent(http, LIST)
    withheld = (await http.post("/sessions/s/quarantine", json={"turn_numbers": [2]})).json()
    assert (withheld["user_id"], withheld["turns"]) == (None, 1)
    assert await shown(http) == ["tea 0", "trains 2"]
    await http.delete("/sessions/s/quarantine")
    assert await shown(http) == ["tea 0", f"{WORD} 1", "trains 2"]


async def test_a_session_of_a_user_of_that_id_is_another_one(http: httpx2.AsyncClient) -> None:
    await sent(http, LIST, user_id="ana")
    assert (await http.delete("/sessions/s")).json()["code"] == "session_not_found"
    await sent(http, LIST[:1])
    await http.delete("/sessions/s")
    assert len(await shown(http)) == 3


async def test_who_is_bound_to_a_user_touches_none(make_settings: Callable[..., Settings]) -> None:
    async with admitting(make_settings(store_url="transient://", auth_mode="keys")) as admitted:
        async with admitted.http(await admitted.key("acme")) as http:
            await sent(http, LIST)
        async with admitted.http(await admitted.key("acme", "ana")) as ana:
            for answer in (
                await ana.delete("/sessions/s"),
                await ana.delete("/sessions/s/turns/2"),
                await ana.post("/sessions/s/quarantine", json={}),
            ):
                assert (answer.status_code, answer.json()["code"]) == (403, "scope_mismatch")
        async with admitted.http(await admitted.key("acme")) as http:
            assert len(await shown(http)) == 3


async def test_it_goes_for_its_age_as_any_other(opened: Open, clock: Clock) -> None:
    service = await opened(retention_days=1)
    await upsert(service, said("a", "b"), user_id=None)
    for hours, left in ((12, 1), (13, 0)):
        clock.advance(hours=hours)
        await service.retention.carry_out()
        assert len(await sessions(service, session_id="s")) == left
