"""The engine in Pixeltable, held to what every engine must do, and what is special about it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace

from memory_service.errors import DriverUnavailable, UnsafeStart
from memory_service.projections import make_projection, projection_class
from memory_service.projections.base import Copy, NotTaken, digest_of
from memory_service.projections.pixeltable import Pixeltable, hands
from memory_service.settings import Settings
from memory_service.values import Only, Scope
from tests.pixeltable.launcher import PixeltableHome
from tests.projections.contract import ANA, BEN, ODD_NAMES, WALNUTS, ProjectionContract, Question, a_copy, found

CANARY = "walnuts zq7kx3vbn1mw9r"


@asynccontextmanager
async def opened(engine: Pixeltable) -> AsyncIterator[Pixeltable]:
    async with AsyncExitStack() as stack:
        await engine.start(stack)
        await answers(engine)
        yield engine


async def answers(engine: Pixeltable, seconds: float = 100) -> None:
    """Wait until it does."""
    async with asyncio.timeout(seconds):
        while True:
            await asyncio.sleep(0.1)
            try:
                await engine.check()
            except DriverUnavailable:
                continue
            return


@pytest.fixture
async def engine(pixeltable_home: PixeltableHome) -> AsyncIterator[Pixeltable]:
    async with opened(Pixeltable(search_s=60)) as engine:  # on a slow machine two seconds are soon over
        await engine.drop()
        yield engine


def with_item(copy: Copy, **changes: Any) -> Copy:
    return replace(copy, item=replace(copy.item, **changes))


class TestPixeltable(ProjectionContract):
    @pytest.fixture
    async def engine(self, engine: Pixeltable) -> Pixeltable:  # type: ignore[override]
        return engine


# What is kept


def tables_of(scope: Scope) -> list[str]:
    """By name: `user`, `former`, `next`."""
    import pixeltable as pxt

    from memory_service.projections.pixeltable.tables import path_of

    there = pxt.list_tables("agent_memory")
    return [form for form in ("user", "former", "next") if path_of(scope, form) in there]


def table_of(scope: Scope) -> Any:
    import pixeltable as pxt

    from memory_service.projections.pixeltable.tables import path_of

    return pxt.get_table(path_of(scope, "user"))


def on_disk(home: PixeltableHome, text: str) -> bool:
    """Whether a text is in any file of a table or index, of whichever version."""
    with home.connect() as db:
        db.execute("CHECKPOINT")
    files = [file for file in (home.data / "base").rglob("*") if file.is_file()]
    assert files
    return any(text.encode() in file.read_bytes() for file in files)


async def test_of_a_text_that_was_removed_nothing_is_on_disk(
    engine: Pixeltable, pixeltable_home: PixeltableHome
) -> None:
    await engine.put(ANA, [a_copy("m", CANARY), a_copy("other", "the sea")])
    assert on_disk(pixeltable_home, "zq7kx3vbn1mw9r")
    await engine.remove(ANA, ["m"])
    assert not on_disk(pixeltable_home, "zq7kx3vbn1mw9r")
    assert set(await engine.held(ANA)) == {"other"}


async def test_of_a_text_that_was_written_anew_nothing_is_on_disk(
    engine: Pixeltable, pixeltable_home: PixeltableHome
) -> None:
    await engine.put(ANA, [a_copy("m", CANARY), a_copy("other", "the sea")])
    await engine.put(ANA, [a_copy("m", "hazelnuts"), a_copy("new", "walnuts")])
    assert not on_disk(pixeltable_home, "zq7kx3vbn1mw9r")
    assert set(await engine.held(ANA)) == {"m", "other", "new"}


async def test_of_a_forgotten_user_nothing_is_on_disk_and_no_table(
    engine: Pixeltable, pixeltable_home: PixeltableHome
) -> None:
    await engine.put(ANA, [a_copy("m", CANARY)])
    await engine.forget(ANA)
    assert not on_disk(pixeltable_home, "zq7kx3vbn1mw9r")
    assert tables_of(ANA) == []


async def test_its_own_log_holds_no_text(engine: Pixeltable, pixeltable_home: PixeltableHome) -> None:
    await engine.put(ANA, [a_copy("m", CANARY)])
    await found(engine, Question(CANARY))
    logs = list((pixeltable_home.folder / "logs").iterdir())
    assert logs
    assert not [log for log in logs if b"zq7kx3vbn1mw9r" in log.read_bytes()]


async def test_what_is_there_just_so_is_not_written_again(engine: Pixeltable) -> None:
    copies = [a_copy(f"m{number}", f"walnuts {number}", tags=("a",)) for number in range(5)]
    await engine.put(ANA, copies)
    before = table_of(ANA).get_metadata()
    await engine.put(ANA, copies)
    await engine.remove(ANA, ["never there"])
    assert table_of(ANA).get_metadata() == before


async def test_new_items_are_added_to_the_table_that_is_there(engine: Pixeltable) -> None:
    await engine.put(ANA, [a_copy("m1", "walnuts")])
    before = table_of(ANA).get_metadata()["id"]
    await engine.put(ANA, [a_copy("m1", "walnuts"), a_copy("m2", "walnuts")])
    assert table_of(ANA).get_metadata()["id"] == before


async def test_what_else_is_in_pixeltable_is_left_alone(engine: Pixeltable) -> None:
    import pixeltable as pxt

    pxt.create_dir("of_the_application", if_exists="replace_force")
    pxt.create_table("of_the_application/notes", {"note": pxt.String}).insert([{"note": "walnuts"}])
    await engine.put(ANA, [a_copy("m", "walnuts")])
    await engine.drop()
    assert pxt.get_table("of_the_application/notes").count() == 1
    pxt.drop_dir("of_the_application", force=True)


async def test_names_of_tables_are_legal_and_tell_users_apart(engine: Pixeltable) -> None:
    import pixeltable as pxt

    scopes = [Scope(tenant_id=tenant, user_id=user) for user in ODD_NAMES for tenant in ("default", "Default")]
    from memory_service.projections.pixeltable.tables import path_of

    paths = {path_of(scope, "user") for scope in scopes}
    assert len(paths) == len(scopes)
    assert all(re.fullmatch(r"agent_memory/tenant_[0-9a-f]{32}/user_[0-9a-f]{32}", path) for path in paths)
    await engine.put(scopes[0], [a_copy("m")])
    assert pxt.list_tables("agent_memory") == [path_of(scopes[0], "user")]


# What is found


async def test_texts_of_any_size_and_of_nothing_are_kept_and_found(engine: Pixeltable) -> None:
    texts = {
        "long": "walnuts " + "and much else " * 8000,
        "bare": "",
        "blank": " \n",
        "nul": "walnuts\x00here",
        "pile": "🌰" * 20_000,
    }
    odd = {"nul": "\x00", "\x00": ["\x00"], "none": None}
    copies = [with_item(a_copy(id, tags=("a\x00b", "")), text=text, metadata=odd) for id, text in texts.items()]
    await engine.put(ANA, copies)
    await engine.put(ANA, copies)
    assert await engine.held(ANA) == {id: digest_of(text) for id, text in texts.items()}
    assert {"long", "nul"} <= await found(engine)
    assert table_of(ANA).count() == len(texts)


async def test_texts_without_words_take_no_place_from_what_is_near(engine: Pixeltable) -> None:
    await engine.put(ANA, [*(a_copy(f"n{number}", " ") for number in range(60)), a_copy("near", "a walnut tree")])
    by_meaning = replace(Question("trees on which walnuts grow").sought, stems=())
    assert "near" in await engine.search(ANA, by_meaning, 5)


async def test_an_item_is_found_by_meaning_alone_among_many_that_are_not_allowed(engine: Pixeltable) -> None:
    noise = [a_copy(f"n{number}", "my dog barks at cats", session_id="noisy") for number in range(300)]
    await engine.put(
        ANA, [*noise, a_copy("quiet", "a puppy", session_id="quiet"), a_copy("far", "tax", session_id="quiet")]
    )

    asked = Question("dogs and cats", only=Only(session_id="quiet"))
    assert "quiet" in await found(engine, asked, limit=1)


async def test_a_message_is_found_by_who_spoke(engine: Pixeltable) -> None:
    await engine.put(ANA, [a_copy("s#1.0", "the sea at night", kind="message", session_id="s", role="assistant")])
    await engine.put(ANA, [a_copy(f"m{number}", "the sea at night") for number in range(30)])
    assert "s#1.0" in await found(engine, Question("assistant"), limit=1)


async def test_a_search_finds_what_stays_while_a_table_is_replaced(engine: Pixeltable) -> None:
    await engine.put(ANA, [a_copy("stays", "walnuts"), a_copy("m", "walnuts")])
    writing = True

    async def write() -> None:
        nonlocal writing
        for number in range(4):
            await engine.remove(ANA, ["m"])
            await engine.put(ANA, [a_copy("m", f"walnuts {number}")])
        writing = False

    async def search() -> int:
        searches = 0
        while writing:
            assert "stays" in await found(engine)
            searches += 1
        return searches

    _, searches = await asyncio.gather(write(), search())
    assert searches > 4
    assert (engine.failures, tables_of(ANA)) == (0, ["user"])


# What was cut off


def cut_off(monkeypatch: pytest.MonkeyPatch, verb: str, at: int) -> None:
    """Let the process end, as it were, before so many calls of one of Pixeltable's verbs."""
    import pixeltable as pxt

    from memory_service.projections.pixeltable import tables

    class Cut:
        calls = 0

        def __getattr__(self, name: str) -> Any:
            if name == verb:
                self.calls += 1
                if self.calls == at:
                    raise OSError("cut off")
            return getattr(pxt, name)

    monkeypatch.setattr(tables, "pxt", Cut())


CUTS = [("create_table", 1), ("move", 1), ("move", 2), ("drop_table", 1)]


@pytest.mark.parametrize(("verb", "at"), CUTS)
async def test_a_replacement_that_was_cut_off_loses_nothing_and_is_done_when_it_is_repeated(
    engine: Pixeltable, monkeypatch: pytest.MonkeyPatch, verb: str, at: int
) -> None:
    before, after = [a_copy("m", "walnuts one"), a_copy("stays", "walnuts")], [a_copy("m", "walnuts two")]
    await engine.put(ANA, before)
    with monkeypatch.context() as patch:
        cut_off(patch, verb, at)
        with pytest.raises(DriverUnavailable):
            await engine.put(ANA, after)
    await answers(engine)
    assert {"m", "stays"} <= await found(engine)
    assert (await engine.held(ANA))["m"] in {digest_of("walnuts one"), digest_of("walnuts two")}
    await engine.put(ANA, after)
    assert await engine.held(ANA) == {"m": digest_of("walnuts two"), "stays": digest_of("walnuts")}
    await engine.remove(ANA, ["m"])
    assert tables_of(ANA) == ["user"]


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_of_who_was_half_forgotten_nothing_is_left_when_it_is_repeated(
    engine: Pixeltable, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts one")])
    with monkeypatch.context() as patch:
        cut_off(patch, "drop_table", 1)
        with pytest.raises(DriverUnavailable):
            await engine.put(ANA, [a_copy("m", "walnuts two")])
    await answers(engine)
    with monkeypatch.context() as patch:
        cut_off(patch, "drop_table", at)
        with pytest.raises(DriverUnavailable):
            await engine.forget(ANA)
    await answers(engine)
    assert (await engine.held(ANA)).get("m") != digest_of("walnuts one")
    await engine.forget(ANA)
    assert tables_of(ANA) == []


# Being away


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until this is set, opening takes its time."""
    from memory_service.projections.pixeltable import tables

    gate, as_ever = threading.Event(), tables.open_pixeltable

    def slowly() -> None:
        gate.wait(20)
        as_ever()

    monkeypatch.setattr(tables, "open_pixeltable", slowly)
    yield gate
    gate.set()


async def test_a_start_does_not_wait_for_it_and_until_it_is_open_it_is_not_there(
    pixeltable_home: PixeltableHome, gate: threading.Event
) -> None:
    engine = Pixeltable()
    async with AsyncExitStack() as stack:
        begun = time.monotonic()
        await engine.start(stack)
        for verb in (engine.check(), engine.held(ANA), engine.put(ANA, [a_copy("m")])):
            with pytest.raises(DriverUnavailable):
                await verb
        assert time.monotonic() - begun < 1
        gate.set()
        await answers(engine)
        await engine.drop()
        await engine.put(ANA, [a_copy("m", "walnuts")])
        assert await found(engine) == {"m"}


async def test_what_cannot_be_opened_is_tried_again(
    pixeltable_home: PixeltableHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memory_service.projections.pixeltable import tables

    as_ever, tried = tables.open_pixeltable, []

    def at_the_second_time() -> None:
        tried.append(1)
        if len(tried) == 1:
            raise OSError("no room")
        as_ever()

    monkeypatch.setattr(tables, "open_pixeltable", at_the_second_time)
    async with opened(Pixeltable()) as engine:
        assert len(tried) == 2
        await engine.drop()


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
async def test_a_server_that_died_is_started_again_and_holds_what_it_held(
    engine: Pixeltable, pixeltable_home: PixeltableHome, how: signal.Signals
) -> None:
    await engine.put(ANA, [a_copy("m1", "walnuts")])
    pixeltable_home.kill(how)
    with pytest.raises(DriverUnavailable):
        await engine.put(ANA, [a_copy("m2", "walnuts")])
    await answers(engine)
    await engine.put(ANA, [a_copy("m2", "walnuts")])
    assert await found(engine) == {"m1", "m2"}


async def test_a_server_is_not_taken_for_alive_because_its_number_is_somebody_else_s(
    engine: Pixeltable, pixeltable_home: PixeltableHome
) -> None:
    file = pixeltable_home.data / "postmaster.pid"
    left = file.read_text().splitlines()
    pixeltable_home.kill()
    file.write_text("\n".join([str(os.getpid()), *left[1:]]) + "\n")
    with pytest.raises(DriverUnavailable):
        await engine.put(ANA, [a_copy("m", "walnuts")])
    await answers(engine)
    await engine.put(ANA, [a_copy("m", "walnuts")])
    assert await found(engine) == {"m"}


async def test_a_server_that_hangs_is_waited_for_no_longer_than_allowed(
    engine: Pixeltable, pixeltable_home: PixeltableHome
) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts")])
    engine._search_s = 0.2
    with pixeltable_home.paused():
        begun = time.monotonic()
        for _ in range(2):
            with pytest.raises(DriverUnavailable):
                await engine.search(ANA, WALNUTS.sought, 5)
        assert time.monotonic() - begun < 10
    engine._search_s = 60
    assert await found(engine) == {"m"}


async def test_an_end_waits_for_a_server_that_hangs_only_so_long(
    pixeltable_home: PixeltableHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "STOP_S", 0.2)
    stack = AsyncExitStack()
    engine = await stack.enter_async_context(opened(Pixeltable()))
    engine._search_s = 0.2
    with pixeltable_home.paused():
        with pytest.raises(DriverUnavailable):
            await engine.search(ANA, WALNUTS.sought, 5)
        begun = time.monotonic()
        await stack.aclose()
        assert time.monotonic() - begun < 8


async def test_what_nobody_waits_for_any_more_is_not_begun(engine: Pixeltable) -> None:
    held_up = threading.Event()
    engine._writing.submit(lambda: held_up.wait(20))
    waiting = asyncio.create_task(engine.put(ANA, [a_copy("m", "walnuts")]))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    held_up.set()
    assert await engine.held(ANA) == {}


# In the process of the service


async def test_no_file_of_this_host_is_served_to_others(engine: Pixeltable) -> None:
    from pixeltable.env import Env

    address = urlsplit(Env.get().http_address)
    assert address.hostname is not None and address.port is not None
    with socket.socket() as caller:
        assert caller.connect_ex((address.hostname, address.port)) != 0


async def test_what_the_http_server_logs_stays_where_it_was(engine: Pixeltable) -> None:
    uvicorn = logging.getLogger("uvicorn")
    assert uvicorn.propagate
    assert not [handler for handler in uvicorn.handlers if isinstance(handler, logging.FileHandler)]


async def test_a_mistake_of_ours_is_not_taken_for_an_engine_that_is_away(engine: Pixeltable) -> None:
    with pytest.raises(NotTaken) as raised:
        await engine.put(ANA, [with_item(a_copy("m", "walnuts"), kind=None)])
    assert isinstance(raised.value.__cause__, hands.Refused)
    assert "walnuts" not in f"{raised.value} {raised.value.__cause__}"
    await engine.put(BEN, [a_copy("m", "walnuts")])
    assert await found(engine, scope=BEN) == {"m"}


async def test_it_is_made_of_settings_and_known_by_its_name(make_settings: Any) -> None:
    settings: Settings = make_settings()
    assert isinstance(make_projection("pixeltable", settings), Pixeltable)


def test_where_it_is_not_installed_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable", None)
    monkeypatch.delitem(sys.modules, "memory_service.projections.pixeltable")
    with pytest.raises(UnsafeStart, match=r"pip install 'agent-memory-service\[pixeltable\]'"):
        projection_class("pixeltable")


def test_to_choose_it_imports_nothing_of_it() -> None:
    looked = "import sys, memory_service.projections.pixeltable; sys.exit('pixeltable' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", looked], check=False).returncode == 0
