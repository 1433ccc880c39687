"""No model at all: extracts instead of summaries, quoted facts, and embeddings from weights that ship in a package.

No key, no network, no account.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_service import extract
from memory_service.errors import ModelUnavailable
from memory_service.llm.base import Excerpt, Finding, Findings
from memory_service.values import EXTRACTIVE, Turn

if TYPE_CHECKING:  # it takes a while to import
    import numpy as np
    from numpy.typing import NDArray
else:
    from memory_service.late import np

MOST_FACTS = 12
"""Facts kept of one excerpt: the most important, then the latest."""
NOTHING_SAID = "(no words)"
LITTLE = 1500
"""So many characters are embedded in half a millisecond: sooner than a thread is given the work, and takes its turn."""


class OfflineReader:
    name = EXTRACTIVE
    prompt_version = "rules-2"

    def __init__(self) -> None:
        self._calls = 0

    async def reflect(self, excerpt: Excerpt) -> Findings:
        self._calls += 1
        return await asyncio.to_thread(self._reflect, excerpt)  # long messages take long: not on the event loop

    def _reflect(self, excerpt: Excerpt) -> Findings:
        spoken = extract.said(excerpt.turns)
        facts = _latest(extract.facts(excerpt.turns))
        kept = sorted(facts, key=lambda fact: (fact.importance, fact.sentence.seq), reverse=True)[:MOST_FACTS]
        slots = [_slot(known.text) for known in excerpt.known]
        return Findings(
            summary=extract.extract(excerpt.earlier_summary, spoken) or NOTHING_SAID,
            topics=extract.topics(spoken),
            insights=tuple(
                Finding(
                    text=extract.quoted(fact),
                    turns=(fact.sentence.seq,),
                    category=fact.category,
                    confidence=0.6,
                    importance=fact.importance,
                    replaces=slots.index(slot) + 1 if slot and slot in slots else None,
                    field=fact.field,
                    value=fact.value,
                )
                for fact in sorted(kept, key=lambda fact: fact.sentence.seq)
                for slot in [_slot(extract.quoted(fact))]
            ),
        )

    async def compact(self, earlier_summary: str, turns: Sequence[Turn]) -> str:
        self._calls += 1
        return await asyncio.to_thread(lambda: extract.extract(earlier_summary, extract.said(turns)) or NOTHING_SAID)

    def usage(self) -> dict[str, int]:
        return {"calls": self._calls, "failures": 0, "prompt_tokens": 0, "completion_tokens": 0}


def _latest(facts: list[extract.Fact]) -> list[extract.Fact]:
    """Leave out what the same speaker said otherwise later in the stretch."""
    return list({_slot(extract.quoted(fact)) or fact: fact for fact in facts}.values())


def _slot(quoted: str) -> tuple[str, str] | None:
    """Whose value of what a quoted statement gives, or None: what Ben says replaces nothing that Ana said."""
    speaker, colon, text = quoted.partition(": ")
    slot = extract.slot_of(text if colon else quoted)  # one that its user has put in other words may name nobody
    return (speaker if colon else extract.THE_USER, slot) if slot else None


class LocalEmbedder:
    """Mean of word-piece vectors: 30,000 short texts a second on one core. The weights are read at first use."""

    space = "local:wordllama-l2-256"
    local = True
    keyword_weight = 0.7

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._model: tuple[NDArray[np.float32], Any] | None = None
        self._calls = 0

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self._calls += 1
        if self._model is not None and sum(map(len, texts)) <= LITTLE:
            return self.vectors_of(texts)
        return await asyncio.to_thread(self.vectors_of, texts)

    def usage(self) -> dict[str, int]:
        return {"calls": self._calls, "failures": 0, "prompt_tokens": 0}

    def vectors_of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        weights, tokenizer = self._loaded()
        rows = np.zeros((len(texts), weights.shape[1]), np.float32)
        for row, encoded in zip(rows, tokenizer.encode_batch_fast(list(texts), add_special_tokens=False), strict=True):
            if encoded.ids:
                np.add.reduce(weights.take(encoded.ids, axis=0), axis=0, out=row)  # the mean, but for its length
        lengths: NDArray[np.float32] = np.linalg.norm(rows, axis=1, keepdims=True)
        rows /= np.maximum(lengths, np.float32(1e-12))
        return rows

    def _loaded(self) -> tuple[NDArray[np.float32], Any]:
        with self._loading:
            if self._model is None:
                self._model = _load()
            return self._model


@cache  # services in one process share the weights
def _load() -> tuple[NDArray[np.float32], Any]:
    # Straight from the package's files: its own loader looks for the tokenizer in a folder that is not there.
    try:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer
    except (ImportError, OSError) as exc:
        raise ModelUnavailable("the local embedder is not installed (package wordllama)") from exc
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailable("the local embedder is not installed (package wordllama)")
    folder = Path(spec.submodule_search_locations[0])
    weights = load_file(folder / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return weights.astype(np.float32), tokenizer
