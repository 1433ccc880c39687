"""What a memory driver is: six verbs, called and waited for (`BaseMemoryDriver`), or awaited (`AwaitedDriver`).

A memory is told as a dictionary:

    {"id": str, "memory_id": str, "memory": {"content": str, "tags": [str], "metadata": dict}, "user_id": str,
     "conversation_id": str | None, "created_at": str, "score": float}

`created_at` is ISO 8601 with an offset; there is a `score` where a query was asked, higher is nearer. A piece of global
knowledge has `category` in place of `user_id` and `conversation_id`, and its metadata hold `category`, `title` and
`doc_id`. `degraded` names what a search had to do without. An engine may tell more.

Errors are raised: an empty list says that nothing was found, not that nobody could look. Arguments that cannot be are a
ValueError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

Told = dict[str, Any]


class BaseMemoryDriver(ABC):
    """Base of all memory drivers. One that has a `close()` is closed when the manager lets go of it."""

    @abstractmethod
    def recall(
        self,
        user_id: str,
        conversation_id: str | None = None,
        query: str | None = None,
        top_k: int = 10,
        use_vector: bool = True,
        exclude_tags: list[str] | None = None,
    ) -> list[Told]:
        """Return memories of a user: those nearest to the query, best first; without one the newest, newest first.

        `conversation_id`: of that conversation alone. `exclude_tags`: none that bears any of them. `use_vector`:
        whether meaning counts beside words.
        """

    @abstractmethod
    def recall_global_knowledge(self, query: str, top_k: int = 5, category: str | None = None) -> list[Told]:
        """Return the knowledge nearest to the query, best first; of a category, however it is written, or of all."""

    @abstractmethod
    def store(
        self,
        user_id: str,
        content: str,
        conversation_id: str | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Told:
        """Keep a memory of a user, and return it."""

    def store_many(self, memories: Iterable[Mapping[str, Any]]) -> list[Told]:
        """Keep many memories, each given as `store` takes it, and return them in their order.

        An engine that can do better than one by one does. If one cannot be, those before it are kept.
        """
        return [self.store(**memory) for memory in memories]

    @abstractmethod
    def store_global_knowledge(
        self,
        content: str,
        category: str,
        title: str | None = None,
        doc_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Told:
        """Keep a piece of knowledge for all users, in place of an earlier one of its `doc_id`, and return it."""

    @abstractmethod
    def delete(self, memory_id: str, user_id: str | None = None) -> bool:
        """Delete a memory; returns whether there was one. Of another user it looks as if it were missing."""

    @abstractmethod
    def health_check(self) -> Told:
        """Ask whether memories can be kept and found now.

        `{"status": "healthy" or "unhealthy", "driver": its name, "connected": bool, "error": why not}`
        """


class AwaitedDriver(Protocol):
    """The same six verbs, awaited. `blocking.BlockingDriver` makes a BaseMemoryDriver of it."""

    async def recall(
        self,
        user_id: str,
        conversation_id: str | None = None,
        query: str | None = None,
        top_k: int = 10,
        use_vector: bool = True,
        exclude_tags: list[str] | None = None,
    ) -> list[Told]: ...

    async def recall_global_knowledge(self, query: str, top_k: int = 5, category: str | None = None) -> list[Told]: ...

    async def store(
        self,
        user_id: str,
        content: str,
        conversation_id: str | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Told: ...

    async def store_global_knowledge(
        self,
        content: str,
        category: str,
        title: str | None = None,
        doc_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Told: ...

    async def delete(self, memory_id: str, user_id: str | None = None) -> bool: ...

    async def health_check(self) -> Told: ...
