"""`GET /recall`: a question as its parameters say it, the memories it is asked of, and how each of them scores."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from starlette.datastructures import QueryParams

from tests.automem.bodies import embedding, refused, time_of
from tests.automem.record import Memory, Vector, words

WEIGHTS = {
    "vector": 0.35,
    "keyword": 0.35,
    "metadata": 0.35,
    "relation": 0.25,
    "tag": 0.2,
    "importance": 0.1,
    "confidence": 0.05,
    "recency": 0.1,
    "exact": 0.2,
}
FRESH = timedelta(days=180)
NEAR = 0.2  # texts that share no word come out below this
STEM = 5  # letters of a word that the vectors look at, so that they find what keywords do not
# They decide which memories come, so a test must not take an answer without them for one with them.
NOT_HERE = ("queries", "time_query", "expand_relations", "expand_entities", "scope_fallback", "priority_ids")
SORTS: dict[str, tuple[str, bool]] = {
    "time_desc": ("timestamp", True),
    "time_asc": ("timestamp", False),
    "updated_desc": ("updated_at", True),
    "updated_asc": ("updated_at", False),
}
SILENT = frozenset(
    words(
        "a about an and are as at be by did do does for from has have how i in is it me my of on or our she he that the"
        " their they this to was we were what when where which who why will with you your"
    )
)


def embedded(text: str, dimensions: int) -> Vector:
    """A text as the hashed beginnings of its words: texts that share words are near."""
    row = np.zeros(dimensions, np.float32)
    for word in words(text):
        digest = hashlib.blake2b(word[:STEM].encode(), digest_size=16).digest()
        for place in range(0, 16, 4):
            sign = 1 if digest[place + 3] & 1 else -1
            row[int.from_bytes(digest[place : place + 3], "big") % dimensions] += sign
    return row


def number(params: QueryParams, name: str, default: int, most: int, least: int = 1) -> int:
    """A number within its limits; the default if it is none."""
    try:
        return max(least, min(most, int(params.get(name, default))))
    except ValueError:
        return default


def listed(params: QueryParams, name: str) -> list[str]:
    """A parameter that may be repeated, or hold several values with commas between."""
    return [part.strip() for value in params.getlist(name) for part in value.split(",") if part.strip()]


@dataclass(frozen=True, kw_only=True)
class Question:
    query: str
    vector: Vector | None
    limit: int
    tags: list[str]
    tag_mode: str
    tag_match: str
    exclude_tags: list[str]
    start: datetime | None
    end: datetime | None
    sort: str
    state_mode: str
    min_score: float

    @property
    def keywords(self) -> list[str]:
        return [word for word in dict.fromkeys(words(self.query)) if word not in SILENT]

    def is_asked_of(self, memory: Memory) -> bool:
        """Whether tags and times let it in."""
        held = memory.tags if self.tag_match == "exact" else memory.tag_prefixes
        wanted = [tag.lower() in held for tag in self.tags]
        if wanted and not (all(wanted) if self.tag_mode == "all" else any(wanted)):
            return False
        if any(tag.lower() in memory.tag_prefixes for tag in self.exclude_tags):
            return False
        return (self.start is None or self.start <= memory.at) and (self.end is None or memory.at <= self.end)


def question(params: QueryParams, dimensions: int) -> Question:
    for name in NOT_HERE:
        if params.get(name, "").lower() not in ("", "0", "false", "no", "off"):
            raise refused(f"'{name}' is not in this server of the tests", 501)
    query, given = params.get("query", "").strip(), params.get("embedding", "")
    vector = np.array(embedding(given, dimensions), np.float32) if given else None
    return Question(
        query=query,
        vector=embedded(query, dimensions) if query and vector is None else vector,
        limit=number(params, "limit", 5, 100),
        tags=listed(params, "tags"),
        tag_mode="all" if params.get("tag_mode", "").lower() == "all" else "any",
        tag_match="exact" if params.get("tag_match", "").lower() == "exact" else "prefix",
        exclude_tags=listed(params, "exclude_tags"),
        start=_bound(params, "start"),
        end=_bound(params, "end"),
        sort=_sort(params),
        state_mode=_state_mode(params),
        min_score=_min_score(params),
    )


def _bound(params: QueryParams, name: str) -> datetime | None:
    value = params.get(name, "").strip()
    try:
        return time_of(value) if value else None
    except ValueError as exc:
        raise refused(f"Invalid {name} time: {exc}") from exc


def _sort(params: QueryParams) -> str:
    wanted = params.get("sort") or params.get("order_by", "")
    return wanted if wanted in SORTS else "score"


def _state_mode(params: QueryParams) -> str:
    mode = params.get("state_mode", "current")
    if mode not in ("current", "history"):
        raise refused("'state_mode' must be 'current' or 'history'")
    return mode


def _min_score(params: QueryParams) -> float:
    try:
        return float(params.get("min_score", 0))
    except ValueError:
        return 0.0


def recalled(memories: Collection[Memory], asked: Question, now: datetime) -> dict[str, Any]:
    """The whole answer but for the time it took."""
    scope = [memory for memory in memories if asked.is_asked_of(memory)]
    found = _searched(scope, asked, now) if asked.vector is not None else _trending(scope, asked, now)
    found = [hit for hit in found if hit["final_score"] >= asked.min_score]
    if asked.sort in SORTS:
        field, newest_first = SORTS[asked.sort]
        found.sort(key=lambda hit: datetime.fromisoformat(hit["memory"][field]), reverse=newest_first)
    results = found[: asked.limit]
    echoed: dict[str, Any] = {"tags": asked.tags, "exclude_tags": asked.exclude_tags}
    if asked.start or asked.end:
        bounds = {"start": asked.start, "end": asked.end}
        echoed["time_window"] = {name: at and at.isoformat() for name, at in bounds.items()}
    return {
        "status": "success",
        "query": asked.query,
        "results": results,
        "count": len(results),
        "dedup_removed": 0,
        "sort": asked.sort,
        "state_mode": asked.state_mode,
        "keywords": asked.keywords,
        "tag_mode": asked.tag_mode,
        "tag_match": asked.tag_match,
        "tag_scope": {"filtered": bool(asked.tags), "pool_size_hint": len(scope), "gated_low_evidence": 0},
        "state_filter": {
            "current_only": asked.state_mode == "current",
            "suppressed_count": 0,
            "replacement_count": 0,
        },
        "vector_search": {"enabled": True, "matched": any(hit["match_type"] == "vector" for hit in results)},
        **{name: value for name, value in echoed.items() if value},
    }


def _searched(scope: list[Memory], asked: Question, now: datetime) -> list[dict[str, Any]]:
    """What the query finds by vector, by keyword or in metadata, best first; what it does not find stays away."""
    keywords = _bm25(scope, asked.keywords)
    hits = []
    for memory in scope:
        found = {
            "vector": _nearness(memory, asked.vector, now),
            "keyword": keywords(memory),
            "metadata": _share(asked.keywords, memory.metadata_words),
        }
        way = next((way for way, value in found.items() if value), None)
        if way is not None:
            hits.append(_hit(memory, asked, now, way, found))
    return sorted(hits, key=lambda hit: (-hit["final_score"], hit["id"]))


def _trending(scope: list[Memory], asked: Question, now: datetime) -> list[dict[str, Any]]:
    return [_hit(memory, asked, now, "trending", {}) for memory in sorted(scope, key=lambda memory: memory.rank)]


def _hit(memory: Memory, asked: Question, now: datetime, way: str, found: dict[str, float]) -> dict[str, Any]:
    components = {
        **dict.fromkeys(WEIGHTS, 0.0),
        **found,
        "tag": _share(asked.keywords, memory.tags),
        "importance": memory.fields["importance"],
        "confidence": memory.fields["confidence"],
        "recency": min(1.0, max(0.0, 1 - (now - memory.at) / FRESH)),
        "exact": float(bool(asked.query) and asked.query.lower() == memory.fields["content"].lower()),
    }
    score = round(sum(weight * components[name] for name, weight in WEIGHTS.items()), 4)
    match_score = round(found.get(way, components["importance"]), 4)
    by_vector = way == "vector"
    return {
        "id": memory.id,
        "score": score,
        "final_score": score,
        "original_score": match_score,
        "match_score": match_score,
        "match_type": way,
        "source": "qdrant" if by_vector else "graph",
        "relations": [],
        "_query": asked.query,
        "score_components": {
            **{name: round(value, 4) for name, value in components.items()},
            "relevance": 0.0,
            "context": 0.0,
            "evidence": 1.0 if asked.query else 0.0,
            "relevance_gated": False,
        },
        # as in the real one, whose vector index does not keep the id among a memory's fields
        "memory": memory.enriched if by_vector else memory.node,
    }


def _nearness(memory: Memory, vector: Vector | None, now: datetime) -> float:
    """Cosine in [0, 1]; 0 for what is not near, and while the memory's vector is still to come."""
    if vector is None or memory.vector_at > now.timestamp():
        return 0.0
    lengths = float(np.linalg.norm(vector) * np.linalg.norm(memory.vector))
    cosine = float(vector @ memory.vector) / lengths if lengths else 0.0
    return min(1.0, cosine) if cosine >= NEAR else 0.0


def _bm25(scope: Collection[Memory], keywords: list[str]) -> Callable[[Memory], float]:
    """BM25 over the scope, so that the best of it has 1."""
    average = sum(memory.words.total() for memory in scope) / len(scope) if scope else 0.0
    counts = {word: sum(word in memory.words for memory in scope) for word in keywords}
    rarity = {word: math.log(1 + (len(scope) - count + 0.5) / (count + 0.5)) for word, count in counts.items()}

    def score(memory: Memory) -> float:
        length = 0.25 + 0.75 * memory.words.total() / average if average else 1.0
        seen = ((word, memory.words[word]) for word in keywords)
        return sum(rarity[word] * count * 2.2 / (count + 1.2 * length) for word, count in seen)

    best = max(map(score, scope), default=0.0) or 1.0
    return lambda memory: score(memory) / best


def _share(keywords: list[str], held: Iterable[str]) -> float:
    there = set(held)
    return sum(word in there for word in keywords) / len(keywords) if keywords else 0.0
