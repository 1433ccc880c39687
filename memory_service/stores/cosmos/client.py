"""One account of Cosmos DB: calls with a time limit, tried again where that makes sense, and counted.

The SDK keeps none of its own time limits, and sends a write again whose answer was lost (a patch is then done twice):
its own retries are turned off as far as they can be, and are done here.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from azure.core.exceptions import AzureError
from azure.cosmos.aio import ContainerProxy, CosmosClient, DatabaseProxy
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError, CosmosResourceExistsError

from memory_service.errors import ContentTooLarge, StoreThrottled, StoreUnavailable, UnsafeStart
from memory_service.stores.cosmos.documents import Document
from memory_service.stores.cosmos.transport import PiecewiseTransport

logger = logging.getLogger(__name__)

T = TypeVar("T")

CALL_S = 4.0
"""For one answer, with the one retry of the SDK that cannot be turned off."""
VERB_S = 12.0
"""For a call and all its retries; after that no further one is begun."""
START_S = 20.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
MOST_BYTES = 2_000_000
"""Of one item and of one batch, as Cosmos DB has it, with a little left for what is around them."""
PAGE_ITEMS = 1000

NOT_FOUND, CONFLICT, OVERTAKEN = 404, 409, 412
TOO_LARGE, THROTTLED, RETRY_WITH = 413, 429, 449
PASSING = (408, 410, RETRY_WITH, 500, 502, 503, 504)
TOKEN_EXPIRED = (403, 5300)
CONTAINER_GONE = (404, 1003)

_verb: ContextVar[str] = ContextVar("verb", default="start")


class Refused(Exception):
    """The service said no. `index`: which operation of a batch it was."""

    def __init__(self, status: int, index: int = 0) -> None:
        super().__init__(f"status {status}")
        self.status, self.index = status, index


class Client:
    """The SDK's client, made anew when its sign-in has run out."""

    def __init__(self, endpoint: str, key: str, database: str) -> None:
        self._endpoint, self._key, self._database = endpoint, key, database
        self._stack = AsyncExitStack()
        self._renewing = asyncio.Lock()
        self._closing = False
        self.requests: Counter[str] = Counter()
        self.charges: defaultdict[str, float] = defaultdict(float)
        self.throttled = 0

    async def start(self, stack: AsyncExitStack, prepare: Callable[[DatabaseProxy], Awaitable[None]]) -> None:
        """Sign in, make the database if it is not there, and prepare it. Raises UnsafeStart."""
        stack.push_async_callback(self._close)
        try:
            async with asyncio.timeout(START_S):
                self._cosmos = await self._opened()
                with suppress(CosmosResourceExistsError):  # another process that starts may be first
                    await self._cosmos.create_database_if_not_exists(self._database)
                await prepare(self._cosmos.get_database_client(self._database))
        except (AzureError, TimeoutError, OSError, ValueError) as exc:
            what = "COSMOS_KEY" if isinstance(exc, binascii.Error) else "COSMOS_ENDPOINT"
            raise UnsafeStart(f"{what}: Cosmos DB could not be opened: {_reason(exc)}") from exc
        except ImportError as exc:
            raise UnsafeStart(f"{exc.name} is missing: pip install 'agent-memory-service[azure]'") from exc

    async def _opened(self) -> CosmosClient:
        credential: Any = self._key
        if not self._key:
            from azure.identity.aio import DefaultAzureCredential

            credential = await self._stack.enter_async_context(DefaultAzureCredential())
        client = CosmosClient(
            self._endpoint,
            credential,
            retry_total=0,
            retry_read=0,
            retry_connect=0,
            retry_throttle_total=1,  # 0 would be taken for "not given"
            retry_fixed_interval=10,  # ms; else it waits in there for as long as the service wishes, whatever we want
            connection_timeout=2,
            read_timeout=CALL_S,
            no_response_on_write=True,
            enable_compact_utf8_item_writes=True,
            raw_response_hook=self._count,
            transport=PiecewiseTransport(),
        )
        self._stack.push_async_exit(client)  # before it is entered: it must be closed even if that fails
        return await client.__aenter__()

    async def _close(self) -> None:
        self._closing = True
        await self._stack.aclose()

    async def _renew(self, former: CosmosClient) -> None:
        async with self._renewing:
            if self._cosmos is former:  # otherwise somebody did it while we waited
                logger.warning("signing in to Cosmos DB anew")
                async with asyncio.timeout(CALL_S):
                    self._cosmos = await self._opened()

    def _count(self, response: Any) -> None:
        """Is told of each answer there is, also of those the SDK does not pass on."""
        verb = _verb.get()
        self.requests[verb] += 1
        self.charges[verb] += float(response.http_response.headers.get("x-ms-request-charge", 0))
        self.throttled += response.http_response.status_code == THROTTLED

    def usage(self) -> dict[str, int]:
        return {
            "throttled": self.throttled,
            **{f"requests_of_{verb}": count for verb, count in self.requests.items()},
            **{f"request_units_of_{verb}": round(charge) for verb, charge in self.charges.items()},
        }

    # Calls

    async def call(
        self, verb: str, container: str, work: Callable[[ContainerProxy], Awaitable[T]], *, paged: bool = False
    ) -> T:
        """Do one thing with a container; what failed in passing is done again, so it must bear that.

        With `paged` the time limit is left to the work, page by page.

        Raises Refused (404, 409, 412 and other statuses that will not pass), StoreThrottled, ContentTooLarge,
        StoreUnavailable; after the last the outcome of a write is unknown.
        """
        _verb.set(verb)
        loop = asyncio.get_running_loop()
        until, renewed, attempt = loop.time() + VERB_S, False, 0
        while True:
            if self._closing:
                raise StoreUnavailable("the store is closing")
            cosmos = self._cosmos
            try:
                async with asyncio.timeout(None if paged else CALL_S):
                    return await work(cosmos.get_database_client(self._database).get_container_client(container))
            except (AzureError, TimeoutError, OSError) as exc:
                pause_s, signed_out = _pause(exc, attempt), _statuses(exc) == TOKEN_EXPIRED
                if pause_s is None and (renewed or not signed_out):
                    raise _refusal(exc) from exc
                if loop.time() + (pause_s or 0) > until:
                    raise _given_up(exc, pause_s) from exc
                logger.info("asking Cosmos DB again", extra={"verb": verb, "reason": _reason(exc)})
            if signed_out:
                await self._renew(cosmos)
                renewed = True
            await asyncio.sleep(pause_s or 0)
            attempt += 1

    async def find(self, verb: str, container: str, document_id: str, owner: str) -> Document | None:
        """Read one document by its id."""
        try:
            return await self.call(verb, container, lambda items: items.read_item(document_id, owner))
        except Refused as refused:
            if refused.status == NOT_FOUND:
                return None
            raise

    async def rows(
        self, verb: str, container: str, sql: str, values: Document | None = None, owner: str | None = None
    ) -> list[Document]:
        """Ask one partition; without `owner` all of them."""
        parameters: list[dict[str, object]] = [{"name": f"@{name}", "value": v} for name, v in (values or {}).items()]

        async def asked(items: ContainerProxy) -> list[Document]:
            where: dict[str, Any] = {} if owner is None else {"partition_key": owner}
            found = items.query_items(sql, parameters=parameters, max_item_count=PAGE_ITEMS, **where)
            return await _all_pages(found.by_page())

        return await self.call(verb, container, asked, paged=True)

    async def changes(self, verb: str, container: str, owner: str, after: str | None) -> tuple[list[Document], str]:
        """All that changed in a partition since a continuation (None: from the beginning), and the next one."""
        # The SDK's own continuation is None where nothing changed; the continuation holds the partition already.
        where: dict[str, Any] = (
            {"continuation": after} if after else {"partition_key": owner, "start_time": "Beginning"}
        )

        async def read(items: ContainerProxy) -> tuple[list[Document], str]:
            answers: list[Any] = []
            feed = items.query_items_change_feed(
                response_hook=lambda headers, _: answers.append(headers), max_item_count=PAGE_ITEMS, **where
            )
            found = await _all_pages(feed.by_page())
            return found, answers[-1]["etag"]

        return await self.call(verb, container, read, paged=True)


async def _all_pages(pages: AsyncIterator[AsyncIterator[Document]]) -> list[Document]:
    found: list[Document] = []
    while True:
        async with asyncio.timeout(CALL_S):
            try:
                page = await anext(pages)
            except StopAsyncIteration:
                return found
            found += [document async for document in page]


def _statuses(exc: Exception) -> tuple[int, int]:
    if isinstance(exc, CosmosHttpResponseError | CosmosBatchOperationError):
        return exc.status_code or 0, exc.sub_status or 0
    return 0, 0


def _pause(exc: Exception, attempt: int) -> float | None:
    """Seconds before it makes sense to ask again; None: it does not."""
    status, _ = _statuses(exc)
    pause_s: float = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1)
    if status == THROTTLED:
        return max(pause_s, _wished_s(exc))
    return pause_s if not status or status in PASSING else None


def _wished_s(exc: Exception) -> float:
    return float((getattr(exc, "headers", None) or {}).get("x-ms-retry-after-ms", 0)) / 1000


def _refusal(exc: Exception) -> Exception:
    status, _ = _statuses(exc)
    if status == TOO_LARGE:
        return ContentTooLarge(MOST_BYTES)
    if status in (NOT_FOUND, CONFLICT, OVERTAKEN) and _statuses(exc) != CONTAINER_GONE:
        return Refused(status, getattr(exc, "error_index", None) or 0)
    return StoreUnavailable(f"Cosmos DB: {_reason(exc)}")


def _given_up(exc: Exception, pause_s: float | None) -> StoreUnavailable:
    if _statuses(exc)[0] == THROTTLED:
        return StoreThrottled(retry_after_s=max(1, round(pause_s or 0)))
    return StoreUnavailable(f"Cosmos DB: {_reason(exc)}")


def _reason(exc: Exception) -> str:
    """What happened, in words that hold nothing of what was sent."""
    status, sub_status = _statuses(exc)
    if status:
        return f"it answered with status {status}" + (f" ({sub_status})" if sub_status else "")
    return f"no answer ({type(exc).__name__})"
