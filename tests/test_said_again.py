"""What several sessions say is known from each: what becomes of one takes its words, not the fact."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from memory_service.app import open_service
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.values import KINDS, Message, Scope, SessionKey
from tests.support.background import record, settled

ANA = Scope(user_id="ana")
FIRST = "I live in Porto with my abusive husband, two cats, three dogs."
THEN = "I live in Porto with my husband, two cats, three dogs."
LAST = "I live in Porto with my husband, two cats and three dogs!"


@pytest.fixture
async def service(make_settings: Callable[..., Settings]) -> AsyncIterator[MemoryService]:
    async with open_service(make_settings()) as service:
        yield service


def key_of(session_id: str) -> SessionKey:
    return SessionKey(scope=ANA, session_id=session_id)


async def talk(service: MemoryService, session_id: str, *said: str) -> None:
    await service.start_session(ANA, session_id, restore=False)
    for text in said:
        await service.store_turn(key_of(session_id), Draft(messages=(Message(role="user", content=text),)))
    await service.end_session(key_of(session_id), wait_s=10)
    await settled(service)


async def insights(service: MemoryService) -> list[str]:
    return [memory.text.removeprefix("The user: ") for memory in (await service.rights.page(ANA, ["insight"], 100))[0]]


async def everything(service: MemoryService) -> str:
    """All that the record holds of memories, superseded or not."""
    return repr(await record(service).memories(ANA, KINDS, superseded=True))


async def read_anew(service: MemoryService) -> None:
    await service.sweep()
    await settled(service)


Erase = Callable[[MemoryService, str], Any]
ERASE: dict[str, Erase] = {
    "session": lambda service, session_id: service.erasing.session(key_of(session_id)),
    "turn": lambda service, session_id: service.erasing.turn(key_of(session_id), 1),
}


@pytest.mark.parametrize("how", ERASE)
async def test_what_was_said_in_an_erased_session_is_told_in_the_words_of_the_others(
    service: MemoryService, how: str
) -> None:
    for name, text in {"a": FIRST, "b": THEN, "c": LAST}.items():
        await talk(service, name, text)
    assert await insights(service) == [FIRST]
    await ERASE[how](service, "a")
    await read_anew(service)
    assert await insights(service) == [THEN]
    assert "abusive" not in await everything(service)
    await ERASE[how](service, "b")
    assert await insights(service) == [LAST]
    await ERASE[how](service, "c")
    assert await insights(service) == []


async def test_the_one_that_was_learnt_first_stays_when_a_later_session_goes(service: MemoryService) -> None:
    for name, text in {"a": FIRST, "b": THEN, "c": LAST}.items():
        await talk(service, name, text)
    for name in ("b", "c"):
        await service.erasing.session(key_of(name))
        assert await insights(service) == [FIRST]
    await talk(service, "d", THEN)
    await service.erasing.session(key_of("a"))
    assert await insights(service) == [THEN]


async def test_what_a_good_session_says_holds_while_another_is_in_quarantine_and_after_that_is_erased(
    service: MemoryService,
) -> None:
    await talk(service, "bad", FIRST)
    await talk(service, "good", THEN)
    await talk(service, "worse", LAST)
    for name in ("bad", "worse"):
        await service.quarantine.withhold(key_of(name))
        assert await insights(service) == [THEN]
    await service.quarantine.release(key_of("bad"))
    assert await insights(service) == [FIRST]
    await service.quarantine.withhold(key_of("bad"))
    for name in ("bad", "worse"):
        await service.erasing.session(key_of(name))
        assert await insights(service) == [THEN]


async def test_what_somebody_deletes_is_gone_in_the_words_of_all_sessions(service: MemoryService) -> None:
    for name, text in {"a": FIRST, "b": THEN, "c": LAST}.items():
        await talk(service, name, text)
    ((one,), _) = await service.rights.page(ANA, ["insight"], 100)
    assert await service.delete_memory(ANA, one.memory_id)
    assert await insights(service) == []
    assert "husband" not in repr(await record(service).memories(ANA, ["insight"], superseded=True))
    await service.erasing.session(key_of("a"))
    assert await insights(service) == []


async def test_a_correction_stands_for_the_words_of_all_sessions(service: MemoryService) -> None:
    for name, text in {"a": FIRST, "b": THEN}.items():
        await talk(service, name, text)
    ((one,), _) = await service.rights.page(ANA, ["insight"], 100)
    await service.rights.edit(ANA, one.memory_id, {"text": "Ana lives alone"})
    assert "husband" not in repr(await record(service).memories(ANA, ["insight"], superseded=True))
    for name in ("a", "b"):
        await service.erasing.session(key_of(name))
        assert await insights(service) == ["Ana lives alone"]


# What is read once more

WALNUTS, PORTO, REX = "I am allergic to walnuts.", "I live in Porto, by the river.", "I work as a gardener in Faro."


async def delete(service: MemoryService, word: str) -> None:
    """Delete the insight with a word in it."""
    (name,) = [m.memory_id for m in (await service.rights.page(ANA, ["insight"], 100))[0] if word in m.text]
    assert await service.delete_memory(ANA, name)


AGAIN: dict[str, Erase] = {
    "erased": lambda service, session_id: service.erasing.turn(key_of(session_id), 3),
    "withheld": lambda service, session_id: service.quarantine.withhold(key_of(session_id), [3]),
}


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("why", AGAIN)
async def test_what_was_deleted_is_not_learnt_again_from_a_session_that_is_read_anew(
    service: MemoryService, why: str, edited: bool
) -> None:
    await talk(service, "s", WALNUTS, PORTO, REX)
    if edited:
        (home,) = [one for one in (await service.rights.page(ANA, ["insight"], 100))[0] if "Porto" in one.text]
        await service.rights.edit(ANA, home.memory_id, {"text": "Ana has a house in Porto"})
    await delete(service, "Porto")
    await AGAIN[why](service, "s")
    await read_anew(service)
    assert await insights(service) == [WALNUTS]
    assert "Porto" not in repr(await record(service).memories(ANA, ["insight"], superseded=True))


async def test_what_was_deleted_is_not_learnt_again_when_a_session_is_let_out_of_quarantine(
    service: MemoryService,
) -> None:
    await talk(service, "s", WALNUTS, PORTO)
    await delete(service, "Porto")
    await service.quarantine.withhold(key_of("s"))
    await service.quarantine.release(key_of("s"))
    await read_anew(service)
    assert await insights(service) == [WALNUTS]


async def test_a_new_session_under_the_name_of_an_erased_one_teaches_what_is_said_in_it(service: MemoryService) -> None:
    await talk(service, "default", WALNUTS, PORTO)
    for memory in (await service.rights.page(ANA, KINDS, 100))[0]:
        assert await service.delete_memory(ANA, memory.memory_id)
    await service.erasing.session(key_of("default"))
    await talk(service, "default", WALNUTS, REX)
    assert sorted(await insights(service)) == sorted([WALNUTS, REX])
    for kind in ("summary", "chunk"):
        assert (await service.rights.page(ANA, [kind], 100))[0]


# What was changed by hand, but not its words


@pytest.mark.parametrize("changes", [{"importance": 0.9}, {"category": "home"}, {"tags": ("t",)}], ids=str)
@pytest.mark.parametrize("how", ERASE)
async def test_words_go_with_what_they_rest_on_whatever_was_changed_beside_them(
    service: MemoryService, how: str, changes: dict[str, Any]
) -> None:
    await talk(service, "s", PORTO)
    for memory in (await service.rights.page(ANA, KINDS, 100))[0]:
        await service.rights.edit(ANA, memory.memory_id, changes)
    await ERASE[how](service, "s")
    await read_anew(service)
    assert "Porto" not in await everything(service)


@pytest.mark.parametrize("kind", ["summary", "chunk"])
async def test_of_a_summary_in_other_words_nothing_is_left_that_was_taken_from_the_former(
    service: MemoryService, kind: Any
) -> None:
    await talk(service, "s", "My doctor is Xylofonqz and she treats my Hepatitisqz.")
    ((one,), _) = await service.rights.page(ANA, [kind], 100)
    assert "ylofonqz" in repr(one.metadata)
    changed = await service.rights.edit(ANA, one.memory_id, {"text": "We talked about health."})
    assert "ylofonqz" not in repr(changed)
    await service.erasing.session(key_of("s"))
    context, _ = await service.start_session(ANA, "next", restore=False)
    assert ("We talked about health." in context.text) == (kind == "summary")
    assert "None" not in context.text


async def test_the_same_words_sent_again_are_nobodys_own(service: MemoryService) -> None:
    await talk(service, "s", PORTO)
    ((one,), _) = await service.rights.page(ANA, ["insight"], 100)
    same = await service.rights.edit(ANA, one.memory_id, {"text": one.text})
    assert (same.trust, same.model) == (one.trust, one.model)
