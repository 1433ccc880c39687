"""One face for callers that wait: any awaited driver, run on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

from memory_service.drivers.base import AwaitedDriver, BaseMemoryDriver, Told

T = TypeVar("T")

Opened = Callable[[], AbstractAsyncContextManager[AwaitedDriver]]
Verb = Callable[[AwaitedDriver], Coroutine[Any, Any, T]]


class BlockingFace(BaseMemoryDriver):
    """The verbs of an awaited driver, called and waited for, wherever that lives."""

    @abstractmethod
    def run(self, verb: Verb[T]) -> T:
        """Let the awaited driver do this, and wait for it."""

    def recall(
        self,
        user_id: str,
        conversation_id: str | None = None,
        query: str | None = None,
        top_k: int = 10,
        use_vector: bool = True,
        exclude_tags: list[str] | None = None,
    ) -> list[Told]:
        return self.run(lambda driver: driver.recall(user_id, conversation_id, query, top_k, use_vector, exclude_tags))

    def recall_global_knowledge(self, query: str, top_k: int = 5, category: str | None = None) -> list[Told]:
        return self.run(lambda driver: driver.recall_global_knowledge(query, top_k, category))

    def store(
        self,
        user_id: str,
        content: str,
        conversation_id: str | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Told:
        return self.run(lambda driver: driver.store(user_id, content, conversation_id, tags, metadata))

    def store_global_knowledge(
        self,
        content: str,
        category: str,
        title: str | None = None,
        doc_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Told:
        return self.run(lambda driver: driver.store_global_knowledge(content, category, title, doc_id, metadata))

    def delete(self, memory_id: str, user_id: str | None = None) -> bool:
        return self.run(lambda driver: driver.delete(memory_id, user_id))

    def health_check(self) -> Told:
        return self.run(lambda driver: driver.health_check())


class BlockingDriver(BlockingFace):
    """The verbs of an awaited driver that lives here, in a thread; many threads may call at once.

    The driver is opened with the first call, and what that raises its caller is told; the next one tries again.
    `close()` closes it, as does the end of the process (of its main thread: threads that go on are refused then).

    A call from within a running event loop works, and keeps that loop waiting as any blocking call does: there, use the
    awaited driver itself. A process that was forked off has no part in what was opened before: it needs a driver of
    its own.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._home: _Home | None = None
        self._watches_the_end = self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the calls under way and close what was opened. The next call opens it anew."""
        if self._is_of_another_process():
            return  # there it is open still, and here is nothing to close
        with self._lock:
            if self._home is not None:
                home = self._home
                home.end()
                self._home = None
                home.ended.result()

    def run(self, verb: Verb[T]) -> T:
        if self._is_of_another_process():
            raise RuntimeError(
                "this memory driver was opened before the process was forked: make another here, "
                "or call MemoryDriverManager.reset_cache() first if it came from get_memory_driver()"
            )
        with self._lock:  # so that nothing is handed over to what is being closed
            call = self._open().hand_over(verb)
        try:
            return call.result()
        except BaseException:
            call.cancel()  # interrupted: nobody waits for it any more
            raise

    def _is_of_another_process(self) -> bool:
        return self._home is not None and self._home.pid != os.getpid()

    def _open(self) -> _Home:
        if self._ended:
            raise RuntimeError("the process is about to end: the memory driver takes no more calls")
        self._watch_for_the_end()
        if self._home is not None and self._home.ending:  # whoever closed it was interrupted
            self._home.end()
            self._home = None
        home = self._home = self._home or _Home(self._opened)
        try:
            home.begin()
            home.driver.result()
        except Exception:  # if interrupted it goes on opening, and the next call finds it
            self._home = None
            raise
        return home

    def _watch_for_the_end(self) -> None:
        """Closing needs what Python's own executors do, and `atexit` comes when these have ended already."""
        if not self._watches_the_end:
            register: Callable[[Callable[[], None]], object]
            register = getattr(threading, "_register_atexit", atexit.register)
            register(self._end)
            self._watches_the_end = True

    def _end(self) -> None:
        self._ended = True
        self.close()


class _Home:
    """Where a driver lives: an event loop in a thread, from its opening to its end."""

    def __init__(self, opened: Opened) -> None:
        self.pid = os.getpid()
        self.driver: Future[AwaitedDriver] = Future()
        self.ended: Future[None] = Future()
        self.ending = False
        self._under_way: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._live, args=(opened,), name="memory-driver", daemon=True)

    def begin(self) -> None:
        """Start, unless it has: whoever was about to may have been interrupted."""
        if self._thread.ident is None:
            self._thread.start()

    def hand_over(self, verb: Verb[T]) -> Future[T]:
        call = asyncio.run_coroutine_threadsafe(verb(self.driver.result()), self._loop)
        self._under_way.add(call)
        call.add_done_callback(self._under_way.discard)
        return call

    def end(self) -> None:
        """Finish what is under way and close the driver; `ended` tells how that went."""
        if self._thread.ident is None:
            self.ended.set_result(None)
            return
        if self.driver.exception() is None:
            wait(tuple(self._under_way))
            if not self.ending:
                self.ending = True
                self._loop.call_soon_threadsafe(self._enough.set)
        wait((self.ended,))  # a join that is interrupted takes the thread for ended (bpo-45274)
        self._thread.join()

    def _live(self, opened: Opened) -> None:
        try:
            asyncio.run(self._stay_open(opened))
        except BaseException as exc:
            self.ended.set_exception(exc)
        else:
            self.ended.set_result(None)

    async def _stay_open(self, opened: Opened) -> None:
        self._loop, self._enough = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with opened() as driver:
                self.driver.set_result(driver)
                await self._enough.wait()
        except BaseException as exc:
            if self.driver.done():
                raise
            self.driver.set_exception(exc)
