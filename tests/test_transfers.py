"""All that is kept of a user goes out as a file and comes in from one, the same to the byte whatever the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec.structs import replace

from client import MemoryServiceClient
from memory_service.api.moving import PIECE
from memory_service.errors import StoreUnavailable, UserExists, ValidationFailed
from memory_service.pool import SessionPool
from memory_service.server import running
from memory_service.settings import Settings
from memory_service.stores.base import Commit, Store
from memory_service.stores.exports import Exported
from memory_service.transfers import PAGE, Transfers
from memory_service.user_files import Foot, Head, UserFile, line_of
from memory_service.values import WHOLE, Message, Scope, Source, Vector, Withheld
from tests.api.talking import PATIENCE_S, problem, settled, told
from tests.cosmos.launcher import KEY, CosmosServer
from tests.support.lives import LATER, PATIENT, everything
from tests.support.stores import FaultyStore, opened
from tests.support.values import NOON, a_key, a_memory, a_scope, a_session, a_sitting, a_turn

ANA, ANAS = a_scope(), "/users/ana/export"
IMPORT = "/users/import"
NDJSON = {"content-type": "application/x-ndjson"}
COUNTS = {"sessions": 5, "sittings": 4, "requests": 4, "turns": 42, "memories": 7}
Visit = Callable[..., Any]


@pytest.fixture
def visit(make_settings: Callable[..., Settings]) -> Visit:
    """A service on a record that the next one finds again: `async with visit(store_url=...) as http`."""

    @asynccontextmanager
    async def opened_service(**changes: object) -> AsyncIterator[httpx2.AsyncClient]:
        async with (
            running(make_settings(**{**PATIENT, **changes})) as url,
            httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S) as http,
        ):
            yield http

    return opened_service


async def lived(url: str, things: list[Exported]) -> None:
    async with opened(url) as store:
        await store.restore(ANA, things)


async def exported(http: httpx2.AsyncClient, user_id: str = "ana") -> bytes:
    """The file of a user, once all has its vector."""
    await settled(http)
    response = await http.get(f"/users/{user_id}/export")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return response.content


async def imported(http: httpx2.AsyncClient, file: bytes, **query: str) -> dict[str, Any]:
    response = await http.post(IMPORT, content=file, headers=NDJSON, params=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


# The round trip


async def test_from_store_to_store_the_file_is_the_same_to_the_byte(
    visit: Visit, tmp_path: Path, postgres_url: str, cosmos_server: CosmosServer
) -> None:
    first = f"sqlite:///{tmp_path}/first.db"
    await lived(first, everything())
    async with visit(store_url=first) as http:
        file = await exported(http)
    kinds = [next(iter(json.loads(line))) for line in file.splitlines()]
    assert {f"{kind}s".replace("ys", "ies"): kinds.count(kind) for kind in ("session", "turn", "memory")} == {
        name: COUNTS[name] for name in ("sessions", "turns", "memories")
    }
    assert file.count(b'"vector"') == COUNTS["turns"] + COUNTS["memories"]
    assert b'"lease_until":null' in file
    assert b'"lease_until":"' not in file
    cosmos = {"store_url": "cosmos:", "cosmos_endpoint": cosmos_server.url, "cosmos_key": KEY}
    for target in ({"store_url": postgres_url}, cosmos, {"store_url": "transient://"}, {}):
        async with visit(**target) as http:
            answer = await imported(http, file)
            assert {name: answer[name] for name in COUNTS} == COUNTS
            assert (answer["change"], answer["user_id"]) == ("created", "ana")
            assert await exported(http) == file, target
            assert (await imported(http, file))["change"] == "unchanged"


async def test_a_user_comes_in_under_another_name_and_goes_on_there(visit: Visit, tmp_path: Path) -> None:
    await lived(f"sqlite:///{tmp_path}/memory.db", everything())
    async with visit() as http:
        file = await exported(http)
        assert (await imported(http, file, user_id="ben"))["user_id"] == "ben"
        assert (await exported(http, "ben")).partition(b"\n")[2] == file.partition(b"\n")[2]
        body = {"user_id": "ben", "session_id": "s1"}
        stored = await told(http, "/memory/store", **body, user_message="One more", agent_message="Yes")
        assert stored["turn_number"] == 31
        assert await exported(http) == file


# What is taken in is there at once


async def test_what_was_brought_in_is_told_found_and_reflected_on_at_once(visit: Visit) -> None:
    head = a_session(turn_count=2, version=4, status="ended", ended_by="client", handed_over_through=2)
    talk = [a_turn(1, text="I am allergic to walnuts."), a_turn(2, text="I live in Oslo.")]
    pending = [thing.sitting for thing in everything() if thing.sitting and thing.sitting.session_id == "c.4"]
    to_do = replace(pending[0], session_id="s", attempts=0, due_at=talk[1].created_at, last_error=None)
    strange = Vector(item_id="s#1", token=0, space="of another model", data=b"\0" * 16, texts=2)
    file = file_of(
        Exported(session=head),
        Exported(sitting=to_do),
        Exported(turn=talk[0], vector=strange),
        Exported(turn=talk[1]),
        Exported(memory=a_memory("insight_a", text="Plays the oboe")),
    )
    async with visit() as http:
        client = MemoryServiceClient(str(http.base_url), "ana", "before", http=http)
        assert (await client.start_session())["insights"] == []
        problem(await http.get("/users/ben/export"), 404, "user_not_found")
        assert (await imported(http, file, user_id="ben"))["change"] == "created"
        ben = MemoryServiceClient(str(http.base_url), "ben", "s", http=http)
        assert (await ben.get_context())["insights"][0] == "Plays the oboe"
        assert any("walnuts" in fact for fact in await ben.retrieve_facts("walnuts"))
        async with asyncio.timeout(PATIENCE_S):
            while (await ben.reflection())["reflection"] != "done":
                await settled(http)
        assert any("walnuts" in one["content"] for one in (await ben.get_insights())["insights"])
        vectors = [json.loads(line).get("vector") for line in (await exported(http, "ben")).splitlines()]
        spaces = {vector["space"] for vector in vectors if vector}
        assert len(spaces) == 1
        assert "of another model" not in spaces


async def test_a_user_of_whom_something_else_is_kept_is_left_alone(visit: Visit) -> None:
    file = file_of(*everything())
    async with visit() as http:
        await told(http, "/sessions/start", user_id="ana", session_id="mine")
        before = await exported(http)
        problem(await http.post(IMPORT, content=file, headers=NDJSON), 409, "user_exists")
        assert await exported(http) == before


async def test_people_are_served_while_they_are_brought_in_and_nobody_sees_half_a_conversation(visit: Visit) -> None:
    turns = [a_turn(seq, text=f"said {seq}") for seq in range(1, 1501)]
    head = a_session(turn_count=1500, version=1501, compacted_through=1490, cumulative_summary="so far")
    oboe = Exported(memory=a_memory("insight_a", text="Plays the oboe"))
    file = file_of(Exported(session=head), *(Exported(turn=turn) for turn in turns), oboe)
    async with visit() as http:
        bringing = asyncio.create_task(imported(http, file))
        seen: set[tuple[int, str]] = set()
        body = {"user_id": "ana", "session_id": "s"}
        refused = 0
        while not bringing.done():
            context = await http.post("/memory/context", json=body)
            if context.status_code == 200:
                seen.add((len(context.json()["active_context"]), context.json()["cumulative_summary"]))
            stored = await http.post("/memory/store", json={**body, "user_message": "early", "agent_message": ""})
            refused += stored.status_code in (404, 409)
            assert (await http.get("/livez")).status_code == 200
            if stored.status_code == 200:
                break
        await bringing
        assert refused
        assert (await told(http, "/memory/context", **body))["insights"] == ["Plays the oboe"]
        assert seen <= {(0, ""), (20, "so far"), (21, "so far")}
        told_of = await told(http, "/memory/store", **body, user_message="late", agent_message="")
        assert told_of["turn_number"] in (1501, 1502)


# Cut off, and begun again


async def test_cut_off_anywhere_it_is_run_again_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_service.transfers.PAGE", 7)
    file = written(file_of(*everything(9)))
    whole = FaultyStore()
    await transfers(whole).take_in(ANA, file, quiet)
    expected = await lines(whole)
    cuts = whole.calls["restore"]
    assert cuts > 5
    for cut in range(1, cuts + 1):
        for after in (False, True):
            store = CutOff(cut, after=after)
            with pytest.raises(StoreUnavailable):
                await transfers(store).take_in(ANA, file, quiet)
            done = await transfers(store).take_in(ANA, file, quiet)
            assert done.change in ("created", "completed", "unchanged")
            assert await lines(store) == expected


async def test_half_of_a_conversation_is_never_ended_or_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_service.transfers.PAGE", 7)
    file = written(file_of(*everything(9)))
    whole = FaultyStore()
    await transfers(whole).take_in(ANA, file, quiet)
    for cut in range(1, whole.calls["restore"]):
        store = CutOff(cut, after=True)
        with pytest.raises(StoreUnavailable):
            await transfers(store).take_in(ANA, file, quiet)
        page = await store.export(ANA)
        turns = [thing.turn.session_id for thing in page.things if thing.turn]
        whole_ones = {
            thing.session.session_id
            for thing in page.things
            if thing.session and turns.count(thing.session.session_id) == thing.session.turn_count
        }
        idle = {key.session_id for key in await store.due_sessions(LATER, 0, 100)}
        due = {sitting.session_id for _, sitting in await store.due_reflections(LATER, 100)}
        assert idle | due <= whole_ones


async def test_who_begins_one_of_its_sessions_meanwhile_keeps_it() -> None:
    file = written(file_of(*everything()))
    store = FaultyStore()
    bringing = asyncio.create_task(transfers(store).take_in(ANA, file, quiet))
    hang = store.hang_at("restore")
    await hang.reached.wait()
    hang.release()
    hang = store.hang_at("restore")  # the sessions are stood in for by now
    await hang.reached.wait()
    standing = await store.head(a_key("s1"))
    assert standing is not None
    mine = standing.reopened(LATER)
    await store.commit(Commit(scope=ANA, session=mine))
    hang.release()
    with pytest.raises(UserExists):
        await bringing
    assert await store.head(a_key("s1")) == mine


class CutOff(FaultyStore):
    """Fails at its n-th restore, once."""

    def __init__(self, n: int, *, after: bool) -> None:
        super().__init__()
        self.left, self.after = n, after

    async def _around(self, verb: str, work: Callable[[], Awaitable[Any]]) -> Any:
        self.left -= verb == "restore"
        failing = verb == "restore" and self.left == 0
        if failing and not self.after:
            raise StoreUnavailable("cut off")
        result = await super()._around(verb, work)
        if failing:
            raise StoreUnavailable("cut off")
        return result


def transfers(store: Store) -> Transfers:
    pool = SessionPool(store.load, store.commit, max_sessions=10, ttl_s=60)
    return Transfers(store, pool, quiet, most_bytes=10**9)


def quiet(_: Scope | None = None) -> None:
    """Nobody is told."""


def file_of(*things: Exported, user_id: str = "ana") -> bytes:
    """A file of these things, in the order of a file; claims are left out."""
    order = ("session", "sitting", "request", "turn", "memory")
    told_of = [
        replace(thing, sitting=replace(thing.sitting, lease_until=None)) if thing.sitting else thing for thing in things
    ]
    named = sorted(told_of, key=lambda thing: (order.index(str(thing.name[0])), () if thing.turn else thing.name))
    return b"".join(map(line_of, [Head(user_id=user_id), *named, Foot(things=len(named))]))


def written(content: bytes) -> UserFile:
    return UserFile(BytesIO(content))


async def lines(store: Store) -> bytes:
    return b"".join([line async for line in await transfers(store).export(ANA)])


# Bounds


async def test_a_large_user_is_given_out_page_by_page_as_fast_as_it_is_taken(visit: Visit) -> None:
    store = FaultyStore()
    turns = [Exported(turn=a_turn(seq, text="x" * 500)) for seq in range(1, 5001)]
    await store.restore(ANA, [Exported(session=a_session(turn_count=5000, version=5001)), *turns])
    giving = await transfers(store).export(ANA)
    taken = 0
    async for _ in giving:
        taken += 1
        assert store.calls["export"] <= taken // PAGE + 1
    assert taken == 5003
    assert store.calls["export"] in (5001 // PAGE + 1, 5001 // PAGE + 2)
    assert PIECE < 100_000


async def test_what_is_written_while_it_is_read_makes_no_file_that_does_not_hold_together(tmp_path: Path) -> None:
    head = a_session(turn_count=PAGE, version=PAGE + 1)
    late = a_turn(PAGE + 1)
    of_late = a_memory("insight_late", sources=(Source(session_id="s", seq=PAGE + 1),))
    began = Exported(session=a_session("Begun later"))
    async with opened(f"sqlite:///{tmp_path}/memory.db") as store:
        await store.restore(ANA, [Exported(session=head), *(Exported(turn=a_turn(seq)) for seq in range(1, PAGE + 1))])
        giving = await transfers(store).export(ANA)
        got = [await anext(giving)]
        await store.restore(ANA, [Exported(session=head.with_turn(late)), began, Exported(turn=late)])
        await store.restore(ANA, [Exported(sitting=a_sitting(through_seq=PAGE + 1)), Exported(memory=of_late)])
        got += [line async for line in giving]
    counts = written(b"".join(got)).counts
    assert counts == {"session": 1, "sitting": 0, "request": 0, "turn": PAGE, "memory": 0}


# A file that is not right


@pytest.fixture(scope="module")
def whole() -> list[bytes]:
    """The lines of a right file."""
    return file_of(*everything(5)).splitlines(keepends=True)


def refusal(lines: list[bytes]) -> str:
    with pytest.raises(ValidationFailed) as refused:
        written(b"".join(lines))
    return str(refused.value)


def test_cut_off_behind_any_line_or_within_it_a_file_is_refused(whole: list[bytes]) -> None:
    for count in range(len(whole)):
        assert "cut off" in refusal(whole[:count])
        assert refusal([*whole[:count], whole[count][: len(whole[count]) // 2]])
    assert "more behind the last" in refusal([*whole, whole[-1]])


def test_without_a_line_with_it_twice_or_before_another_a_file_is_refused(whole: list[bytes]) -> None:
    for number in range(1, len(whole) - 1):
        fewer = b'{"things":%d}\n' % (len(whole) - 3)
        left_out = [*whole[:number], *whole[number + 1 : -1], fewer]
        if not any(sign in whole[number] for sign in (b'"request"', b'"memory"', b'"sitting"', b'"empty"')):
            refusal(left_out)
        refusal([*whole[:number], *whole[number + 1 :]])
        more = b'{"things":%d}\n' % (len(whole) - 1)
        refusal([*whole[:number], whole[number], *whole[number:-1], more])


DAMAGES: list[tuple[bytes, bytes, str]] = [
    (b'"version":1,"user_id"', b'"version":2,"user_id"', "version 1"),
    (b'"agent-memory-user"', b'"another"', "is no file of a user"),
    (b'"user_id":"ana"', b'"user_id":"a/b"', "1 to 200 characters"),
    (b'"user_id":"ana"', b'"user_id":"~knowledge"', "1 to 200 characters"),
    (b'{"turn":{"session_id":"s1"', b'{"turn":{"session_id":"foreign"', "not in the file before it"),
    (b'"sources":[{"session_id":"s1","seq":2}]', b'"sources":[{"session_id":"s1","seq":9}]', "not in the file"),
    (b'"turn_count":5', b'"turn_count":6', "turns of a session are missing"),
    (b'"seq":3,', b'"seq":2,', "twice"),
    (b'"turn_id":"s1.t3"', b'"turn_id":"s1.t2"', "twice"),
    (b'"turn_id":"s1.t3"', b'"turn_id":"s1 t3"', "1 to 200 characters"),
    (b'"I speak first."', b'"' + b"x" * 100_001 + b'"', "longer than 100000"),
    (b'"I speak first."', b'"\\u0000"', "NUL"),
    (b'"I speak first."', b'"\xff"', "damaged"),
    (b'"metadata":{"k":1}', b'"metadata":{"k k":1}', "a key is not"),
    (b'"metadata":{"k":1}', b'"metadata":{"k":9007199254740993}', "2**53"),
    (b'"metadata":{"k":1}', b'"metadata":{"k":1},"surplus":1', "another form"),
    (b'"confidence":0.25', b'"confidence":1.25', "0 to 1"),
    (b'"confidence":0.25', b'"confidence": 0.25', "another form"),
    (b'"role":"tool"', b'"role":"nobody"', "damaged"),
    (b'"topics":["cats"]', b'"topics":"cats"', "that of a summary"),
    (b'"through_seq":4', b'"through_seq":5', "do not go together"),
    (b'"opened_at_seq":4', b'"opened_at_seq":8', "do not go together"),
    (b'"lease_until":null', b'"lease_until":"2026-03-01T12:09:00Z"', "no claim"),
    (b'"created_at":"2026-03-01T12:00:00Z"', b'"created_at":"2026-03-01T12:00:00"', "1900"),
    (b'"received_at":"2026', b'"received_at":"2226', "1900"),
    (b'"effect":{"digest":"d', b'"effect":{"digest":"e', "another request"),
    (b'{"memory":', b'{"request":null,"memory":', "another form"),
    (b'"ended_by":"service"', b'"ended_by":null', "status"),
]


@pytest.mark.parametrize(("right", "wrong", "why"), DAMAGES)
def test_a_file_that_says_what_cannot_be_is_refused(whole: list[bytes], right: bytes, wrong: bytes, why: str) -> None:
    content = b"".join(whole)
    assert right in content
    assert why in refusal([content.replace(right, wrong, 1)])


def test_what_is_in_quarantine_goes_along_and_one_that_cannot_be_is_refused() -> None:
    head = Exported(session=a_session(turn_count=1, version=2))
    turn, source = a_turn(1).hidden(), Source(session_id="s", seq=1)
    memory = a_memory("m", valid_to=NOON, withheld=(source, Source(session_id="s", seq=WHOLE)))
    written(file_of(head, Exported(turn=turn), Exported(memory=memory)))
    assert isinstance(turn.withheld, Withheld)
    for wrong_turn in (
        replace(turn, messages=a_turn(1).messages),
        replace(turn, metadata={"k": 1}),
        replace(turn, withheld=replace(turn.withheld, metadata={"k k": 1})),
        replace(turn, withheld=replace(turn.withheld, messages=(Message(role="user", content="\0"),))),
    ):
        refusal([file_of(head, Exported(turn=wrong_turn))])
    for change in (
        {"valid_to": None},
        {"text": ""},
        {"withheld": (Source(session_id="s", seq=2),)},
        {"withheld": (Source(session_id="t", seq=1),)},
        {"withheld": (Source(session_id="s", seq=-1),)},
    ):
        refusal([file_of(head, Exported(turn=turn), Exported(memory=replace(memory, **change)))])


def test_a_vector_of_something_else_or_of_another_length_is_refused() -> None:
    turn, head = a_turn(1), a_session(turn_count=1, version=2)
    right = Vector(item_id="s#1", token=0, space="x", data=b"\0" * 8, texts=2)
    written(file_of(Exported(session=head), Exported(turn=turn, vector=right)))
    for change in ({"item_id": "s#2"}, {"token": 1}, {"texts": 1}, {"data": b"\0" * 9}, {"space": "a\nb"}):
        refusal([file_of(Exported(session=head), Exported(turn=turn, vector=replace(right, **change)))])
    refusal([file_of(Exported(session=replace(head, turn_count=0), vector=right))])


async def test_of_a_file_that_is_refused_nothing_is_written(visit: Visit, whole: list[bytes]) -> None:
    content = b"".join(whole)
    async with visit(import_max_mb=1) as http:
        wrongs = (
            (422, b"".join(whole[:-1])),
            (422, content.replace(b'"seq":3,', b'"seq":2,', 1)),
            (422, b""),
            (422, b"{}"),
            (413, content + b"x" * 10**6),
        )
        for status, wrong in wrongs:
            refused = await http.post(IMPORT, content=wrong, headers=NDJSON)
            assert refused.status_code == status
            assert "cats" not in refused.text
        wrong_type = {"content-type": "application/json"}
        problem(await http.post(IMPORT, content=content, headers=wrong_type), 415, "unsupported_media_type")
        problem(await http.post(IMPORT, content=content, headers=NDJSON, params={"user_id": "a/b"}), 422, "invalid_id")
        problem(await http.post(IMPORT, content=content, headers=NDJSON, params={"x": "y"}), 422, "validation_failed")
        assert (await http.get("/stats")).json()["store"]["commits"] == 0
        problem(await http.get(ANAS), 404, "user_not_found")
        problem(await http.get(ANAS, headers={"accept": "application/json"}), 406, "not_acceptable")
        assert (await imported(http, content))["change"] == "created"
        assert (await http.head(ANAS)).status_code == 200
        accepted = await http.get(ANAS, headers={"accept": "application/x-ndjson;q=0.5, text/*"})
        assert accepted.status_code == 200
