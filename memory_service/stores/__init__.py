"""Stores by URL scheme. Names, not imports: a backend's packages cost nothing until its URL is used."""

from __future__ import annotations

from importlib import import_module

from memory_service.errors import UnsafeStart
from memory_service.points import Point, nowhere
from memory_service.stores.base import Store

STORES = {
    "sqlite": "memory_service.stores.sqlite:SQLiteStore",
    "transient": "memory_service.stores.transient:TransientStore",
}


def make_store(url: str, point: Point = nowhere) -> Store:
    """Build the store that `url` names; it is not opened yet. `point` is told of named points of the code.

    Raises UnsafeStart for an unknown scheme.
    """
    scheme = url.partition(":")[0]
    if scheme not in STORES:
        raise UnsafeStart(f"this version has no store {scheme!r}; STORE_URL may begin with {', '.join(sorted(STORES))}")
    module, _, name = STORES[scheme].partition(":")
    store: Store = getattr(import_module(module), name).from_url(url, point)
    return store
