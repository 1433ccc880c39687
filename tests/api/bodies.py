"""One valid body for each path that takes one, to be spoilt; and a word that must never come back."""

from __future__ import annotations

import json
from typing import Any

from tests.api.talking import CONTEXT, END, INSIGHTS, KNOWLEDGE, RECALL, RETRIEVE, START, STORE, SUMMARIES

CANARY = "canary7f3a"
JSON = {"content-type": "application/json"}
ANA = {"user_id": "ana", "session_id": "s"}
VALID: dict[str, dict[str, Any]] = {
    START: ANA,
    END: ANA,
    CONTEXT: ANA,
    STORE: {**ANA, "user_message": "It rains.", "agent_message": "It does."},
    RETRIEVE: {"user_id": "ana", "query": "boat"},
    INSIGHTS: {"user_id": "ana"},
    SUMMARIES: {"user_id": "ana"},
    KNOWLEDGE: {"content": "ana is the captain.", "category": "crew"},
    RECALL: {"query": "Who is ana?"},
}


def bytes_of(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
