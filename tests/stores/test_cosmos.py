"""The store in Cosmos DB: the whole contract over the real SDK, and what is its own.

The server is the one of the tests (tests/cosmos/README.md); nothing here was compared with real Azure.
"""

from __future__ import annotations

from typing import Any

import pytest

from memory_service.settings import Settings
from tests.cosmos.launcher import CosmosServer
from tests.stores.contract import DurableStoreContract
from tests.stores.cosmos_account import contents, everything, settings_for


class TestCosmosStore(DurableStoreContract):
    @pytest.fixture
    def record(self, cosmos_server: CosmosServer) -> Settings:
        self.server = cosmos_server
        return settings_for(cosmos_server)

    def everything(self, store: Any) -> Any:
        return everything(self.server)

    def contents(self, store: Any) -> list[str]:
        return contents(self.server)
