"""Logs are events on stderr: readable on a terminal, one JSON object a line elsewhere.

Messages are constants; facts are in `extra`, and only those named here are written: no text of a user can
get into a log by accident.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

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
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ExtraAdder(),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso"),
            _known_facts_only,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([] if terminal else [structlog.processors.format_exc_info]),
            renderer,
        ]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("memory_service").setLevel(level)
    logging.getLogger(AUDIT).setLevel(logging.INFO)


def _known_facts_only(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {name: value for name, value in event.items() if name in _ALWAYS | FACTS}
