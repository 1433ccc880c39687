"""What each layer of the hot path costs: processor time of one request in process, without a socket under it.

    python -m benchmarks.layers [--rounds 15] [--json FILE]

First the parts by themselves, then whole exchanges: bytes as a client sends them go into the protocol of the server,
and the answer's bytes come out. The least of several rounds, each over the sessions of `benchmarks.workload` in turn,
so that no processor cache holds all of them. Of a store also what other threads do, per turn, with 64 under way.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from benchmarks import bare
from benchmarks.figures import shown, table
from benchmarks.load import SERIAL_DIGITS, Request
from benchmarks.quiet import CALM, NEVER_S
from benchmarks.servers import work_folder
from benchmarks.workload import Workload
from memory_service.api import schemas
from memory_service.api.accept import check_accept
from memory_service.api.auth import ANYONE, admit_loopback
from memory_service.api.bodies import JsonBody
from memory_service.api.front import Front
from memory_service.api.routes import get_context
from memory_service.app import Surroundings, app_around, open_service
from memory_service.guard import Doorkeeper, Limits, guarded_by
from memory_service.service import MemoryService
from memory_service.settings import Settings
from memory_service.stores.bodies import text_of
from memory_service.values import Scope, SessionKey

SESSIONS, AT_ONCE, STORES = 400, 64, 20
HEADS = ["what", "CPU us"]


class Wire:
    """Where a protocol writes to: nowhere; it says that something was written."""

    def __init__(self) -> None:
        self.written = asyncio.Event()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 8000)}.get(name, default)

    def write(self, data: bytes) -> None:
        self.written.set()

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Line:
    """One connection to an application, by a class of protocols."""

    def __init__(self, protocol: Any, app: Any, state: dict[str, Any]) -> None:
        config = uvicorn.Config(app, http=protocol, lifespan="off", access_log=False, log_config=None)
        config.load()
        made: Any = config.http_protocol_class
        self.protocol = made(config=config, server_state=ServerState(), app_state=state)
        self._wire = Wire()
        self.protocol.connection_made(self._wire)

    async def exchange(self, sent: bytes) -> None:
        self.protocol.data_received(sent)
        await self.answered()

    async def answered(self) -> None:
        while not (self.protocol.cycle and self.protocol.cycle.response_complete):
            self._wire.written.clear()
            await self._wire.written.wait()


def sent(request: Request, serial: int = 0) -> bytes:
    return request.head if request.tail is None else b"%b%0*d%b" % (request.head, SERIAL_DIGITS, serial, request.tail)


def at_once(work: Awaitable[Any]) -> Any:
    """What comes of work that waits for nothing."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as ended:
        return ended.value
    raise RuntimeError("it waits for something")


class Layers:
    """A service with the sessions of a workload, and what is measured of it."""

    def __init__(self, service: MemoryService, settings: Settings, rounds: int) -> None:
        self._service, self._rounds, self._state = service, rounds, {"service": service}
        self._workload = Workload(8000, sessions=SESSIONS, messages=1)
        self._app: Front = app_around(nullcontext(service), settings)
        self._guarded = guarded_by(
            Doorkeeper(Limits()), {**self._app.whole, **bare.WHOLE}, [*self._app.at_once, *bare.WHOLE]
        )
        self._serial = 0

    async def prepare(self) -> None:
        line = self._line()
        for request in (request for of_session in self._workload.users() for request in of_session):
            await line.exchange(self._numbered(request))
        for request in self._workload.measured()["context"]:
            await line.exchange(sent(request))
        gc.collect()
        gc.freeze()

    def _line(self, protocol: Any = None, app: Any = None) -> Line:
        return Line(protocol or self._guarded, app or self._app, self._state)

    def _numbered(self, request: Request) -> bytes:
        self._serial += 1
        return sent(request, self._serial)

    def parts(self) -> Iterator[tuple[str, float]]:
        """Of a context, and what is new of a store."""
        sessions = self._workload.read_from
        keys = [SessionKey(scope=Scope(user_id=one.user_id), session_id=one.session_id) for one in sessions]
        raws = [sent(request).partition(b"\r\n\r\n")[2] for request in self._workload.measured()["context"]]
        stores = [sent(request, 1).partition(b"\r\n\r\n")[2] for request in self._workload.measured()["store"]]
        asked, stored = JsonBody(schemas.GetContext), JsonBody(schemas.StoreTurn)
        scopes = [_scope(raw, self._state) for raw in raws]
        bodies = [schemas.GetContext(user_id=one.user_id, session_id=one.session_id) for one in sessions]
        hots = [at_once(self._service.context(key)) for key in keys]
        parts: dict[str, tuple[int, Callable[[int], Any]]] = {
            "who calls (loopback)": (len(keys), lambda i: at_once(admit_loopback(scopes[i]))),
            "what is accepted": (len(keys), lambda i: check_accept(scopes[i]["headers"])),
            "body of a context: read, parse, validate": (
                len(keys),
                lambda i: at_once(asked(*_body(raws[i], scopes[i]))),
            ),
            "body of a turn: read, parse, validate": (
                len(stores),
                lambda i: at_once(stored(*_body(stores[i], scopes[0]))),
            ),
            "the verb `context`, hot, with its answer": (
                len(keys),
                lambda i: at_once(get_context(self._service, ANYONE, bodies[i])),
            ),
            "a turn as the record keeps it": (len(hots), lambda i: text_of(hots[i].turns[-1])),
            "a head as the record keeps it": (len(hots), lambda i: text_of(hots[i].session)),
        }
        for name, (count, part) in parts.items():
            yield name, self._least(count, part)

    def _least(self, count: int, part: Callable[[int], Any]) -> float:
        took = []
        for _ in range(self._rounds):
            began = time.thread_time()
            for number in range(count):
                part(number)
            took.append((time.thread_time() - began) / count)
        return min(took) * 1e6

    async def exchanges(self) -> list[tuple[str, float]]:
        measured, plain = self._workload.measured(), self._workload.for_bare(8000)
        short, long = [sent(plain["bare store"][0], 1)], [sent(plain["bare context"][0])]
        rows: list[tuple[str, Line, list[bytes]]] = [
            ("bare application under uvicorn, 60 bytes", self._line(HttpToolsProtocol, bare.app), short * SESSIONS),
            ("bare application under uvicorn, 6 KB", self._line(HttpToolsProtocol, bare.app), long * SESSIONS),
            ("bare application under ours, 60 bytes", self._line(app=bare.app), short * SESSIONS),
            ("bare application under ours, 6 KB", self._line(app=bare.app), long * SESSIONS),
            ("context, hot, 6 KB", self._line(), [sent(request) for request in measured["context"]]),
            ("start of a session that is hot, 6 KB", self._line(), [sent(request) for request in measured["start"]]),
        ]
        return [(name, await self._least_exchange(line, data)) for name, line, data in rows]

    async def _least_exchange(self, line: Line, data: Sequence[bytes]) -> float:
        took = []
        for _ in range(self._rounds):
            began = time.thread_time()
            for one in data:
                await line.exchange(one)
            took.append((time.thread_time() - began) / len(data))
        return min(took) * 1e6

    async def stores(self) -> list[tuple[str, float]]:
        """Of a turn with 64 at once: in the thread of the loop, and in the others."""
        lines = [self._line() for _ in range(AT_ONCE)]
        requests = self._workload.measured()["store"]
        here, everywhere = [], []
        for first in range(0, STORES * AT_ONCE, AT_ONCE):
            data = [self._numbered(requests[(first + place) % len(requests)]) for place in range(AT_ONCE)]
            began, began_all = time.thread_time(), time.process_time()
            for line, one in zip(lines, data, strict=True):
                line.protocol.data_received(one)
            for line in lines:
                await line.answered()
            here.append(time.thread_time() - began)
            everywhere.append(time.process_time() - began_all)
        loop, whole = min(here) / AT_ONCE * 1e6, min(everywhere) / AT_ONCE * 1e6
        return [
            ("store, durable: the event loop", loop),
            ("store, durable: the other threads, nearly all of it the writer", whole - loop),
        ]


def _scope(raw: bytes, state: dict[str, Any]) -> dict[str, Any]:
    headers = [
        (b"host", b"127.0.0.1:8000"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(raw)).encode()),
    ]
    return {"headers": headers, "client": ("127.0.0.1", 50_000), "query_string": b"", "state": state}


def _body(raw: bytes, scope: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Awaitable[dict[str, Any]]]]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    return scope, receive


async def measured(folder: Path, rounds: int) -> list[tuple[str, float]]:
    settings = Settings(_env_file=None, store_url=f"sqlite:///{folder}/memory.db", **CALM)
    async with open_service(settings, Surroundings(gather_s=NEVER_S)) as service:
        layers = Layers(service, settings, rounds)
        await layers.prepare()
        return [*layers.parts(), *await layers.exchanges(), *await layers.stores()]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=15, show_default=True, help="Rounds, of which the least is taken.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the numbers here.")
def main(rounds: int, json_file: Path | None) -> None:
    """Measure what each layer of the hot path costs."""
    with work_folder(None) as folder:
        rows = uvloop.run(measured(folder, rounds))
    print(table(HEADS, [[name, shown(cost, 1)] for name, cost in rows]))
    if json_file:
        json_file.write_text(json.dumps(dict(rows), indent=1))


if __name__ == "__main__":
    main()
