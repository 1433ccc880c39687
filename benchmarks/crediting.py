"""How an answer to a question is judged: by what the returned texts hold, never by ids the service reports."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import msgspec

SHARE = 0.8
SHORT = 4
"""Evidence of fewer words would be found in anything: it counts only where the whole text is the same."""
WORD_BUDGET = 300
DEPTHS = (5, 10, 20)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class Evidence:
    """A turn that answers a question."""

    def __init__(self, text: str) -> None:
        self._words = words(text)
        self._needed = Counter(self._words)

    def is_in(self, text: str) -> bool:
        """Tell whether a text holds at least 80 % of the words, each as often as here."""
        held = words(text)
        if len(self._words) < SHORT:
            return held == self._words
        counted = Counter(held)
        found = sum(min(counted[word], often) for word, often in self._needed.items())
        return found >= SHARE * len(self._words)


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """All in [0, 1]. `recall_300w`: within the first 300 words returned, whole items only."""

    recall_5: float
    recall_10: float
    recall_20: float
    recall_300w: float
    ndcg_10: float
    mrr: float


METRICS = Score.__struct_fields__


def score(evidence: Sequence[Evidence], returned: Sequence[str]) -> Score:
    """Judge what was returned, best first, for one question."""
    earned = _earned(evidence, returned)
    recalls = {depth: len(set().union(*earned[:depth])) / len(evidence) for depth in DEPTHS}
    gains = [bool(new) for new in earned]
    first = next((rank for rank, gain in enumerate(gains, 1) if gain), None)
    return Score(
        recall_5=recalls[5],
        recall_10=recalls[10],
        recall_20=recalls[20],
        recall_300w=len(set().union(*earned[: _within(returned)])) / len(evidence),
        ndcg_10=_ndcg(gains, len(evidence), 10),
        mrr=1 / first if first else 0.0,
    )


def _earned(evidence: Sequence[Evidence], returned: Sequence[str]) -> list[set[int]]:
    """For each returned text, the evidence it is the first to hold."""
    earned: list[set[int]] = []
    left = set(range(len(evidence)))
    for text in returned:
        earned.append({i for i in left if evidence[i].is_in(text)})
        left -= earned[-1]
    return earned


def _within(returned: Sequence[str]) -> int:
    """How many of the first items fit the word budget together."""
    spent = 0
    for count, text in enumerate(returned):
        spent += len(text.split())
        if spent > WORD_BUDGET:
            return count
    return len(returned)


def _ndcg(gains: Sequence[bool], wanted: int, depth: int) -> float:
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(wanted, depth) + 1))
    return sum(1 / math.log2(rank + 1) for rank, gain in enumerate(gains[:depth], 1) if gain) / ideal
