"""Who did what by which right, and who was refused: one line of the log for each, before it is answered.

No line holds what was said, or a secret. Users are named by a keyed hash: who has the key and a name can look for it.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Mapping
from typing import Any, Literal

logger = logging.getLogger(__name__)

Outcome = Literal["done", "failed", "refused"]

_SAID: dict[Outcome, str] = {
    "done": "a right was used",
    "failed": "the use of a right failed",
    "refused": "a request was refused",
}
_OF_A_USER = "user "
"""How the principal of a credential begins that is a user's own token."""


class Audit:
    """`key` is what users are named by; without one it is made up here, and names hold as long as this process."""

    def __init__(self, key: str) -> None:
        self._key = (key or secrets.token_hex(16)).encode()
        self._counted = dict.fromkeys(_SAID, 0)

    def write(self, outcome: Outcome, tenant_id: str, principal: str, facts: Mapping[str, str | int | None]) -> None:
        """Facts are written as they are: a user is in them by `name_of`."""
        self._counted[outcome] += 1
        if principal.startswith(_OF_A_USER):
            principal = _OF_A_USER + self.name_of(tenant_id, principal.removeprefix(_OF_A_USER))
        level = logging.WARNING if outcome == "refused" else logging.INFO
        told: dict[str, Any] = {name: fact for name, fact in facts.items() if fact}
        logger.log(level, _SAID[outcome], extra={**told, "credential": principal or "none", "tenant": tenant_id})

    def stats(self) -> dict[str, int]:
        return {str(outcome): count for outcome, count in self._counted.items()}

    def name_of(self, *ids: str) -> str:
        """What a user is called in the audit (by tenant and user), or something of theirs; no id holds a slash."""
        return hmac.new(self._key, "/".join(ids).encode(), "sha256").hexdigest()
