"""`memory-service migrate`: everything goes from one store to another, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import apsw
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from client import MemoryServiceClient
from memory_service.cli import main
from memory_service.errors import StoreThrottled, StoreUnavailable
from memory_service.migration import Migration, Report
from memory_service.server import running
from memory_service.settings import Settings
from memory_service.stores.base import Commit, Store
from memory_service.stores.exports import Exported
from memory_service.values import Scope
from tests.api.talking import PATIENCE_S
from tests.cosmos.launcher import KEY, CosmosServer
from tests.stores.contract_moving import NAMES, a_life, all_of, all_users, by_name
from tests.support.stores import FaultyStore, YieldingStore, opened
from tests.support.values import NOON, a_key, a_memory, a_scope, a_turn, embed_all, minutes

T = TypeVar("T")

ANA, BEN = a_scope(), a_scope("ben", "acme")
OF_A_LIFE = 22
"""Things that are kept of a user after `a_life`."""


@pytest.fixture
def two_lives() -> FaultyStore:
    store = FaultyStore()
    asyncio.run(live(store))
    return store


async def live(store: Store) -> None:
    await a_life(store, ANA)
    await a_life(store, BEN)


async def everything(store: Store) -> dict[Scope, dict[object, Exported]]:
    return {scope: by_name(await all_of(store, scope)) for scope in await all_users(store)}


async def copied(source: Store, target: Store, *, check: bool = False) -> Report:
    return await Migration(source, target, check=check).run()


# One run


async def test_everything_of_everybody_is_copied(two_lives: FaultyStore) -> None:
    target = FaultyStore()
    assert await copied(two_lives, target) == Report(users=2, written=2 * OF_A_LIFE, same=0)
    assert await everything(target) == await everything(two_lives)


async def test_a_second_run_compares_everything_and_writes_nothing(two_lives: FaultyStore) -> None:
    target = FaultyStore()
    await copied(two_lives, target)
    target.calls.clear()
    assert await copied(two_lives, target) == Report(users=2, written=0, same=2 * OF_A_LIFE)
    assert target.calls["restore"] == 0


async def test_a_check_writes_nothing_and_counts_what_is_missing(two_lives: FaultyStore) -> None:
    target = FaultyStore()
    assert (await copied(two_lives, target, check=True)).written == 2 * OF_A_LIFE
    assert await all_users(target) == []


async def test_many_users_with_more_than_a_page_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_service.migration.PAGE", 7)
    source, target = FaultyStore(), FaultyStore()
    for number in range(20):
        await a_life(source, a_scope(f"u{number}"))
    assert (await copied(source, target)).users == 20
    assert await everything(target) == await everything(source)


# Cut off


class CutOff(YieldingStore):
    """Fails at its n-th verb, before or after it took effect, and then works again."""

    def __init__(self, n: int, *, after: bool) -> None:
        super().__init__()
        self.left, self.after = n, after

    async def _around(self, verb: str, work: Callable[[], Awaitable[T]]) -> T:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise StoreUnavailable("cut off")
        result = await super()._around(verb, work)
        if self.left == 0:
            raise StoreUnavailable("cut off")
        return result


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_cut_off_anywhere_it_goes_on_where_it_was(
    two_lives: FaultyStore, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory_service.migration.PAGE", 8)
    for n in range(1, 100):
        target = CutOff(n, after=after)
        try:
            await copied(two_lives, target)
        except StoreUnavailable:
            report = await copied(two_lives, target)
            assert report.written + report.same == 2 * OF_A_LIFE
            assert await everything(target) == await everything(two_lives)
        if target.left > 0:
            break
    assert n > 6


async def test_a_store_that_is_asked_for_too_much_is_waited_for(two_lives: FaultyStore) -> None:
    target = FaultyStore()
    two_lives.fail_at("users", StoreThrottled(0))
    two_lives.fail_at("export", StoreThrottled(0))
    target.fail_at("restore", StoreThrottled(0))
    assert (await copied(two_lives, target)).written == 2 * OF_A_LIFE
    assert await everything(target) == await everything(two_lives)


# A source or a target that went on


async def test_what_the_source_did_since_is_copied_and_nothing_else(two_lives: FaultyStore) -> None:
    target = FaultyStore()
    await copied(two_lives, target)
    hot = await two_lives.load(a_key())
    assert hot is not None
    turn = a_turn(3)
    changed = Commit(scope=ANA, session=hot.session.with_turn(turn), turns=(turn,), memories=(a_memory("insight_b"),))
    await two_lives.commit(changed)
    report = await copied(two_lives, target)
    assert (report.written, report.same) == (3, 2 * OF_A_LIFE - 2)
    assert await everything(target) == await everything(two_lives)


async def test_a_session_that_went_on_in_the_target_is_never_overwritten(two_lives: FaultyStore) -> None:
    target = FaultyStore()
    await copied(two_lives, target)
    for store, version in ((two_lives, 1), (target, 2)):
        for _ in range(version):
            hot = await store.load(a_key(NAMES[1]))
            assert hot is not None
            await store.commit(Commit(scope=ANA, session=hot.session.touched(NOON)))
    await two_lives.commit(Commit(scope=ANA, memories=(a_memory("insight_new"),)))
    await two_lives.commit(Commit(scope=BEN, memories=(a_memory("insight_new"),)))
    before = await all_of(target, ANA)
    report = await copied(two_lives, target)
    assert [(conflict.scope, conflict.session_id) for conflict in report.conflicts] == [(ANA, NAMES[1])]
    assert await all_of(target, ANA) == before
    assert report.written == 1
    assert by_name(await all_of(target, BEN)) == by_name(await all_of(two_lives, BEN))


async def test_two_that_went_on_by_as_much_are_a_conflict(two_lives: FaultyStore) -> None:
    target = FaultyStore()
    await copied(two_lives, target)
    for store, at in ((two_lives, minutes(1)), (target, minutes(2))):
        hot = await store.load(a_key())
        assert hot is not None
        await store.commit(Commit(scope=ANA, session=hot.session.touched(at)))
    assert [conflict.scope for conflict in (await copied(two_lives, target)).conflicts] == [ANA]


@pytest.mark.parametrize(("in_source", "in_target"), [(3, 1), (0, 1)], ids=["more turns", "no turns"])
async def test_turns_that_only_the_target_took_are_a_conflict_however_far_the_source_went(
    two_lives: FaultyStore, in_source: int, in_target: int
) -> None:
    target = FaultyStore()
    await copied(two_lives, target)
    for store, count in ((two_lives, in_source), (target, in_target)):
        for number in range(count):
            await store_turn(store, f"{id(store)} {number}")
    for _ in range(3):
        hot = await two_lives.load(a_key())
        assert hot is not None
        await two_lives.commit(Commit(scope=ANA, session=hot.session.touched(NOON)))
    before = await all_of(target, ANA)
    assert [conflict.scope for conflict in (await copied(two_lives, target)).conflicts] == [ANA]
    assert await all_of(target, ANA) == before


async def store_turn(store: Store, turn_id: str) -> None:
    hot = await store.load(a_key())
    assert hot is not None
    turn = a_turn(hot.session.turn_count + 1, turn_id=turn_id)
    await store.commit(Commit(scope=ANA, session=hot.session.with_turn(turn), turns=(turn,)))


async def test_of_a_user_with_a_conflict_nothing_is_written_however_many_pages_it_takes_to_see(
    two_lives: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = FaultyStore()
    await copied(two_lives, target)
    monkeypatch.setattr("memory_service.migration.PAGE", 1)
    for store, name in ((two_lives, NAMES[0]), (target, NAMES[2])):
        hot = await store.load(a_key(name))
        assert hot is not None
        await store.commit(Commit(scope=ANA, session=hot.session.touched(NOON)))
    before = await all_of(target, ANA)
    report = await copied(two_lives, target)
    assert ([conflict.session_id for conflict in report.conflicts], report.written) == ([NAMES[2]], 0)
    assert await all_of(target, ANA) == before


async def test_vectors_that_the_source_was_given_since_are_copied(two_lives: FaultyStore) -> None:
    target = FaultyStore()
    await copied(two_lives, target)
    await embed_all(two_lives)
    assert (await copied(two_lives, target)).written == 1
    assert await everything(target) == await everything(two_lives)


async def test_a_session_begun_anew_in_the_target_is_a_conflict_too(two_lives: FaultyStore) -> None:
    target = FaultyStore()
    await a_life(target, ANA)
    hot = await target.load(a_key())
    assert hot is not None
    await target.erase(ANA)
    await target.restore(ANA, [Exported(session=replace(hot.session, incarnation="another", version=1))])
    report = await copied(two_lives, target)
    assert [conflict.scope for conflict in report.conflicts] == [ANA]


async def test_what_was_erased_is_known_to_the_target_too(two_lives: FaultyStore) -> None:
    target = YieldingStore()
    await two_lives.erase(a_scope("nobody"), "an erasure")
    await copied(two_lives, target, check=True)
    assert await target.erasures() == set()
    await copied(two_lives, target)
    assert await target.erasures() == {"an erasure"}


async def test_vectors_that_only_the_target_has_stay(two_lives: FaultyStore) -> None:
    target = FaultyStore()
    await copied(two_lives, target)
    await embed_all(target)
    assert (await copied(two_lives, target)).written == 0
    assert await target.due_vectors("space", 10) == []


# The command, over real stores


def migrate(*words: str) -> Result:
    return CliRunner().invoke(main, ["migrate", *words])


@pytest.fixture
def cosmos(cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CosmosServer:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSMOS_ENDPOINT", cosmos_server.url)
    monkeypatch.setenv("COSMOS_KEY", KEY)
    return cosmos_server


async def _lived(url: str) -> dict[Scope, dict[object, Exported]]:
    async with opened(url) as store:
        await live(store)
        return await everything(store)


async def _found(url: str) -> dict[Scope, dict[object, Exported]]:
    async with opened(url) as store:
        return await everything(store)


def test_from_a_file_to_cosmos_and_back_everything_is_as_it_was(cosmos: CosmosServer) -> None:
    before = asyncio.run(_lived("sqlite:///before.db"))
    there = migrate("--from", "sqlite:///before.db", "--to", "cosmos:")
    assert there.output == "users 2, copied 44, there already 0\n"
    assert migrate("--from", "sqlite:///before.db", "--to", "cosmos:", "--check").exit_code == 0
    back = migrate("--from", "cosmos:", "--to", "sqlite:///after.db")
    assert (back.exit_code, back.output) == (0, "users 2, copied 44, there already 0\n")
    assert asyncio.run(_found("sqlite:///after.db")) == before


def test_a_check_of_an_incomplete_copy_fails(cosmos: CosmosServer) -> None:
    asyncio.run(_lived("sqlite:///before.db"))
    checked = migrate("--from", "sqlite:///before.db", "--to", "cosmos:", "--check")
    assert (checked.exit_code, checked.output) == (1, "users 2, missing 44, there already 0\n")


def test_a_server_that_fails_on_the_way_is_said_in_one_line_and_the_next_run_goes_on(cosmos: CosmosServer) -> None:
    asyncio.run(_lived("sqlite:///before.db"))
    cosmos.fails({"op": "batch", "status": 400, "skip": 1})
    failed = migrate("--from", "sqlite:///before.db", "--to", "cosmos:")
    assert failed.exit_code == 1
    assert failed.output.count("\n") == 1
    assert "run it again" in failed.output
    cosmos.fails()
    assert migrate("--from", "sqlite:///before.db", "--to", "cosmos:").exit_code == 0
    assert migrate("--from", "sqlite:///before.db", "--to", "cosmos:").output.startswith("users 2, copied 0,")


def test_what_went_on_elsewhere_is_named_and_ends_with_1(cosmos: CosmosServer) -> None:
    asyncio.run(_lived("sqlite:///before.db"))
    asyncio.run(_lived("sqlite:///other.db"))
    asyncio.run(_touched("sqlite:///other.db"))
    refused = migrate("--from", "sqlite:///before.db", "--to", "sqlite:///other.db")
    assert refused.exit_code == 1
    assert "user 'ana' of tenant 'default' was left out: 's' went on differently" in refused.output


def test_who_cannot_be_read_is_named_and_everybody_else_is_copied(cosmos: CosmosServer) -> None:
    asyncio.run(_lived("sqlite:///before.db"))
    with closing(apsw.Connection("before.db")) as db:
        db.execute("UPDATE turns SET body = substr(body, 1, 20) WHERE id = 1")
    for options, done in (([], "copied 22"), (["--check"], "missing 0")):
        refused = migrate("--from", "sqlite:///before.db", "--to", "cosmos:", *options)
        assert refused.exit_code == 1
        assert "user 'ana' of tenant 'default' is not complete: what is on record cannot be read" in refused.output
        assert f"users 2, {done}" in refused.output


async def _touched(url: str) -> None:
    async with opened(url) as store:
        hot = await store.load(a_key())
        assert hot is not None
        await store.commit(Commit(scope=ANA, session=hot.session.touched(NOON)))


async def test_a_service_over_the_copy_remembers_everything(
    make_settings: Callable[..., Settings], cosmos: CosmosServer
) -> None:
    before, after = make_settings(store_url="sqlite:///before.db"), make_settings(store_url="cosmos:")
    async with running(before) as url, MemoryServiceClient(url, "ana", "s1") as client:
        await client.start_session()
        await client.store_turn("I'm allergic to walnuts.", "Noted: no walnuts.", turn_id="t1")
        await client.end_session(wait_s=PATIENCE_S)
        await client.start_session("s2")
        await client.store_turn("We adopted a kitten.", "Lovely.", turn_id="t2")
    assert (await asyncio.to_thread(migrate, "--from", "sqlite:///before.db", "--to", "cosmos:")).exit_code == 0
    async with running(after) as url, MemoryServiceClient(url, "ana", "s2") as client:
        context = await client.get_context()
        assert [message["content"] for message in context["active_context"]] == ["We adopted a kitten.", "Lovely."]
        assert (await client.store_turn("We adopted a kitten.", "Lovely.", turn_id="t2"))["replayed"]
        assert any("walnuts" in fact for fact in await client.retrieve_facts("walnuts"))
        assert any("walnuts" in str(insight) for insight in (await client.get_insights())["insights"])
        assert (await client.store_turn("Her name is Mia.", "Lovely."))["turn_number"] == 2


def test_an_empty_file_is_not_taken_for_a_record_with_nobody_in_it(cosmos: CosmosServer) -> None:
    Path("a.db").touch()
    refused = migrate("--from", "sqlite:///a.db", "--to", "cosmos:")
    assert refused.exit_code == 2
    assert "--from: a.db is empty" in refused.output
    assert Path("a.db").stat().st_size == 0


def test_without_stores_it_prepares_the_one_of_the_settings(cosmos: CosmosServer) -> None:
    assert migrate().output == "cosmos: ready\n"
    made = [call for call in cosmos.calls() if call["op"] == "POST dbs/colls"]
    assert len(made) == 3
    assert migrate().exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "sqlite:///a.db"], "--from and --to belong together"),
        (["--to", "sqlite:///a.db"], "--from and --to belong together"),
        (["--check"], "--from and --to belong together"),
        (["--from", "cosmos:", "--to", "cosmos:"], "the same store"),
        (["--from", "sqlite:///nothing.db", "--to", "cosmos:"], "--from: there is no file nothing.db"),
        (["--from", "cosmos:", "--to", "sqlite:///nothing.db", "--check"], "--to: there is no file nothing.db"),
        (["--from", "mongodb://x", "--to", "sqlite:///a.db"], "has no store 'mongodb'"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(cosmos: CosmosServer, words: list[str], said: str) -> None:
    refused = migrate(*words)
    assert refused.exit_code in (2, 3)
    assert said in refused.output
    assert list(Path().glob("*.db")) == []
