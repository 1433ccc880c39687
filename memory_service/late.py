"""Packages that are imported when something of theirs is first used: the service is there sooner, and holds less.

A type checker sees the package itself:

    if TYPE_CHECKING:
        import numpy as np
    else:
        from memory_service.late import np
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Late:
    """Stands for a package. What was once asked of it is an attribute from then on."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


np = Late("numpy")
