"""What is asked of the service: sessions of several users, and one user with much to search."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from benchmarks.load import SERIAL_DIGITS, Request

TURNS = 10
SESSIONS_OF_A_USER = 20
SHARE_STORED_INTO = 0.75
USER_WORDS, AGENT_WORDS = 20, 40
"""With these the context of a session of ten turns is about 6 KB: five turns, twice, and a summary, twice."""
QUESTIONS = 200
LIBRARY = "library"
_SYLLABLES = [first + second for first in "bdfgklmnprstv" for second in "aeiou"]
_VOCABULARY = 2000


class Session(msgspec.Struct, frozen=True):
    user_id: str
    session_id: str

    @property
    def name(self) -> str:
        return f"{self.user_id} {self.session_id}"


class Workload:
    """The same requests every time: words are drawn with a fixed seed, few of them often, most seldom."""

    def __init__(self, port: int, *, sessions: int, messages: int) -> None:
        self.port = port
        self._random = random.Random(1)
        self._words = [
            "".join(self._random.choices(_SYLLABLES, k=self._random.randint(1, 4))) for _ in range(_VOCABULARY)
        ]
        self._weights = list(accumulate(1 / (rank + 3) for rank in range(_VOCABULARY)))
        made = [Session(f"user-{i // SESSIONS_OF_A_USER}", f"session-{i}") for i in range(sessions)]
        split = max(1, round(sessions * SHARE_STORED_INTO))
        # stored into and read from apart: a context keeps its size from the first round to the last
        self.stored_into, self.read_from = made[:split], made[split:] or made
        self._library = [Session(LIBRARY, f"shelf-{i}") for i in range(max(1, messages // (2 * TURNS)))]

    def preparation(self, sessions: Iterable[Session]) -> list[list[Request]]:
        """Start each session and store its first turns, in order; a list for each session."""
        return [[self.start_of(session), *(self.store_in(session) for _ in range(TURNS))] for session in sessions]

    def library(self) -> list[list[Request]]:
        return self.preparation(self._library)

    def users(self) -> list[list[Request]]:
        return self.preparation([*self.stored_into, *(s for s in self.read_from if s not in self.stored_into)])

    def start_of(self, session: Session) -> Request:
        return self._post("/sessions/start", session.name, user_id=session.user_id, session_id=session.session_id)

    def store_in(self, session: Session) -> Request:
        """A turn; its `turn_id` is the serial number it is sent with."""
        return self._post(
            "/memory/store",
            session.name,
            serial_as="turn_id",
            user_id=session.user_id,
            session_id=session.session_id,
            user_message=self._text(USER_WORDS),
            agent_message=self._text(AGENT_WORDS),
        )

    def context_of(self, session: Session) -> Request:
        return self._post("/memory/context", session.name, user_id=session.user_id, session_id=session.session_id)

    def question(self) -> Request:
        return self._post("/memory/retrieve", LIBRARY, user_id=LIBRARY, query=self._text(6))

    def state_of(self, session: Session) -> Request:
        path = f"/sessions/{session.session_id}/reflection?user_id={session.user_id}"
        return Request(session.name, _head("GET", path, self.port))

    def measured(self) -> dict[str, list[Request]]:
        """The requests of each kind that are sent over and over."""
        return {
            "store": [self.store_in(session) for session in self.stored_into],
            "context": [self.context_of(session) for session in self.read_from],
            "retrieve": [self.question() for _ in range(QUESTIONS)],
            "start": [self.start_of(session) for session in self.read_from],
        }

    def for_bare(self, port: int) -> dict[str, list[Request]]:
        """Requests of the same bodies to the bare application."""
        bodies = {"store": self.store_in(self.stored_into[0]), "context": self.context_of(self.read_from[0])}
        return {f"bare {name}": [_moved(request, f"/{name}", port)] for name, request in bodies.items()}

    def _text(self, words: int) -> str:
        return " ".join(self._random.choices(self._words, cum_weights=self._weights, k=words))

    def _post(self, path: str, name: str, *, serial_as: str | None = None, **fields: Any) -> Request:
        body = msgspec.json.encode(fields)
        tail = None
        if serial_as is not None:
            body, tail = body[:-1] + f',"{serial_as}":"'.encode(), b'"}'
        length = len(body) + (SERIAL_DIGITS + len(tail) if tail else 0)
        return Request(name, _head("POST", path, self.port, length) + body, tail)


def _head(method: str, path: str, port: int, length: int | None = None) -> bytes:
    of_body = "" if length is None else f"content-type: application/json\r\ncontent-length: {length}\r\n"
    return f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{of_body}\r\n".encode()


def _moved(request: Request, path: str, port: int) -> Request:
    body = request.head.partition(b"\r\n\r\n")[2]
    length = len(body) + (SERIAL_DIGITS + len(request.tail) if request.tail else 0)
    return Request(request.name, _head("POST", path, port, length) + body, request.tail)


def bodies(requests: Sequence[Request]) -> list[bytes]:
    """What stands after the head, for a load generator that writes heads of its own."""
    return [request.head.partition(b"\r\n\r\n")[2] for request in requests]


def joined(of_sessions: Sequence[list[Request]], connections: int) -> list[list[Request]]:
    """Deal whole sessions out to connections, so that each one's turns stay in order."""
    dealt = [of_sessions[i::connections] for i in range(min(connections, len(of_sessions)))]
    return [[request for of_session in lane for request in of_session] for lane in dealt]
