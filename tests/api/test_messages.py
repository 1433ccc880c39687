"""Messages: appended one or many, told by number, time and id, searched, made ready for a model, reset."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from client.errors import NotFound
from tests.api.conftest import ClientAt, Visit
from tests.api.talking import CONTEXT, END, START, STORE, problem, settled, told

MESSAGES, HISTORY, RESET = "/messages", "/messages/history", "/reset-memory"
ANA = {"user_id": "ana", "session_id": "s"}
PIXELS = base64.b64encode(bytes(range(256)) * 40).decode()
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXELS}"}}
LINK = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}
TEXT = {"type": "text", "text": "What is on these?"}
SHEET = {"type": "json", "json": {"rows": [[1, 2.5, None, True], {"ä": "ö"}]}}
THEN = datetime(2025, 3, 4, 9, 30, tzinfo=UTC)

only_sqlite = pytest.mark.only_on("sqlite", "no store has a say in it")


def said(*texts: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text, **more} for place, text in enumerate(texts)]


async def append(http: httpx2.AsyncClient, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return await told(http, MESSAGES, **{**ANA, "messages": messages, **more})


async def listed(http: httpx2.AsyncClient, **asked: Any) -> list[dict[str, Any]]:
    response = await http.get(MESSAGES, params={**ANA, **asked})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["count"] == len(answer["messages"])
    messages: list[dict[str, Any]] = answer["messages"]
    return messages


def words(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["content"] for message in messages]


async def test_a_session_begins_with_its_first_message_and_each_is_told_as_it_came(
    http: httpx2.AsyncClient, durability: str
) -> None:
    assert await listed(http) == []
    sent = [
        {"role": "system", "content": "Be kind.", "message_id": "m1", "timestamp": "2025-03-04T09:30:00Z"},
        {"role": "user", "name": "Ana", "content": [TEXT, PICTURE, LINK, SHEET], "message_id": "m2"},
        {"role": "tool", "name": "look", "content": "A boat.", "metadata": {"took_ms": 3}},
    ]
    stored = await append(http, sent, agent_id="bo")
    assert (stored["count"], stored["stored"], stored["erased"], stored["replayed"]) == (3, 3, 0, False)
    assert stored["turn_numbers"] == [1, 2, 3]
    assert stored["durability"] == durability
    first, second, third = await listed(http)
    assert first == {
        "message_id": "m1",
        "turn_number": 1,
        "role": "system",
        "content": "Be kind.",
        "timestamp": "2025-03-04T09:30:00Z",
    }
    assert second["content"] == sent[1]["content"], "images and JSON come back identical"
    assert (second["name"], second["message_id"]) == ("Ana", "m2")
    assert third["metadata"] == {"took_ms": 3}
    assert third["message_id"] == stored["message_ids"][2]
    context = await told(http, CONTEXT, **ANA)
    assert context["active_context"][1]["content"] == (
        'What is on these?\n[image]\n[image]\n{"rows":[[1,2.5,null,true],{"ä":"ö"}]}'
    ), "what can be read of it is what contexts tell"
    assert PIXELS[:40] not in str(context)


async def test_a_window_is_the_last_ones_or_a_page_by_number_or_time(http: httpx2.AsyncClient) -> None:
    times = [THEN + timedelta(days=day) for day in (0, 1, 2, 3, 1, 4)]  # the fifth was brought in late
    sent = [
        {"role": "user", "content": f"m{number}", "timestamp": at.isoformat()} for number, at in enumerate(times, 1)
    ]
    await append(http, sent)
    await told(http, STORE, **ANA, user_message="m7", agent_message="m8", turn_id="pair")
    assert words(await listed(http, latest=3)) == ["m6", "m7", "m8"]
    assert words(await listed(http, latest=1)) == ["m8"], "a turn of two messages is cut for the latest"
    assert words(await listed(http, latest=1000)) == [f"m{number}" for number in range(1, 9)]
    assert words(await listed(http, limit=2)) == ["m1", "m2"]
    assert words(await listed(http, after=2, limit=2)) == ["m3", "m4"]
    assert words(await listed(http, after=6, limit=1)) == ["m7", "m8"], "and never for a page"
    assert words(await listed(http, before=4, limit=2)) == ["m2", "m3"]
    assert words(await listed(http, after=1, before=4)) == ["m2", "m3"]
    assert words(await listed(http, before=1)) == []
    days = {"from": times[1].isoformat(), "to": times[3].isoformat()}
    assert words(await listed(http, **days)) == ["m2", "m3", "m5"], "in the order of the conversation"
    assert words(await listed(http, **days, limit=2)) == ["m2", "m3"]
    assert words(await listed(http, **days, after=3)) == ["m5"]
    for wrong in (
        {"latest": 0},
        {"latest": 1001},
        {"latest": 2, "after": 1},
        {"latest": 2, "limit": 1},
        {"after": -1},
        {"from": "yesterday"},
    ):
        problem(await http.get(MESSAGES, params={**ANA, **wrong}), 422, "validation_failed")


async def test_a_message_is_found_by_its_id_in_its_own_session_alone(http: httpx2.AsyncClient) -> None:
    await append(http, said("Hello.", message_id="m1"))
    await told(http, STORE, **ANA, user_message="Hm.", agent_message="Yes.", turn_id="pair.1")
    missing = await http.get(f"{MESSAGES}/m2", params=ANA)
    problem(missing, 404, "message_not_found")
    for user_id, session_id in (("ben", "s"), ("ana", "t")):
        problem(
            await http.get(f"{MESSAGES}/m1", params={"user_id": user_id, "session_id": session_id}),
            404,
            "message_not_found",
        )
    for message in await listed(http):
        found = await http.get(f"{MESSAGES}/{message['message_id']}", params=ANA)
        assert found.json() == message
    assert [message["message_id"] for message in await listed(http)] == ["m1", "pair.1.0", "pair.1.1"]
    await http.delete("/sessions/s/turns/1", params={"user_id": "ana"})
    problem(await http.get(f"{MESSAGES}/m1", params=ANA), 404, "message_not_found")


async def test_what_comes_again_is_stored_once_and_what_is_new_of_it_is_added(http: httpx2.AsyncClient) -> None:
    sent = [{**one, "message_id": f"m{place}"} for place, one in enumerate(said("a", "b", "c", "d"))]
    await append(http, sent[:3])
    before = await listed(http)
    again = await append(http, sent[:3])
    assert (again["stored"], again["replayed"], again["turn_numbers"]) == (0, True, [1, 2, 3])
    assert await listed(http) == before
    more = await append(http, [sent[3], *sent[1:3]])
    assert (more["stored"], more["replayed"], more["turn_numbers"]) == (1, False, [4, 2, 3])
    other = {**sent[1], "content": "Something else."}
    problem(await http.post(MESSAGES, json={**ANA, "messages": [other]}), 422, "message_id_reused")
    problem(await http.post(MESSAGES, json={**ANA, "messages": [sent[0], sent[0]]}), 422, "validation_failed")
    await http.delete("/sessions/s/turns/1", params={"user_id": "ana"})
    erased = await append(http, [{**sent[0], "content": "Something else."}, *sent[1:]])
    assert (erased["stored"], erased["erased"]) == (0, 1), "what was erased does not come back, and that is told"
    assert words(await listed(http)) == ["b", "c", "d"]


@only_sqlite
async def test_a_request_with_a_name_of_its_own_is_done_once_though_its_messages_have_none(
    http: httpx2.AsyncClient,
) -> None:
    body, named = {**ANA, "messages": said("a", "b")}, {"Idempotency-Key": "k1"}
    first = await http.post(MESSAGES, json=body, headers=named)
    again = await http.post(MESSAGES, json=body, headers=named)
    assert again.json() == {**first.json(), "stored": 0, "replayed": True}
    assert again.headers["idempotency-replayed"] == "true"
    for other in ({**body, "messages": said("a", "x")}, {**body, "messages": said("a", "b", "c")}):
        problem(await http.post(MESSAGES, json=other, headers=named), 422, "idempotency_key_reused")
    assert words(await listed(http)) == ["a", "b"]
    some = {**ANA, "messages": [*said("a2", message_id="m"), *said("b2")]}
    await append(http, some["messages"][:1])
    assert (await http.post(MESSAGES, json=some, headers={"Idempotency-Key": "k2"})).json()["stored"] == 1
    other = {**ANA, "messages": said("c2", message_id="n")}
    refused = await http.post(MESSAGES, json=other, headers={"Idempotency-Key": "k2"})
    problem(refused, 422, "idempotency_key_reused")


async def test_of_many_who_append_at_once_each_has_its_messages_together_and_in_order(
    http: httpx2.AsyncClient,
) -> None:
    batches = [[f"{name}{number}" for number in range(4)] for name in "abcdef"]
    await asyncio.gather(*(append(http, said(*batch)) for batch in batches))
    everything = words(await listed(http))
    assert sorted(everything) == sorted(text for batch in batches for text in batch)
    assert sorted(everything[start : start + 4] for start in range(0, 24, 4)) == batches


@only_sqlite
async def test_a_thousand_messages_come_in_one_request_and_the_last_are_told_at_once(http: httpx2.AsyncClient) -> None:
    sent = [
        {
            "role": "user",
            "content": f"day {day}",
            "message_id": f"d{day}",
            "timestamp": (THEN + timedelta(day)).isoformat(),
        }
        for day in range(1000)
    ]
    stored = await append(http, sent)
    assert (stored["stored"], stored["turn_numbers"]) == (1000, list(range(1, 1001)))
    assert words(await listed(http, latest=2)) == ["day 998", "day 999"]
    again = await append(http, sent)
    assert (again["stored"], again["replayed"]) == (0, True)
    assert len(await listed(http, limit=1000)) == 1000


@only_sqlite
async def test_more_than_is_sensible_is_not_told_together(http: httpx2.AsyncClient) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 990_000}"}}
    for number in range(2):
        pictures = [{"role": "user", "content": [picture], "message_id": f"p{number}.{place}"} for place in range(10)]
        await append(http, [*pictures, *said(f"after {number}")])
    latest = await listed(http, latest=22)
    assert [one["turn_number"] for one in latest] == list(range(5, 23)), "the last that have room"
    first = await listed(http)
    assert [one["turn_number"] for one in first] == list(range(1, 18)), "and the first"
    assert [one["turn_number"] for one in await listed(http, after=17)] == list(range(18, 23))


@only_sqlite
async def test_an_ended_session_goes_on_with_what_is_new(http: httpx2.AsyncClient) -> None:
    await append(http, said("I live in Lisbon now.", "Noted.", message_id=None))
    await told(http, END, **ANA, wait_s=10)
    await append(http, said("I moved to Porto by train."))
    ended = await told(http, END, **ANA, wait_s=10)
    assert (ended["reflection"], ended["turns_count"]) == ("done", 1)
    assert words(await listed(http)) == ["I live in Lisbon now.", "Noted.", "I moved to Porto by train."]
    insights = (await told(http, "/insights", user_id="ana"))["insights"]
    assert [insight["content"] for insight in insights] == ["The user: I moved to Porto by train."]


@only_sqlite
async def test_what_was_begun_afresh_is_told_alone_unless_all_is_asked_for(http: httpx2.AsyncClient) -> None:
    await append(http, said("old"))
    await told(http, START, **ANA, restore=False)
    await append(http, said("new"))
    assert words(await listed(http)) == words(await listed(http, latest=5)) == ["new"]
    assert words(await listed(http, before=9)) == ["new"]
    assert (
        words(await listed(http, replaced=True)) == words(await listed(http, latest=5, replaced=True)) == ["old", "new"]
    )


async def test_a_search_within_a_session_finds_its_messages_and_no_others(http: httpx2.AsyncClient) -> None:
    await append(http, said("My boat is called Ida.", "A fine name.", "It rains.", name=None))
    await append(http, said("My boat is called Emma."), session_id="t")
    await told(http, STORE, **ANA, user_message="Whose boat?", agent_message="The boat is yours.", turn_id="p")
    await settled(http)
    found = await told(http, "/messages/search", **ANA, query="boat", top_k=10)
    assert (found["session_id"], found["query"], found["degraded"]) == ("s", "boat", [])
    by_id = {message["message_id"]: message for message in await listed(http)}
    for message in found["messages"]:
        assert message.pop("score") > 0
        assert message == by_id[message["message_id"]]
    assert {"My boat is called Ida.", "Whose boat?", "The boat is yours."} <= set(words(found["messages"]))
    assert "Emma" not in str(found)
    assert (await told(http, "/messages/search", **{**ANA, "session_id": "u"}, query="boat"))["messages"] == []


@only_sqlite
async def test_a_chat_history_is_what_a_model_takes(http: httpx2.AsyncClient) -> None:
    empty = await told(http, HISTORY, **ANA, system_prompt="Be kind.", user_message="Hello?")
    assert empty["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    assert (await told(http, HISTORY, **ANA))["messages"] == []
    sent = [
        {"role": "user", "name": "Ana", "content": [TEXT, PICTURE]},
        {"role": "assistant", "name": "Bo the 1st", "content": "A boat."},
        {"role": "tool", "name": "weather", "content": [SHEET]},
        {"role": "tool", "content": "It rains."},
    ]
    await append(http, sent)
    history = await told(http, HISTORY, **ANA, system_prompt="Be kind.", user_message=[TEXT, LINK])
    assert history["count"] == 6
    assert history["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "name": "Ana", "content": [TEXT, PICTURE]},
        {"role": "assistant", "content": "A boat."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Result of the tool weather:"},
                {"type": "text", "text": '{"rows":[[1,2.5,null,true],{"ä":"ö"}]}'},
            ],
        },
        {"role": "user", "content": "Result of a tool:\nIt rains."},
        {"role": "user", "content": [TEXT, LINK]},
    ]
    assert len(await listed(http)) == 4, "asking stores nothing"
    wrong = [{"type": "json", "json": {"n": 2**60}}]
    problem(await http.post(HISTORY, json={**ANA, "user_message": wrong}), 422, "validation_failed")
    assert [one["content"] for one in (await told(http, HISTORY, **ANA, latest=1))["messages"]] == [
        "Result of a tool:\nIt rains."
    ]


async def test_the_window_of_a_history_is_a_setting(visit: Visit) -> None:
    async with visit(agent_memory_size=2) as http:
        await append(http, said("a", "b", "c"))
        assert words((await told(http, HISTORY, **ANA))["messages"]) == ["b", "c"]


@only_sqlite
async def test_a_history_may_hold_what_else_is_known_and_says_nothing_twice(http: httpx2.AsyncClient) -> None:
    await append(http, said("I live in Lisbon now."), session_id="old")
    await told(http, END, user_id="ana", session_id="old", wait_s=10)
    for messages in ([], said("Where do I live?")):
        if messages:
            await append(http, messages)
        history = await told(http, HISTORY, **ANA, system_prompt="Be kind.", include_context=True, user_message="Well?")
        system, *rest = history["messages"]
        assert system["content"].startswith("Be kind.\n\n<memory>\n")
        assert "The user: I live in Lisbon now." in system["content"]
        assert "Where do I live?" not in system["content"]
        assert words(rest) == [*words(messages), "Well?"]


@only_sqlite
async def test_between_the_summary_in_a_history_and_its_messages_nothing_is_missing(visit: Visit) -> None:
    async with visit(k_turn_buffer=3) as http:
        await append(http, said(*(f"I have {number} green boats in Porto." for number in range(8))))
        await settled(http)
        history = await told(http, HISTORY, **ANA, include_context=True, latest=1)
        system, *rest = words(history["messages"])
        assert "### Current Session Summary" in system
        assert [text for text in map(str, range(8)) if f"I have {text} green" in system + str(rest)] == list("01234567")


async def test_memory_is_reset_by_session_or_by_agent_and_the_next_insert_works(http: httpx2.AsyncClient) -> None:
    for session_id, agent_id in (("s", "bo"), ("t", "bo"), ("u", "cy")):
        await append(http, said(f"I am in {session_id}."), session_id=session_id, agent_id=agent_id)
    await append(http, said("I am ben's."), user_id="ben", agent_id="bo")
    await settled(http)
    reset = await told(http, RESET, **ANA)
    assert (reset["message"], reset["sessions"], reset["turns"]) == ("Memory reset successfully", 1, 1)
    assert await listed(http) == []
    assert (await told(http, RESET, **ANA))["sessions"] == 0, "twice is once"
    await append(http, said("Anew."), agent_id="bo")
    assert words(await listed(http)) == ["Anew."]
    reset = await told(http, RESET, user_id="ana", agent_id="bo")
    assert (reset["sessions"], reset["turns"]) == (2, 2)
    assert await listed(http) == await listed(http, session_id="t") == []
    assert words(await listed(http, session_id="u")) == ["I am in u."]
    assert words(await listed(http, user_id="ben")) == ["I am ben's."]
    for wrong in ({"user_id": "ana"}, {**ANA, "agent_id": "bo"}):
        problem(await http.post(RESET, json=wrong), 422, "validation_failed")


@only_sqlite
@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "validation_failed"),
        ([], "validation_failed"),
        ([{"type": "text", "text": ""}], "validation_failed"),
        ([{"type": "sound", "text": "x"}], "validation_failed"),
        ([{"type": "text", "text": "x", "more": 1}], "validation_failed"),
        ([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], "validation_failed"),
        ([{"type": "image_url", "image_url": {"url": "javascript:x"}}], "validation_failed"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,a b"}}], "validation_failed"),
        ([{"type": "image_url", "image_url": {"url": f"https://x/{'y' * 2048}"}}], "validation_failed"),
        ([{"type": "json", "json": "text"}], "validation_failed"),
        ([{"type": "json", "json": {"n": 2**60}}], "validation_failed"),
        ([{"type": "text", "text": "a\x00b"}], "invalid_character"),
        ([{"type": "text", "text": "a\x00b"}, {"type": "text", "text": "x" * 99_990}] * 2, "invalid_character"),
        # its size comes first: to look at each of millions of values would keep others waiting
        ([{"type": "json", "json": [2**60, *[{}] * 400_000]}], "content_too_long"),
        ([{"type": "text", "text": "x" * 60_000}] * 2, "content_too_long"),
        ([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 1_000_000}"}}], "content_too_long"),
        ("x" * 100_001, "content_too_long"),
    ],
)
async def test_what_cannot_be_kept_is_refused_and_none_of_its_list_is_stored(
    http: httpx2.AsyncClient, content: Any, code: str
) -> None:
    messages = [*said("fine"), {"role": "user", "content": content}]
    refusal = problem(await http.post(MESSAGES, json={**ANA, "messages": messages}), 422, code)
    assert "passwd" not in str(refusal)
    assert await listed(http) == []


@only_sqlite
async def test_a_body_of_many_megabytes_is_taken_here_and_a_larger_one_is_not(http: httpx2.AsyncClient) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 999_000}"}}
    stored = await append(http, [{"role": "user", "content": [picture]}] * 3)
    assert stored["stored"] == 3
    assert words(await listed(http, latest=1)) == [[picture]]
    too_large = await http.post(MESSAGES, json={**ANA, "messages": [{"role": "user", "content": [picture]}] * 17})
    problem(too_large, 413, "body_too_large")


@only_sqlite
async def test_what_came_as_turns_or_as_a_whole_list_is_told_as_messages_and_so_are_its_images(
    http: httpx2.AsyncClient,
) -> None:
    image = {"type": "image", "data": "QUJD", "mimeType": "image/png"}
    call = {"role": "assistant", "tool_calls": [{"name": "look", "arguments": {"at": 1}}]}
    result = {"role": "user", "tool_results": [{"content": [{"type": "text", "text": "A boat."}]}]}
    whole = [{"role": "user", "content": [{"type": "text", "text": "Look."}, image]}, call, result]
    await told(http, "/upsert-session-context", session_context={**ANA, "messages": whole})
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    assert [(one["role"], one["content"]) for one in await listed(http)] == [
        ("user", [{"type": "text", "text": "Look.\n[image]"}, shown]),
        ("assistant", '[calls look {"at":1}]'),
        ("tool", "A boat."),
    ]
    await append(http, said("And this?"))
    (context,) = (await told(http, "/get-session-context", **ANA))["results"]
    assert context["messages"][-1]["content"] == [{"type": "text", "text": "And this?"}]


async def test_messages_are_as_they_were_after_a_restart(visit: Visit) -> None:
    async with visit() as http:
        await append(http, [{"role": "user", "content": [TEXT, PICTURE, SHEET], "message_id": "m"}, *said("b", "c")])
        before = await listed(http)
    async with visit() as http:
        assert await listed(http) == await listed(http, latest=3) == before
        assert before[0]["content"] == [TEXT, PICTURE, SHEET]


async def test_an_import_tells_how_far_it_is_and_once_more_changes_nothing(
    http: httpx2.AsyncClient, client_at: ClientAt, ground: str
) -> None:
    days = 1000 if ground == "sqlite" else 120  # over Cosmos DB that takes three commits
    client, told_of = client_at(http, "ana", "s"), []
    old = [{"role": "user", "content": f"day {day}", "timestamp": THEN + timedelta(days=day)} for day in range(days)]
    done = await client.import_messages(old, on_progress=lambda done, total: told_of.append((done, total)))
    assert done == {"count": days, "stored": days}
    assert told_of == [(min(part, days), days) for part in range(500, days + 500, 500)]
    assert await client.import_messages(old) == {"count": days, "stored": 0}
    more = [*old, {"role": "user", "content": "another day"}]
    assert await client.import_messages(more) == {"count": days + 1, "stored": 1}
    latest = (await client.get_messages(2))["messages"]
    assert words(latest) == [f"day {days - 1}", "another day"]
    assert datetime.fromisoformat(latest[0]["timestamp"]) == THEN + timedelta(days=days - 1)


@only_sqlite
async def test_the_client_says_all_there_is_to_say_of_messages(http: httpx2.AsyncClient, client_at: ClientAt) -> None:
    client = client_at(http, "ana", "s")
    await client.add_message("user", [TEXT, PICTURE], message_id="m1", name="Ana", timestamp=THEN, metadata={"k": 1})
    await client.add_pair("Is it a boat?", "It is.")
    (first, *rest) = (await client.get_messages())["messages"]
    assert (first["message_id"], first["name"], first["metadata"]) == ("m1", "Ana", {"k": 1})
    assert await client.get_message("m1") == first
    assert first["content"] == [TEXT, PICTURE]
    assert (await client.get_messages(after=1))["messages"] == rest
    assert (await client.get_messages(before=2))["messages"] == [first]
    assert (await client.get_messages(start=THEN, end=THEN + timedelta(days=1)))["messages"] == [first]
    found = await client.search_messages("boat", 1)
    assert found["count"] == 1
    history = await client.chat_history("Whose?", system_prompt="Be kind.", latest=1)
    assert words(history["messages"]) == ["Be kind.", "It is.", "Whose?"]
    with pytest.raises(NotFound):
        await client.get_message("m2")
    assert (await client.reset_memory(agent_id="nobody"))["sessions"] == 0
    assert (await client.reset_memory())["turns"] == 3
