"""S64: what turns out to be poison is in no answer any more, nor is what was derived from it; and it can come back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from shutil import copyfile
from typing import Any

import httpx2
import pytest

from client.errors import NotFound
from memory_service.chaos.model_modes import answer
from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, ModelServer
from memory_service.llm.offline import MOST_FACTS
from tests.api.conftest import ClientAt, Connect, Visit
from tests.api.talking import (
    ALL_KINDS,
    CONTEXT,
    END,
    INSIGHTS,
    PATIENCE_S,
    RETRIEVE,
    SAME,
    START,
    STORE,
    SUMMARIES,
    everything,
    problem,
    settled,
    told,
)
from tests.api.test_erasing import holding, talk
from tests.support.background import until

POISON = "zebrafinch"
TEXTS = [
    "I prefer green tea to black coffee.",
    f"I prefer my {POISON} to all other birds.",
    "I prefer slow trains to fast planes.",
]
ANA = {"user_id": "ana", "session_id": "s"}
PLACE = "/sessions/s/quarantine"

only_sqlite = pytest.mark.only_on("sqlite", "no store has a say in it")


async def poisoned(http: httpx2.AsyncClient) -> None:
    """Of ana's: a session with poison in its second turn, reflected on; what she stored for it; another session."""
    await talk(http, "ana", "s", *TEXTS)
    await talk(http, "ana", "s2", "I live in Lisbon.")
    memory = {"user_id": "ana", "content": "Likes songs.", "memory_id": "m1", "conversation_id": "s"}
    await told(http, "/memories", memories=[memory])
    await settled(http)


async def withheld(http: httpx2.AsyncClient, *turn_numbers: int) -> dict[str, Any]:
    named = {"turn_numbers": list(turn_numbers)} if turn_numbers else {}
    return await told(http, PLACE, user_id="ana", **named)


async def released(http: httpx2.AsyncClient, **named: int) -> dict[str, Any]:
    answer = await http.delete(PLACE, params={"user_id": "ana", **named})
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


async def readable(http: httpx2.AsyncClient) -> dict[str, Any]:
    """Every route by which anything of ana can be read, asked at once: what is to be done may still wait."""
    listed = {"user_id": "ana", "superseded": True, "limit": 500}
    memories = (await http.get("/memories", params=listed)).json()
    return {
        "context": await told(http, CONTEXT, **ANA),
        "messages": await told(http, RETRIEVE, user_id="ana", query="tea birds trains", top_k=100, kinds=ALL_KINDS),
        "insights": await told(http, INSIGHTS, user_id="ana"),
        "summaries": await told(http, SUMMARIES, user_id="ana", limit=1000),
        "memories": sorted(memories["memories"], key=lambda memory: str(memory["id"])),
        "gateway sessions": await told(http, "/get-session-context", user_id="ana"),
        "gateway memories": await told(http, "/get-memories", user_id="ana", limit=50),
        "what to forget": await told(
            http, "/memories/forget", user_id="ana", query="birds", kinds=["chunk", "insight"]
        ),
    }


def places_of(told: dict[str, Any], word: str = POISON) -> set[str]:
    return {place for place, answer in told.items() if word in str(answer)}


async def test_poison_is_at_once_in_no_answer_and_what_is_left_is_read_anew(http: httpx2.AsyncClient) -> None:
    await poisoned(http)
    before = await readable(http)
    assert places_of(before) == {*before} - {"gateway memories"}
    receipt = await withheld(http, 2)
    assert (receipt["status"], receipt["turns"], receipt["user_id"]) == ("withheld", 1, "ana")
    assert receipt["memories"] >= 3, "its insight, the summary and a chunk"
    assert places_of(await readable(http)) == set()
    await settled(http)
    after = await readable(http)
    assert places_of(after) == set()
    assert "tea" in str(after["insights"])
    (summary,) = [one for one in after["summaries"]["summaries"] if one["session_id"] == "s"]
    assert "tea" in summary["summary"]
    (chunk,) = [memory for memory in after["memories"] if memory["kind"] == "chunk" and "trains" in memory["text"]]
    assert [source["turn_number"] for source in chunk["sources"]] == [1, 3]
    assert "Lisbon" in str(after["messages"])
    assert [len(one["content"]) > 0 for one in after["context"]["active_context"]] == [True] * 4


async def test_what_is_let_out_is_in_every_answer_again(http: httpx2.AsyncClient) -> None:
    await poisoned(http)
    before = await readable(http)
    for put, named in (([2], {}), ([], {}), ([2], {"turn_number": 2})):
        counts = await withheld(http, *put)
        await settled(http)
        given_back = await released(http, **named)
        assert (given_back["status"], given_back["turns"]) == ("released", counts["turns"])
        await settled(http)
        after = await readable(http)
        assert places_of(after) == places_of(before)
        assert {one["content"] for one in after["insights"]["insights"]} == {
            one["content"] for one in before["insights"]["insights"]
        }
        assert after["summaries"] == before["summaries"]
        assert after["context"]["active_context"] == before["context"]["active_context"]
        assert {memory["text"] for memory in after["memories"]} == {memory["text"] for memory in before["memories"]}
        assert sorted(hit["text"] for hit in after["messages"]["results"]) == sorted(
            hit["text"] for hit in before["messages"]["results"]
        )
    assert (await released(http))["turns"] == 0


@only_sqlite
async def test_what_comes_back_before_anything_was_read_anew_is_what_it_was(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await poisoned(http)
    before = await readable(http)
    monkeypatch.setattr("memory_service.background.Background.reflect_soon", lambda *_, **__: None)
    await withheld(http)
    await released(http)
    after = await readable(http)
    for memory in (*before["memories"], *after["memories"]):
        del memory["updated_at"]  # it was changed: what was read of it before is not to be written over it
    assert after["memories"] == before["memories"]
    assert after["insights"] == before["insights"]


@only_sqlite
async def test_a_whole_session_goes_with_what_was_stored_for_it_and_new_turns_do_not(http: httpx2.AsyncClient) -> None:
    await poisoned(http)
    assert (await withheld(http))["turns"] == 3
    await settled(http)
    after = await readable(http)
    assert not places_of(after, "prefer")
    assert not places_of(after, "songs")
    assert "Lisbon" in str(after["messages"])
    assert [one["session_id"] for one in after["summaries"]["summaries"]] == ["s2"]
    assert after["context"]["active_context"] == []
    await told(http, START, **ANA, restore=False)
    assert (await told(http, STORE, **ANA, user_message="I prefer tea now.", agent_message=""))["turn_number"] == 4
    assert "tea now" in str(await told(http, CONTEXT, **ANA))


@only_sqlite
async def test_a_turn_that_is_sent_again_while_it_is_withheld_is_a_replay_and_says_nothing(
    http: httpx2.AsyncClient,
) -> None:
    await poisoned(http)
    await withheld(http, 2)
    body = {**ANA, "user_message": TEXTS[1], "agent_message": "Noted.", "turn_id": "s-2"}
    for headers in ({}, {"Idempotency-Key": "ana-s-2"}):
        answer = await http.post(STORE, json=body, headers=headers)
        assert (answer.status_code, answer.json()["turn_number"], answer.json()["replayed"]) == (200, 2, True)
        assert POISON not in answer.text
    other = {**body, "user_message": "Something else."}
    problem(await http.post(STORE, json=other), 422, "turn_id_reused")
    problem(await http.post(STORE, json=other, headers={"Idempotency-Key": "ana-s-2"}), 422, "idempotency_key_reused")


@only_sqlite
async def test_a_withheld_memory_is_not_there_to_be_changed_and_may_be_deleted(http: httpx2.AsyncClient) -> None:
    await poisoned(http)
    listed = (await http.get("/memories", params={"user_id": "ana", "kinds": "insight,chunk"})).json()["memories"]
    poison = [memory for memory in listed if POISON in memory["text"]]
    assert {memory["kind"] for memory in poison} == {"insight", "chunk"}
    await withheld(http, 2)
    unknown = await http.get("/memories/unknown", params={"user_id": "ana"}, headers=SAME)
    (insight,), (chunk,) = ([one for one in poison if one["kind"] == kind] for kind in ("insight", "chunk"))
    path = f"/memories/{insight['id']}"
    assert (await http.get(path, params={"user_id": "ana"}, headers=SAME)).content == unknown.content
    for change in ({"importance": 0.9}, {"tags": ["t"]}):
        problem(await http.patch(path, json={"user_id": "ana", **change}), 404, "memory_not_found")
    # A chunk's id is that of its first turn: what is left of it may have been read anew by now, under the same id.
    for told_of_it in (
        await http.get(f"/memories/{chunk['id']}", params={"user_id": "ana"}),
        await http.patch(f"/memories/{chunk['id']}", json={"user_id": "ana", "tags": ["t"]}),
    ):
        assert told_of_it.status_code in (200, 404)
        assert POISON not in told_of_it.text
    assert (await http.delete(path, params={"user_id": "ana"})).status_code == 200
    await released(http)
    assert POISON not in str(await told(http, INSIGHTS, user_id="ana"))


@only_sqlite
async def test_who_names_a_session_of_somebody_else_learns_nothing_and_changes_nothing(
    http: httpx2.AsyncClient,
) -> None:
    await poisoned(http)
    await told(http, START, user_id="ben", session_id="t")
    before = await everything(http, [("ana", "s")], "birds")
    missing = await http.post("/sessions/unknown/quarantine", json={"user_id": "ben"}, headers=SAME)
    problem(missing, 404, "session_not_found")
    assert (await http.post(PLACE, json={"user_id": "ben"}, headers=SAME)).content == missing.content
    gone = await http.delete("/sessions/unknown/quarantine", params={"user_id": "ben"}, headers=SAME)
    assert (await http.delete(PLACE, params={"user_id": "ben"}, headers=SAME)).content == gone.content
    problem(await http.post(PLACE, json={"user_id": "ana", "turn_numbers": [2, 4]}), 404, "turn_not_found")
    problem(await http.delete(PLACE, params={"user_id": "ana", "turn_number": 4}), 404, "turn_not_found")
    for wrong in ({"turn_numbers": []}, {"turn_numbers": [0]}, {"turn_numbers": ["2"]}, {"turns": [2]}):
        assert (await http.post(PLACE, json={"user_id": "ana", **wrong})).status_code == 422
    assert await everything(http, [("ana", "s")], "birds") == before


@only_sqlite
async def test_a_turn_of_a_session_that_goes_on_is_out_of_its_summary_too(connect: Connect) -> None:
    http = await connect(k_turn_buffer=2)
    await talk(http, "ana", "s", f"My {POISON} sings.", *(f"Remark {n}." for n in range(8)), end=False)
    await settled(http)
    assert POISON in (await told(http, CONTEXT, **ANA))["cumulative_summary"]
    await withheld(http, 1)
    assert POISON not in str(await told(http, CONTEXT, **ANA))
    await told(http, STORE, **ANA, user_message="Remark 9.", agent_message="")
    await settled(http)
    later = await told(http, CONTEXT, **ANA)
    assert POISON not in str(later)
    assert later["cumulative_summary"]


@only_sqlite
async def test_a_list_of_the_gateway_goes_on_without_what_is_withheld(http: httpx2.AsyncClient) -> None:
    def a_list(*texts: str) -> dict[str, Any]:
        messages = [{"role": "user", "text": text, "timestamp": 1e9 + place} for place, text in enumerate(texts)]
        return {"session_context": {**ANA, "messages": messages}}

    async def shown() -> list[str]:
        (found,) = (await told(http, "/get-session-context", **ANA))["results"]
        return [message["content"][0]["text"] for message in found["messages"]]

    await told(http, "/upsert-session-context", **a_list("one", POISON, "three"))
    await withheld(http, 2)
    assert await shown() == ["one", "three"]
    await told(http, "/upsert-session-context", **a_list("one", POISON, "three", "four"))
    assert await shown() == ["one", "three", "four"]
    await released(http)
    assert await shown() == ["one", POISON, "three", "four"]


@only_sqlite
async def test_an_erasure_takes_what_is_withheld_too_and_no_file_or_log_line_holds_it(
    connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    http = await connect(store_url=f"sqlite:///{tmp_path}/record/memory.db")
    await talk(http, "ana", "s", *TEXTS)
    await settled(http)
    await withheld(http, 2)
    assert holding(tmp_path, POISON)
    (line,) = [record for record in caplog.records if record.message == "put in quarantine"]
    assert line.turns == 1  # type: ignore[attr-defined]
    assert POISON not in caplog.text
    assert (await http.delete("/sessions/s/turns/2", params={"user_id": "ana"})).status_code == 200
    await settled(http)
    assert holding(tmp_path, POISON) == []
    assert (await released(http))["turns"] == 0
    assert places_of(await readable(http)) == set()


@only_sqlite
async def test_a_copy_in_which_it_was_withheld_is_rid_of_what_was_erased_since(visit: Visit, tmp_path: Path) -> None:
    record = tmp_path / "record" / "memory.db"
    settings = {"store_url": f"sqlite:///{record}"}
    async with visit(**settings) as http:
        await poisoned(http)
        await withheld(http, 2)
        await settled(http)
    copyfile(record, tmp_path / "copy.db")
    async with visit(**settings) as http:
        assert (await http.delete("/sessions/s/turns/2", params={"user_id": "ana"})).status_code == 200
        await settled(http)
    (tmp_path / "copy.db").replace(record)
    async with visit(**settings) as http:
        await settled(http)
        assert (await released(http))["turns"] == 0
        assert places_of(await readable(http)) == set()
    assert holding(tmp_path, POISON) == []


@only_sqlite
async def test_what_holds_while_its_successor_is_withheld_holds_on_if_somebody_changes_it(
    http: httpx2.AsyncClient,
) -> None:
    await talk(http, "ana", "s0", "I live in Lisbon.")
    await settled(http)
    await talk(http, "ana", "s", "I live in Porto.")
    await settled(http)

    async def homes() -> dict[str, dict[str, Any]]:
        listed = (await http.get("/memories", params={"user_id": "ana", "kinds": "insight"})).json()["memories"]
        return {memory["text"]: memory for memory in listed}

    (porto,) = (await homes()).values()
    assert "Porto" in porto["text"]
    for change in ({}, {"pinned": True}):
        await withheld(http)
        (lisbon,) = (await homes()).values()
        assert ("Lisbon" in lisbon["text"], lisbon["superseded_by"]) == (True, None)
        if change:
            await http.patch(f"/memories/{lisbon['id']}", json={"user_id": "ana", **change})
        await released(http)
        assert set(await homes()) == {porto["text"], *([lisbon["text"]] if change else [])}


@only_sqlite
async def test_what_is_found_instead_takes_the_place_of_nothing_that_is_withheld(http: httpx2.AsyncClient) -> None:
    """Of more facts than are kept of a sitting, one that is withheld makes room for another."""
    await talk(
        http,
        "ana",
        "s",
        *(f"I prefer {a} to {b}." for a, b in pairwise("abcdefghijklmnopqrstuvwxyz"[: MOST_FACTS + 2])),
    )
    await settled(http)
    before = str(await told(http, INSIGHTS, user_id="ana"))
    assert ("a to b" in before, "b to c" in before) == (False, True)
    await withheld(http, 2)
    await settled(http)
    meanwhile = str(await told(http, INSIGHTS, user_id="ana"))
    assert ("a to b" in meanwhile, "b to c" in meanwhile) == (True, False)
    assert (await released(http))["memories"] == 1, "its insight: the summary and the chunk were made anew"
    assert "b to c" in str(await told(http, INSIGHTS, user_id="ana"))


@only_sqlite
async def test_a_user_who_moves_away_takes_the_quarantine_along(connect: Connect, tmp_path: Path) -> None:
    here = await connect()
    await poisoned(here)
    await withheld(here, 2)
    await settled(here)
    there = await connect(store_url=f"sqlite:///{tmp_path}/there.db")
    file = (await here.get("/users/ana/export")).content
    headers = {"Content-Type": "application/x-ndjson"}
    imported = await there.post("/users/import", params={"user_id": "ana"}, content=file, headers=headers)
    assert imported.status_code == 200, imported.text
    assert (await there.get("/users/ana/export")).content == file
    assert places_of(await readable(there)) == set()
    await released(there)
    await settled(there)
    assert "insights" in places_of(await readable(there))


@only_sqlite
async def test_the_client_puts_in_quarantine_and_lets_out(connect: Connect, client_at: ClientAt) -> None:
    http = await connect()
    await poisoned(http)
    client = client_at(http, "ana", "s")
    assert (await client.quarantine([2]))["turns"] == 1
    assert (await client.quarantine(session_id="s2"))["turns"] == 1
    assert (await client.release(2))["turns"] == 1
    assert (await client.release(session_id="s2"))["turns"] == 1
    for call in (client.quarantine([9]), client.release(9), client.release(session_id="t")):
        with pytest.raises(NotFound):
            await call


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@only_sqlite
async def test_a_model_that_is_reading_it_brings_nothing_back(connect: Connect, model: ModelServer) -> None:
    endpoint = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    http = await connect(k_turn_buffer=1, **endpoint)
    model.hanging = True
    await talk(http, "ana", "s", TEXTS[1], TEXTS[0], end=False)
    await until(lambda: model.waiting)  # it folds the first turn into the summary
    await told(http, END, **ANA)
    await until(lambda: model.waiting == 2)  # and it reflects
    asked = len(model.chats)
    await withheld(http, 1)
    model.hanging = False
    await settled(http)
    assert places_of(await readable(http)) == set()
    assert "tea" in str(await told(http, INSIGHTS, user_id="ana"))
    assert all(POISON not in chat.prompt for chat in model.chats[asked:])


@only_sqlite
async def test_what_a_model_says_to_rest_on_what_is_withheld_does_not(connect: Connect, model: ModelServer) -> None:
    endpoint = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    http = await connect(**endpoint)
    await talk(http, "ana", "s", *TEXTS)
    await settled(http)
    insight = {"category": "fact", "confidence": 0.9, "importance": 0.9, "replaces": None}
    made_up = [{**insight, "text": f"Statement {number}", "turns": [number, 3]} for number in (1, 2)]
    model.play(answer({"summary": "They talked.", "topics": [], "insights": made_up}))
    await withheld(http, 2)
    await settled(http)
    found = (await told(http, INSIGHTS, user_id="ana"))["insights"]
    rests_on = {one["content"]: [source["turn_number"] for source in one["sources"]] for one in found}
    assert rests_on == {"Statement 1": [1, 3], "Statement 2": [3]}


@only_sqlite
async def test_of_a_session_that_is_withheld_no_model_is_asked(connect: Connect, model: ModelServer) -> None:
    endpoint = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    http = await connect(**endpoint)
    await talk(http, "ana", "s", *TEXTS)
    await settled(http)
    asked = len(model.chats)
    await withheld(http)
    await settled(http)
    assert len(model.chats) == asked
    assert (await http.get("/sessions/s/reflection", params={"user_id": "ana"})).json()["reflection"] == "done"
    assert (await readable(http))["memories"] == []
    await released(http)
    assert (await told(http, END, **ANA, wait_s=PATIENCE_S))["reflection"] == "done"
    await settled(http)
    assert len(model.chats) > asked
    assert POISON in str(await told(http, INSIGHTS, user_id="ana"))
