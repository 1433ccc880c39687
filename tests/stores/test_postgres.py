"""The store in PostgreSQL: the whole contract on a real server, and what is its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stores.contract import DurableStoreContract
from tests.stores.postgres_database import contents, everything


class TestPostgresStore(DurableStoreContract):
    @pytest.fixture
    def record(self, postgres_url: str) -> str:
        self.url = postgres_url
        return postgres_url

    def everything(self, store: Any) -> Any:
        return everything(self.url)

    def contents(self, store: Any) -> list[str]:
        return contents(self.url)
