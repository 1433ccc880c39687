"""A list that is sent again does not bring back what was withheld or erased of it, whether it tells times or not."""

from __future__ import annotations

import pytest

from memory_service.gateway.models import Message
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.values import Message as Said
from tests.gateway.conftest import said
from tests.gateway.test_upserts import KEY, on_record, sessions, texts, upsert
from tests.support.background import Clock, record

WORDS = ["a", "b", "poison", "d"]
kinds_of_lists = pytest.mark.parametrize("dated", [True, False], ids=["with times", "without times"])


def listed(dated: bool, *words: str) -> list[Message]:
    messages = said(*words)
    return messages if dated else [Message.model_validate({"role": one.role, "text": one.text}) for one in messages]


async def stored(service: MemoryService) -> int:
    return len(await record(service).turns(KEY))


@kinds_of_lists
@pytest.mark.parametrize("seqs", [None, [3], [1, 3], [4], [3, 4]])
async def test_a_list_goes_on_over_what_is_in_quarantine(
    service: MemoryService, clock: Clock, dated: bool, seqs: list[int] | None
) -> None:
    await upsert(service, listed(dated, *WORDS))
    await service.quarantine.withhold(KEY, seqs)
    left = [word for seq, word in enumerate(WORDS, 1) if seqs is not None and seq not in seqs]
    clock.advance(minutes=5)
    await upsert(service, listed(dated, *WORDS))
    assert await stored(service) == 4
    await upsert(service, listed(dated, *WORDS, "e"))
    assert await texts(service) == [*left, "e"]
    assert await stored(service) == 5
    await service.quarantine.release(KEY)
    assert await texts(service) == [*WORDS, "e"]


async def test_the_answer_of_an_upsert_shows_nothing_that_is_withheld(service: MemoryService) -> None:
    await upsert(service, listed(False, *WORDS))
    await service.quarantine.withhold(KEY, [3])
    answered = await upsert(service, listed(False, *WORDS, "e"))
    assert [message.text for message in answered.messages] == ["a", "b", "d", "e"]


@kinds_of_lists
@pytest.mark.parametrize("erased", [[3], [1, 3], [4], [1, 2, 3, 4]])
async def test_a_list_goes_on_over_what_was_erased(
    service: MemoryService, clock: Clock, dated: bool, erased: list[int]
) -> None:
    await upsert(service, listed(dated, *WORDS))
    for seq in erased:
        await service.erasing.turn(KEY, seq)
    left = [word for seq, word in enumerate(WORDS, 1) if seq not in erased]
    clock.advance(minutes=5)
    await upsert(service, listed(dated, *WORDS))
    assert await stored(service) == 4
    await upsert(service, listed(dated, *WORDS, "e"))
    assert await texts(service) == [*left, "e"]
    assert await stored(service) == 5


@kinds_of_lists
@pytest.mark.parametrize("erased", [False, True], ids=["in quarantine", "erased"])
async def test_a_caller_who_goes_on_with_what_he_is_shown_is_taken_at_his_word(
    service: MemoryService, dated: bool, erased: bool
) -> None:
    """What comes in the place of what is gone is new, and so is its list when it is sent whole again."""
    await upsert(service, listed(dated, *WORDS))
    await (service.erasing.turn(KEY, 4) if erased else service.quarantine.withhold(KEY, [4]))
    (session,) = await sessions(service)
    shown = session.messages if dated else listed(False, *WORDS[:3])
    await upsert(service, [*shown, *listed(dated, "new")])
    assert await texts(service) == ["a", "b", "poison", "new"]
    await service.quarantine.withhold(KEY, [3])
    await upsert(service, [*shown, *listed(dated, "new", "more")])
    assert await texts(service) == ["a", "b", "new", "more"]
    assert await stored(service) == 6


async def test_a_message_that_is_like_a_withheld_one_before_it_is_still_there(service: MemoryService) -> None:
    await upsert(service, listed(False, "hello", "b", "hello"))
    await service.quarantine.withhold(KEY, [1, 2])
    await upsert(service, listed(False, "hello"))
    assert await texts(service) == ["hello"]
    assert await stored(service) == 3


async def test_another_list_is_new_also_over_what_is_withheld(service: MemoryService) -> None:
    await upsert(service, listed(False, *WORDS))
    await service.quarantine.withhold(KEY, [3])
    await upsert(service, listed(False, "a", "B"))
    assert await texts(service) == ["a", "B"]
    assert await on_record(service) == ["a", "b", "d", "a", "B"]


async def test_a_withheld_exchange_that_came_another_way_is_known_in_the_list(service: MemoryService) -> None:
    await upsert(service, listed(False, "a"))
    exchange = (Said(role="user", content="poison"), Said(role="assistant", content="fine"))
    await service.store_turn(KEY, Draft(messages=exchange))
    (session,) = await sessions(service)
    given = [Message.model_validate({"role": one.role, "text": one.text}) for one in session.messages]
    await service.quarantine.withhold(KEY, [2])
    await upsert(service, [*given, *listed(False, "b")])
    assert await texts(service) == ["a", "b"]
    assert await stored(service) == 3
