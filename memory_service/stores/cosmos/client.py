"""One account of Cosmos DB: calls with a time limit, tried again where that makes sense.

The SDK keeps none of its own time limits, and sends a write again whose answer was lost (a patch is then done twice):
its own retries are turned off as far as they can be, and are done here.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.cosmos.aio import ContainerProxy, DatabaseProxy
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError

from memory_service.errors import ContentTooLarge, StoreThrottled, StoreUnavailable, UnsafeStart
from memory_service.stores.cosmos import usage
from memory_service.stores.cosmos.connection import Connection, SignIn, require_sound, with_entra_id
from memory_service.stores.cosmos.containers import creating
from memory_service.stores.cosmos.documents import Document
from memory_service.stores.cosmos.usage import Meter

logger = logging.getLogger(__name__)

T = TypeVar("T")

CALL_S = 4.0
"""For one answer, with the one retry of the SDK that cannot be turned off."""
VERB_S = 12.0
"""For a call and all its retries; after that no further one is begun."""
UNREACHED_S = 1.0
"""When a call has had no answer for so long, the account may have moved: the SDK looks only every five minutes."""
REST_S = 1.0
"""Between two attempts to find it."""
START_S = 20.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
MOST_BYTES = 2_000_000
"""Of one item and of one batch, as Cosmos DB has it, with a little left for what is around them."""
PAGE_ITEMS = 1000

NOT_FOUND, CONFLICT, OVERTAKEN = 404, 409, 412
TOO_LARGE, THROTTLED, RETRY_WITH = 413, 429, 449
UNAUTHORIZED, FORBIDDEN = 401, 403
PASSING = (408, 410, RETRY_WITH, 500, 502, 503, 504)
NOT_FOR_TOKEN = (403, 5300)
"""What is asked may not be done with this token: it has run out, or no identity may do it (make a database)."""
BEHIND = (404, 1002)
"""The replica that was asked has not seen yet what this client wrote: what it lacks may well be there."""


class Refused(Exception):
    """The service said no. `index`: which operation of a batch it was."""

    def __init__(self, status: int, index: int = 0) -> None:
        super().__init__(f"status {status}")
        self.status, self.index = status, index


class Client:
    """The account, over a connection that is made anew when its sign-in has run out, or nobody is there any more."""

    def __init__(self, endpoint: str, key: str, database: str, sign_in: SignIn = with_entra_id) -> None:
        self._endpoint, self._key, self._database, self._sign_in = endpoint, key, database, sign_in
        self._renewing = asyncio.Lock()
        self._rests_until = 0.0
        self._closing = False
        self.meter = Meter()

    async def start(self, stack: AsyncExitStack, prepare: Callable[[DatabaseProxy], Awaitable[None]]) -> None:
        """Sign in, make the database if it is not there, and prepare it. Raises UnsafeStart."""
        _require_base64(self._key)
        try:
            async with asyncio.timeout(START_S):
                self._connection = await self._opened()
                stack.push_async_callback(self._close)
                async with self._connection.used() as cosmos:
                    await require_sound(cosmos)
                    database = cosmos.get_database_client(self._database)
                    with creating(f"the database {self._database!r} with its containers"):
                        await cosmos.create_database_if_not_exists(self._database)
                    await prepare(database)
        except (AzureError, TimeoutError, OSError, ValueError) as exc:
            raise UnsafeStart(self._why_not(exc)) from exc
        except ImportError as exc:
            raise UnsafeStart(f"{exc.name} is missing: pip install 'agent-memory-service[azure]'") from exc

    def _why_not(self, exc: Exception) -> str:
        """What keeps the service from starting, in plain words."""
        status, _ = _statuses(exc)
        said = f"Cosmos DB could not be opened: {_reason(exc)}"
        if self._key and status == UNAUTHORIZED:
            return f"COSMOS_KEY: {said}: the key is wrong, or the account takes none but Entra ID (then leave it empty)"
        if isinstance(exc, ClientAuthenticationError):
            return f"{said}: COSMOS_KEY is empty, and this process could not sign in with Entra ID"
        if not self._key and status in (UNAUTHORIZED, FORBIDDEN):
            return f"{said}: this identity needs the role 'Cosmos DB Built-in Data Contributor' on the account"
        if status == FORBIDDEN:
            return f"COSMOS_ENDPOINT: {said}: the account's network rules may keep this host out"
        return f"COSMOS_ENDPOINT: {said}"

    async def _opened(self) -> Connection:
        return await Connection.open(
            self._endpoint, self._key, self._sign_in, read_timeout_s=CALL_S, told=self.meter.count
        )

    async def _close(self) -> None:
        self._closing = True
        await self._connection.close()

    async def _renew(self, former: Connection, *, pressing: bool) -> bool:
        """Sign in, and ask where the account is, anew; returns whether the account had an answer to that."""
        now = asyncio.get_running_loop().time
        async with self._renewing:
            if self._connection is not former:  # somebody did it while we waited
                return True
            if self._closing or now() < self._rests_until:
                return False
            renewed = await self._reopened()
            if not (renewed and pressing):
                self._rests_until = now() + REST_S
            return renewed

    async def _reopened(self) -> bool:
        try:
            async with asyncio.timeout(2 * CALL_S):  # signing in may have to ask around
                former, self._connection = self._connection, await self._opened()
        except (AzureError, TimeoutError, OSError) as exc:
            logger.warning("no new connection to Cosmos DB", extra={"reason": _reason(exc)})
            return _statuses(exc)[0] in (UNAUTHORIZED, FORBIDDEN)
        logger.warning("a new connection to Cosmos DB")
        await former.give_up()
        return True

    def _is_signed_out(self, exc: Exception) -> bool:
        status, sub_status = _statuses(exc)
        return (status, sub_status) == NOT_FOR_TOKEN or (status == UNAUTHORIZED and not self._key)

    # Calls

    async def call(
        self, verb: str, container: str, work: Callable[[ContainerProxy], Awaitable[T]], *, paged: bool = False
    ) -> T:
        """Do one thing with a container; what failed in passing is done again, so it must bear that.

        With `paged` the time limit is left to the work, page by page.

        Raises Refused (404, 409, 412 and other statuses that will not pass), StoreThrottled, ContentTooLarge,
        StoreUnavailable; after the last the outcome of a write is unknown.
        """
        usage.verb.set(verb)
        now = asyncio.get_running_loop().time
        began, renewed, attempt = now(), False, 0
        while True:
            if self._closing:
                raise StoreUnavailable("the store is closing")
            connection = self._connection
            try:
                async with connection.used() as cosmos, asyncio.timeout(None if paged else CALL_S):
                    return await work(cosmos.get_database_client(self._database).get_container_client(container))
            except (AzureError, TimeoutError, OSError) as exc:
                signed_out, unreached = self._is_signed_out(exc), not _statuses(exc)[0]
                pause_s = _backoff(attempt) if signed_out and not renewed else _pause(exc, attempt)
                if pause_s is None:
                    if _statuses(exc)[0] == UNAUTHORIZED and self._key:
                        logger.error("the account refuses the key")  # noqa: TRY400 (nothing but that)
                    raise _refusal(exc) from exc
                if now() + pause_s > began + VERB_S:
                    raise _given_up(exc, pause_s) from exc
                logger.info("asking Cosmos DB again", extra={"verb": verb, "reason": _reason(exc)})
            if signed_out or (unreached and now() - began > UNREACHED_S):
                renewed = await self._renew(connection, pressing=signed_out)
            await asyncio.sleep(pause_s)
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
        self,
        verb: str,
        container: str,
        sql: str,
        values: Document | None = None,
        owner: str | None = None,
        **options: Any,
    ) -> list[Document]:
        """Ask one partition; without `owner` all of them. `options` are the SDK's."""
        parameters = _parameters(values or {}) or None

        async def asked(items: ContainerProxy) -> list[Document]:
            where: dict[str, Any] = {} if owner is None else {"partition_key": owner}
            found = items.query_items(sql, parameters=parameters, max_item_count=PAGE_ITEMS, **where, **options)
            return await _all_pages(found.by_page())

        return await self.call(verb, container, asked, paged=True)

    async def page(
        self, verb: str, container: str, sql: str, values: Document, owner: str, token: str | None, limit: int
    ) -> tuple[list[Document], str | None]:
        """Ask one partition for so many, going on from a token (None: from the start); and the next token."""
        parameters = _parameters(values)

        async def asked(items: ContainerProxy) -> tuple[list[Document], str | None]:
            found = items.query_items(sql, parameters=parameters, max_item_count=limit, partition_key=owner)
            pages: Any = found.by_page(token)
            page = await anext(pages, None)
            rows = [] if page is None else [document async for document in page]
            return rows, pages.continuation_token

        return await self.call(verb, container, asked)

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


def _parameters(values: Document) -> list[dict[str, object]]:
    return [{"name": f"@{name}", "value": value} for name, value in values.items()]


def _require_base64(key: str) -> None:
    try:
        base64.b64decode(key)
    except ValueError:
        raise UnsafeStart("COSMOS_KEY is no key of Cosmos DB: those are base64") from None


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
    status, sub_status = _statuses(exc)
    if status == THROTTLED:
        return max(_backoff(attempt), _wished_s(exc))
    return _backoff(attempt) if not status or status in PASSING or (status, sub_status) == BEHIND else None


def _backoff(attempt: int) -> float:
    pause_s: float = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1)
    return pause_s


def _wished_s(exc: Exception) -> float:
    return float((getattr(exc, "headers", None) or {}).get("x-ms-retry-after-ms", 0)) / 1000


def _refusal(exc: Exception) -> Exception:
    status, sub_status = _statuses(exc)
    if status == TOO_LARGE:
        return ContentTooLarge(MOST_BYTES)
    if status in (CONFLICT, OVERTAKEN) or (status == NOT_FOUND and not sub_status):  # else more is gone than an item
        return Refused(status, getattr(exc, "error_index", None) or 0)
    return StoreUnavailable(f"Cosmos DB: {_reason(exc)}")


def _given_up(exc: Exception, pause_s: float) -> StoreUnavailable:
    if _statuses(exc)[0] == THROTTLED:
        return StoreThrottled(retry_after_s=max(1, round(pause_s)))
    return StoreUnavailable(f"Cosmos DB: {_reason(exc)}")


def _reason(exc: Exception) -> str:
    """What happened, in words that hold nothing of what was sent."""
    status, sub_status = _statuses(exc)
    if status:
        return f"it answered with status {status}" + (f" ({sub_status})" if sub_status else "")
    what = "could not sign in" if isinstance(exc, ClientAuthenticationError) else "no answer"
    return f"{what} ({type(exc).__name__})"
