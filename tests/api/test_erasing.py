"""What is erased is gone: from every answer, every file, what is under way, and what is restored."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from client.errors import SessionNotFound, UserNotFound
from memory_service import tombstones
from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, ModelServer
from memory_service.cli import main
from tests.api.conftest import ClientAt, Connect, Visit
from tests.api.talking import (
    CONTEXT,
    END,
    INSIGHTS,
    KNOWLEDGE,
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
from tests.support.background import until

CANARY = "zebrafinch"
"""A word that ana says in all she says, and nobody else."""
OWNED = [("ana", "s"), ("ana", "s2")]

only_sqlite = pytest.mark.only_on("sqlite", "it is about its files")


async def talk(http: httpx2.AsyncClient, user_id: str, session_id: str, *texts: str, end: bool = True) -> None:
    who = {"user_id": user_id, "session_id": session_id}
    await told(http, START, **who)
    for number, text in enumerate(texts, 1):
        turn = {"user_message": text, "agent_message": "Noted.", "turn_id": f"{session_id}-{number}"}
        headers = {"Idempotency-Key": f"{user_id}-{session_id}-{number}"}
        answer = await http.post(STORE, json={**who, **turn}, headers=headers)
        assert answer.status_code == 200
    if end:
        await told(http, END, **who, wait_s=PATIENCE_S)


async def ana_and_ben(http: httpx2.AsyncClient) -> None:
    said = [f"My {CANARY} is called number {number}." for number in range(3)]
    await talk(http, "ana", "s", *said)
    await talk(http, "ana", "s2", f"I live in Lisbon with a {CANARY}.")
    await talk(http, "ben", "s", "I live in Porto.")
    memory = {"user_id": "ana", "content": f"Likes {CANARY} songs.", "memory_id": "m1", "conversation_id": "s"}
    await told(http, "/memories", memories=[memory])
    await settled(http)


async def erased(http: httpx2.AsyncClient, path: str, **query: str) -> dict[str, Any]:
    response = await http.delete(path, params=query)
    assert response.status_code == 200, response.text
    receipt: dict[str, Any] = response.json()
    return receipt


async def all_answers(http: httpx2.AsyncClient) -> str:
    return str(await everything(http, OWNED, "number Lisbon"))


async def test_a_user_who_is_erased_is_in_no_answer_and_others_are_as_they_were(http: httpx2.AsyncClient) -> None:
    await ana_and_ben(http)
    before = await everything(http, [("ben", "s")], "Porto")
    assert CANARY in await all_answers(http)
    receipt = await erased(http, "/users/ana")
    assert (receipt["status"], receipt["user_id"], receipt["drivers"]) == ("erased", "ana", [])
    counts = receipt["erased"]
    assert (counts["sessions"], counts["turns"], counts["sittings"], counts["requests"]) == (2, 4, 2, 4)
    assert counts["memories"] >= 5
    after = await all_answers(http)
    assert CANARY not in after
    assert after.count('"code":"session_not_found"') == 4
    assert {**await everything(http, [("ben", "s")], "Porto"), "commits": 0} == {**before, "commits": 0}
    missing = await http.delete("/users/nobody", headers=SAME)
    assert (await http.delete("/users/ana", headers=SAME)).content == missing.content
    problem(missing, 404, "user_not_found")


async def test_who_comes_back_after_an_erasure_is_a_stranger(http: httpx2.AsyncClient) -> None:
    await ana_and_ben(http)
    await erased(http, "/users/ana")
    answer = await told(http, START, user_id="ana", session_id="s")
    assert (answer["restored"], answer["formatted_context"]) == (False, "")
    turn = {"user_message": "Hello.", "agent_message": "Hello.", "turn_id": "s-1"}
    headers = {"Idempotency-Key": "ana-s-1"}
    stored = (await http.post(STORE, json={"user_id": "ana", "session_id": "s", **turn}, headers=headers)).json()
    assert (stored["turn_number"], stored["replayed"]) == (1, False)
    found = await told(http, RETRIEVE, user_id="ana", query="Hello", top_k=100)
    assert [hit["text"] for hit in found["results"]] == ["Hello.", "Hello."]


async def test_a_session_goes_with_what_was_learnt_from_it_and_the_others_stay(http: httpx2.AsyncClient) -> None:
    await ana_and_ben(http)
    receipt = await erased(http, "/sessions/s", user_id="ana")
    assert (receipt["erased"]["sessions"], receipt["erased"]["turns"]) == (1, 3)
    answers = await all_answers(http)
    assert "is called number" not in answers
    assert "songs" not in answers
    assert "Lisbon" in answers
    problem(await http.post(CONTEXT, json={"user_id": "ana", "session_id": "s"}), 404, "session_not_found")
    summaries = await told(http, SUMMARIES, user_id="ana")
    assert [one["session_id"] for one in summaries["summaries"]] == ["s2"]
    ben = await told(http, CONTEXT, user_id="ben", session_id="s")
    assert ben["active_context"]
    problem(await http.delete("/sessions/s", params={"user_id": "ana"}), 404, "session_not_found")


async def test_a_turn_loses_its_words_and_what_was_learnt_from_it(http: httpx2.AsyncClient) -> None:
    birds = f"I prefer my {CANARY} to all other birds."
    texts = ["I prefer green tea to black coffee.", birds, "I prefer slow trains to fast planes."]
    await talk(http, "ana", "s", *texts)
    await settled(http)
    assert CANARY in str(await told(http, INSIGHTS, user_id="ana"))
    await erased(http, "/sessions/s/turns/2", user_id="ana")
    await settled(http)
    answers = str(await everything(http, [("ana", "s")], "bird tea prefer"))
    assert CANARY not in answers
    assert texts[0] in answers
    insights = str(await told(http, INSIGHTS, user_id="ana"))
    assert "tea" in insights
    assert "trains" in insights
    (summary,) = (await told(http, SUMMARIES, user_id="ana"))["summaries"]
    assert "tea" in summary["summary"]
    again = {"user_id": "ana", "session_id": "s", "user_message": texts[1], "agent_message": "Noted.", "turn_id": "s-2"}
    problem(await http.post(STORE, json=again), 422, "turn_id_reused")
    problem(await http.delete("/sessions/s/turns/9", params={"user_id": "ana"}), 404, "turn_not_found")
    problem(await http.delete("/sessions/t/turns/1", params={"user_id": "ana"}), 404, "session_not_found")


async def test_a_turn_of_a_session_that_goes_on_is_out_of_its_summary_too(connect: Connect) -> None:
    http = await connect(k_turn_buffer=2)
    await talk(http, "ana", "s", f"My {CANARY} sings.", *(f"Remark {n}." for n in range(8)), end=False)
    await settled(http)
    told_of = await told(http, CONTEXT, user_id="ana", session_id="s")
    assert CANARY in told_of["cumulative_summary"]
    await erased(http, "/sessions/s/turns/1", user_id="ana")
    now = await told(http, CONTEXT, user_id="ana", session_id="s")
    assert CANARY not in str(now)
    await told(http, STORE, user_id="ana", session_id="s", user_message="Remark 9.", agent_message="")
    await settled(http)
    later = await told(http, CONTEXT, user_id="ana", session_id="s")
    assert CANARY not in str(later)
    assert later["cumulative_summary"]


@pytest.mark.parametrize("path", ["/users/ana", "/sessions/s", "/sessions/s/turns/1"])
async def test_bad_names_are_refused_and_erase_nothing(http: httpx2.AsyncClient, path: str) -> None:
    await ana_and_ben(http)
    for query in ({"user_id": "a b"}, {"surplus": "1", "user_id": "ana"}, {"user_id": ""}):
        problem_of = await http.delete(path, params=query)
        assert problem_of.status_code == 422, problem_of.text
    if path != "/users/ana":  # one that is nobody's in particular
        problem(await http.delete(path), 404, "session_not_found")
    assert CANARY in await all_answers(http)


# The files


def holding(folder: Path, text: str) -> list[str]:
    """Names of files in which it stands, in any case."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return sorted(file.name for file in files if text.encode().lower() in file.read_bytes().lower())


@only_sqlite
@pytest.mark.parametrize("path", ["/users/ana", "/sessions/s", "/sessions/s/turns/1"])
async def test_no_file_and_no_log_line_holds_it_any_more(
    connect: Connect, tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    http = await connect(store_url=f"sqlite:///{tmp_path}/record/memory.db")
    await talk(http, "ana", "s", f"My {CANARY} is called {CANARY * 300}.", "I like tea.")  # not compressed
    await settled(http)
    assert holding(tmp_path, CANARY)
    await erased(http, path, **({} if path == "/users/ana" else {"user_id": "ana"}))
    await settled(http)
    assert holding(tmp_path, CANARY) == []
    assert CANARY not in caplog.text
    if path == "/users/ana":
        assert holding(tmp_path, '"ana"') == []


A_MEMORY = {"user_id": "ana", "memory_id": "m1"}
A_DOCUMENT = {"doc_id": "d", "category": "birds"}


@only_sqlite
@pytest.mark.parametrize(
    "method, path, body",
    [
        ("DELETE", "/memories/m1?user_id=ana", None),
        ("POST", "/memories/forget", {"user_id": "ana", "dry_run": False, "ids": ["m1"]}),
        ("PATCH", "/memories/m1", {"user_id": "ana", "content": "Likes birds."}),
        ("PATCH", "/memories/m1", {"user_id": "ana", "metadata": {}, "content": "Likes birds."}),
        ("POST", "/memories", {"memories": [{**A_MEMORY, "content": "Likes birds."}]}),
        ("POST", "/users/ana/episodes", {"event_type": "walk", "summary": "Birds.", "episode_id": "e"}),
        ("PUT", "/users/ana/profile", {"profile": {"birds": True}}),
        ("PATCH", "/users/ana/profile", {"patch": {"boat": None}}),
        ("DELETE", "/users/ana/profile", None),
        ("DELETE", "/knowledge/d", None),
        ("POST", "/knowledge", {**A_DOCUMENT, "content": "Birds."}),
    ],
)
async def test_what_somebody_deletes_or_writes_over_is_in_no_file_either(
    connect: Connect, tmp_path: Path, method: str, path: str, body: dict[str, Any] | None
) -> None:
    http = await connect(store_url=f"sqlite:///{tmp_path}/record/memory.db")
    text = f"My {CANARY} is called {CANARY * 400}."
    if "episodes" in path:
        await told(http, path, event_type="walk", summary=text[:2000], episode_id="e")
    elif "profile" in path:
        assert (await http.put(path, json={"profile": {"boat": text}})).status_code == 200
    elif "knowledge" in path:
        await told(http, "/knowledge", **A_DOCUMENT, content=text)
    else:
        await told(http, "/memories", memories=[{**A_MEMORY, "content": text}])
    await settled(http)
    assert holding(tmp_path, CANARY)
    answer = await http.request(method, path, json=body)
    assert answer.status_code == 200, answer.text
    assert holding(tmp_path, CANARY) == []


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@only_sqlite
@pytest.mark.parametrize("path", ["/users/ana", "/sessions/s", "/sessions/s/turns/1"])
async def test_a_model_that_is_reading_it_brings_nothing_back(
    connect: Connect, model: ModelServer, tmp_path: Path, path: str
) -> None:
    endpoint = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    http = await connect(store_url=f"sqlite:///{tmp_path}/record/memory.db", k_turn_buffer=1, **endpoint)
    model.hanging = True
    await talk(http, "ana", "s", f"I prefer my {CANARY}.", "I prefer tea.", end=False)
    await until(lambda: model.waiting)  # it folds the first turn into the summary
    await told(http, END, user_id="ana", session_id="s")
    await until(lambda: model.waiting == 2)  # and it reflects
    await erased(http, path, **({} if path == "/users/ana" else {"user_id": "ana"}))
    model.hanging = False
    await settled(http)
    assert CANARY not in str(await everything(http, [("ana", "s")], "bird tea prefer"))
    assert holding(tmp_path, CANARY) == []


@only_sqlite
async def test_a_model_that_was_told_of_it_is_asked_again_without(connect: Connect, model: ModelServer) -> None:
    """What it makes of another conversation may hold what it was told of this one."""
    endpoint = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    http = await connect(**endpoint)
    await talk(http, "ana", "s", f"I prefer my {CANARY} to all other birds.")
    await settled(http)
    assert CANARY in str(await told(http, INSIGHTS, user_id="ana"))
    model.hanging = True
    await talk(http, "ana", "s2", "I prefer green tea to black coffee.", end=False)
    await told(http, END, user_id="ana", session_id="s2")
    await until(lambda: model.waiting)
    assert CANARY in model.chats[-1].prompt
    asked = len(model.chats)
    await erased(http, "/sessions/s", user_id="ana")
    model.hanging = False
    await settled(http)
    assert len(model.chats) == asked + 1
    assert CANARY not in model.chats[-1].prompt
    assert "green tea" in str(await told(http, INSIGHTS, user_id="ana"))


@only_sqlite
@pytest.mark.parametrize("path", ["/users/ana", "/sessions/s", "/sessions/s/turns/1"])
async def test_a_copy_from_before_is_rid_of_it_when_it_is_served(visit: Visit, tmp_path: Path, path: str) -> None:
    record = tmp_path / "record" / "memory.db"
    settings = {"store_url": f"sqlite:///{record}"}
    async with visit(**settings) as http:
        await ana_and_ben(http)
    copyfile(record, tmp_path / "copy.db")
    async with visit(**settings) as http:
        await erased(http, path, **({} if path == "/users/ana" else {"user_id": "ana"}))
        await talk(http, "ana", "later", "I moved to Faro.")
        await settled(http)
        expected = await everything(http, [*OWNED, ("ben", "s")], "number Lisbon")
    copyfile(tmp_path / "copy.db", record)
    (tmp_path / "copy.db").unlink()
    async with visit(**settings) as http:
        await settled(http)
        restored = await everything(http, [*OWNED, ("ben", "s")], "number Lisbon")
        assert ("is called number 0" in str(restored)) is False
        if path != "/users/ana":
            assert "Lisbon" in str(restored)
        assert str(restored).count("session_not_found") == str(expected).count("session_not_found")
        await talk(http, "ana", "again", "I am back.")
    async with visit(**settings) as http:  # and only once
        assert "I am back." in str(await everything(http, [("ana", "again")], "back"))


@only_sqlite
async def test_who_has_come_back_is_not_taken_for_who_was_erased_before(visit: Visit, tmp_path: Path) -> None:
    """A record that was begun anew beside the old file of erasures knows none of them."""
    settings = {"store_url": f"sqlite:///{tmp_path}/memory.db", "erasures_file": str(tmp_path / "erasures")}
    async with visit(**settings) as http:
        await ana_and_ben(http)
        await erased(http, "/users/ana")
    another = {**settings, "store_url": f"sqlite:///{tmp_path}/another.db", "erasures_file": str(tmp_path / "none")}
    async with visit(**another) as http:
        await talk(http, "ana", "s", "I am back.")
    async with visit(**{**another, "erasures_file": settings["erasures_file"]}) as http:
        assert "I am back." in str(await everything(http, [("ana", "s")], "back"))


@only_sqlite
async def test_an_erasure_that_failed_is_carried_out_when_it_can_be(connect: Connect, tmp_path: Path) -> None:
    folder = tmp_path / "no" / "folder"
    folder.parent.mkdir()
    http = await connect(erasures_file=str(folder / "erasures"))
    await ana_and_ben(http)
    folder.write_text("a file where a folder should be")
    problem(await http.delete("/users/ana"), 503, "store_unavailable")
    assert CANARY in await all_answers(http)
    folder.unlink()
    await erased(http, "/users/ana")
    assert CANARY not in await all_answers(http)


@only_sqlite
@pytest.mark.parametrize("why", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("path", ["/users/ana", "/sessions/s", "/sessions/s/turns/1", "/memories/m1"])
async def test_an_erasure_that_there_is_no_room_to_note_is_not_begun_and_says_so(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, why: int
) -> None:
    def full(_: int) -> None:
        raise OSError(why, "no room")

    http = await connect()
    await talk(http, "ana", "s", f"My {CANARY} sings.")
    await told(http, "/memories", memories=[{**A_MEMORY, "content": f"Has a {CANARY}."}])
    await settled(http)
    query = {} if path == "/users/ana" else {"user_id": "ana"}
    before = await everything(http, [("ana", "s")], CANARY)
    with monkeypatch.context() as patched:
        patched.setattr(tombstones.os, "fsync", full)
        refused = problem(await http.delete(path, params=query), 507, "storage_full")
    assert "ask again" in refused["detail"]
    assert await everything(http, [("ana", "s")], CANARY) == before
    assert (await http.delete(path, params=query)).status_code == 200
    assert "sings" not in str(await everything(http, [("ana", "s")], CANARY)) or "memories" in path


async def test_callers_who_go_on_meanwhile_are_refused_or_begin_anew(http: httpx2.AsyncClient) -> None:
    await talk(http, "ana", "s", f"My {CANARY} sings.", end=False)
    bodies = [
        {"user_id": "ana", "session_id": "s", "user_message": f"Remark {number}.", "agent_message": ""}
        for number in range(20)
    ]
    calls = [http.post(STORE, json=body) for body in bodies]
    answers = await asyncio.gather(*calls[:10], http.delete("/users/ana"), *calls[10:])
    assert {answer.status_code for answer in answers} <= {200, 404}
    problem(await http.post(CONTEXT, json={"user_id": "ana", "session_id": "s"}), 404, "session_not_found")
    found = await told(http, RETRIEVE, user_id="ana", query="Remark", top_k=100)
    assert found["results"] == []


async def test_knowledge_is_nobody_s_and_stays(http: httpx2.AsyncClient) -> None:
    await ana_and_ben(http)
    await told(http, KNOWLEDGE, doc_id="d", content="Birds sing.", category="birds")
    await erased(http, "/users/ana")
    found = await told(http, "/knowledge/recall", query="birds")
    assert [one["doc_id"] for one in found["results"]] == ["d"]


# The client and the command


async def test_the_client_erases_a_turn_a_session_and_its_user(http: httpx2.AsyncClient, client_at: ClientAt) -> None:
    await ana_and_ben(http)
    client = client_at(http, "ana", "s")
    assert (await client.erase_turn(1))["erased"]["turns"] == 1
    assert (await client.erase_session())["erased"]["sessions"] == 1
    with pytest.raises(SessionNotFound):
        await client.erase_session()
    assert (await client.erase_user())["erased"]["sessions"] == 1
    with pytest.raises(UserNotFound):
        await client.erase_user()


@only_sqlite
async def test_the_command_asks_first(http: httpx2.AsyncClient) -> None:
    await ana_and_ben(http)
    asked = ["users", "erase", "ana", "--url", str(http.base_url)]
    refused = await asyncio.to_thread(CliRunner().invoke, main, asked, "n\n")
    assert refused.exit_code == 1
    assert CANARY in await all_answers(http)
    done = await asyncio.to_thread(CliRunner().invoke, main, [*asked, "--yes"])
    assert (done.exit_code, done.output.startswith("ana: erased, sessions 2, ")) == (0, True)
    assert CANARY not in await all_answers(http)


@only_sqlite
async def test_a_file_of_a_user_without_the_erased_turn_is_taken_in(http: httpx2.AsyncClient) -> None:
    await ana_and_ben(http)
    await erased(http, "/sessions/s/turns/1", user_id="ana")
    await settled(http)
    exported = (await http.get("/users/ana/export")).content
    assert b"number 0" not in exported
    await erased(http, "/users/ana")
    headers = {"Content-Type": "application/x-ndjson"}
    response = await http.post("/users/import", content=exported, headers=headers)
    assert response.status_code == 200, response.text
    assert (await http.get("/users/ana/export")).content == exported
