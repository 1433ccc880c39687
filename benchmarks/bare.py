"""The least an ASGI application can do: what all rates are compared with. `python -m benchmarks.bare`."""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn

from memory_service.server import BACKLOG, KEEP_ALIVE_S

SIZES = {"/store": 60, "/context": 6000}


def _answer(size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    return start, {"type": "http.response.body", "body": b'"' + b"." * (size - 2) + b'"'}


ANSWERS = {path: _answer(size) for path, size in SIZES.items()}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, give the same bytes to everybody."""
    while (await receive()).get("more_body"):
        pass
    for message in ANSWERS[scope["path"]]:
        await send(message)


async def _whole(scope: Any, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    start, said = ANSWERS[scope["path"]]
    return 200, start["headers"][:1], said["body"]


WHOLE = {path.encode(): _whole for path in SIZES}
"""The same for the service's own way of requests that arrive whole."""


def main() -> None:
    """Serve on a free port of 127.0.0.1 with the settings of `memory_service.server`; tells its URL on stderr."""
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        print(f"bare application on http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app,
            http="httptools",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
