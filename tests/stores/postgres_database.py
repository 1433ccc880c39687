"""A database of PostgreSQL, looked at around the store: by a connection of the test's own."""

from __future__ import annotations

import json
from typing import Any

import psycopg

TABLES = ("owners", "sessions", "turns", "sittings", "memories", "vectors", "requests")


def rows(url: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as db:
        return db.execute(sql.encode(), values).fetchall()


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables; of users of whom nothing is kept, none."""
    found = {table: sorted(rows(url, f"SELECT * FROM {table}"), key=repr) for table in TABLES[1:]}
    return {table: held for table, held in found.items() if held}


def contents(url: str) -> list[str]:
    """What was said, message by message in the order of writing."""
    found = rows(url, "SELECT body FROM turns ORDER BY id")
    return [message["content"] for (body,) in found for message in json.loads(body)["messages"]]
