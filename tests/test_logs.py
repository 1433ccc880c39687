"""Of an event the log tells what happened and the facts that have a name there, and nothing else."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from memory_service.logs import JsonLines, for_terminal


def happened(**more: object) -> logging.LogRecord:
    record = logging.LogRecord("memory_service.x", logging.WARNING, __file__, 1, "%s failed", ("it",), None)
    record.__dict__ |= {"created": datetime(2026, 1, 2, 3, 4, 5, 600_000, UTC).timestamp(), **more}
    return record


def test_a_line_of_json_holds_the_event_its_facts_and_where_and_when_it_was() -> None:
    line = JsonLines().format(happened(job="sweep", error=ValueError("why"), text="what a user said"))

    assert json.loads(line) == {
        "event": "it failed",
        "job": "sweep",
        "error": "ValueError('why')",
        "level": "warning",
        "logger": "memory_service.x",
        "timestamp": "2026-01-02T03:04:05.600000Z",
    }


def test_an_exception_is_told_with_where_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        _ = 1 / 0

    line = JsonLines().format(happened(exc_info=(raised.type, raised.value, raised.tb)))

    told = json.loads(line)["exception"]
    assert "_ = 1 / 0" in told
    assert told.endswith("ZeroDivisionError: division by zero")


def test_on_a_terminal_the_same_is_told_in_words() -> None:
    line = for_terminal().format(happened(job="sweep", text="what a user said"))

    assert "it failed" in line
    assert "sweep" in line
    assert "what a user said" not in line
    assert "structlog" in sys.modules
