"""Summaries and facts without a model: picked and quoted, never written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service.extract import Sentence, entities, extract, facts, field_of, quoted, said, slot_of, topics
from memory_service.llm.base import Excerpt, Findings
from memory_service.llm.offline import MOST_FACTS, OfflineReader
from memory_service.text import words
from memory_service.values import Memory, Message, Role, Turn

AT = datetime(2025, 3, 3, 9, tzinfo=UTC)

DENSE = "The Michelin guide recommends Antiqvvm near the crystal palace gardens."
THIN = "Oh, that is really nice, good to know."


def turn(seq: int, *messages: Message) -> Turn:
    return Turn(session_id="s", seq=seq, turn_id=f"t{seq}", messages=messages, created_at=AT, received_at=AT)


def says(text: str, role: Role = "user", name: str | None = None, seq: int = 1) -> Turn:
    return turn(seq, Message(role=role, content=text, name=name))


def sentence(text: str, seq: int = 1, speaker: str = "user") -> Sentence:
    return Sentence(text, speaker, seq)


# What was said


def test_sentences_keep_their_order_their_speaker_and_their_turn() -> None:
    turns = [
        turn(1, Message(role="user", content="Hi. I am Ana!"), Message(role="assistant", content="Hello\nthere")),
        turn(2, Message(role="user", name="Ben", content="So?")),
    ]
    assert said(turns) == [
        sentence("Hi."),
        sentence("I am Ana!"),
        sentence("Hello", speaker="assistant"),
        sentence("there", speaker="assistant"),
        sentence("So?", 2, "Ben"),
    ]


def test_what_systems_and_tools_say_is_not_what_was_said() -> None:
    assert said([says("You are helpful.", "system"), says("42", "tool")]) == []


# Extracts


def test_the_sentences_that_tell_most_are_kept_in_the_order_they_were_said() -> None:
    spoken = [sentence(THIN, 1), sentence(DENSE, 2), sentence("Ok, see you.", 3), sentence("My train leaves at 7.", 4)]
    assert extract("", spoken, 16) == f"user: {DENSE}\nuser: My train leaves at 7."


def test_questions_and_greetings_give_way_to_statements() -> None:
    asked = sentence("Which Portuguese regional wine would accompany grilled octopus?")
    greeted = sentence("Hello wonderful people gathered around octopus lovers!")
    told = sentence("Grilled octopus tastes wonderful near Matosinhos harbour.")
    assert extract("", [asked, greeted, told], 8) == f"user: {told.text}"


def test_what_one_speaker_says_in_a_row_stands_on_one_line() -> None:
    spoken = [
        sentence("I booked a table."),
        sentence("It is for six people."),
        sentence("The terrace was full already.", 1, "assistant"),
        sentence("We sit inside near windows.", 2, "assistant"),
    ]
    assert extract("", spoken).splitlines() == [
        "user: I booked a table. It is for six people.",
        "assistant: The terrace was full already.",
        "assistant: We sit inside near windows.",
    ]


def test_speakers_are_called_by_their_names() -> None:
    spoken = said([says("We adopted a puppy yesterday.", name="Ana"), says("Puppies chew shoes.", "assistant", "Ben")])
    assert extract("", spoken) == "Ana: We adopted a puppy yesterday.\nBen: Puppies chew shoes."


def test_an_earlier_extract_is_taken_in_and_comes_first() -> None:
    earlier = extract("", [sentence("My sister Marta lives in Braga.", 1, "Ana")])
    assert extract(earlier, [sentence("Her dog is called Rex.", 2, "Ana")]) == (
        "Ana: My sister Marta lives in Braga.\nAna: Her dog is called Rex."
    )


def test_an_extract_of_extracts_keeps_to_its_budget_however_long_it_goes_on() -> None:
    summary = ""
    for seq in range(1, 200):
        summary = extract(summary, [sentence(f"Fact {seq} concerns subject{seq} and matter{seq}.", seq)], 30)
        assert len(words(summary)) <= 30 + len(summary.splitlines())  # the names of the speakers come on top


def test_what_has_no_words_uses_up_the_budget_too() -> None:
    summary = ""
    for seq in range(1, 100):
        summary = extract(summary, [sentence("👍", seq), sentence("...", seq)], 20)
    assert len(summary.splitlines()) <= 20


def test_one_endless_sentence_is_cut_to_the_budget() -> None:
    assert extract("", [sentence("endless " * 5_000)], 25) == "user: " + " ".join(["endless"] * 25)


def test_what_has_no_spaces_does_not_break_the_budget() -> None:
    blob = extract("", [sentence("x" * 100_000), sentence("I live in Porto.", 2)], 20)
    assert len(blob) < 20 * 15
    chinese = [sentence("我今天去北京看我的朋友，然后吃了很多好吃的东西，晚上回家。", seq) for seq in range(100)]
    assert len(extract("", chinese, 20)) < 20 * 15 * 2


TEXT = st.text(alphabet="ab I?.\n 1é我👍", min_size=1, max_size=60)


@given(st.lists(TEXT, min_size=1, max_size=12), st.integers(1, 40))
def test_an_extract_is_never_empty_if_something_was_said_and_keeps_to_the_budget_and_the_order(
    texts: list[str], budget: int
) -> None:
    spoken = said([says(text, seq=seq) for seq, text in enumerate(texts, start=1)])
    lines = extract("", spoken, budget).splitlines()
    assert bool(lines) == bool(spoken)
    assert all(line.startswith("user: ") for line in lines)
    told = [line.removeprefix("user: ") for line in lines]
    assert len(told) <= budget
    assert len(told) == 1 or sum(len(words(text)) for text in told) <= budget
    assert is_subsequence("".join(told).replace(" ", ""), "".join(s.text for s in spoken))


def is_subsequence(part: str, whole: str) -> bool:
    rest = iter(whole)
    return all(character in rest for character in part)


def test_nothing_said_gives_an_empty_extract() -> None:
    assert extract("", []) == ""


# Facts


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("I prefer window seats on trains.", "preference"),
        ("I really can't stand cilantro.", "preference"),
        ("From now on send me short answers.", "preference"),
        ("My favourite colour is green.", "preference"),
        ("I'm allergic to walnuts and shellfish.", "identity"),
        ("My name is Ana Sousa.", "identity"),
        ("I work as a nurse in Porto.", "identity"),
        ("I've decided to sell the car.", "plan"),
        ("I'm going to run the marathon.", "plan"),
        ("My sister lives in Braga.", "relation"),
        ("I bought a red bicycle.", "possession"),
    ],
)
def test_what_users_say_of_themselves_is_a_fact(text: str, category: str) -> None:
    [fact] = facts([says(f"Hello there. {text} Bye now.", seq=7)])
    assert (fact.sentence, fact.category) == (sentence(text, 7), category)
    assert 0 < fact.importance <= 1


def test_a_fact_tells_the_day_it_speaks_of() -> None:
    [fact] = facts([says("I bought a red bicycle yesterday.")])
    assert fact.sentence.text == "I bought a red bicycle yesterday (2025-03-02)."


@pytest.mark.parametrize(
    "text",
    [
        "Do you think I prefer window seats?",
        "Should I say my name is Ana?",
        "What if I'm allergic to walnuts?",
        "The weather is nice in Porto today.",
        "I love it.",
        "",
    ],
)
def test_questions_small_talk_and_scraps_are_no_facts(text: str) -> None:
    assert facts([says(text)]) == []


def test_only_people_state_facts_users_and_those_who_have_a_name() -> None:
    stated = "I prefer window seats on trains."
    assert facts([says(stated, "assistant"), says(stated, "system"), says(stated, "tool")]) == []
    assert facts([says(stated, "system", "Ana"), says(stated, "tool", "Ana")]) == []
    assert [fact.sentence.speaker for fact in facts([says(stated, "assistant", "Ben"), says(stated)])] == [
        "Ben",
        "user",
    ]


def test_a_fact_is_quoted_with_who_said_it() -> None:
    turns = [says("I prefer window seats on trains."), says("I prefer aisle seats on trains.", name="Ben")]
    assert [quoted(fact) for fact in facts(turns)] == [
        "The user: I prefer window seats on trains.",
        "Ben: I prefer aisle seats on trains.",
    ]


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        ("I live in Porto now.", "home"),
        ("I've moved to Braga last week.", "home"),
        ("I work for the city.", "work"),
        ("Please call me Ana.", "name"),
        ("My budget is 300 euros.", "my budget"),
        ("My favourite colour is green.", "my favourite colour"),
        ("I like Porto.", None),
    ],
)
def test_a_statement_may_say_what_it_gives_the_value_of(text: str, slot: str | None) -> None:
    assert slot_of(text) == slot


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("My name is Sarah Johnson.", ("name", "Sarah Johnson")),
        ("Hi, my name is Ana de Sousa", ("name", "Ana de Sousa")),
        ("I live in Lisbon.", ("home", "Lisbon")),
        ("I now live in New York.", ("home", "New York")),
        ("I've moved to Porto.", ("home", "Porto")),
        ("I work at Acme.", ("employer", "Acme")),
        ("I work as a nurse.", ("occupation", "nurse")),
        ("My favourite colour is green.", ("favorite_colour", "green")),
        ("My budget is 300 euros.", ("budget", "300 euros")),
        ("I live in a house by the sea.", (None, None)),
        ("I live in Lisbon, or so I tell people.", (None, None)),
        ("My brother says I live in Narnia.", (None, None)),
        ("I no longer live in Lisbon.", (None, None)),
        ("My name is not important.", (None, None)),
        ("I work at night.", (None, None)),
        ("My favourite colour is not green.", (None, None)),
        ("My dog is sick.", (None, None)),
    ],
)
def test_a_statement_gives_a_field_of_its_speaker_only_where_nothing_else_can_be_meant(
    text: str, stated: tuple[str | None, str | None]
) -> None:
    assert field_of(text) == stated


async def test_what_another_says_of_themselves_is_no_field_of_the_user() -> None:
    turns = (says("I live in Lisbon.", name="Ana"), says("I live in Porto.", "assistant", "Ben", seq=2))
    findings = await OfflineReader().reflect(Excerpt(turns=turns))
    assert [(one.text, one.field, one.value) for one in findings.insights] == [
        ("Ana: I live in Lisbon.", "home", "Lisbon"),
        ("Ben: I live in Porto.", None, None),
    ]


async def reflected(*texts: str, known: tuple[str, ...] = ()) -> Findings:
    memories = tuple(Memory(memory_id=text, kind="insight", text=text, created_at=AT) for text in known)
    turns = tuple(says(text, seq=seq) for seq, text in enumerate(texts, start=1))
    return await OfflineReader().reflect(Excerpt(turns=turns, known=memories))


async def test_a_later_value_of_the_same_thing_replaces_the_earlier_one() -> None:
    known = ("The user: I prefer tea.", "The user: I live in Porto, in the old town.")
    findings = await reflected("I've moved to Braga last week.", known=known)
    [finding] = findings.insights
    assert (finding.replaces, finding.turns) == (2, (1,))


async def test_a_statement_of_something_else_replaces_nothing() -> None:
    findings = await reflected("My budget is 500 euros now.", known=("The user: My deadline is 5 May this year.",))
    assert [finding.replaces for finding in findings.insights] == [None]


async def test_the_offline_reader_keeps_the_most_telling_facts_in_order() -> None:
    findings = await reflected(*(f"I bought a bicycle number {i}." for i in range(30)), "I'm allergic to walnuts.")
    quoted_turns = [finding.turns[0] for finding in findings.insights]
    assert len(quoted_turns) == MOST_FACTS
    assert quoted_turns == sorted(quoted_turns)
    assert quoted_turns[-1] == 31


async def test_a_summary_is_never_empty_even_of_turns_without_words() -> None:
    assert (await reflected("\u200b")).summary
    nothing = turn(1, Message(role="tool", content="42"))
    assert (await OfflineReader().reflect(Excerpt(turns=(nothing,)))).summary
    assert await OfflineReader().compact("", [nothing])


# Topics and names


def test_topics_are_what_is_spoken_of_more_than_once() -> None:
    spoken = [
        sentence("The marathon is in October."),
        sentence("Training for a marathon hurts."),
        sentence("My knee hurts."),
        sentence("Really great, thanks, that sounds really great!"),
        sentence("Really great weather."),
    ]
    assert topics(spoken) == ("marathon", "hurts")


def test_names_are_capitalised_words_that_do_not_begin_a_sentence() -> None:
    spoken = [
        sentence("Yesterday Maria Silva flew to Porto."),
        sentence("Then Maria Silva met Ben."),
        sentence("Tomorrow I sleep."),
    ]
    assert entities(spoken)[0] == "Maria Silva"
    assert set(entities(spoken)) == {"Maria Silva", "Porto", "Ben"}
