"""Engines by name. Names, not imports: an engine's packages cost nothing until it is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from inspect import isabstract
from typing import TYPE_CHECKING

from memory_service.errors import UnsafeStart
from memory_service.settings import Settings

if TYPE_CHECKING:  # a name alone needs no numpy
    from memory_service.projections.base import Projection

BUILTIN = "builtin"
"""The record itself, which needs no engine."""
PROJECTIONS: Mapping[str, str] = {
    "automem": "memory_service.projections.automem:AutoMem",
    "pgvector": "memory_service.projections.pgvector:PGVector",
    "pixeltable": "memory_service.projections.pixeltable:Pixeltable",
}
EXTRAS = {"pgvector": "postgres", "pixeltable": "pixeltable"}
"""What must be installed for an engine beyond the service itself."""


def names_of(memory_driver: str) -> tuple[str, ...]:
    """The engines that MEMORY_DRIVER names, in the order in which they are asked; none for the record alone."""
    names = dict.fromkeys(map(key_of, memory_driver.split(",")))
    return tuple(name for name in names if name and name != BUILTIN)


def key_of(name: str) -> str:
    """As it is known by: in small letters, unless it is the name of a class."""
    return name.strip() if ":" in name else name.strip().lower()


def make_projection(name: str, settings: Settings) -> Projection:
    """Make the engine of this name; it is not opened yet.

    Raises UnsafeStart for a name that is not known, settings that are not enough and packages that are missing.
    """
    return projection_class(name).from_settings(settings)


def projection_class(name: str) -> type[Projection]:
    """Find the class of an engine. Raises UnsafeStart."""
    from memory_service.projections.base import Projection

    module, colon, attribute = PROJECTIONS.get(name, name).partition(":")
    if not colon or not all(part.isidentifier() for part in f"{module}.{attribute}".split(".")):
        known = ", ".join(sorted({BUILTIN, *PROJECTIONS}))
        raise UnsafeStart(f"MEMORY_DRIVER: there is no {name!r} in this version; known are {known}")
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as exc:
        if name in EXTRAS:
            needed = f"pip install 'agent-memory-service[{EXTRAS[name]}]'"
            raise UnsafeStart(f"MEMORY_DRIVER={name} needs {exc.name}: {needed}") from exc
        raise UnsafeStart(f"MEMORY_DRIVER={name}: {exc}") from exc
    except AttributeError as exc:
        raise UnsafeStart(f"MEMORY_DRIVER={name}: {exc}") from exc
    if not isinstance(found, type) or not issubclass(found, Projection) or isabstract(found):
        raise UnsafeStart(f"MEMORY_DRIVER={name}: it is no Projection, which a service could mirror its record to")
    return found
