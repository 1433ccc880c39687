"""Episodes: interactions that a user has had. Callers tell them; what was reflected on a session is one too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal

from msgspec.structs import replace

from memory_service.errors import MemoryIdTaken, StaleVersion
from memory_service.stores.base import Commit, Store
from memory_service.stores.bodies import Place
from memory_service.values import PROFILE_ID, Kind, Memory, Scope, Value

MOMENT = timedelta(microseconds=1)
ATTEMPTS = 100
"""At writing one under an id that others write at the same time: each time one of them has won, so that so many may."""
SESSION = "session"
"""The type of event that a session is which was reflected on."""
READ_AT_ONCE, MOST_READS = 200, 20
"""How many are looked at for those of a type, and how often for one page."""
Change = Literal["created", "replaced", "unchanged"]


class EpisodeDraft(Value, frozen=True, kw_only=True):
    """An episode that a caller tells. `at`: when it was (None: now, or as it was told before under its id)."""

    event_type: str
    summary: str
    at: datetime | None = None
    session_id: str | None = None
    episode_id: str = ""
    metadata: dict[str, Any] = {}


def event_type_of(memory: Memory) -> str:
    return SESSION if memory.kind == "summary" else memory.category or "episode"


class Episodes:
    """`changed` is told who has other episodes now."""

    def __init__(
        self, store: Store, changed: Callable[[Scope], None], *, now: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._store, self._changed, self._now, self._new_id = store, changed, now, new_id

    async def add(self, scope: Scope, draft: EpisodeDraft) -> tuple[Memory, Change]:
        """Keep an episode, in place of that of its id; nothing is written if it is there just as it is.

        Raises MemoryIdTaken if the id is that of a memory of another kind, or of the profile, also where there is none.
        """
        if draft.episode_id == PROFILE_ID:
            raise MemoryIdTaken
        episode_id = draft.episode_id or f"episode_{self._new_id()}"
        for _ in range(ATTEMPTS):
            held = await self._store.find_memory(scope, episode_id)
            if held is not None and held.kind != "episode":
                raise MemoryIdTaken
            memory = self._told(episode_id, draft, held)
            if memory == held:
                return memory, "unchanged"
            unchanged, absent = ((), (episode_id,)) if held is None else ((held,), ())
            try:
                await self._store.commit(Commit(scope=scope, memories=(memory,), unchanged=unchanged, absent=absent))
            except StaleVersion:  # somebody else was quicker
                continue
            self._changed(scope)
            return memory, "created" if held is None or held.is_deleted else "replaced"
        raise StaleVersion

    def _told(self, episode_id: str, draft: EpisodeDraft, held: Memory | None) -> Memory:
        """What is kept of it; `held`, if that says the same."""
        now = self._now()
        if held is not None:
            now = max(now, (held.updated_at or held.created_at) + MOMENT)
        if held is None or held.is_deleted:
            held = Memory(memory_id=episode_id, kind="episode", text="", created_at=now)
        memory = replace(
            held,
            text=draft.summary,
            created_at=draft.at or held.created_at,
            category=draft.event_type.lower(),
            session_id=draft.session_id,
            metadata=draft.metadata,
        )
        return memory if memory == held else replace(memory, updated_at=now)

    async def page(
        self, scope: Scope, limit: int, event_type: str | None = None, *, after: Place | None = None
    ) -> tuple[list[Memory], Place | None]:
        """Return episodes and summaries of sessions, newest first, and from where to go on; None: there are no more.

        Of one type where that is asked for; a page may then hold fewer than `limit`, if others lie between.
        """
        wanted = None if event_type is None else event_type.lower()
        kinds: list[Kind] = ["episode"] if wanted not in (None, SESSION) else ["episode", "summary"]
        at_once = limit if wanted is None else max(limit, READ_AT_ONCE)
        found: list[Memory] = []
        for _ in range(MOST_READS):
            read = await self._store.memories(scope, kinds, limit=at_once, after=after)
            for memory in read:
                after = (memory.created_at, memory.memory_id)
                if wanted is None or event_type_of(memory) == wanted:
                    found.append(memory)
                if len(found) == limit:
                    return found, after
            if len(read) < at_once:
                return found, None
        return found, after
