"""The face of a memory driver: as it was documented, so that drivers written for it need no change but an import."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from memory_service.drivers.base import AwaitedDriver, BaseMemoryDriver
from memory_service.drivers.blocking import BlockingDriver
from memory_service.drivers.builtin import BuiltinDriver

SEED: dict[str, list[tuple[str, Any]]] = {
    "recall": [
        ("user_id", ...),
        ("conversation_id", None),
        ("query", None),
        ("top_k", 10),
        ("use_vector", True),
        ("exclude_tags", None),
    ],
    "recall_global_knowledge": [("query", ...), ("top_k", 5), ("category", None)],
    "store": [("user_id", ...), ("content", ...), ("conversation_id", None), ("tags", None), ("metadata", None)],
    "store_global_knowledge": [
        ("content", ...),
        ("category", ...),
        ("title", None),
        ("doc_id", None),
        ("metadata", None),
    ],
    "delete": [("memory_id", ...), ("user_id", None)],
    "health_check": [],
}
"""Verbs, parameters in their order, and defaults (`...`: none) as the seed documents them."""


def parameters(verb: Any) -> list[tuple[str, Any]]:
    found = list(inspect.signature(verb).parameters.values())[1:]
    assert all(one.kind is one.POSITIONAL_OR_KEYWORD for one in found)
    return [(one.name, ... if one.default is one.empty else one.default) for one in found]


@pytest.mark.parametrize("face", [BaseMemoryDriver, AwaitedDriver, BlockingDriver, BuiltinDriver])
def test_verbs_parameters_and_defaults_are_those_of_the_seed(face: type) -> None:
    assert {name: parameters(getattr(face, name)) for name in SEED} == SEED


def test_a_driver_must_have_these_six_verbs_and_needs_no_more() -> None:
    assert BaseMemoryDriver.__abstractmethods__ == set(SEED)
    public = {name for name in vars(BaseMemoryDriver) if not name.startswith("_")}
    assert public == {*SEED, "store_many"}  # which has a way of its own


def test_a_driver_that_lacks_a_verb_cannot_be_made() -> None:
    class Half(BaseMemoryDriver):
        def recall(self, user_id, **kwargs): ...  # type: ignore[no-untyped-def]

    with pytest.raises(TypeError, match="health_check"):
        Half()  # type: ignore[abstract]
