"""Stores by URL scheme. Names, not imports: a backend's packages cost nothing until its URL is used."""

from __future__ import annotations

from importlib import import_module

from memory_service.errors import UnsafeStart
from memory_service.points import Point, nowhere
from memory_service.settings import Settings
from memory_service.stores.base import Store

STORES = {
    "cosmos": "memory_service.stores.cosmos:CosmosStore",
    "postgres": "memory_service.stores.postgres:PostgresStore",
    "postgresql": "memory_service.stores.postgres:PostgresStore",
    "sqlite": "memory_service.stores.sqlite:SQLiteStore",
    "transient": "memory_service.stores.transient:TransientStore",
}
EXTRAS = {"cosmos": "azure", "postgres": "postgres", "postgresql": "postgres"}
"""What must be installed for a store beyond the service itself."""


def make_store(settings: Settings, point: Point = nowhere) -> Store:
    """Build the store that the settings choose; it is not opened yet. `point` is told of named points of the code.

    Raises UnsafeStart for an unknown scheme, settings that do not make a store, and packages that are missing.
    """
    scheme = settings.chosen_store_url.partition(":")[0]
    if scheme not in STORES:
        raise UnsafeStart(f"this version has no store {scheme!r}; STORE_URL may begin with {', '.join(sorted(STORES))}")
    module, _, name = STORES[scheme].partition(":")
    try:
        kind: type[Store] = getattr(import_module(module), name)
    except ModuleNotFoundError as exc:
        if scheme not in EXTRAS:
            raise
        raise UnsafeStart(
            f"the store {scheme!r} needs {exc.name}: pip install 'agent-memory-service[{EXTRAS[scheme]}]'"
        ) from exc
    return kind.from_settings(settings, point)
