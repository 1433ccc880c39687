"""Servers that know of another service of memory only how it is asked: each request is held to that, none is kept."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec

Given = Annotated[str, msgspec.Meta(min_length=1)]
Uuid = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Message(Strict):
    role: Literal["user", "assistant"]
    content: Given


class DatedMessage(Message):
    created_at: Given


class WorkingMemory(Strict):
    user_id: Given
    messages: Annotated[list[DatedMessage], msgspec.Meta(min_length=2)]


class LongTermMemory(Strict):
    id: Given
    text: Given
    user_id: Given
    session_id: Given


class LongTermMemories(Strict):
    memories: Annotated[list[LongTermMemory], msgspec.Meta(min_length=1)]


class Equal(Strict):
    eq: Given


class LongTermSearch(Strict):
    text: Given
    user_id: Equal
    limit: int


class Mem0Memories(Strict):
    messages: Annotated[list[Message], msgspec.Meta(min_length=2, max_length=2)]
    user_id: Given
    run_id: Given
    infer: Literal[False] | bool


class Mem0Search(Strict):
    query: Given
    user_id: Given


class MemobaseUser(Strict):
    id: Annotated[str, msgspec.Meta(pattern=f"^{Uuid}$")]
    data: dict[str, Any]


class Chat(Strict):
    messages: Annotated[list[Message], msgspec.Meta(min_length=2, max_length=2)]


class MemobaseBlob(Strict):
    blob_type: Literal["chat"]
    blob_data: Chat


class Nothing(Strict):
    pass


class SessionStart(Strict):
    user_id: Given
    session_id: Given
    restore: bool


class SessionTurn(Strict):
    user_id: Given
    session_id: Given
    user_message: Given
    agent_message: Given


class SessionOf(Strict):
    user_id: Given
    session_id: Given


class SessionSearch(Strict):
    user_id: Given
    session_id: Given
    query: Given
    top_k: int


class Route(msgspec.Struct, frozen=True):
    """`query`: the names that must be there. `answer` is what is told, whatever was asked."""

    method: str
    path: str
    takes: type | None = None
    query: frozenset[str] = frozenset()
    answer: Any = msgspec.field(default_factory=dict)


FINE = {"errno": 0, "errmsg": "", "data": None}
ROUTES: Mapping[str, list[Route]] = {
    "redis-agent-memory-server": [
        Route("GET", "/v1/health"),
        Route("PUT", "/v1/working-memory/[^/]+", WorkingMemory),
        Route("GET", "/v1/working-memory/[^/]+", None, frozenset({"user_id"})),
        Route("POST", "/v1/long-term-memory/", LongTermMemories),
        Route("POST", "/v1/long-term-memory/search", LongTermSearch, answer={"memories": [{"text": "a"}], "total": 1}),
    ],
    "mem0": [
        Route("GET", "/openapi.json"),
        Route("POST", "/memories", Mem0Memories),
        Route("GET", "/memories", None, frozenset({"user_id", "run_id"})),
        Route("POST", "/search", Mem0Search, answer={"results": [{"memory": "a"}]}),
    ],
    "memobase": [
        Route("GET", "/api/v1/healthcheck", answer=FINE),
        Route("POST", "/api/v1/users", MemobaseUser, answer=FINE),
        Route("POST", f"/api/v1/blobs/insert/{Uuid}", MemobaseBlob, answer=FINE),
        Route("POST", f"/api/v1/users/buffer/{Uuid}/chat", Nothing, answer=FINE),
        Route("GET", f"/api/v1/users/context/{Uuid}", None, frozenset({"max_token_size"}), answer=FINE),
        Route(
            "GET",
            f"/api/v1/users/event/search/{Uuid}",
            None,
            frozenset({"query", "topk"}),
            answer={**FINE, "data": {"events": [{"id": "a"}]}},
        ),
    ],
    "agent-memory": [
        Route("GET", "/health"),
        Route("POST", "/sessions/start", SessionStart),
        Route("POST", "/memory/store", SessionTurn),
        Route("POST", "/memory/context", SessionOf),
        Route("POST", "/memory/retrieve", SessionSearch, answer={"facts": ["a"], "count": 1}),
    ],
}


class PeerServer:
    """`asked` counts by method and path (the route's); `refused` are words on what was of another shape."""

    def __init__(self, kind: str) -> None:
        self.routes, self.asked, self.refused = ROUTES[kind], Counter[str](), list[str]()
        self.authorization: set[str | None] = set()
        self.answers: dict[str, Any] = {}
        self.url = ""

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(target)
        for route in self.routes:
            if route.method == method and re.fullmatch(route.path, parts.path):
                self.asked[f"{method} {route.path}"] += 1
                try:
                    if route.takes is not None:
                        msgspec.json.decode(body, type=route.takes)
                    if parse_qs(parts.query).keys() != route.query or (route.takes is None and body):
                        raise msgspec.ValidationError("of another query, or with a body")
                except msgspec.MsgspecError as exc:
                    self.refused.append(f"{method} {target}: {exc}")
                    return 422, b'{"detail":"shape"}'
                return 200, msgspec.json.encode(self.answers.get(route.path, route.answer))
        self.refused.append(f"{method} {target}: there is no such path")
        return 404, b'{"detail":"path"}'


@contextmanager
def peer_server(kind: str) -> Iterator[PeerServer]:
    """A server of that interface on a free port."""
    peer = PeerServer(kind)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65_536  # head and body at once

        def _answer(self) -> None:
            peer.authorization.add(self.headers.get("authorization"))
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, said = peer.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        peer.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield peer
        finally:
            server.shutdown()
            thread.join()
