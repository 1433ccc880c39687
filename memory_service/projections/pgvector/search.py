"""The question that narrows a user's copies, by words and by meaning: one statement.

Words are weighed by how rare they are among what the user has, as BM25 does, with each counted once an item; vectors
are compared one by one. Both are exact, and of this user alone.
"""

from __future__ import annotations

from typing import Any

from memory_service.projections.pgvector.rows import numbers_of
from memory_service.stores.base import Sought
from memory_service.stores.indexing import terms_of
from memory_service.values import Scope

# Whose they are is asked first (OFFSET 0 holds the planner to it): nobody else's words are so much as read.
MINE = "(SELECT * FROM memory_copies WHERE tenant_id = %(tenant)s AND user_id = %(user)s OFFSET 0) AS mine"
WANTED = """
kind = ANY(%(kinds)s) AND (%(with_extracts)s OR NOT is_extract)
    AND (%(session)s::text IS NULL OR session_id = %(session)s)
    AND (%(category)s::text IS NULL OR category = %(category)s) AND NOT tags && %(without_tags)s::text[]"""

# 1.3 and 0.9 are BM25's K1 = 1.2 and B = 0.75, for what an item holds once. `strip` only unpacks the words, which are
# kept packed: else they would be unpacked for each term anew, which for long texts takes nearly all the time.
BY_WORDS = f"""
terms AS MATERIALIZED (
    SELECT n, term::tsquery AS term FROM unnest(%(terms)s::text[]) WITH ORDINALITY AS asked(term, n)
),
holding AS MATERIALIZED (
    SELECT item_id, long, ARRAY(SELECT n FROM terms WHERE words @@ term) AS held FROM (
        SELECT item_id, strip(words) AS words, length(words)::float AS long FROM {MINE}
        WHERE {WANTED} AND words @@ %(any_term)s::tsquery OFFSET 0
    ) AS unpacked
),
rareness AS MATERIALIZED (
    SELECT n, ln(1 + (
        SELECT count(*) FROM memory_copies WHERE tenant_id = %(tenant)s AND user_id = %(user)s
    )::float / count(*)) AS rare FROM holding CROSS JOIN unnest(held) AS n GROUP BY n
),
by_words AS (
    SELECT item_id FROM holding CROSS JOIN unnest(held) AS n JOIN rareness USING (n) GROUP BY item_id, long
    ORDER BY sum(rare) / (1.3 + 0.9 * long / (SELECT avg(long) FROM holding)) DESC, item_id LIMIT %(limit)s
)"""
# Two models' vectors in one space cannot be compared, and must not fail all others.
BY_MEANING = f"""
by_meaning AS (
    SELECT item_id FROM (
        SELECT item_id, embedding FROM {MINE}
        WHERE {WANTED} AND space = %(space)s AND vector_dims(embedding) = %(dimensions)s OFFSET 0
    ) AS comparable ORDER BY embedding <=> %(embedding)s::vector, item_id LIMIT %(limit)s
)"""


def question(scope: Scope, sought: Sought, limit: int) -> tuple[str, dict[str, Any]] | None:
    """The statement, and its values; None if there is nothing to ask by.

    It gives rows of the tables' generation and an id, and one without an id if nothing was found.
    """
    lists: dict[str, str] = {}
    values: dict[str, Any] = {"tenant": scope.tenant_id, "user": scope.user_id, "limit": limit}
    if terms := terms_of(sought.stems):
        lists["by_words"] = BY_WORDS
        values |= {"terms": terms, "any_term": " | ".join(terms)}
    if embedding := numbers_of(sought.vector):
        lists["by_meaning"] = BY_MEANING
        values |= {"space": sought.space, "dimensions": len(embedding), "embedding": str(embedding)}
    if not lists:
        return None
    only = sought.only
    values |= {"kinds": list(sought.kinds), "with_extracts": sought.with_extracts}
    values |= {"session": only.session_id, "category": only.category, "without_tags": sorted(only.without_tags)}
    arms = " UNION ".join(f"SELECT item_id FROM {name}" for name in lists)
    told = "SELECT generation, item_id FROM memory_copies_made LEFT JOIN found ON true"
    return f"WITH {', '.join([*lists.values(), f'found AS ({arms})'])} {told}", values
