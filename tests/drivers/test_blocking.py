"""The blocking face: any awaited driver, for callers that wait, whatever else goes on in their process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from memory_service.drivers.blocking import BlockingDriver
from memory_service.drivers.builtin import BuiltinMemoryDriver
from memory_service.errors import UnsafeStart
from memory_service.settings import Settings
from tests.drivers.contract import contents
from tests.support.process import beside_stalls

MakeSettings = Callable[..., Settings]


class Plain:
    """An awaited driver that is none of ours, and notes how often it was opened and closed."""

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.refusals: list[Exception] = []
        self.loops: set[asyncio.AbstractEventLoop] = set()
        self.started, self.go_on = threading.Event(), threading.Event()
        self.finished = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Plain]:
        if self.refusals:
            raise self.refusals.pop()
        self.opened += 1
        yield self
        self.closed += 1

    async def recall(self, user_id: str, *more: Any) -> list[dict[str, Any]]:
        self.loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return [{"user_id": user_id, "more": more}]

    async def recall_global_knowledge(self, *given: Any) -> list[dict[str, Any]]:
        return [{"given": given}]

    async def store(self, *given: Any) -> dict[str, Any]:
        """Takes until it is told to go on."""
        self.started.set()
        while not self.go_on.is_set():  # noqa: ASYNC110 (it is set in another thread)
            await asyncio.sleep(0.005)
        self.finished += 1
        return {"given": given}

    async def store_global_knowledge(self, *given: Any) -> dict[str, Any]:
        return {"given": given}

    async def delete(self, *given: Any) -> bool:
        raise LookupError(given)

    async def health_check(self) -> dict[str, Any]:
        return {"status": "healthy"}


@pytest.fixture
def plain() -> Plain:
    return Plain()


def faced(plain: Plain) -> BlockingDriver:
    return BlockingDriver(plain.open)


def homes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "memory-driver"]


def test_all_verbs_reach_the_awaited_driver_with_their_arguments_in_place(plain: Plain) -> None:
    plain.go_on.set()
    with faced(plain) as driver:
        assert driver.recall("u", "c", "q", 3, False, ["t"])[0]["more"] == ("c", "q", 3, False, ["t"])
        assert driver.recall(user_id="u")[0]["more"] == (None, None, 10, True, None)
        assert driver.recall_global_knowledge("q", 3, "c") == [{"given": ("q", 3, "c")}]
        assert driver.store("u", "x", "c", ["t"], {"m": 1}) == {"given": ("u", "x", "c", ["t"], {"m": 1})}
        given = ("x", "cat", "title", "doc", {"m": 1})
        assert driver.store_global_knowledge(*given) == {"given": given}
        assert driver.health_check() == {"status": "healthy"}
        with pytest.raises(LookupError, match=r"\('m', 'u'\)"):
            driver.delete("m", "u")


def test_it_opens_with_the_first_call_and_once_for_all_threads(plain: Plain) -> None:
    driver = faced(plain)
    assert (plain.opened, homes()) == (0, [])
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(driver.recall, map(str, range(200))))
    assert [answer[0]["user_id"] for answer in answers] == [str(number) for number in range(200)]
    assert (plain.opened, plain.closed, len(plain.loops), len(homes())) == (1, 0, 1, 1)
    assert homes()[0].daemon
    driver.close()
    assert (plain.opened, plain.closed, homes()) == (1, 1, [])


def test_closing_twice_or_before_anything_was_opened_is_fine(plain: Plain) -> None:
    driver = faced(plain)
    driver.close()
    driver.recall("u")
    driver.close()
    driver.close()
    assert (plain.opened, plain.closed) == (1, 1)


def test_after_closing_the_next_call_opens_anew(make_settings: MakeSettings) -> None:
    driver = BuiltinMemoryDriver(make_settings())
    for number in range(3):
        driver.store("ana", f"note {number}")
        assert len(driver.recall("ana")) == number + 1
        driver.close()
    assert homes() == []


def test_a_call_from_within_a_running_loop_is_answered(make_settings: MakeSettings) -> None:
    async def application(driver: BuiltinMemoryDriver) -> list[str]:
        driver.store("ana", "Ana eats no walnuts")
        return contents(driver.recall("ana", query="walnuts"))

    with BuiltinMemoryDriver(make_settings()) as driver:
        assert asyncio.run(application(driver)) == ["Ana eats no walnuts"]
        assert asyncio.run(application(driver))[0] == "Ana eats no walnuts"


def test_what_cannot_be_opened_is_told_to_each_caller_until_it_can(plain: Plain) -> None:
    driver = faced(plain)
    plain.refusals = [UnsafeStart("second"), UnsafeStart("first")]
    for reason in ("first", "second"):
        with pytest.raises(UnsafeStart, match=reason):
            driver.recall("u")
    assert driver.recall("u")[0]["user_id"] == "u"
    driver.close()
    assert (plain.opened, plain.closed) == (1, 1)


def test_settings_that_describe_no_record_are_told_to_the_caller(make_settings: MakeSettings) -> None:
    driver = BuiltinMemoryDriver(make_settings(store_url="nowhere://x"))
    with pytest.raises(UnsafeStart, match="no store 'nowhere'"):
        driver.store("ana", "x")
    driver.close()


def test_closing_waits_for_the_calls_under_way(plain: Plain) -> None:
    driver = faced(plain)
    with ThreadPoolExecutor(2) as pool:
        storing = pool.submit(driver.store, "u", "x")
        assert plain.started.wait(10)
        closing = pool.submit(driver.close)
        with pytest.raises(TimeoutError):
            closing.result(0.1)
        assert (plain.finished, plain.closed) == (0, 0)
        plain.go_on.set()
        assert storing.result(10) == {"given": ("u", "x", None, None, None)}
        closing.result(10)
    assert (plain.finished, plain.closed) == (1, 1)


def test_what_goes_wrong_while_closing_is_told_to_whoever_closes(plain: Plain) -> None:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Plain]:
        yield plain
        raise OSError("the disk went away")

    driver = BlockingDriver(opened)
    driver.recall("u")
    with pytest.raises(OSError, match="the disk went away"):
        driver.close()
    driver.close()
    assert homes() == []


@contextmanager
def interrupted_once(begun: threading.Event) -> Iterator[None]:
    """As by Ctrl-C, once something has begun."""

    def interrupt() -> None:
        assert begun.wait(10)
        time.sleep(0.1)  # until who has begun it waits for it
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a run in the background
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        yield
    finally:
        interrupting.join()
        signal.signal(signal.SIGINT, former)


def test_an_interrupted_call_leaves_the_driver_usable(plain: Plain) -> None:
    driver = faced(plain)
    with interrupted_once(plain.started), pytest.raises(KeyboardInterrupt):
        driver.store("u", "x")
    assert driver.recall("u")[0]["user_id"] == "u"
    driver.close()
    assert (plain.opened, plain.closed, plain.finished, homes()) == (1, 1, 0, [])


def test_an_interrupted_opening_goes_on_and_the_next_call_finds_it(plain: Plain) -> None:
    may_open = threading.Event()

    @asynccontextmanager
    async def opened() -> AsyncIterator[Plain]:
        plain.started.set()
        while not may_open.is_set():  # noqa: ASYNC110 (it is set in another thread)
            await asyncio.sleep(0.005)
        async with plain.open() as driver:
            yield driver

    driver = BlockingDriver(opened)
    with interrupted_once(plain.started), pytest.raises(KeyboardInterrupt):
        driver.recall("u")
    may_open.set()
    assert driver.recall("u")[0]["user_id"] == "u"
    driver.close()
    assert (plain.opened, plain.closed, homes()) == (1, 1, [])


def test_what_was_interrupted_before_it_began_begins_with_the_next_call(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    driver = faced(plain)
    for go_on in (lambda: driver.recall("u"), driver.close):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(threading.Thread, "start", interrupted)
            driver.recall("u")
        go_on()
        driver.close()
    assert (plain.opened, plain.closed, homes()) == (1, 1, [])


def test_after_an_interrupted_closing_the_next_call_opens_anew(plain: Plain) -> None:
    begun, may_close = threading.Event(), threading.Event()

    @asynccontextmanager
    async def opened() -> AsyncIterator[Plain]:
        async with plain.open() as driver:
            yield driver
            begun.set()
            while not may_close.is_set():  # noqa: ASYNC110 (it is set in another thread)
                await asyncio.sleep(0.005)

    driver = BlockingDriver(opened)
    driver.recall("u")
    with interrupted_once(begun), pytest.raises(KeyboardInterrupt):
        driver.close()
    may_close.set()
    assert driver.recall("u")[0]["user_id"] == "u"
    driver.close()
    assert (plain.opened, plain.closed, homes()) == (2, 2, [])


# Processes of their own

STORE = """
from memory_service.drivers import get_memory_driver
driver = get_memory_driver()
"""
ENDS = {
    "by itself": "driver.store('ana', 'Ana eats no walnuts')",
    "never used": "",
    "in the middle of a call of a thread": """
import threading
def work():
    while True:
        try:
            driver.store('ana', 'Ana eats no walnuts')
        except RuntimeError as exc:
            assert 'about to end' in str(exc), exc
            return
driver.health_check()
threading.Thread(target=work, daemon=True).start()
driver.recall('ana')
""",
    "with a thread that goes on": """
import threading, time
def work():
    while True:
        try:
            driver.store('ana', 'Ana eats no walnuts')
        except RuntimeError as exc:
            assert 'about to end' in str(exc), exc
            return
threading.Thread(target=work).start()
driver.recall('ana')
""",
    "by sys.exit in a function": "import sys\ndriver.store('ana', 'x')\nsys.exit(0)",
    "after the record could not be opened": """
import pathlib
pathlib.Path('data').mkdir()
pathlib.Path('data/memory.db').write_text('not a database, by its first bytes' * 100)
from memory_service.errors import UnsafeStart
try:
    driver.store('ana', 'x')
except UnsafeStart as exc:
    assert 'memory.db' in str(exc), exc
else:
    raise SystemExit('it was opened')
""",
    "with a driver of its own that was never closed": """
from memory_service.drivers.builtin import BuiltinMemoryDriver
from memory_service.settings import Settings
own = BuiltinMemoryDriver(Settings(store_url='sqlite:///own.db'))
own.store('ana', 'x'), driver.store('ana', 'x')
""",
    "after a last word at exit": """
import atexit
def last_word():
    try:
        driver.store('ana', 'x')
    except RuntimeError as exc:
        assert 'about to end' in str(exc), exc
    else:
        print('it was stored')
atexit.register(last_word)
driver.store('ana', 'x')
""",
}


async def run(script: str, *options: str) -> tuple[int | None, str, str]:
    """Run a script in the folder of the test; returns its status and what it wrote."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, *options, "-c", script, env=environment, stdout=pipe, stderr=pipe
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        pytest.fail(f"it does not end: {err.decode()}")
    return process.returncode, out.decode(), beside_stalls(err.decode())


@pytest.mark.parametrize("how", ENDS)
async def test_a_process_ends_by_itself_in_order_and_without_a_word(how: str) -> None:
    assert await run(STORE + ENDS[how], "-W", "always") == (0, "", "")


async def test_what_was_stored_by_a_process_is_recalled_by_the_next() -> None:
    await run(STORE + ENDS["by itself"])
    again = await run(STORE + "print(driver.recall('ana', query='walnuts')[0]['memory']['content'])")
    assert again == (0, "Ana eats no walnuts\n", "")


def test_a_process_closes_its_record_at_its_end() -> None:
    """The log of a file that was closed in order is gone."""
    asyncio.run(run(STORE + ENDS["by itself"]))
    left = {path.name for path in Path("data").iterdir()}
    assert "memory.db" in left
    assert "memory.db-wal" not in left


async def test_a_forked_process_is_told_that_the_driver_is_not_its_own() -> None:
    forked = """
import os, sys
driver.store('ana', 'Ana eats no walnuts')
child = os.fork()
if not child:
    try:
        driver.recall('ana')
    except RuntimeError as exc:
        print(exc, flush=True)
    driver.close()
    from memory_service.drivers import MemoryDriverManager
    MemoryDriverManager.reset_cache()
    assert get_memory_driver() is not driver
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(driver.recall('ana')))
"""
    status, out, err = await run(STORE + forked)
    assert (status, err) == (0, "")
    reason, answer = out.splitlines()
    assert "before the process was forked" in reason
    assert answer == "7 1"
