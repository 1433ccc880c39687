"""What the audit is told of a request: by the route table, not by its handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memory_service.api.problems import status_of
from memory_service.audit import Audit, Outcome
from memory_service.errors import Forbidden, MemoryServiceError
from memory_service.keys import id_in

if TYPE_CHECKING:
    from memory_service.api.auth import Caller
    from memory_service.api.endpoint import Verb


def write_down(audit: Audit, verb: Verb, caller: Caller, body: Any, came_of_it: Any, request_id: str) -> None:
    """Tell who asked, what for, and what came of it: the answer, or the error."""
    error = came_of_it if isinstance(came_of_it, MemoryServiceError) else None
    tenant_id = _named("tenant_id", came_of_it, body) or caller.tenant_id  # operators make keys for others
    user_id = _named("user_id", came_of_it, body)

    def called(*ids: str | None) -> str | None:
        known = [one for one in (user_id, *ids) if one]
        return audit.name_of(tenant_id, *known) if len(known) > len(ids) else None

    facts: dict[str, str | int | None] = {
        "route": f"{verb.method} {verb.path}",
        "permission": verb.needs,
        "status": status_of(error) if error else 200,
        "code": error.code if error else None,
        "request_id": request_id,
        "user": called(),
        "session": called(_named("session_id", body)),
        "memory": called(_named("memory_id", body)),
        "key": id_in(_named("key_id", came_of_it, body) or ""),
        "driver": None if error else _drivers(body),
    }
    outcome: Outcome = "refused" if isinstance(error, Forbidden) else "failed" if error else "done"
    audit.write(outcome, caller.tenant_id, caller.principal, facts)


def _named(name: str, *told_by: Any) -> str | None:
    """What a request was about: as its answer or error says, or else as it was sent."""
    told = (getattr(each, name, None) for each in (*told_by, getattr(told_by[-1], "query", None)))
    return next((one for one in told if isinstance(one, str)), None)


def _drivers(body: Any) -> str | None:
    """Those that are there: else it might be any text."""
    return _named("driver", body) or ",".join(getattr(body, "drivers", ())) or None
