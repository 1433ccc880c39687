"""The only place that chooses parts and puts them together."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette

from memory_service.admission import make_allowance, make_gate, make_tokens
from memory_service.api.front import Front, make_front
from memory_service.api.routes import VERBS
from memory_service.audit import Audit
from memory_service.background import Background
from memory_service.breaker import Breaker
from memory_service.clock import SharedClock
from memory_service.embedding import GATHER_S, Embedding
from memory_service.engines import Engines
from memory_service.errors import UnsafeStart
from memory_service.ids import new_id
from memory_service.keys import Keys
from memory_service.llm.base import Embedder, Reader
from memory_service.llm.offline import LocalEmbedder, OfflineReader
from memory_service.long_term import LongTermCache, load_long_term
from memory_service.messages import Messages
from memory_service.mirroring import Mirroring
from memory_service.points import KillAt, Point, nowhere
from memory_service.pool import SessionPool, Tier
from memory_service.profiles import Rules, rules_of
from memory_service.projections import BUILTIN, make_projection, names_of
from memory_service.query_cache import QueryCache
from memory_service.recall import Recall
from memory_service.redaction import FORMS, IBAN, Redactor
from memory_service.refining import Refiner
from memory_service.reflection import Reflector, Retry
from memory_service.retention import EVERY_S, Keeping
from memory_service.revisions import Revisions
from memory_service.scheduler import Scheduler
from memory_service.service import MemoryService, Parts
from memory_service.sessions import Sessions
from memory_service.settings import Settings
from memory_service.stores import make_store
from memory_service.stores.base import Store
from memory_service.tombstones import Tombstones
from memory_service.transfers import Transfers
from memory_service.values import Scope
from memory_service.watchdog import Watchdog

if TYPE_CHECKING:  # without REDIS_URL its client is not imported
    from memory_service.hot_tier import HotTier

logger = logging.getLogger(__name__)

SHARED_LONG_TERM_S = 30.0
"""For how long a context may lack what another process has learnt meanwhile; a session that starts never does."""

ANSWERS_SHARE = 8
"""Part of the cache for searching that answers may take besides, which is one in so many."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Time and chance, which a test may set.

    `now` dates what is kept; `monotonic` (seconds) counts how long a session is idle and a failing model is left
    alone; `chance` is in [0, 1).
    """

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    new_id: Callable[[], str] = new_id
    gather_s: float = GATHER_S


def create_app(settings: Settings | None = None) -> Front:
    """Make the ASGI application for any server; its lifespan opens the service and closes it."""
    chosen = settings or Settings()
    return app_around(open_service(chosen), chosen)


def app_around(
    service: AbstractAsyncContextManager[MemoryService], settings: Settings, around: Surroundings | None = None
) -> Front:
    """Make the application over a service that is entered with its lifespan. Raises UnsafeStart."""
    clock = (around or Surroundings()).monotonic
    tokens = make_tokens(settings, clock) if settings.auth_mode == "jwt" else None

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        if settings.auth_mode == "none":
            logger.warning("everybody who can reach the port is served, and may do everything: AUTH_MODE=none")
        async with AsyncExitStack() as stack:
            if tokens is not None:
                await tokens.start(stack)
            yield {"service": await stack.enter_async_context(service)}

    gate = make_gate(settings, tokens, clock)
    return make_front(VERBS, gate, lifespan, make_point(settings), make_allowance(settings, clock))


@asynccontextmanager
async def open_service(settings: Settings, around: Surroundings | None = None) -> AsyncIterator[MemoryService]:
    """Start the parts in order of dependence; whatever happens, stop them in reverse. Raises UnsafeStart."""
    async with AsyncExitStack() as stack:
        store = make_store(settings, make_point(settings))
        await store.start(stack)
        clock = SharedClock(Surroundings().now, store.clock)
        await clock.follow()
        around = around or Surroundings(now=clock)
        reader, embedder = make_models(settings, stack)
        parts = make_parts(settings, store, reader, embedder, around)
        await parts.recall.start(stack)
        await parts.engines.start(stack)
        await parts.engines.use(names_of(settings.memory_driver))
        if parts.tier is not None:
            await parts.tier.start(stack, parts.pool.let_go)
        await parts.watchdog.start(stack)
        await parts.scheduler.start(stack)  # started last, so stopped first, while all it works with still lives
        service = make_service(settings, parts, around)
        await service.erasing.carry_out_again()
        parts.scheduler.every(settings.sweep_interval_seconds, "sweep", service.sweep)
        parts.scheduler.every(settings.sweep_interval_seconds, "follow the clock", clock.follow)
        parts.scheduler.every(settings.eviction_interval_seconds, "evict", parts.pool.evict_idle)
        if service.retention.wanted:
            parts.scheduler.every(EVERY_S, "retention", service.retention.carry_out)
        parts.scheduler.soon("sweep", service.sweep)
        asked = ",".join(parts.engines.order) or BUILTIN
        store_name = settings.chosen_store_url.partition(":")[0]
        logger.info("ready", extra={"store": store_name, "model": reader.name, "driver": asked})
        yield service


def make_service(settings: Settings, parts: Parts, around: Surroundings) -> MemoryService:
    return MemoryService(
        parts,
        context_budget_tokens=settings.context_budget_tokens,
        now=around.now,
        monotonic=around.monotonic,
        new_id=around.new_id,
    )


def make_parts(settings: Settings, store: Store, reader: Reader, embedder: Embedder, around: Surroundings) -> Parts:
    """Put the parts together; none is started."""
    tier = make_tier(settings, store, around)
    pool = make_pool(settings, store, tier, around)
    long_term = make_long_term(settings, store, rules := rules_of(settings.profile_schemas), around)
    redactor = make_redactor(settings)
    embedding = make_embedding(settings, store, embedder, redactor, watchdog := Watchdog(), around)
    engines = make_engines(settings, store, embedding, redactor, around)
    recall = make_recall(settings, store, embedding, engines, tier, around)
    sessions = Sessions(store, pool, now=around.now, new_id=around.new_id, chance=around.chance)
    breaker = make_breaker(settings, around)  # of the one model that both ask
    reflector = make_reflector(settings, store, pool, long_term, recall, reader, redactor, breaker, around)
    refiner = Refiner(store, reader, breaker, redactor, now=around.now)
    scheduler = make_scheduler(settings, watchdog)
    background = make_background(settings, store, sessions, embedding, reflector, refiner, engines, scheduler, around)
    return Parts(
        store=store,
        pool=pool,
        long_term=long_term,
        sessions=sessions,
        messages=make_messages(settings, store, pool, sessions, recall, background, around),
        revisions=Revisions(store, pool, sessions, now=around.now),
        embedding=embedding,
        audit=Audit(settings.audit_key.get_secret_value()),
        keys=Keys(store, now=around.now, monotonic=around.monotonic),
        recall=recall,
        engines=engines,
        background=background,
        reflector=reflector,
        refiner=refiner,
        scheduler=scheduler,
        transfers=make_transfers(settings, store, pool, long_term, recall, background),
        reader=reader,
        embedder=embedder,
        watchdog=watchdog,
        redactor=redactor,
        tier=tier,
        tombstones=Tombstones(Path(path)) if (path := settings.chosen_erasures_file) else None,
        rules=rules,
        keeping=Keeping.of(settings.retention_days, settings.tenant_retention_days),
    )


def make_messages(
    settings: Settings,
    store: Store,
    pool: SessionPool,
    sessions: Sessions,
    recall: Recall,
    background: Background,
    around: Surroundings,
) -> Messages:
    latest = settings.agent_memory_size
    made = (store, pool, sessions, recall, background.after_turn)
    return Messages(*made, latest=latest, now=around.now, new_id=around.new_id)


def make_background(
    settings: Settings,
    store: Store,
    sessions: Sessions,
    embedding: Embedding,
    reflector: Reflector,
    refiner: Refiner,
    engines: Engines,
    scheduler: Scheduler,
    around: Surroundings,
) -> Background:
    return Background(
        *(store, sessions, embedding, reflector, refiner, engines, scheduler),
        threshold_turns=settings.reflection_threshold_turns,
        session_turns=settings.retention_session_turns,
        idle_after=timedelta(minutes=settings.session_ttl_minutes),
        abandoned_after=timedelta(hours=settings.session_abandon_hours),
        now=around.now,
        monotonic=around.monotonic,
    )


def make_scheduler(settings: Settings, watchdog: Watchdog) -> Scheduler:
    return Scheduler(settings.reflection_concurrency, settings.shutdown_grace_seconds, watchdog.calm)


def make_transfers(
    settings: Settings,
    store: Store,
    pool: SessionPool,
    long_term: LongTermCache,
    recall: Recall,
    background: Background,
) -> Transfers:
    def changed(scope: Scope) -> None:
        long_term.forget(scope)
        recall.forget(scope)
        background.embed_soon(scope)
        background.reflect_soon(scope)

    return Transfers(store, pool, changed, most_bytes=settings.import_max_mb * 1_000_000)


def make_redactor(settings: Settings) -> Redactor:
    return Redactor((*FORMS, *[IBAN] * settings.redact_ibans) if settings.redact_secrets else ())


def make_embedding(
    settings: Settings, store: Store, embedder: Embedder, redactor: Redactor, watchdog: Watchdog, around: Surroundings
) -> Embedding:
    breaker, busy = make_breaker(settings, around), lambda: watchdog.busy
    return Embedding(store, embedder, breaker, gather_s=around.gather_s, clean=redactor.text, busy=busy)


def make_engines(
    settings: Settings, store: Store, embedding: Embedding, redactor: Redactor, around: Surroundings
) -> Engines:
    gather_s = 5 * around.gather_s
    mirroring = Mirroring(store, lambda: embedding.known_space, now=around.now, gather_s=gather_s, redactor=redactor)
    engines = Engines(store, mirroring, partial(make_projection, settings=settings))
    engines.order = names_of(settings.memory_driver)
    return engines


def make_recall(
    settings: Settings, store: Store, embedding: Embedding, engines: Engines, tier: HotTier | None, around: Surroundings
) -> Recall:
    cache_bytes, kept_s = settings.recall_cache_mb * 1_000_000, settings.query_cache_seconds
    most = cache_bytes // ANSWERS_SHARE
    answers = QueryCache(store, max_bytes=most, kept_s=kept_s, clock=around.monotonic, shared=tier)
    return Recall(store, embedding, engines, answers, cache_bytes=cache_bytes)


def make_pool(settings: Settings, store: Store, tier: Tier | None, around: Surroundings) -> SessionPool:
    return SessionPool(
        tier.load if tier else store.load,
        store.commit,
        look=None if is_alone(settings, store) else store.head,
        tell=tier.keep_soon if tier else None,
        max_sessions=settings.max_sessions,
        ttl_s=settings.session_ttl_minutes * 60,
        clock=around.monotonic,
        point=make_point(settings),
    )


def make_tier(settings: Settings, store: Store, around: Surroundings) -> HotTier | None:
    """Choose what replicas share beside the record. Raises UnsafeStart where there can be no other replica."""
    url = settings.chosen_redis_url
    if not url:
        return None
    if is_alone(settings, store):
        raise UnsafeStart(
            "REDIS_URL is for several services that share a record; this one has its record for itself "
            "(SQLite, or POOL_COHERENCE=exclusive) and holds in memory what Redis would hold: take REDIS_URL away"
        )
    try:
        from memory_service.hot_tier import HotTier
    except ModuleNotFoundError as exc:
        raise UnsafeStart(f"REDIS_URL needs {exc.name}: pip install 'agent-memory-service[redis]'") from exc
    ttl_s = settings.session_ttl_minutes * 60
    return HotTier(url, store.load, store.head, ttl_s=ttl_s, clock=around.monotonic)


def is_alone(settings: Settings, store: Store) -> bool:
    """Tell whether nobody else may write the record meanwhile."""
    if settings.pool_coherence:
        return settings.pool_coherence == "exclusive"
    return store.capabilities.exclusive


def make_long_term(settings: Settings, store: Store, rules: Rules, around: Surroundings) -> LongTermCache:
    counts = (settings.m_sessions_recent, settings.context_insights)
    load = partial(load_long_term, store, *counts, episodes=settings.context_episodes, keeps=rules.keeps)
    max_age_s = math.inf if is_alone(settings, store) else SHARED_LONG_TERM_S
    return LongTermCache(load, settings.max_sessions, max_age_s=max_age_s, clock=around.monotonic)


def make_reflector(
    settings: Settings,
    store: Store,
    pool: SessionPool,
    long_term: LongTermCache,
    recall: Recall,
    reader: Reader,
    redactor: Redactor,
    breaker: Breaker,
    around: Surroundings,
) -> Reflector:
    return Reflector(
        store,
        pool,
        long_term,
        recall,
        reader,
        buffer_turns=settings.k_turn_buffer,
        chunk_turns=settings.l_turn_chunks,
        timeout_s=settings.model_timeout_seconds,
        retry=Retry(first_s=settings.reflection_retry_seconds, max_attempts=settings.reflection_max_attempts),
        now=around.now,
        chance=around.chance,
        breaker=breaker,
        point=make_point(settings),
        redactor=redactor,
    )


def make_breaker(settings: Settings, around: Surroundings) -> Breaker:
    rest_s = settings.breaker_rest_seconds
    return Breaker(failures=settings.breaker_failures, rest_s=rest_s, clock=around.monotonic)


def make_point(settings: Settings) -> Point:
    return KillAt(settings.kill_at) if settings.kill_at else nowhere


def make_models(settings: Settings, stack: AsyncExitStack) -> tuple[Reader, Embedder]:
    """Choose by which keys are there: Azure, then OpenAI-compatible, then none. Raises UnsafeStart on half a setup."""
    if settings.azure_openai_endpoint:
        if not settings.azure_openai_deployment or not settings.azure_openai_api_key.get_secret_value():
            raise UnsafeStart("AZURE_OPENAI_ENDPOINT needs AZURE_OPENAI_API_KEY and AZURE_OPENAI_DEPLOYMENT beside it")
        from memory_service.llm import openai

        client: Any = openai.azure_client(
            settings.azure_openai_endpoint,
            settings.azure_openai_api_key.get_secret_value(),
            settings.azure_openai_api_version,
        )
        chat, embedding, space = settings.azure_openai_deployment, settings.azure_openai_embedding_deployment, "azure"
    elif settings.openai_api_key.get_secret_value() or settings.openai_base_url:
        from memory_service.llm import openai

        client = openai.openai_client(settings.openai_api_key.get_secret_value(), settings.openai_base_url)
        chat, embedding, space = settings.openai_model, settings.openai_embedding_model, "openai"
    else:
        return OfflineReader(), LocalEmbedder()
    stack.push_async_callback(client.close)
    reader = openai.OpenAIReader(client, chat, timeout_s=settings.model_timeout_seconds)
    if not embedding:
        return reader, LocalEmbedder()
    from memory_service.llm.openai_embedder import OpenAIEmbedder

    return reader, OpenAIEmbedder(
        client,
        embedding,
        dimensions=settings.embedding_dimensions or None,
        timeout_s=settings.embedding_timeout_seconds,
        space_prefix=space,
    )
