"""Stores by URL: a scheme chooses one, and what nobody chose is not imported."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from importlib import import_module
from pathlib import Path

import pytest

from memory_service.errors import UnsafeStart
from memory_service.settings import Settings
from memory_service.stores import STORES, make_store
from memory_service.stores.base import Store
from memory_service.stores.cosmos import CosmosStore
from memory_service.stores.sqlite import SQLiteStore
from memory_service.stores.transient import TransientStore
from tests.support.stores import store_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("sqlite:///./data/memory.db", SQLiteStore),
        ("sqlite:////var/lib/memory.db", SQLiteStore),
        ("transient://", TransientStore),
        ("transient:", TransientStore),
    ],
)
def test_the_scheme_chooses_the_store(url: str, kind: type[Store]) -> None:
    assert type(store_of(url)) is kind


def test_an_endpoint_of_cosmos_db_chooses_its_store_unless_another_is_named() -> None:
    given = {"_env_file": None, "cosmos_endpoint": "https://x.documents.azure.com", "cosmos_key": "a2V5"}
    assert type(make_store(Settings(**given))) is CosmosStore
    assert type(make_store(Settings(**given, store_url="cosmos:"))) is CosmosStore
    assert type(make_store(Settings(**given, store_url="transient://"))) is TransientStore


@pytest.mark.parametrize(
    "url", ["mysql://root:hunter2@db/memory", "SQLITE:///x.db", "memory.db", "/data/memory.db", ""]
)
def test_an_unknown_scheme_is_refused_with_the_known_ones_and_without_the_rest_of_the_url(url: str) -> None:
    with pytest.raises(UnsafeStart) as caught:
        store_of(url)
    said = str(caught.value)
    assert "STORE_URL" in said
    assert all(scheme in said for scheme in STORES)
    assert "hunter2" not in said


@pytest.mark.parametrize("scheme", STORES)
def test_every_name_in_the_registry_is_a_store_that_says_what_it_promises(scheme: str) -> None:
    module, _, name = STORES[scheme].partition(":")
    kind = getattr(import_module(module), name)
    assert issubclass(kind, Store)
    assert kind.capabilities.durability in ("fsync", "quorum", "relaxed", "none")


def test_making_a_store_opens_nothing(tmp_path: Path) -> None:
    store_of(f"sqlite:///{tmp_path}/folder/memory.db")
    assert list(tmp_path.iterdir()) == []


def test_a_store_nobody_chose_costs_no_import() -> None:
    program = (
        "import sys; from memory_service.settings import Settings; from memory_service.stores import make_store;"
        "make_store(Settings(_env_file=None, store_url='transient://'));"
        "foreign = {'apsw', 'azure', 'aiohttp'};"
        "print(sorted(name for name in sys.modules if name in foreign or name.startswith('memory_service.stores.')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    loaded = {name.removeprefix("memory_service.stores.") for name in literal_eval(ran.stdout)}
    assert "transient" in loaded
    assert not loaded & {"apsw", "azure", "aiohttp", "sqlite", "cosmos", "postgres"}
