"""`memory-service demo`: weeks of conversation into a service of its own, whatever the environment says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from memory_service.cli import main

TALK = [
    {
        "conv_id": "walnuts",
        "speakers": ["Ana", "Bot"],
        "turns": [
            {"id": "1", "session": 1, "date": "2026-01-05T10:00:00Z", "speaker": "Ana", "text": "I eat no walnuts."},
            {"id": "2", "session": 1, "date": "2026-01-05T10:00:00Z", "speaker": "Bot", "text": "Noted, no walnuts."},
        ],
        "questions": [{"question": "What does Ana not eat?", "evidence": ["1"]}],
    }
]


def test_it_shows_what_it_remembers_and_brings_nothing_to_drivers_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps(TALK))
    monkeypatch.setenv("MEMORY_DRIVER", "a driver of the environment")
    result = CliRunner().invoke(main, ["demo", "--conversation", str(file), "--port", "0", "--exit"])
    assert result.exit_code == 0, result.output
    assert "? What does Ana not eat?" in result.output
    assert "I eat no walnuts." in result.output
