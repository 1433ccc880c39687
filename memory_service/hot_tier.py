"""The hot tier: what replicas hold of their sessions, and what they have answered, shared through Redis.

Nothing in it is believed that the store does not confirm: the store is asked for a session's head, and what was found
counts only as the content of exactly that head. So Redis may be late, lost, emptied or cut off from some of us: that
costs time, and never an answer. It is no part of the record, and whoever can write to it is trusted like one of us.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from hashlib import blake2b
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, RedisError

from memory_service.breaker import Breaker
from memory_service.errors import UnsafeStart
from memory_service.values import Hot, Scope, Session, SessionKey, Value

logger = logging.getLogger(__name__)

T = TypeVar("T")
Load = Callable[[SessionKey], Awaitable[Hot | None]]
Look = Callable[[SessionKey], Awaitable[Session | None]]

FIND_S = 0.2
"""For which a request waits for Redis; then it asks the store."""
BEHIND_S = 1.0
"""For what nobody waits for, connecting included."""
REST_S, FAILURES_IN_A_ROW = 1.0, 3
QUIET_S = 5.0
"""After which a subscription that hears nothing asks whether anybody is there, and after which again it is given up."""
MOST_WAITING, WORKERS, MOST_CONNECTIONS = 1000, 4, 16
LARGEST = 256_000
"""Bytes from which on a session is not kept: to fetch it would take about as long as to load it."""

FORMAT = 1
_schema = msgspec.json.encode(msgspec.json.schema(Hot), order="deterministic")
PREFIX = f"agent-memory:{FORMAT}-{blake2b(_schema, digest_size=6).hexdigest()}"
"""Names the form of what is kept, down to the fields: another version of the service has names of its own."""
CHANNEL = f"{PREFIX}:moved"

# KEYS: session, index of its user. ARGV: lineage, version, body, milliseconds to live, channel, message.
KEEP = """
local held = redis.pcall('GETRANGE', KEYS[1], 0, 63)
local lineage, version = string.match(type(held) == 'string' and held or '', '^(%x+) (%d+) ')
local same = lineage == ARGV[1]
if same and tonumber(version) > tonumber(ARGV[2]) then return 'older' end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ARGV[4], KEYS[1])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
if same and tonumber(version) == tonumber(ARGV[2]) then return 'renewed' end
redis.pcall('PUBLISH', ARGV[5], ARGV[6])
return 'kept'
"""
# KEYS: answer, index of its user. ARGV: body, milliseconds to live.
KEEP_ANSWER = """
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], KEYS[1])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
"""
OUTCOMES = {b"kept": "kept", b"renewed": "renewed", b"older": "older"}
# KEYS: index of a user. All names in it have the user's hash tag.
FORGET = """
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('DEL', name) end
return redis.call('DEL', KEYS[1])
"""

FAILURES = (RedisError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)
"""Of Redis, and of its client over answers that make no sense (TimeoutError is an OSError)."""


class Moved(Value, frozen=True, kw_only=True):
    """Told to the others: what a session has become."""

    key: SessionKey
    incarnation: str
    version: int


class HotTier:
    """Sessions by key. `load` and `look` ask the store; the clock of the breaker is monotonic seconds."""

    def __init__(
        self, url: str, load: Load, look: Look, *, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = client_of(url)
        self._load, self._look = load, look
        self._ttl_ms = max(int(ttl_s * 1000), 1)
        self._breaker = Breaker(failures=FAILURES_IN_A_ROW, rest_s=REST_S, clock=clock)
        self._set, self._forget = self._redis.register_script(KEEP), self._redis.register_script(FORGET)
        self._set_answer = self._redis.register_script(KEEP_ANSWER)
        self._lines = asyncio.Semaphore(MOST_CONNECTIONS)
        self._waiting: dict[SessionKey, Hot] = {}
        self._bell = asyncio.Event()
        self._listening = False
        self.hits = self.misses = self.stale = self.kept = self.dropped = self.failures = 0

    async def start(self, stack: AsyncExitStack, moved: Callable[[SessionKey, str, int], None]) -> None:
        """Begin to keep, and to tell what others have moved on. Without a Redis that answers it starts as well."""
        stack.push_async_callback(self._redis.aclose)
        if not await self._ask(self._redis.ping, BEHIND_S):
            self._breaker.failed(REST_S)
            logger.warning("Redis does not answer: sessions are asked of the store until it does")
        tasks = [asyncio.create_task(self._listen(moved)), *(asyncio.create_task(self._work()) for _ in range(WORKERS))]
        stack.push_async_callback(_ended, tasks)

    async def load(self, key: SessionKey) -> Hot | None:
        """Return a session as last committed, or None: what was found here if the store confirms it, else the store's.

        Raises what the store raises, and nothing else.
        """
        if self._breaker.state == "open":
            return await self._load(key)
        finding = asyncio.ensure_future(self.find(key))
        try:
            head = await self._look(key)
            found = await finding if head is not None else None
        finally:
            finding.cancel()
        if head is None:
            return None
        if found is not None and found.session == head:
            self.hits += 1
            return found
        self.stale += found is not None
        self.misses += found is None
        hot = await self._load(key)
        if hot is not None:
            self.keep_soon(key, hot)
        return hot

    async def find(self, key: SessionKey) -> Hot | None:
        """Return what is kept of a session, whatever it is worth; None too if Redis fails."""
        name = name_of(key)
        body = await self._ask(lambda: self._redis.getrange(name, 0, LARGEST), FIND_S)
        return hot_of(name, body) if isinstance(body, bytes) else None

    def keep_soon(self, key: SessionKey, hot: Hot) -> None:
        """Keep a session as committed, when there is time; of several only the last. It is dropped if Redis lags."""
        lags = len(self._waiting) >= MOST_WAITING and key not in self._waiting
        if lags or self._breaker.state == "open" or _least_size(hot) > LARGEST:
            self.dropped += 1
            return
        self._waiting[key] = hot
        self._bell.set()

    async def keep(self, key: SessionKey, hot: Hot) -> str | None:
        """Keep a session unless it is older than what is there, and tell the others.

        Returns `kept`, `renewed` (it was there: it lives longer), `older`, or None if it was not done.
        """
        name, head = name_of(key), hot.session
        body = body_of(name, hot)
        if len(body) > LARGEST:
            self.dropped += 1
            return None
        message = msgspec.json.encode(Moved(key=key, incarnation=head.incarnation, version=head.version))
        args: list[Any] = [lineage_of(head), head.version, body, self._ttl_ms, CHANNEL, message]
        answer = await self._ask(lambda: self._set(keys=[name, index_of(key.scope)], args=args), BEHIND_S)
        outcome = OUTCOMES.get(answer) if isinstance(answer, bytes) else None
        self.kept += outcome in ("kept", "renewed")
        self.dropped += outcome is None
        return outcome

    async def find_answer(self, scope: Scope, name: str) -> bytes | None:
        """Return what was kept as the answer to a question of a user, by its name; None too if Redis fails."""
        body = await self._ask(lambda: self._redis.get(f"{index_of(scope)}:answer:{name}"), FIND_S)
        return body if isinstance(body, bytes) else None

    async def keep_answer(self, scope: Scope, name: str, body: bytes, ttl_s: float) -> None:
        """Keep an answer for so long, if Redis takes it in time."""
        index = index_of(scope)
        keys = [f"{index}:answer:{name}", index]
        args: list[Any] = [body, max(int(ttl_s * 1000), 1)]
        await self._ask(lambda: self._set_answer(keys=keys, args=args), FIND_S)

    async def forget(self, scope: Scope) -> bool:
        """Delete all that is kept of a user; returns whether it was done. What is kept meanwhile may stay."""
        return await self._ask(lambda: self._forget(keys=[index_of(scope)]), BEHIND_S) is not None

    async def _ask(self, ask: Callable[[], Awaitable[T]], limit_s: float) -> T | None:
        """Return the answer, or None if there is none in time, or was none a moment ago."""
        if self._breaker.wait_s():
            return None
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        try:
            async with asyncio.timeout(limit_s), self._lines:
                answer = await ask()
        except FAILURES as exc:
            if task and task.cancelling() > cancelled:  # the client may have made an error of it
                raise asyncio.CancelledError from exc
            await self._failed(exc)
            return None
        if self._breaker.state != "closed":
            logger.info("Redis answers again")
        self._breaker.succeeded()
        return answer

    async def _failed(self, exc: Exception) -> None:
        self.failures += 1
        before = self._breaker.opened
        self._breaker.failed()
        if self._breaker.opened > before:
            self._waiting.clear()
            logger.warning("Redis fails: the store is asked instead", extra={"reason": type(exc).__name__})
        if isinstance(exc, ReadOnlyError):  # a primary no longer: a new connection finds the one that is
            with suppress(*FAILURES):
                await self._redis.connection_pool.disconnect()

    async def _work(self) -> None:
        while True:
            while self._waiting:
                key = next(iter(self._waiting))
                await self.keep(key, self._waiting.pop(key))
            self._bell.clear()
            await self._bell.wait()

    async def _listen(self, moved: Callable[[SessionKey, str, int], None]) -> None:
        """Tell what moves elsewhere. What is missed while the line is down is seen at the next look."""
        while True:
            with suppress(*FAILURES):
                async with self._redis.pubsub() as line:
                    await line.subscribe(CHANNEL)
                    await self._pass_on(line, moved)
            self._listening = False
            await asyncio.sleep(REST_S)

    async def _pass_on(self, line: Any, moved: Callable[[SessionKey, str, int], None]) -> None:
        """Tell what is heard, for as long as somebody is there."""
        asked = False
        while True:
            well = self._breaker.state == "closed"
            heard = await line.get_message(timeout=QUIET_S if well else REST_S)
            if not well:
                await self._ask(self._redis.ping, BEHIND_S)  # found well again, though nobody asks for anything
            if heard is None:
                if asked:
                    return
                await line.ping()
            elif heard["type"] == "subscribe":
                self._listening = True
            elif heard["type"] == "message":
                with suppress(msgspec.DecodeError):
                    said = _moved_of(heard["data"])
                    moved(said.key, said.incarnation, said.version)
            asked = heard is None

    def stats(self) -> dict[str, Any]:
        return {
            "state": "up" if self._breaker.state == "closed" else "down",
            "listening": self._listening,
            "hits": self.hits,
            "misses": self.misses,
            "stale": self.stale,
            "kept": self.kept,
            "dropped": self.dropped,
            "failures": self.failures,
        }


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    # again, until they have ended: the client turns a cancellation into an error of its own when a line breaks with it
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.1)


def client_of(url: str) -> Redis:
    """Make a client that is not connected yet and never tries anything twice. Raises UnsafeStart."""
    try:
        parts = urlsplit(url)
        host, port, database = parts.hostname, parts.port or 6379, int(parts.path.strip("/") or 0)
    except ValueError:
        raise UnsafeStart("REDIS_URL cannot be read: it is redis://:PASSWORD@HOST:PORT/NUMBER, or rediss://") from None
    if parts.scheme not in ("redis", "rediss") or not host or database < 0:
        raise UnsafeStart("REDIS_URL must be redis://:PASSWORD@HOST:PORT/NUMBER, or rediss:// with TLS")
    if parts.query or parts.fragment:
        raise UnsafeStart("REDIS_URL takes nothing after ? or #")
    return Redis(
        host=host,
        port=port,
        db=database,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        ssl=parts.scheme == "rediss",
        protocol=2,
        socket_timeout=BEHIND_S,
        socket_connect_timeout=BEHIND_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),  # its own default tries ten times, what timed out too
    )


# Names and bodies

_encoder = msgspec.json.Encoder()
_moved_of = msgspec.json.Decoder(Moved).decode
_hot_of = msgspec.json.Decoder(Hot).decode


def index_of(scope: Scope) -> str:
    """Name of the list of what is kept of a user; in a cluster all of it lies in one place."""
    return f"{PREFIX}:{{{_digest(_encoder.encode(scope))}}}"


def name_of(key: SessionKey) -> str:
    """Name of what is kept of a session: no id can be so chosen that it is another's."""
    return f"{index_of(key.scope)}:{_digest(key.session_id.encode())}"


def lineage_of(head: Session) -> str:
    return _digest(head.incarnation.encode())


def body_of(name: str, hot: Hot) -> bytes:
    """What is kept: lineage and version, which the script reads, a seal, and the session."""
    said = _encoder.encode(hot)
    return b" ".join([lineage_of(hot.session).encode(), b"%d" % hot.session.version, _seal(name, said), said])


def hot_of(name: str, body: bytes) -> Hot | None:
    """Read a body back; None if it is not whole, or was made for another name."""
    parts = body.split(b" ", 3)
    if len(parts) != 4 or parts[2] != _seal(name, parts[3]):
        return None
    try:
        return _hot_of(parts[3])
    except msgspec.DecodeError:
        return None


def _seal(name: str, said: bytes) -> bytes:
    seal = blake2b(name.encode(), digest_size=16)
    seal.update(said)
    return seal.hexdigest().encode()


def _digest(text: bytes) -> str:
    return blake2b(text, digest_size=16).hexdigest()


def _least_size(hot: Hot) -> int:
    """A size it has at least, without writing it out."""
    return sum(len(message.content) for turn in hot.turns for message in turn.messages)
