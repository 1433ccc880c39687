"""What the audit is told of a request: by the route table, not by its handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memory_service.api.problems import status_of
from memory_service.audit import Audit, Outcome
from memory_service.errors import Forbidden, MemoryServiceError

if TYPE_CHECKING:
    from memory_service.api.auth import Caller
    from memory_service.api.endpoint import Verb


def write_down(audit: Audit, verb: Verb, caller: Caller, body: Any, came_of_it: Any, request_id: str) -> None:
    """Tell who asked, what for, and what came of it: the answer, or the error."""
    error = came_of_it if isinstance(came_of_it, MemoryServiceError) else None
    user_id = _named("user_id", came_of_it, body)
    tenant_id = _named("tenant_id", came_of_it, body) or caller.tenant_id  # operators make keys for others
    facts: dict[str, str | int | None] = {
        "route": f"{verb.method} {verb.path}",
        "permission": verb.needs,
        "status": status_of(error) if error else 200,
        "code": error.code if error else None,
        "request_id": request_id,
        "user": audit.name_of(tenant_id, user_id) if user_id else None,
        "key": _named("key_id", came_of_it, body),
    }
    outcome: Outcome = "refused" if isinstance(error, Forbidden) else "failed" if error else "done"
    audit.write(outcome, caller.tenant_id, caller.principal, facts)


def _named(name: str, came_of_it: Any, body: Any) -> str | None:
    """What a request was about: as its answer or error says, or else as it was sent."""
    told = (getattr(each, name, None) for each in (came_of_it, body, getattr(body, "query", None)))
    return next((one for one in told if isinstance(one, str)), None)
