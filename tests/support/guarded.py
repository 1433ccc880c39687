"""An application behind a doorkeeper with small limits, and raw calls to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from memory_service.guard import Doorkeeper, Limits, guarded_by
from memory_service.server import Server, listening
from tests.support.background import until
from tests.support.raw_http import Caller

SHORT_S, LONG_S = 0.2, 20.0
"""A limit a test waits for, and one that must not be what ends the test."""
PATIENT = {"head_s": LONG_S, "body_s": LONG_S, "request_s": LONG_S, "head_bytes": 2_000}


@asynccontextmanager
async def served(
    app: Any, *, keep_alive_s: int = 5, **limits: Any
) -> AsyncIterator[tuple[Doorkeeper, Callable[..., Any]]]:
    """Serve the app behind a doorkeeper; gives it, and a way to call from 127.0.0.1 or another address."""
    keeper = Doorkeeper(Limits(**{**PATIENT, **limits}))
    protocol = guarded_by(keeper, getattr(app, "whole", None), getattr(app, "at_once", ()))
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        access_log=False,
        log_config=None,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=1,
    )
    with listening("127.0.0.1", 0) as listener:
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        timekeeping = asyncio.create_task(keeper.keep_time())
        await until(lambda: server.started)

        try:
            async with called(listener.getsockname()) as call:
                yield keeper, call
        finally:
            await until(lambda: keeper.connections == 0)  # whatever a test did, nobody is counted for ever
            server.should_exit = True
            await serving
            timekeeping.cancel()


@asynccontextmanager
async def called(server: Any) -> AsyncIterator[Callable[..., Any]]:
    """Gives a way to call a server from 127.0.0.1 or another address; all callers leave when the block ends."""
    callers: list[Caller] = []

    async def call(address: str = "127.0.0.1") -> Caller:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is said in parts arrives in parts
        sock.bind((address, 0))
        caller = Caller(sock)
        callers.append(caller)
        await asyncio.get_running_loop().sock_connect(sock, server)
        return caller

    try:
        yield call
    finally:
        for caller in callers:
            caller.leave()
