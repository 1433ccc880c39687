"""How other services of memory are asked for what ours is asked for: their paths and bodies, and nothing else of them.

A request of `benchmarks.workload` is told again in a peer's words, so that all are sent the same texts. Where a peer
has several ways, it is asked in the one that is cheapest for it, and `means` says what is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode
from uuid import NAMESPACE_URL, uuid5

from benchmarks.load import SERIAL_DIGITS, Request
from benchmarks.workload import bodies

Fields = dict[str, Any]
TOP = 5
CONTEXT_TOKENS = 1700
"""About the 6 KB that a context of ours has."""


class Asked(NamedTuple):
    method: str
    path: str
    body: Fields | None = None


class Kind:
    """Ours, and what others are told apart by. `interface`: whose it is, and of which version."""

    interface = "this service"
    means: dict[str, str] = {}
    headers: dict[str, str] = {}
    health = "/health"
    serial: str | None = "turn_id"
    """The field that names a turn, where there is one: it is another for each that is sent."""
    tells_refusals = False
    """Whether it refuses with status 200, so that answers are to be read."""

    def users(self, ids: Iterable[str]) -> list[Asked]:
        """What is to be sent before anything is said of these users."""
        return []

    def session(self, start: Fields, turns: Sequence[Fields]) -> list[Asked]:
        """A session with its turns, in order."""
        return [Asked("POST", "/sessions/start", start), *map(self.store, turns)]

    def learnt(self, start: Fields, turns: Sequence[Fields]) -> list[Asked]:
        """A session whose messages are to be found by a search."""
        return self.session(start, turns)

    def store(self, turn: Fields) -> Asked:
        return Asked("POST", "/memory/store", turn)

    def context(self, of: Fields) -> Asked:
        return Asked("POST", "/memory/context", of)

    def search(self, question: Fields) -> Asked:
        return Asked("POST", "/memory/retrieve", question)

    def is_refused(self, answer: Any) -> bool:
        """Whether an answer says that it is none."""
        return False

    def found(self, answer: Any) -> Sequence[Any]:
        """What a search has found."""
        found: Sequence[Any] = answer["results"]
        return found


class AgentMemory(Kind):
    interface = "james-tn/agent-memory, the remote memory service of its guide (no version)"
    means = {
        "store": "one turn into a buffer in memory, which is kept when it is full",
        "context": "the turns and summaries of a session",
        "search": f"{TOP} facts by meaning",
    }
    serial = None

    def session(self, start: Fields, turns: Sequence[Fields]) -> list[Asked]:
        return [Asked("POST", "/sessions/start", {**start, "restore": True}), *map(self.store, turns)]

    def store(self, turn: Fields) -> Asked:
        names = ("user_id", "session_id", "user_message", "agent_message")
        return Asked("POST", "/memory/store", {name: turn[name] for name in names})

    def search(self, question: Fields) -> Asked:
        return Asked("POST", "/memory/retrieve", {**question, "session_id": "shelf-0", "top_k": TOP})

    def found(self, answer: Any) -> Sequence[Any]:
        found: Sequence[Any] = answer["facts"]
        return found


class RedisAgentMemoryServer(Kind):
    interface = "redis/agent-memory-server, /v1 of 0.14.0"
    means = {
        "store": "a working memory of one turn set anew, and not a turn appended to ten",
        "context": "the working memory of a session of ten turns",
        "search": f"{TOP} long-term memories by meaning",
    }
    health = "/v1/health"
    serial = None
    when = "2026-01-01T00:00:00Z"

    def session(self, start: Fields, turns: Sequence[Fields]) -> list[Asked]:
        return [self._set(start, turns)]

    def learnt(self, start: Fields, turns: Sequence[Fields]) -> list[Asked]:
        texts = [said["content"] for turn in turns for said in messages_of(turn)]
        owner = {"user_id": start["user_id"], "session_id": start["session_id"]}
        memories = [
            {"id": f"{start['session_id']}-{number}", "text": text, **owner} for number, text in enumerate(texts)
        ]
        return [Asked("POST", "/v1/long-term-memory/", {"memories": memories})]

    def store(self, turn: Fields) -> Asked:
        return self._set(turn, [turn])

    def _set(self, of: Fields, turns: Sequence[Fields]) -> Asked:
        said = [{**message, "created_at": self.when} for turn in turns for message in messages_of(turn)]
        return Asked(
            "PUT", f"/v1/working-memory/{quote(of['session_id'])}", {"user_id": of["user_id"], "messages": said}
        )

    def context(self, of: Fields) -> Asked:
        return Asked("GET", f"/v1/working-memory/{quote(of['session_id'])}?{urlencode({'user_id': of['user_id']})}")

    def search(self, question: Fields) -> Asked:
        body = {"text": question["query"], "user_id": {"eq": question["user_id"]}, "limit": TOP}
        return Asked("POST", "/v1/long-term-memory/search", body)

    def found(self, answer: Any) -> Sequence[Any]:
        found: Sequence[Any] = answer["memories"]
        return found


class Mem0(Kind):
    interface = "mem0ai/mem0, its REST server 1.0.0"
    means = {
        "store": "two messages with infer false, where the server knows it: no model reads them, each is embedded",
        "context": "the memories of a session",
        "search": "the memories of a user by meaning",
    }
    health = "/openapi.json"
    serial = None

    def session(self, start: Fields, turns: Sequence[Fields]) -> list[Asked]:
        return [self.store(turn) for turn in turns]

    def store(self, turn: Fields) -> Asked:
        owner = {"user_id": turn["user_id"], "run_id": turn["session_id"]}
        return Asked("POST", "/memories", {"messages": messages_of(turn), **owner, "infer": False})

    def context(self, of: Fields) -> Asked:
        return Asked("GET", f"/memories?{urlencode({'user_id': of['user_id'], 'run_id': of['session_id']})}")

    def search(self, question: Fields) -> Asked:
        return Asked("POST", "/search", {"query": question["query"], "user_id": question["user_id"]})


class Memobase(Kind):
    interface = "memodb-io/memobase, /api/v1 of 0.0.37"
    means = {
        "store": "a chat of two messages into the buffer of a user, which is read by a model when it is full",
        "context": f"profile and events of a user, of {CONTEXT_TOKENS} tokens at most",
        "search": f"{TOP} events of a user by meaning",
    }
    headers = {"authorization": "Bearer secret"}
    health = "/api/v1/healthcheck"
    serial = None
    tells_refusals = True

    def users(self, ids: Iterable[str]) -> list[Asked]:
        return [Asked("POST", "/api/v1/users", {"id": uuid_of(user_id), "data": {}}) for user_id in ids]

    def session(self, start: Fields, turns: Sequence[Fields]) -> list[Asked]:
        return [self.store(turn) for turn in turns]

    def learnt(self, start: Fields, turns: Sequence[Fields]) -> list[Asked]:
        read = Asked("POST", f"/api/v1/users/buffer/{uuid_of(start['user_id'])}/chat", {})
        return [*self.session(start, turns), read]

    def store(self, turn: Fields) -> Asked:
        body = {"blob_type": "chat", "blob_data": {"messages": messages_of(turn)}}
        return Asked("POST", f"/api/v1/blobs/insert/{uuid_of(turn['user_id'])}", body)

    def context(self, of: Fields) -> Asked:
        return Asked("GET", f"/api/v1/users/context/{uuid_of(of['user_id'])}?max_token_size={CONTEXT_TOKENS}")

    def search(self, question: Fields) -> Asked:
        asked = urlencode({"query": question["query"], "topk": TOP})
        return Asked("GET", f"/api/v1/users/event/search/{uuid_of(question['user_id'])}?{asked}")

    def is_refused(self, answer: Any) -> bool:
        return bool(answer["errno"])

    def found(self, answer: Any) -> Sequence[Any]:
        found: Sequence[Any] = answer["data"]["events"]
        return found


KINDS: dict[str, type[Kind]] = {
    "ours": Kind,
    "agent-memory": AgentMemory,
    "redis-agent-memory-server": RedisAgentMemoryServer,
    "mem0": Mem0,
    "memobase": Memobase,
}


def messages_of(turn: Fields) -> list[dict[str, str]]:
    said = (("user", turn["user_message"]), ("assistant", turn["agent_message"]))
    return [{"role": role, "content": content} for role, content in said]


def uuid_of(user_id: str) -> str:
    return str(uuid5(NAMESPACE_URL, user_id))


def fields_of(request: Request) -> Fields:
    """What a request of ours says, without the name of the turn."""
    (body,) = bodies([request])
    if request.tail is not None:
        body += b"0" * SERIAL_DIGITS + request.tail
    fields: Fields = json.loads(body)
    fields.pop("turn_id", None)
    return fields


def written(asked: Asked, name: str, port: int, headers: dict[str, str], serial: str | None = None) -> Request:
    """The bytes that are sent. `serial`: a field of the body that is another each time."""
    body, tail = b"" if asked.body is None else json.dumps(asked.body).encode(), None
    if serial is not None:
        body, tail = body[:-1] + f', "{serial}": "'.encode(), b'"}'
    lines = [f"{asked.method} {asked.path} HTTP/1.1", f"host: 127.0.0.1:{port}"]
    lines += [f"{header}: {value}" for header, value in headers.items()]
    if asked.body is not None:
        length = len(body) + (SERIAL_DIGITS + len(tail) if tail else 0)
        lines += ["content-type: application/json", f"content-length: {length}"]
    return Request(name, "\r\n".join([*lines, "", ""]).encode() + body, tail)
