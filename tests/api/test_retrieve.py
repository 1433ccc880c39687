"""Searching a user's memory: what is found, in which order, and that no question breaks it."""

from __future__ import annotations

from datetime import timedelta

import httpx2
import pytest

from client import InvalidRequest, MemoryServiceClient
from memory_service.stores import indexing
from tests.api.conftest import ClientAt, Connect
from tests.api.talking import ALL_KINDS, AT, PATIENCE_S, RETRIEVE, STORE, commits, moment, settled, told

SMALL_TALK = (
    ("The weather is awful today.", "Take an umbrella."),
    ("I bought a grey bicycle.", "Does it have lights?"),
    ("Our garden needs water.", "In the evening, then."),
    ("The train was late again.", "How annoying."),
    ("I cooked lentil soup.", "That keeps well."),
)


@pytest.fixture
async def talker(client: MemoryServiceClient) -> MemoryServiceClient:
    """Client of the session `s` of `ana`, in which five small things were said on five days."""
    await client.start_session("s")
    for day, (user, agent) in enumerate(SMALL_TALK):
        await client.store_turn(user, agent, created_at=AT + timedelta(days=day))
    return client


# What is found


async def test_a_turn_is_found_as_soon_as_it_is_stored(talker: MemoryServiceClient) -> None:
    for words in ("The vault opens with zebra.", "Yusuf likes figs.", "My shoe size is 43.", "We sail on Tuesday."):
        await talker.store_turn(words, "Noted.")
        assert (await talker.retrieve_facts(words.split(maxsplit=1)[1]))[0] == f"user: {words}"


@pytest.mark.only_on("sqlite", "what the other stores give back of a large turn, the contract of stores holds them to")
async def test_what_was_said_in_a_long_message_is_found_by_its_words(talker: MemoryServiceClient) -> None:
    await talker.store_turn(f"{'It rained and rained. ' * 4000}In the end I moved to Zanzibar.", "Noted.")
    await talker.store_turn("Good night.", "Sleep well.")
    found = await talker.retrieve("Zanzibar", 1)
    assert found["results"][0]["text"].endswith("In the end I moved to Zanzibar.")


async def test_what_was_said_in_any_session_is_found_whichever_is_named(talker: MemoryServiceClient) -> None:
    await talker.end_session(wait_s=PATIENCE_S)
    await talker.start_session("other")
    await talker.store_turn("I cooked a pumpkin.", "Delicious.")
    await settled(talker)
    unnamed = await talker.retrieve("What did I cook?", 10)
    assert {"s", "other"} <= {one["session_id"] for one in unnamed["results"]}
    for session_id in ("s", "other", "never-started"):
        assert await talker.retrieve("What did I cook?", 10, session_id=session_id) == unnamed


async def test_a_question_in_other_words_finds_what_was_meant(talker: MemoryServiceClient) -> None:
    await settled(talker)
    assert "user: I bought a grey bicycle." in await talker.retrieve_facts("Which two-wheeler does she ride?", 2)


async def test_what_cannot_be_found_is_not_made_up(http: httpx2.AsyncClient) -> None:
    assert await told(http, RETRIEVE, user_id="nobody", query="What do you know of me?") == {
        "query": "What do you know of me?",
        "facts": [],
        "count": 0,
        "results": [],
        "degraded": [],
    }
    assert await commits(http) == 0, "asking for a stranger makes nobody known"


# The answer


async def test_the_results_say_what_was_found_where_and_why(talker: MemoryServiceClient) -> None:
    await settled(talker)
    answer = await talker.retrieve("What did I buy on 3 March 2026, a bicycle?")
    assert set(answer) == {"query", "facts", "count", "results", "degraded"}
    assert (answer["query"], answer["degraded"]) == ("What did I buy on 3 March 2026, a bicycle?", [])
    first = answer["results"][0]
    assert set(first["score_parts"]) == {"keyword", "vector", "speaker", "date"}
    assert all(part > 0 for part in first["score_parts"].values()), "this question gives all four something to say"
    assert {name: value for name, value in first.items() if name not in ("score", "score_parts")} == {
        "id": "s#2.0",
        "kind": "message",
        "text": "I bought a grey bicycle.",
        "session_id": "s",
        "created_at": "2026-03-03T09:30:00Z",
        "trust": "normal",
        "role": "user",
        "sources": [{"session_id": "s", "turn_number": 2}],
    }


async def test_the_parts_sum_to_the_score_and_the_best_comes_first(talker: MemoryServiceClient) -> None:
    await settled(talker)
    for query in ("soup", "What did I do on 4 March?", "umbrella for the train"):
        results = (await talker.retrieve(query, 100))["results"]
        assert results
        for one in results:
            assert sum(one["score_parts"].values()) == pytest.approx(one["score"], abs=1e-6)
            assert one["score"] > 0
        scores = [one["score"] for one in results]
        assert scores == sorted(scores, reverse=True)


async def test_the_facts_are_the_results_as_lines(talker: MemoryServiceClient) -> None:
    await talker.store_turn("I sold the bicycle.", "For how much?", user_name="Ana")
    await talker.end_session(wait_s=PATIENCE_S)
    await settled(talker)
    answer = await talker.retrieve("bicycle lights", 100, ALL_KINDS)
    assert answer["count"] == len(answer["facts"]) == len(answer["results"]) > 3
    for fact, one in zip(answer["facts"], answer["results"], strict=True):
        speaker = one.get("name") or one.get("role")
        assert fact == (f"{speaker}: {one['text']}" if speaker else one["text"])
    assert {one["kind"] for one in answer["results"]} >= {"message", "summary", "chunk"}


async def test_the_same_question_is_answered_the_same(talker: MemoryServiceClient) -> None:
    await settled(talker)
    first = await talker.retrieve("What did I cook or buy?", 100)
    assert await talker.retrieve("What did I cook or buy?", 100) == first


# Limits and filters


async def test_top_k_is_how_many_come_at_most(talker: MemoryServiceClient) -> None:
    await settled(talker)
    every = await talker.retrieve("bicycle soup garden train weather", 100)
    assert every["count"] > 5
    for top_k in (1, 2, 5):
        some = await talker.retrieve("bicycle soup garden train weather", top_k)
        assert some["results"] == every["results"][:top_k]
    assert (await talker.retrieve("bicycle soup garden train weather"))["count"] == 5


async def test_top_k_is_between_1_and_100(client: MemoryServiceClient) -> None:
    for top_k in (0, -1, 101):
        with pytest.raises(InvalidRequest) as refused:
            await client.retrieve("bicycle", top_k)
        assert (refused.value.status, refused.value.code) == (422, "validation_failed")


async def test_only_the_kinds_asked_for_are_found(talker: MemoryServiceClient) -> None:
    await talker.store_turn("I live in Lisbon and own a bicycle.", "Noted.")
    await talker.end_session(wait_s=PATIENCE_S)
    await settled(talker)
    for kind in ("message", "chunk", "summary", "insight"):
        results = (await talker.retrieve("Lisbon bicycle", 100, [kind]))["results"]
        assert {one["kind"] for one in results} == {kind}
    both = (await talker.retrieve("Lisbon bicycle", 100, ["insight", "summary"]))["results"]
    assert {one["kind"] for one in both} == {"insight", "summary"}
    unasked = (await talker.retrieve("Lisbon bicycle", 100))["results"]
    assert "chunk" not in {one["kind"] for one in unasked}, "chunks only repeat messages"


async def test_a_filter_that_matches_nothing_finds_nothing(talker: MemoryServiceClient) -> None:
    for kinds in (["episode"], ["memory", "knowledge"]):
        answer = await talker.retrieve("bicycle", 100, kinds)
        assert (answer["facts"], answer["results"], answer["count"]) == ([], [], 0)


async def test_what_is_no_longer_true_is_hidden(client: MemoryServiceClient) -> None:
    for day, words in enumerate(("I live in Lisbon.", "I moved to Porto.")):
        await client.start_session(f"s{day}")
        await client.store_turn(words, "Noted.", created_at=AT + timedelta(days=day))
        await client.end_session(wait_s=PATIENCE_S)
    await settled(client)
    found = await client.retrieve("Where do I live? Lisbon?", 100, ["insight"])
    assert found["facts"] == ["The user: I moved to Porto."]
    said = await client.retrieve("Where do I live? Lisbon?", 100, ["message"])
    assert "user: I live in Lisbon." in said["facts"], "what was said stays said"


# Questions of every kind


ODD = {
    "quote": '"',
    "lone quote": 'soup "lentil',
    "dash": "-",
    "not": "-soup",
    "and": "soup AND",
    "or": "OR soup OR",
    "near": "NEAR(soup",
    "near of": "NEAR(soup lentil, 5)",
    "column": "col:soup",
    "text column": "text:soup",
    "star": "sou*",
    "caret": "^soup",
    "braces": "{soup lentil}: soup",
    "apostrophe": "it's soup",
    "sql": "'; DROP TABLE turns; --",
    "wildcards": "%_[soup]",
    "2,000 characters": "soup " * 400,
    "one word of 2,000": "s" * 2000,
    "regex": "(soup|[a-z",
    "backslash": "soup\\",
    "emoji": "👩‍👩‍👧‍👦 🍲",
    "space": "   ",
    "control": "\x1b\x08\x7f",
    "right to left": "מרק \u202esoup",
    "dates that are none": "on 31 February 2026, 2026-99-99, 99 March 0000",
    "stop words": "what was it that he did",
}


async def test_no_question_is_too_odd(http: httpx2.AsyncClient, talker: MemoryServiceClient) -> None:
    for name, query in ODD.items():
        answer = await told(http, RETRIEVE, user_id="ana", query=query)
        assert answer["query"] == query
        if "soup" in query.split():
            assert "user: I cooked lentil soup." in answer["facts"], name


async def test_a_question_has_1_to_2000_characters(client: MemoryServiceClient) -> None:
    for query, code in (("", "validation_failed"), ("s" * 2001, "content_too_long")):
        with pytest.raises(InvalidRequest) as refused:
            await client.retrieve(query)
        assert (refused.value.status, refused.value.code) == (422, code)


LANGUAGES = {
    "Chinese": ("我住在里斯本的老城区。", "里斯本"),
    "Japanese": ("寿司が大好きです。", "寿司"),
    "Thai": ("ฉันชอบดื่มกาแฟดำ", "กาแฟ"),
    "Korean": ("저는 리스본에 살아요.", "리스본에"),
    "Russian": ("Я живу в Лиссабоне.", "Лиссабоне"),
    "German": ("Ich wohne in der Königstraße.", "konigstraße"),
    "Spanish": ("Me encanta el jamón.", "jamon"),
    "Arabic": ("أعيش في لشبونة", "لشبونة"),
}


async def test_words_of_any_language_are_found_by_their_words(talker: MemoryServiceClient) -> None:
    for said, _ in LANGUAGES.values():
        await talker.store_turn(said, "…")
    for language, (said, query) in LANGUAGES.items():
        first = (await talker.retrieve(query))["results"][0]
        assert first["text"] == said, language
        assert first["score_parts"]["keyword"] > 0, language


# Cues


async def test_a_question_about_what_somebody_said_prefers_their_words(client: MemoryServiceClient) -> None:
    await client.start_session()
    await client.store_turn("My favourite tea is mint.", "Ours is ginger tea.", user_name="Ana", agent_name="Ben")
    await client.store_turn("It rains.", "My favourite tea is sage.", user_name="Ana", agent_name="Ben")
    await client.store_turn("My favourite tea is lime.", "It stopped.", user_name="Ana", agent_name="Ben")
    await settled(client)
    for name, other in (("Ana", "Ben"), ("Ben", "Ana")):
        results = (await client.retrieve(f"What is {name}'s favourite tea?", 100))["results"]
        assert results[0]["name"] == name
        assert all((one["score_parts"]["speaker"] > 0) == (one["name"] == name) for one in results)
        assert other in {one["name"] for one in results}, "the others are not shut out"


async def test_a_question_about_oneself_prefers_the_users_own_words(client: MemoryServiceClient) -> None:
    await client.start_session()
    await client.store_turn("Which tea is good?", "Mint tea is good.")
    await client.store_turn("Mint tea is good.", "Indeed.")
    await settled(client)
    mine = (await client.retrieve("What did I say about mint tea?"))["results"]
    assert (mine[0]["role"], mine[0]["text"]) == ("user", "Mint tea is good.")
    yours = (await client.retrieve("What did you say about mint tea?"))["results"]
    assert all(one["score_parts"]["speaker"] == 0 for one in yours)


async def test_a_question_about_a_day_prefers_that_day(client: MemoryServiceClient) -> None:
    await client.start_session()
    for day in ("2025-05-03", "2026-03-09", "2026-05-03"):
        said_at = moment(f"{day}T12:00:00+00:00")
        await client.store_turn("I cooked lentil soup.", "Enjoy.", created_at=said_at)
    await settled(client)
    for question, day in (
        ("What did I cook on 3 May 2025?", "2025-05-03"),
        ("What did I cook on 2026-05-03?", "2026-05-03"),
        ("What did I cook on March 9th, 2026?", "2026-03-09"),
        ("What did I cook in March 2026?", "2026-03-09"),
    ):
        first = (await client.retrieve(question))["results"][0]
        assert first["created_at"].startswith(day), question
        assert first["score_parts"]["date"] > 0


async def test_a_question_that_names_no_day_does_not_prefer_recent_ones(client: MemoryServiceClient) -> None:
    await client.start_session()
    await client.store_turn("I cooked lentil soup with cumin.", "Enjoy.", created_at=AT - timedelta(days=3000))
    await client.store_turn("I cooked rice.", "Enjoy.", created_at=AT)
    await settled(client)
    results = (await client.retrieve("Which soup did I cook?"))["results"]
    assert results[0]["text"] == "I cooked lentil soup with cumin."
    assert all(one["score_parts"]["date"] == 0 for one in results)


# Without vectors


async def test_a_search_whose_embedder_is_away_says_so_and_goes_by_words(
    connect: Connect, client_at: ClientAt, unused_tcp_port: int
) -> None:
    nowhere = f"http://127.0.0.1:{unused_tcp_port}/v1"
    http = await connect(
        openai_api_key="key", openai_base_url=nowhere, openai_embedding_model="m", shutdown_grace_seconds=0
    )
    client = client_at(http)
    await client.start_session()
    await client.store_turn("I cooked lentil soup.", "Enjoy.")
    answer = await client.retrieve("soup")
    assert answer["degraded"] == ["vector"]
    assert answer["facts"][0] == "user: I cooked lentil soup."
    assert answer["results"][0]["score_parts"]["vector"] == 0


@pytest.mark.only_on("cosmos", "postgres", "others have no indexes of their own")
@pytest.mark.parametrize(
    ("wish", "small_turns", "searched_by", "by_store"),
    [("auto", 1, "store", 0), ("auto", 0, "store", 1), ("store", 1, "store", 1), ("process", 0, "process", 0)],
)
async def test_the_counters_say_who_searches(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, wish: str, small_turns: int, searched_by: str, by_store: int
) -> None:
    monkeypatch.setattr(indexing, "READ_WHOLE_TURNS", small_turns)
    http = await connect(store_search=wish)
    await told(http, "/sessions/start", user_id="ana", session_id="s")
    turn = {"user_message": "I'm allergic to walnuts.", "agent_message": "Noted: no walnuts."}
    await told(http, STORE, user_id="ana", session_id="s", **turn)
    found = await told(http, RETRIEVE, user_id="ana", query="walnuts")
    assert "walnuts" in found["results"][0]["text"]
    recall = (await settled(http))["recall"]
    assert recall["searched_by"] == searched_by
    assert recall["searched_why"].startswith(f"STORE_SEARCH={wish}")
    assert (recall["searches"], recall["searches_by_store"]) == (1, by_store)
    assert recall["cached_users"] == 1 - by_store
