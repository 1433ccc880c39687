"""Requests that cannot be served, and how each is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memory_service.values import SessionKey


@dataclass(frozen=True)
class Wrong:
    """`changes` are made to a body that would be served; `content` is sent in its place."""

    status: int
    code: str
    path: str = "/memory/store"
    method: str = "POST"
    changes: dict[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def sent(self, key: SessionKey) -> dict[str, Any]:
        if self.content is not None:
            return {"content": self.content, "headers": {"Content-Type": "application/json", **self.headers}}
        if self.method == "GET":
            return {"headers": self.headers}
        said = {"user_message": "Hello.", "agent_message": ""} if self.path == "/memory/store" else {}
        body = {"user_id": key.scope.user_id, "session_id": key.session_id, **said, **self.changes}
        return {"json": body, "headers": self.headers}


WRONG = [
    Wrong(422, "invalid_id", changes={"user_id": "a b"}),
    Wrong(422, "invalid_id", changes={"session_id": "s\n"}),
    Wrong(422, "invalid_id", path="/sessions/end", changes={"session_id": ""}),
    Wrong(422, "validation_failed", changes={"tenant_id": "south"}),
    Wrong(422, "validation_failed", changes={"user_message": ""}),
    Wrong(422, "validation_failed", changes={"user_message": 7}),
    Wrong(422, "validation_failed", changes={"created_at": "yesterday"}),
    Wrong(422, "validation_failed", changes={"metadata": {"no blanks": 1}}),
    Wrong(422, "invalid_character", changes={"user_message": "a\x00b"}),
    Wrong(422, "content_too_long", changes={"user_message": "x" * 100_001}),
    Wrong(422, "validation_failed", headers={"Idempotency-Key": "not one word"}),
    Wrong(422, "validation_failed", path="/sessions/end", changes={"wait_s": 21}),
    Wrong(422, "validation_failed", path="/memory/retrieve", changes={"query": ""}),
    Wrong(422, "validation_failed", path="/memory/retrieve", changes={"query": "tea", "kinds": ["dream"]}),
    Wrong(422, "validation_failed", method="GET", path="/reflections?limit=0"),
    Wrong(400, "malformed_json", content=b'{"user_id": '),
    Wrong(400, "malformed_json", content=b"\xff\xfe"),
    Wrong(413, "body_too_large", content=b" " * 1_000_001),
    Wrong(415, "unsupported_media_type", content=b"{}", headers={"Content-Type": "text/plain"}),
    Wrong(404, "not_found", path="/memory/store/"),
    Wrong(405, "method_not_allowed", method="GET"),
]
