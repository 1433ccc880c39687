"""A database of PostgreSQL, looked at around the store: by a connection of the test's own."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from memory_service.settings import Settings


def settings_for(url: str, **changes: Any) -> Settings:
    return Settings(_env_file=None, store_url=url, **changes)


TABLES = (
    "owners",
    "sessions",
    "turns",
    "sittings",
    "memories",
    "vectors",
    "requests",
    "mirrors",
    "api_keys",
    "search_entries",
)


def execute(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(sql.encode())


def rows(url: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as db:
        return db.execute(sql.encode(), values).fetchall()


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables; of users of whom nothing is kept, none."""
    made = [table for table in TABLES[1:] if rows(url, "SELECT to_regclass(%s)", table) != [(None,)]]
    found = {table: sorted(rows(url, f"SELECT * FROM {table}"), key=repr) for table in made}
    return {table: held for table, held in found.items() if held}


def contents(url: str) -> list[str]:
    """What was said, message by message in the order of writing."""
    found = rows(url, "SELECT body FROM turns ORDER BY id")
    return [message["content"] for (body,) in found for message in json.loads(body)["messages"]]
