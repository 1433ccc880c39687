"""Logs are events on stderr: readable on a terminal, one JSON object a line elsewhere.

Messages are constants; facts are in `extra`, and only those named here are written: no text of a user can
get into a log by accident.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structlog.typing import EventDict

FACTS = {
    "attempts",
    "auth_mode",
    "code",
    "deployment",
    "driver",
    "durability",
    "error",
    "format",
    "job",
    "jobs",
    "model",
}
FACTS |= {"credential", "memory", "permission", "route", "session", "tenant", "user"}  # of the audit
FACTS |= {"by", "key", "reason", "refused", "request_id", "seconds", "status", "store", "url", "verb"}
FACTS |= {"count", "memories", "sessions", "turns"}
AUDIT = "memory_service.audit"
"""The logger of who did what by which right. It is written whatever LOG_LEVEL says."""
_ALWAYS = {"event", "level", "logger", "timestamp", "exception", "exc_info", "_record", "_from_structlog"}


def configure_logging(level: str) -> None:
    """Send all log events of the process to stderr, those of libraries from WARNING up."""
    handler = logging.StreamHandler()
    handler.setFormatter(for_terminal() if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("memory_service").setLevel(level)
    logging.getLogger(AUDIT).setLevel(logging.INFO)


class JsonLines(logging.Formatter):
    """One JSON object a line: what happened, the facts, and where and when it was."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {"event": record.getMessage()}
        event |= {name: value for name, value in vars(record).items() if name in FACTS}
        moment = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        event |= {"level": record.levelname.lower(), "logger": record.name, "timestamp": moment}
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=repr)


def for_terminal() -> logging.Formatter:
    """Lines for people, in colours."""
    import structlog  # here: it takes a while, and a service seldom has a terminal

    def known_facts_only(logger: Any, method: str, event: EventDict) -> EventDict:
        return {name: value for name, value in event.items() if name in _ALWAYS | FACTS}

    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ExtraAdder(),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso"),
            known_facts_only,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.dev.ConsoleRenderer(),
        ]
    )
