"""The question that narrows a user's memory by PostgreSQL's own entries of words and directions: one statement.

Words are weighed by how rare they are among what the user has, as BM25 does, with each counted once an item; directions
are compared one by one. Both are exact, and of this user alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

from memory_service.stores import indexing
from memory_service.stores.base import Entries, Sought
from memory_service.stores.bodies import memory_of, turn_of
from memory_service.stores.indexing import direction_of, terms_of
from memory_service.stores.postgres.client import Client
from memory_service.values import Scope, Vector

AT_ONCE = 4
"""Questions under way from one process. One to a large memory takes a core of the database for tenths of a second, and
who waits for a connection meanwhile may have a turn to store."""

MINE = "mine AS MATERIALIZED (SELECT id, written FROM owners WHERE tenant_id = %(tenant)s AND user_id = %(user)s)"
ME = "(SELECT id FROM mine)"
# Whose they are is asked first (OFFSET 0 holds the planner to it): nobody else's words are so much as read.
ENTRIES = f"(SELECT * FROM search_entries WHERE owner = {ME} OFFSET 0) AS entry"
WANTED = "kind = ANY(%(kinds)s) AND (%(with_extracts)s OR NOT extract)"

# 1.3 and 0.9 are BM25's K1 = 1.2 and B = 0.75, for what an item holds once. `strip` only unpacks the words, which are
# kept packed: else they would be unpacked for each term anew, which for long texts takes nearly all the time.
BY_WORDS = f"""
terms AS MATERIALIZED (
    SELECT n, term::tsquery AS term FROM unnest(%(terms)s::text[]) WITH ORDINALITY AS asked(term, n)
),
holding AS MATERIALIZED (
    SELECT item_id, kind = 'message' AS said, long, ARRAY(SELECT n FROM terms WHERE words @@ term) AS held FROM (
        SELECT item_id, kind, strip(words) AS words, length(words)::float AS long FROM {ENTRIES}
        WHERE {WANTED} AND words @@ %(any_term)s::tsquery OFFSET 0
    ) AS unpacked
),
rareness AS MATERIALIZED (
    SELECT said, n, ln(1 + (SELECT written FROM mine)::float / count(*)) AS rare
    FROM holding CROSS JOIN unnest(held) AS n GROUP BY said, n
),
by_words AS (
    SELECT item_id FROM (
        SELECT item_id, row_number() OVER (PARTITION BY said
            ORDER BY sum(rare) / (1.3 + 0.9 * long / (SELECT avg(long) FROM holding)) DESC, item_id) AS place
        FROM holding CROSS JOIN unnest(held) AS n JOIN rareness USING (said, n) GROUP BY item_id, said, long
    ) AS ranked WHERE place <= %(limit)s
)"""
NEAREST = f"""
    (SELECT item_id FROM {ENTRIES}
     WHERE {WANTED} AND kind {{kind}} 'message' AND space = %(space)s AND direction IS NOT NULL
     ORDER BY direction <#> %(direction)s::halfvec, item_id LIMIT %(limit)s)"""
BY_DIRECTION = f"""
by_direction AS ({NEAREST.format(kind="=")} UNION ALL {NEAREST.format(kind="<>")})"""
# What answers a question often stands beside what has its words: a vector would find it.
BESIDE = f"""
beside AS (
    SELECT sessions.session_id || '#' || beside.seq AS item_id FROM by_words
    JOIN search_entries AS entry ON entry.owner = {ME} AND entry.item_id = by_words.item_id AND entry.kind = 'message'
    JOIN turns AS found ON found.id = entry.revision
    JOIN turns AS beside ON beside.session = found.session AND beside.seq IN (found.seq - 1, found.seq + 1)
    JOIN sessions ON sessions.id = beside.session
)"""
FOUND = f"""
found AS MATERIALIZED (
    SELECT item_id, revision, kind,
        (SELECT data FROM vectors WHERE vectors.owner = {ME} AND vectors.item_id = entry.item_id AND space = %(space)s)
    FROM search_entries AS entry WHERE owner = {ME} AND item_id IN ({{arms}})
)
SELECT kind, item_id, body, data FROM found JOIN turns ON turns.id = revision WHERE kind = 'message'
UNION ALL
SELECT found.kind, item_id, body, data FROM found JOIN memories ON memories.id = revision WHERE found.kind <> 'message'
"""
IS_LARGE = """
SELECT indexed = written AND (
    SELECT count(*) FROM (SELECT FROM turns WHERE owner = owners.id LIMIT %s) AS first_ones
) > %s FROM owners WHERE tenant_id = %s AND user_id = %s
"""
IS_INDEXED = "SELECT indexed = written FROM owners WHERE tenant_id = %s AND user_id = %s"


class Search:
    """Narrows one user's memory."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lines = asyncio.Semaphore(AT_ONCE)

    async def narrows(self, scope: Scope, small: bool) -> bool:
        """Whether all of a user's memory has entries; `small`: also of those that are as well read whole."""
        names = (scope.tenant_id, scope.user_id)
        if small:
            rows = await self._client.rows("narrows", IS_INDEXED, names)
        else:
            rows = await self._client.rows(
                "narrows", IS_LARGE, (indexing.READ_WHOLE_TURNS + 1, indexing.READ_WHOLE_TURNS, *names)
            )
        return bool(rows and rows[0][0])

    async def candidates(self, scope: Scope, sought: Sought, limit: int) -> Entries:
        """The best turns and the best memories, by words and by direction.

        Without a vector also the turns beside those found: it is what answers them that a vector finds, and words do
        not. docs/explanation/recall.md has the figures.
        """
        values: dict[str, Any] = {"tenant": scope.tenant_id, "user": scope.user_id, "limit": limit}
        values |= {"kinds": list(sought.kinds), "with_extracts": sought.with_extracts, "space": sought.space}
        parts, arms = [MINE], []
        if terms := terms_of(sought.stems):
            values |= {"terms": terms, "any_term": " | ".join(terms)}
            parts.append(BY_WORDS)
            arms.append("by_words")
        if terms and sought.vector is None and "message" in sought.kinds:
            parts.append(BESIDE)
            arms.append("beside")
        direction = None if sought.vector is None else direction_of(sought.vector.reshape(1, -1))
        if direction:
            values["direction"] = str(direction)
            parts.append(BY_DIRECTION)
            arms.append("by_direction")
        if not arms:
            return _entries([], sought.space)
        found = FOUND.format(arms=" UNION ".join(f"SELECT item_id FROM {arm}" for arm in arms))
        async with self._lines:
            rows = await self._client.rows("candidates", f"WITH {', '.join([*parts, found])}", values)
        return _entries(rows, sought.space)


def _entries(rows: list[tuple[Any, ...]], space: str) -> Entries:
    turns = [turn_of(body) for kind, _, body, _ in rows if kind == "message"]
    return Entries(
        turns=sorted(turns, key=lambda turn: (turn.session_id, turn.seq)),
        memories=[memory_of(body) for kind, _, body, _ in rows if kind != "message"],
        vectors=[
            Vector(item_id=item_id, token=0, space=space, data=data) for _, item_id, _, data in rows if data is not None
        ],
        cursor=None,
        more=False,
    )
