"""A server of AutoMem's HTTP API, for tests: `python -m tests.automem.server --port 8001 --data automem.db`."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.automem import bodies
from tests.automem.bodies import body_of, refused
from tests.automem.faults import CONTROL, Fault, Observed, failure, with_transport
from tests.automem.recall import embedded, listed, number, question, recalled
from tests.automem.record import Link, Memory, Record

OPEN = ("/health", "/backup")
TIMES = ("timestamp", "updated_at", "last_accessed")


class AutoMem:
    """One method a route. Each runs to its end without a pause, so what it does is done whole."""

    def __init__(self, record: Record, *, dimensions: int, vector_delay_s: float) -> None:
        self._record, self._dimensions, self._vector_delay_s = record, dimensions, vector_delay_s
        self.faults: list[Fault] = []

    @property
    def routes(self) -> list[Route]:
        table = {
            "GET /health": self.health,
            "POST /memory": self.store,
            "POST /memory/batch": self.store_batch,
            "GET /memory/by-tag": self.by_tag,
            "DELETE /memory/by-tag": self.delete_by_tag,
            "GET /memory/{id}": self.get,
            "PATCH /memory/{id}": self.patch,
            "DELETE /memory/{id}": self.delete,
            "GET /recall": self.recall,
            "POST /associate": self.associate,
            "GET /memories/{id}/related": self.related,
            "GET /startup-recall": self.startup_recall,
            "GET /analyze": self.analyze,
            "GET /enrichment/status": self.enrichment_status,
            f"POST {CONTROL}faults": self.be_faulty,
            f"POST {CONTROL}settle": self.settle,
            f"POST {CONTROL}reset": self.reset,
        }
        return [Route(name.split(" ")[1], verb, methods=[name.split(" ")[0]]) for name, verb in table.items()]

    # Memories

    async def store(self, request: Request) -> Response:
        started, body = time.perf_counter(), await body_of(request)
        fields = bodies.new_memory(bodies.read(body), now())
        given = body.get("embedding")
        vector = None if given is None else bodies.embedding(given, self._dimensions)
        memory = self._made(str(uuid4()), fields, vector)
        self._record.keep(memory)
        said = {name: fields[name] for name in ("type", "confidence", "metadata", *TIMES)}
        answer = {
            "status": "success",
            "memory_id": memory.id,
            "stored_at": now().isoformat(),
            "qdrant": "queued" if vector is None else "stored",
            "embedding_status": "queued" if vector is None else "provided",
            "enrichment": "queued",
            **said,
        }
        return JSONResponse({**answer, "query_time_ms": since(started)}, 201)

    async def store_batch(self, request: Request) -> Response:
        started, items = time.perf_counter(), bodies.batch(await body_of(request), "memories")
        read = [bodies.new_memory(bodies.read(item, bodies.BATCH_FIELDS), now()) for item in items]
        vectors = [embedded(fields["content"], self._dimensions) for fields in read]  # a batch waits for them
        memories = [self._made(str(uuid4()), *pair) for pair in zip(read, vectors, strict=True)]
        self._record.keep(*memories)
        answer = {
            "status": "success",
            "stored": len(memories),
            "memory_ids": [memory.id for memory in memories],
            "qdrant": f"stored ({len(memories)})",
            "enrichment": "queued",
        }
        return JSONResponse({**answer, "query_time_ms": since(started)}, 201)

    async def get(self, request: Request) -> Response:
        return JSONResponse({"status": "success", "memory": self._asked(request).node})

    async def patch(self, request: Request) -> Response:
        memory, changes = self._asked(request), bodies.read(await body_of(request))
        fields = memory.fields | changes
        same_text = fields["content"] == memory.fields["content"]
        self._record.keep(
            Memory(memory.id, fields, memory.vector, memory.vector_at) if same_text else self._made(memory.id, fields)
        )
        return JSONResponse({"status": "success", "memory_id": memory.id})

    async def delete(self, request: Request) -> Response:
        memory = self._asked(request)
        self._record.drop([memory.id])
        return JSONResponse({"status": "success", "memory_id": memory.id})

    async def by_tag(self, request: Request) -> Response:
        tags, params = tags_of(request), request.query_params
        limit, offset = number(params, "limit", 20, 200), number(params, "offset", 0, 2**63, least=0)
        found = self._record.tagged(tags)
        page = [memory.node for memory in found[offset : offset + limit]]
        answer = {"status": "success", "tags": tags, "count": len(page), "limit": limit, "offset": offset}
        return JSONResponse({**answer, "has_more": offset + len(page) < len(found), "memories": page})

    async def delete_by_tag(self, request: Request) -> Response:
        tags = tags_of(request)
        found = [memory.id for memory in self._record.tagged(tags)]
        self._record.drop(found)
        return JSONResponse({"status": "success", "tags": tags, "deleted_count": len(found)})

    async def recall(self, request: Request) -> Response:
        started, asked = time.perf_counter(), question(request.query_params, self._dimensions)
        answer = recalled(self._record.memories.values(), asked, now())
        return JSONResponse({**answer, "query_time_ms": since(started)})

    def _made(self, id: str, fields: dict[str, Any], vector: Any = None) -> Memory:
        """A memory whose vector, unless it is given, comes later."""
        due = 0.0 if vector is not None else now().timestamp() + self._vector_delay_s
        numbers = embedded(fields["content"], self._dimensions) if vector is None else vector
        return Memory(id, fields, np.asarray(numbers, np.float32), due)

    def _asked(self, request: Request) -> Memory:
        return self._known(bodies.memory_id(request.path_params["id"]))

    def _known(self, id: str) -> Memory:
        if id not in self._record.memories:
            raise refused("Memory not found", 404)
        return self._record.memories[id]

    # Associations

    async def associate(self, request: Request) -> Response:
        body = await body_of(request)
        if "associations" in body:
            return self._associate_all(bodies.batch(body, "associations"))
        link = self._associated(body)
        return JSONResponse(
            {
                **link.properties,
                "status": "success",
                "message": f"Association created between {link.first} and {link.second}",
                "relation_type": link.type,
            },
            201,
        )

    def _associate_all(self, items: list[Any]) -> Response:
        succeeded, failed = [], []
        for index, item in enumerate(items):
            try:
                link = self._associated(item if isinstance(item, dict) else {})
            except HTTPException as exc:
                failed.append({"index": index, "reason": exc.detail})
                continue
            ends = {"memory1_id": link.first, "memory2_id": link.second, "relation_type": link.type}
            succeeded.append({"index": index, **ends, "strength": link.properties["strength"]})
        answer = {
            "status": "partial_success" if failed else "success",
            "created_count": len(succeeded),
            "failed_count": len(failed),
            "succeeded": succeeded,
            "failed": failed,
            "summary": f"{len(succeeded)}/{len(items)} associations created successfully",
        }
        return JSONResponse(answer, 207 if failed else 201)

    def _associated(self, body: dict[str, Any]) -> Link:
        link = Link(*bodies.association(body))
        self._known(link.first)
        self._known(link.second)
        self._record.link(link)
        return link

    async def related(self, request: Request) -> Response:
        memory, params = self._asked(request), request.query_params
        types = listed(params, "relationship_types") or list(bodies.RELATION_TYPES)
        depth, limit = number(params, "max_depth", 1, 3), number(params, "limit", 50, 200)
        shown = ("summary", "type", "importance", "confidence", "timestamp", "tags")
        near = [found.node for found in islice(self._record.around(memory.id, types, depth), limit)]
        answer = {
            "status": "success",
            "memory_id": memory.id,
            "count": len(near),
            "related_memories": [{name: node[name] for name in ("id", *shown)} for node in near],
        }
        return JSONResponse({**answer, "relationship_types": types, "max_depth": depth, "limit": limit})

    # Status

    async def health(self, request: Request) -> Response:
        count, vectors = len(self._record.memories), self._vectors()
        sizes = dict.fromkeys(("configured", "effective", "collection"), self._dimensions)
        answer = {
            "status": "healthy",
            "falkordb": "connected",
            "qdrant": "connected",
            "memory_count": count,
            "vector_count": vectors,
            "sync_status": "synced" if count == vectors else "drift_detected",
            "vector_dimensions": {**sizes, "mismatch": False},
            "enrichment": self._enrichment(),
            "timestamp": now().isoformat(),
            "graph": "memories",
        }
        return JSONResponse(answer)

    async def enrichment_status(self, request: Request) -> Response:
        return JSONResponse(self._enrichment())

    def _vectors(self) -> int:
        at = now().timestamp()
        return sum(memory.vector_at <= at for memory in self._record.memories.values())

    def _enrichment(self) -> dict[str, Any]:
        done = self._vectors()
        waiting = len(self._record.memories) - done
        counts = {"queue_depth": waiting, "pending": waiting, "inflight": 0, "processed": done, "failed": 0}
        return {"status": "running", **counts}

    async def startup_recall(self, request: Request) -> Response:
        empty: dict[str, Any] = {"critical_lessons": [], "system_rules": [], "lesson_count": 0, "has_critical": False}
        return JSONResponse({**empty, "summary": "No critical lessons"})

    async def analyze(self, request: Request) -> Response:
        started = time.perf_counter()
        types = Counter(memory.fields["type"] for memory in self._record.memories.values())
        analytics: dict[str, Any] = {"memory_types": types, "patterns": [], "preferences": []}
        analytics |= {"temporal_insights": {}, "entity_frequency": {}, "confidence_distribution": {}}
        return JSONResponse({"analytics": analytics, "elapsed_ms": since(started)})

    # What only tests ask for

    async def be_faulty(self, request: Request) -> Response:
        self.faults[:] = msgspec.json.decode(await request.body(), type=list[Fault])
        return JSONResponse({})

    async def settle(self, request: Request) -> Response:
        settled = [Memory(m.id, m.fields, m.vector, 0.0) for m in self._record.memories.values() if m.vector_at]
        self._record.keep(*settled)
        return JSONResponse({})

    async def reset(self, request: Request) -> Response:
        self._record.drop(self._record.memories)
        self.faults.clear()
        return JSONResponse({})


def now() -> datetime:
    return datetime.now(UTC)


def since(started: float) -> float:
    """Milliseconds that passed."""
    return round((time.perf_counter() - started) * 1000, 2)


def tags_of(request: Request) -> list[str]:
    tags = listed(request.query_params, "tags")
    if not tags:
        raise refused("'tags' query parameter is required")
    return tags


class Guarded:
    """Middleware: who has the token may ask, in any of three ways; without a token everybody may."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._token and not self._lets_in(Request(scope)):
            return await failure(401, "Unauthorized")(scope, receive, send)
        return await self._app(scope, receive, send)

    def _lets_in(self, request: Request) -> bool:
        path = request.url.path
        if request.method == "OPTIONS" or path in OPEN or path.startswith(("/viewer", CONTROL)):
            return True
        bearer = request.headers.get("authorization", "").partition("Bearer ")[2]
        given = (bearer, request.headers.get("x-api-key", ""), request.query_params.get("api_key", ""))
        return self._token in [token.strip() for token in given]


async def on_refusal(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return failure(exc.status_code, exc.detail, dict(exc.headers or {}))


def create_app(
    data: Path, calls: Path, *, token: str = "", dimensions: int = 256, vector_delay_s: float = 2.0
) -> ASGIApp:
    service = AutoMem(Record(data), dimensions=dimensions, vector_delay_s=vector_delay_s)
    app = Starlette(
        routes=service.routes,
        middleware=[
            Middleware(Observed, faults=service.faults, calls=calls.open("a")),
            Middleware(Guarded, token=token),
        ],
        exception_handlers={HTTPException: on_refusal},
    )
    app.router.redirect_slashes = False
    return with_transport(app)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--data", type=Path, required=True, help="SQLite file; made if it is not there")
    parser.add_argument("--calls", type=Path, help="file that gets a line for each request; beside the data otherwise")
    parser.add_argument("--token", default="", help="who must be shown it; nobody must if it is empty")
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--vector-delay-s", type=float, default=2.0, help="after which a vector is found")
    given = parser.parse_args()
    calls = given.calls or given.data.with_suffix(".calls")
    app = create_app(
        given.data, calls, token=given.token, dimensions=given.dimensions, vector_delay_s=given.vector_delay_s
    )
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()
