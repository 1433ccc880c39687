"""A database file and a store on it; and nothing of a store may outlive its test."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import apsw
import pytest

from memory_service.stores.sqlite import SQLiteStore
from tests.support.stores import opened

# asserts of the contract explain themselves like those of a test file
pytest.register_assert_rewrite(
    "tests.stores.contract",
    "tests.stores.contract_aging",
    "tests.stores.contract_commits",
    "tests.stores.contract_reads",
    "tests.stores.contract_recall",
    "tests.stores.contract_due",
    "tests.stores.contract_keys",
    "tests.stores.contract_gateway",
    "tests.stores.contract_large",
    "tests.stores.contract_mirrors",
    "tests.stores.contract_moving",
    "tests.stores.contract_room",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[SQLiteStore]:
    async with opened(url) as store:
        assert isinstance(store, SQLiteStore)
        yield store


@pytest.fixture(autouse=True)
def everything_is_closed() -> Iterator[None]:
    """No connection and no thread of a store outlives its test."""
    before = set(apsw.connections())
    yield
    assert set(apsw.connections()) <= before
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("sqlite-")] == []
