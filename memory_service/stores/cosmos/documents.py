"""Values to documents and back: ids, the value itself as JSON in `body`, and beside it what is queried.

`body` is text, not a nested object: numbers beyond 2**53 and every character come back as they were. That of a large
turn is compressed, behind a mark that no JSON begins with. Times that are queried are microseconds since 1970.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec

from memory_service.stores import bodies
from memory_service.stores.base import REQUESTS_KEPT
from memory_service.stores.bodies import micros, moment, text_of
from memory_service.stores.compression import compressed, is_worth
from memory_service.values import Effect, Memory, Request, Scope, Session, Sitting, Turn, Vector, turn_item_id

Document = dict[str, Any]
T = TypeVar("T")

MISSING = ""
"""What is read where a document has no body: nothing that could be one."""
COMPRESSED = "zlib:"
"""Before the body of a large turn, in base64."""
AT_ONCE = 50_000
"""Characters of turns that are compressed on the loop: one or two milliseconds."""
RECEIPTS_KEPT_S = 600
API_KEY = "key"
"""The type of those documents."""
PLAIN = re.compile(r"[A-Za-z0-9._@:-]{1,200}")
"""Names that can stand in an id as they are: Cosmos DB takes 255 characters at most, and none of / \\ ? #."""

_encoder = msgspec.json.Encoder()


def _in_document(read: Callable[[str | bytes], T]) -> Callable[[Document], T]:
    return lambda document: read(_told(document.get("body", MISSING)))


def _told(body: Any) -> Any:
    """A body as it is read: a text, or bytes that are compressed. Raises msgspec.DecodeError."""
    if not isinstance(body, str) or not body.startswith(COMPRESSED):
        return body
    try:
        return base64.b64decode(body[len(COMPRESSED) :], validate=True)
    except binascii.Error as exc:
        raise msgspec.DecodeError("not in base64") from exc


session_of = _in_document(bodies.session_of)
turn_of = _in_document(bodies.turn_of)
sitting_of = _in_document(bodies.sitting_of)
memory_of = _in_document(bodies.memory_of)
key_of = _in_document(bodies.key_of)
effect_of = _in_document(bodies.reader_of(Effect))


# Owners


def owner_of(scope: Scope) -> str:
    """The partition of a user: `|` parts the two names and is in neither."""
    return f"{_without_bar(scope.tenant_id)}|{_without_bar(scope.user_id)}"


def scope_of(document: Document) -> Scope:
    tenant_id, _, user_id = document["owner"].partition("|")
    return Scope(tenant_id=unquote(tenant_id), user_id=unquote(user_id))


def own_of(document: Document) -> Document:
    """Without what the service adds."""
    return {name: value for name, value in document.items() if not name.startswith("_")}


def _without_bar(name: str) -> str:
    return name.replace("%", "%25").replace("|", "%7C")


# Ids


def _digest(*parts: str | int) -> str:
    return blake2b(_encoder.encode(parts), digest_size=20).hexdigest()


def _named(kind: str, name: str) -> str:
    return f"{kind}:{name}" if PLAIN.fullmatch(name) else f"{kind}~{_digest(name)}"


def head_id(session_id: str) -> str:
    return _named("head", session_id)


def turn_id(session_id: str, its_id: str) -> str:
    """Of its session and its own id: storing it a second time is a conflict."""
    return f"turn~{_digest(session_id, its_id)}"


def sitting_id(sitting: Sitting) -> str:
    return f"sitting~{_digest(sitting.session_id, sitting.first_seq)}"


def request_id(key: str) -> str:
    return _named("request", key)


def memory_id(name: str) -> str:
    return _named("memory", name)


EPOCH_ID, FIRST_EPOCH = "epoch", "first"
EPOCHS_KEPT_S = 30 * 86_400
"""Longer than a process holds what it read of a user and does not look at it."""


def epoch_document(epoch: str) -> Document:
    """Names a user's present epoch; there is none as long as nothing of the user was erased."""
    return {"id": EPOCH_ID, "type": "epoch", "epoch": epoch, "ttl": EPOCHS_KEPT_S}


def mirror_id(driver: str) -> str:
    return _named("mirror", driver)


def driver_id(driver: str) -> str:
    return _named("driver", driver)


def key_id(name: str) -> str:
    return _named(API_KEY, name)


def vector_property(space: str) -> str:
    return f"vector_{_digest(space)}"


# Stamps


class Stamps:
    """Marks of revisions: microseconds since 1970, ascending, none given twice by one process."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last


# Documents


def head_columns(session: Session) -> Document:
    return {
        "version": session.version,
        "status": session.status,
        "touched": micros(session.touched_at),
        "unreflected": session.unreflected_turns,
        "body": text_of(session),
    }


def head_document(session: Session) -> Document:
    names = {"id": head_id(session.session_id), "type": "head", "session": session.session_id}
    return {**names, **head_columns(session)}


def sitting_columns(sitting: Sitting) -> Document:
    return {
        "version": sitting.version,
        "reflection": sitting.reflection,
        "due": micros(sitting.due_at),
        "lease": micros(sitting.lease_until) if sitting.lease_until else 0,
        "body": text_of(sitting),
    }


def sitting_document(sitting: Sitting, tenant_id: str) -> Document:
    names = {"id": sitting_id(sitting), "type": "sitting", "tenant": tenant_id}
    return {**names, "session": sitting.session_id, "first": sitting.first_seq, **sitting_columns(sitting)}


async def bodies_of(turns: Sequence[Turn]) -> dict[str, str]:
    """What is kept of turns, by their names among searchable items. Large ones do not hold up the loop."""
    texts = {turn_item_id(turn.session_id, turn.seq): text_of(turn) for turn in turns}
    if sum(map(len, texts.values())) <= AT_ONCE:
        return _kept(texts)
    return await asyncio.to_thread(_kept, texts)


def _kept(texts: dict[str, str]) -> dict[str, str]:
    return {name: _smaller(text) for name, text in texts.items()}


def _smaller(text: str) -> str:
    small = compressed(text)
    if small is None:
        return text
    told = COMPRESSED + base64.b64encode(small).decode()
    return told if is_worth(len(told), len(text.encode())) else text


def turn_document(turn: Turn, stamp: int, body: str) -> Document:
    return {
        "id": turn_id(turn.session_id, turn.turn_id),
        "type": "turn",
        "session": turn.session_id,
        "seq": turn.seq,
        "written": stamp,
        "space": "",
        "body": body,
    }


def request_document(request: Request, effect: Effect) -> Document:
    return {
        "id": request_id(request.key),
        "type": "request",
        "name": request.key,
        "made": micros(request.made_at),
        "ttl": int(REQUESTS_KEPT.total_seconds()),
        "body": text_of(effect),
    }


def receipt_document(mark: str) -> Document:
    """That a commit took effect, for as long as its answer may be waited for."""
    return {"id": f"receipt:{mark}", "type": "receipt", "ttl": RECEIPTS_KEPT_S}


def lineage_of(session: Session) -> str:
    """A condition that a head is of this session, and not of another one that has had its id."""
    said = f'"incarnation":{quoted(session.incarnation)}'
    return f"CONTAINS(c.body, {quoted(said)})"


def quoted(text: str) -> str:
    """A text as it stands in JSON, and in a query."""
    return _encoder.encode(text).decode()


def request_of(document: Document) -> Request:
    digest = effect_of(document).digest
    return Request(key=document["name"], digest=digest, made_at=moment(document["made"]))


def memory_document(memory: Memory, stamp: int) -> Document:
    # what few memories have, and only the gateway asks for
    seldom = {"session": memory.session_id if memory.kind == "memory" else None, "rough": memory.rough is not None}
    return {
        **{name: value for name, value in seldom.items() if value},
        "id": memory_id(memory.memory_id),
        "type": "memory",
        "name": memory.memory_id,
        "kind": memory.kind,
        "created": micros(memory.created_at),
        "current": memory.valid_to is None,
        "written": stamp,
        "space": "",
        "body": text_of(memory),
    }


# Vectors


def vector_columns(vector: Vector) -> Document:
    return {"space": vector.space, vector_property(vector.space): base64.b64encode(vector.data).decode()}


def vector_of(document: Document, space: str) -> Vector | None:
    """The vector of this space that a turn or a memory has."""
    data = document.get(vector_property(space))
    if data is None:
        return None
    return Vector(item_id=item_id_of(document), token=document["written"], space=space, data=base64.b64decode(data))


def item_id_of(document: Document) -> str:
    """The name among searchable items of a turn or a memory."""
    if document["type"] == "turn":
        return turn_item_id(document["session"], document["seq"])
    return str(document["name"])
