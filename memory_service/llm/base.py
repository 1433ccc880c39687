"""What the service asks of models. Implementations know one vendor each; nobody else knows any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from memory_service.values import Memory, Turn, Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Excerpt(Value, frozen=True, kw_only=True):
    """A stretch of one conversation to reflect on.

    `earlier_summary` is of the same sitting before `turns` (empty at its beginning). `known` are insights
    already held about the user that these turns may touch; a finding refers to one by its place, from 1.
    """

    turns: tuple[Turn, ...]
    earlier_summary: str = ""
    known: tuple[Memory, ...] = ()


class Finding(Value, frozen=True, kw_only=True):
    """Something lasting about the user. `turns` are the sequence numbers it rests on, as the reader claims them.

    `confidence` and `importance` are in [0, 1]. `replaces` is the place in `Excerpt.known` of what is no
    longer true because of this, or None. `field` and `value`: the lasting property of the user whose value it gives, if
    it does: a name in snake_case (64 characters) and 500 characters at most; what is not so is dropped.
    """

    text: str
    turns: tuple[int, ...]
    category: str = "general"
    confidence: float = 0.5
    importance: float = 0.5
    replaces: int | None = None
    field: str | None = None
    value: str | None = None


class Findings(Value, frozen=True, kw_only=True):
    """`summary` covers the earlier summary and the turns; it is never empty."""

    summary: str
    topics: tuple[str, ...] = ()
    insights: tuple[Finding, ...] = ()


class Reader(Protocol):
    """Reads conversations. Both verbs raise a ModelError, and try once: retrying is the job's."""

    name: str
    """Kept with what it writes: a model's name, or `extractive`."""
    prompt_version: str

    async def reflect(self, excerpt: Excerpt) -> Findings: ...

    async def compact(self, earlier_summary: str, turns: Sequence[Turn]) -> str:
        """Return one summary of the earlier summary and these turns; never empty, in the conversation's language."""
        ...

    def usage(self) -> dict[str, int]:
        """Tokens and calls since the start: `calls`, `failures`, `prompt_tokens`, `completion_tokens`."""
        ...


class Embedder(Protocol):
    @property
    def space(self) -> str | None:
        """Name of the vector space of the last answer, None before the first; vectors of two are never compared."""
        ...

    local: bool
    """It answers here and at once: a request may wait for it."""
    keyword_weight: float
    """Share of the keyword arm when ranking beside these vectors, in [0, 1]."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit-length row per text, in order; a text with nothing to embed gets zeros.

        All rows are of the space that `space` names when this returns.

        Raises a ModelError; tries once.
        """
        ...

    def usage(self) -> dict[str, int]:
        """Tokens and calls since the start: `calls`, `failures`, `prompt_tokens`."""
        ...
