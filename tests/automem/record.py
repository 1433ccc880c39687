"""What the server holds: memories and associations in one SQLite file, and all of it in the process to look through."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
SCHEMA = """
CREATE TABLE IF NOT EXISTS memories (id TEXT PRIMARY KEY, fields TEXT, vector BLOB, vector_at REAL);
CREATE TABLE IF NOT EXISTS links (
    first TEXT, second TEXT, type TEXT, properties TEXT, PRIMARY KEY (first, second, type)
);
"""
SUMMARY_LENGTH = 240


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@dataclass(frozen=True)
class Memory:
    """Its fields as they were written, and its vector, which a search finds from `vector_at` (seconds) on."""

    id: str
    fields: dict[str, Any]
    vector: Vector
    vector_at: float

    @cached_property
    def words(self) -> Counter[str]:
        return Counter(words(self.fields["content"]))

    @cached_property
    def metadata_words(self) -> set[str]:
        return set(words(json.dumps(self.fields["metadata"], ensure_ascii=False)))

    @cached_property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.fields["timestamp"])

    @cached_property
    def tags(self) -> frozenset[str]:
        return frozenset(tag.lower() for tag in self.fields["tags"])

    @cached_property
    def tag_prefixes(self) -> frozenset[str]:
        """Every beginning of a tag that ends before ":" or "/", and the tag."""
        ends = ((tag, end.start()) for tag in self.tags for end in re.finditer(r"[:/]|$", tag))
        return frozenset(tag[:end] for tag, end in ends) - {""}

    @property
    def rank(self) -> tuple[float, float, str]:
        """Sorts by importance, then newest first."""
        return -self.fields["importance"], -self.at.timestamp(), self.id

    @property
    def enriched(self) -> dict[str, Any]:
        """The fields with what the server adds of its own, also to metadata."""
        return {
            **self.fields,
            "metadata": {**self.fields["metadata"], "entities": {}, "enrichment": {}},
            "tag_prefixes": sorted(self.tag_prefixes),
            "summary": self.fields["content"][:SUMMARY_LENGTH],
            "relevance_score": None,
        }

    @property
    def node(self) -> dict[str, Any]:
        return {"id": self.id, **self.enriched}


@dataclass(frozen=True)
class Link:
    first: str
    second: str
    type: str
    properties: dict[str, Any]


class Record:
    """What a verb changed is in the file when the verb returns, whole or not at all, and outlives the process.

    Nothing is synced: this says nothing about a power cut.
    """

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file)
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; {SCHEMA}")
        self.memories = {
            id: Memory(id, json.loads(fields), np.frombuffer(vector, np.float32), vector_at)
            for id, fields, vector, vector_at in self._db.execute("SELECT * FROM memories")
        }
        self.links = {
            (first, second, type): Link(first, second, type, json.loads(properties))
            for first, second, type, properties in self._db.execute("SELECT * FROM links")
        }

    def keep(self, *memories: Memory) -> None:
        """Store them, instead of those with the same ids."""
        rows = [(m.id, json.dumps(m.fields), m.vector.tobytes(), m.vector_at) for m in memories]
        with self._db:
            self._db.executemany("REPLACE INTO memories VALUES (?, ?, ?, ?)", rows)
        self.memories |= {memory.id: memory for memory in memories}

    def link(self, *links: Link) -> None:
        with self._db:
            rows = [(link.first, link.second, link.type, json.dumps(link.properties)) for link in links]
            self._db.executemany("REPLACE INTO links VALUES (?, ?, ?, ?)", rows)
        self.links |= {(link.first, link.second, link.type): link for link in links}

    def drop(self, ids: Iterable[str]) -> None:
        """Delete these memories and what associates them."""
        gone = set(ids)
        links = [key for key in self.links if gone & set(key[:2])]
        with self._db:
            self._db.executemany("DELETE FROM memories WHERE id = ?", [(id,) for id in gone])
            self._db.executemany("DELETE FROM links WHERE first = ? AND second = ? AND type = ?", links)
        for id in gone:
            del self.memories[id]
        for key in links:
            del self.links[key]

    def tagged(self, tags: list[str]) -> list[Memory]:
        """Those with any of these tags, best first."""
        wanted = {tag.lower() for tag in tags}
        return sorted((m for m in self.memories.values() if wanted & m.tags), key=lambda m: m.rank)

    def around(self, id: str, types: list[str], depth: int) -> Iterator[Memory]:
        """Those associated with a memory in at most so many steps, in either direction, nearest first."""
        seen, edge = {id}, [id]
        for _ in range(depth):
            links = [link for link in self.links.values() if link.type in types]
            links.sort(key=lambda link: -link.properties["strength"])
            pairs = [*((k.first, k.second) for k in links), *((k.second, k.first) for k in links)]
            edge = list(dict.fromkeys(second for first, second in pairs if first in edge and second not in seen))
            seen |= set(edge)
            yield from (self.memories[found] for found in edge)
