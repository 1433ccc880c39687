"""How each store keeps a large turn, looked at around it; and what it makes of one that is damaged there."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from azure.cosmos import CosmosClient

from memory_service.errors import StoreCorrupt
from memory_service.stores.base import Commit, Store
from memory_service.stores.bodies import text_of
from memory_service.stores.compression import MOST_BYTES
from memory_service.stores.cosmos.documents import COMPRESSED
from memory_service.stores.forgetting import Forgetting
from memory_service.stores.sqlite import SQLiteStore
from tests.cosmos.launcher import KEY as ACCOUNT_KEY
from tests.cosmos.launcher import CosmosServer
from tests.stores.contract_large import ANA, KEY, TURNS, said, stored
from tests.stores.cosmos_account import documents, settings_for
from tests.stores.postgres_database import rows as rows_of
from tests.stores.sqlite_file import bytes_of, contents, raw, rows
from tests.support.large import MEGABYTE, image, prose
from tests.support.stores import opened
from tests.support.values import NOON, a_turn

PROSE = TURNS[0]
WHOLE = len(text_of(PROSE))
Change = Callable[[str], str]


def forged(content: str) -> bytes:
    """A whole turn that says this, compressed, however large."""
    return zlib.compress(text_of(said(content)).encode(), 1)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda small: small[:-100],
    "another byte": lambda small: small[:500] + bytes([small[500] ^ 1]) + small[501:],
    "something else": lambda _: zlib.compress(b'{"seq": 1}', 1),
    "no text": lambda _: zlib.compress(text_of(said("canary")).encode().replace(b"canary", b"\xff\xfe")),
    "far too large": lambda _: forged("a" * MOST_BYTES),
}
damaged = pytest.mark.parametrize("damage", DAMAGED.values(), ids=list(DAMAGED))


async def must_be_told_of(store: Store) -> None:
    for ask in (store.turns(KEY), store.load(KEY), store.entries(ANA, None, "space"), store.export(ANA)):
        with pytest.raises(StoreCorrupt):
            await ask


# SQLite


async def test_sqlite_keeps_a_large_turn_in_less_than_half_the_room_and_a_small_one_as_it_is(
    store: SQLiteStore, path: Path
) -> None:
    small = a_turn(2)
    await stored(store, PROSE, small)
    sql = f"SELECT length(body), length(compressed) < {WHOLE / 2} FROM turns ORDER BY seq"
    assert rows(path, sql) == [(0, 1), (len(text_of(small)), None)]


async def test_sqlite_reads_a_large_turn_that_was_stored_before_there_was_compression(
    store: SQLiteStore, path: Path
) -> None:
    await stored(store, PROSE)
    with raw(path) as db:
        db.execute("UPDATE turns SET body = ?, compressed = NULL", (text_of(PROSE),))
    assert contents(path) == [prose()]
    assert await store.turns(KEY) == [PROSE]


@damaged
async def test_sqlite_tells_of_a_large_turn_that_is_damaged(
    store: SQLiteStore, path: Path, damage: Callable[[bytes], bytes]
) -> None:
    await stored(store, PROSE)
    ((small,),) = rows(path, "SELECT compressed FROM turns")
    with raw(path) as db:
        db.execute("UPDATE turns SET compressed = ?", (damage(small),))
    await must_be_told_of(store)


@pytest.mark.parametrize("seq", [1, None], ids=["the turn", "its session"])
async def test_no_compressed_byte_of_a_large_turn_that_was_erased_is_left_in_sqlite(
    path: Path, url: str, seq: int | None
) -> None:
    """Of what was in the file for long, and of what had come no further than the log."""
    log = path.with_name(path.name + "-wal")
    async with opened(url) as store:
        await stored(store, TURNS[0])
    in_file = pieces_of(path)
    assert sum(piece in bytes_of(path) for piece in in_file) > len(in_file) * 0.9  # some are cut by the end of a page
    async with opened(url) as store:
        hot = await store.load(KEY)
        assert hot is not None
        await store.commit(Commit(scope=ANA, session=hot.session.with_turn(TURNS[1]), turns=(TURNS[1],)))
        pieces = pieces_of(path)
        assert sum(piece in log.read_bytes() for piece in pieces) > len(pieces) * 0.7
        for one in (1, 2) if seq else (None,):
            await store.forget(ANA, Forgetting(session_id="s", seq=one, now=NOON))
        left = log.read_bytes()
        assert not any(piece in left for piece in pieces)
    left = bytes_of(path)
    assert not any(piece in left for piece in pieces)


def pieces_of(path: Path) -> list[bytes]:
    found = rows(path, "SELECT compressed FROM turns")
    return [small[start : start + 24] for (small,) in found for start in range(100, len(small) - 100, 2000)]


# Cosmos DB


@pytest.fixture
def in_cosmos(cosmos_server: CosmosServer) -> Callable[[Change], str]:
    """Return the body of the one turn there is, and write another in its place."""

    def write(changed: Change) -> str:
        (held,) = (one for one in documents(cosmos_server, "interactions") if one["type"] == "turn")
        with CosmosClient(cosmos_server.url, ACCOUNT_KEY) as client:
            items = client.get_database_client("agent_memory").get_container_client("interactions")
            items.upsert_item({**held, "body": changed(held["body"])})
        return str(held["body"])

    return write


async def test_cosmos_keeps_a_large_turn_in_two_thirds_of_the_room_and_reads_one_of_before(
    cosmos_server: CosmosServer, in_cosmos: Callable[[Change], str]
) -> None:
    async with opened(settings_for(cosmos_server)) as store:
        await stored(store, PROSE)
        kept = in_cosmos(lambda _: text_of(PROSE))
        assert kept.startswith(COMPRESSED)
        assert len(kept) < WHOLE * 2 / 3
        assert await store.turns(KEY) == [PROSE]


async def test_cosmos_keeps_what_is_not_smaller_in_base64_as_it_is(
    cosmos_server: CosmosServer, in_cosmos: Callable[[Change], str]
) -> None:
    async with opened(settings_for(cosmos_server)) as store:
        picture = said(image(100_000))
        await stored(store, picture)
        assert in_cosmos(lambda kept: kept) == text_of(picture)


async def test_cosmos_takes_a_document_whose_quotes_would_be_too_much_for_an_item(cosmos_server: CosmosServer) -> None:
    """As a text in JSON in an item each of them would take four bytes. The document has a megabyte."""
    document = said(parts={"text": json.dumps(["a"] * MEGABYTE)[:MEGABYTE]})
    assert len(json.dumps(text_of(document))) > 2_000_000
    async with opened(settings_for(cosmos_server)) as store:
        await stored(store, document)
        assert await store.turns(KEY) == [document]


@damaged
async def test_cosmos_tells_of_a_large_turn_that_is_damaged(
    cosmos_server: CosmosServer, in_cosmos: Callable[[Change], str], damage: Callable[[bytes], bytes]
) -> None:
    def harmed(body: str) -> str:
        return COMPRESSED + base64.b64encode(damage(base64.b64decode(body[len(COMPRESSED) :]))).decode()

    async with opened(settings_for(cosmos_server)) as store:
        await stored(store, PROSE)
        in_cosmos(lambda body: body + "?")
        await must_be_told_of(store)
        in_cosmos(lambda body: harmed(body[:-1]))
        await must_be_told_of(store)


# PostgreSQL


async def test_postgres_compresses_by_itself(postgres_url: str) -> None:
    async with opened(postgres_url) as store:
        await stored(store, PROSE)
        assert rows_of(postgres_url, "SELECT body FROM turns") == [(text_of(PROSE),)]
        ((kept,),) = rows_of(postgres_url, "SELECT pg_column_size(body) FROM turns")
        assert kept < WHOLE * 0.8
