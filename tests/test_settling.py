"""What settles together: all who wait are told, some go on at once, and nobody stands in anybody's way."""

from __future__ import annotations

import asyncio

import pytest

from memory_service.stores.settling import Settling, settle


async def test_all_are_told_what_came_of_it() -> None:
    refused = ValueError("no")
    futures = [Settling[str]() for _ in range(3)]
    settle(zip(futures, ["one", refused, None], strict=True))
    assert [future.exception() or future.result() for future in futures] == ["one", refused, None]


async def test_who_said_how_goes_on_before_the_loop_turns_and_all_finish_when_all_have_gone_on() -> None:
    done: list[str] = []
    futures = {name: Settling[str]() for name in ("one", "two", "three")}

    def going_on(name: str) -> None:
        def go_on() -> object:
            done.append(f"{name} knows {futures[name].result()}")
            return None if name == "two" else lambda: done.append(f"{name} finishes")

        futures[name].then(go_on)  # type: ignore[arg-type]

    for name in futures:
        going_on(name)
    settle((future, name.upper()) for name, future in futures.items())
    assert done == ["one knows ONE", "two knows TWO", "three knows THREE", "one finishes", "three finishes"]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
@pytest.mark.parametrize("late", [False, True], ids=["going on", "finishing"])
async def test_who_goes_on_wrongly_takes_nobody_else_his_outcome(
    error: type[BaseException], late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []
    wrong, right, other = Settling[None](), Settling[None](), Settling[None]()

    def fail() -> None:
        raise error("secret")

    wrong.then((lambda: fail) if late else fail)
    right.then(lambda: lambda: done.append("right"))
    settle([(wrong, None), (right, None), (other, None)])
    assert (done, other.done()) == (["right"], True)
    assert [record.name for record in caplog.records] == ["memory_service.stores.settling"]


async def test_one_that_is_done_already_is_left_as_it_is() -> None:
    done = asyncio.get_running_loop().create_future()
    done.cancel()
    other = Settling[int]()
    settle([(done, 1), (other, 2)])
    assert (done.cancelled(), other.result()) == (True, 2)


async def test_what_settles_cannot_be_called_off() -> None:
    future = Settling[int]()
    waiting = asyncio.create_task(asyncio.wait_for(future, 0.01))
    await asyncio.sleep(0.05)
    assert not future.done()
    settle([(future, 1)])
    assert await waiting == 1
