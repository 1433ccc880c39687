"""One client of the SDK, how it is made and signed in, and when it is closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

from azure.cosmos.aio import CosmosClient

from memory_service.errors import UnsafeStart
from memory_service.stores.cosmos.transport import PiecewiseTransport

TOO_WEAK = ("Eventual", "ConsistentPrefix")

Told = Callable[[Any], None]
"""Is told of each answer there is, also of those the SDK does not pass on."""
SignIn = Callable[[], Any]
"""Makes what gives tokens (an AsyncTokenCredential); it is closed with the connection."""


def with_entra_id() -> Any:
    """Sign in as what the process runs as: a managed identity, a workload, the environment's, or the developer."""
    from azure.identity.aio import DefaultAzureCredential

    return DefaultAzureCredential()


async def require_sound(cosmos: CosmosClient) -> None:
    """Raises UnsafeStart if the account does not keep what our commits rest on: conditions, and reading one's own."""
    account = await cosmos.client_connection.GetDatabaseAccount()
    if len(account.WritableLocations) > 1:
        raise UnsafeStart(
            "the Cosmos DB account takes writes in several regions: two of them could take the same turn; let it be one"
        )
    level = (account.ConsistencyPolicy or {}).get("defaultConsistencyLevel", "Session")
    if level in TOO_WEAK:
        raise UnsafeStart(f"the Cosmos DB account has consistency {level}: it must be Session or stronger")


class Connection:
    """Is closed when it is given up and the last call over it has ended, not under the feet of the others."""

    def __init__(self, cosmos: CosmosClient, stack: AsyncExitStack) -> None:
        self._cosmos, self._stack = cosmos, stack
        self._users = 0
        self._given_up = False

    @classmethod
    async def open(cls, endpoint: str, key: str, sign_in: SignIn, *, read_timeout_s: float, told: Told) -> Self:
        """Sign in and read where the account is: both are done anew. Without a key it is `sign_in` that does."""
        async with AsyncExitStack() as stack:
            credential = key or await stack.enter_async_context(sign_in())
            client = CosmosClient(
                endpoint,
                credential,
                retry_total=0,
                retry_read=0,
                retry_connect=0,
                retry_throttle_total=1,  # 0 would be taken for "not given"
                retry_fixed_interval=10,  # ms; else it waits in there as long as the service wishes, whatever we want
                connection_timeout=2,
                read_timeout=read_timeout_s,
                no_response_on_write=True,
                enable_compact_utf8_item_writes=True,
                raw_response_hook=told,
                transport=PiecewiseTransport(),
            )
            stack.push_async_exit(client)  # before it is entered: it must be closed even if that fails
            return cls(await client.__aenter__(), stack.pop_all())

    @asynccontextmanager
    async def used(self) -> AsyncIterator[CosmosClient]:
        self._users += 1
        try:
            yield self._cosmos
        finally:
            self._users -= 1
            await self._close_unused()

    async def give_up(self) -> None:
        self._given_up = True
        await self._close_unused()

    async def close(self) -> None:
        await self._stack.aclose()

    async def _close_unused(self) -> None:
        if self._given_up and not self._users:
            await self.close()
