"""Running the service under uvicorn: open the parts, listen, drain, close the parts, return."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import uvicorn

from memory_service.app import app_around, open_service
from memory_service.errors import UnsafeStart
from memory_service.guard import Doorkeeper, Limits, guarded_by
from memory_service.service import MemoryService
from memory_service.settings import Settings

KEEP_ALIVE_S = 30
LATE_S = 2
"""Seconds for requests that were dismissed at the end of the grace to take note of it."""
BACKLOG = 2048


class Server(uvicorn.Server):
    """Leaves signals alone: uvicorn's own server dies of the one it caught, before our parts are closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let in those who wait at the door before it is closed: else they were cut off, with what they have sent."""
        waiting = [one for listener in sockets or [] for one in _waiting(listener)]
        for server in self.servers:
            server.close()
        protocol: Any = self.config.http_protocol_class
        parts = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        for one in waiting:
            await asyncio.get_running_loop().connect_accepted_socket(partial(protocol, **parts), one)
        await super().shutdown(sockets)


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """Connections that were made and not yet taken."""
    with suppress(OSError):  # would block: there are no more
        while True:
            yield listener.accept()[0]


SWITCH_S = 0.0005
"""The thread that writes asks for the interpreter a few times a group; by default it would wait 5 ms each time."""
COLLECT_EVERY = 10_000, 2, 50
"""Objects more, that the collector looks after, before it looks for rings of them: hardly any are made here. After two
such looks it looks at what it has seen twice: after ten, as by default, everybody waits 15 to 25 ms for it.
"""

BROKEN = 70
STOPPING = (signal.SIGINT, signal.SIGTERM)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """Serve while the block lasts; gives the URL. Leaving it drains requests first. Raises UnsafeStart."""
    async with serving(settings) as (url, _):
        yield url


async def run_until_stopped(settings: Settings, announce: Callable[[str], None]) -> int:
    """Serve until a signal comes, or the store breaks; returns the exit status. The process is this service's own."""
    async with serving(settings) as (url, service):
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()  # what is there by now stays
        gc.set_threshold(*COLLECT_EVERY)
        announce(url)
        stop, broken = asyncio.create_task(asked_to_stop()), asyncio.create_task(service.store_failed())
        await asyncio.wait((stop, broken), return_when=asyncio.FIRST_COMPLETED)
        status = BROKEN if broken.done() else 0
        if not status:  # a store that broke is itself the reason for which nothing is taken any more
            service.drain()
            await asyncio.sleep(settings.drain_delay_seconds)
        for task in (stop, broken):
            task.cancel()
    return status


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[str, MemoryService]]:
    """Do as `running`, and give the service too."""
    with listening(settings.host, settings.port) as listener:
        async with open_service(settings) as service:
            limits = Limits(
                connections=settings.max_connections,
                connections_per_address=settings.max_connections_per_address,
            )
            keeper = Doorkeeper(limits)
            app = app_around(nullcontext(service), settings)
            config = uvicorn.Config(
                app,
                http=guarded_by(keeper, app.whole, app.at_once if service.answers_at_once else ()),
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,  # whoever calls could write there what they like
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=round(settings.shutdown_grace_seconds) + LATE_S,
            )
            server = Server(config)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            timekeeping = asyncio.create_task(keeper.keep_time())
            try:
                yield url_of(listener), service
            finally:
                service.wind_up()
                server.should_exit = True
                dismissing = asyncio.create_task(keeper.dismiss_after(settings.shutdown_grace_seconds))
                await serving
                dismissing.cancel()
                timekeeping.cancel()


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Take the port before anything is opened. Raises UnsafeStart if it is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise UnsafeStart(f"cannot listen on {host} port {port}: {_why_not(exc)}") from exc
    # Accepted connections inherit it. Without it asyncio, which sets it only on sockets it made itself, leaves the
    # second half of every answer waiting 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener:
        yield listener


def _why_not(exc: OSError) -> str:
    if exc.errno and exc.errno < 0:  # numbers of who looks names up, which are none of the system's
        return "HOST is not known as an address"
    return os.strerror(exc.errno) if exc.errno else str(exc)


def url_of(listener: socket.socket) -> str:
    """The URL by which a caller on this host reaches it."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def asked_to_stop() -> None:
    """Wait for SIGINT or SIGTERM. Once one has come both are ignored, up to the very end of the process.

    Handlers of the loop would go with the loop, and a second signal then end the process with a status of its own.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask(*_: object) -> None:
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        loop.call_soon_threadsafe(stop.set)

    for number in STOPPING:
        signal.signal(number, ask)
    await stop.wait()
