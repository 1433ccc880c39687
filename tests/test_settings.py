"""Settings: read from the environment, with a line each in .env.example, and never a secret in a message."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr, ValidationError

from memory_service.cli import main
from memory_service.settings import Settings, known_settings

EXAMPLE = Path(__file__).parents[1] / ".env.example"
LINE = re.compile(r"^(#?)([A-Z][A-Z0-9_]*)=(.*)$")

SEED_1 = {
    "HOST": "0.0.0.0",
    "PORT": 8000,
    "RELOAD": False,
    "LOG_LEVEL": "INFO",
    "MAX_SESSIONS": 1000,
    "SESSION_TTL_MINUTES": 30,
    "EVICTION_INTERVAL_SECONDS": 60,
    "AZURE_OPENAI_ENDPOINT": "",
    "AZURE_OPENAI_API_KEY": "",
    "AZURE_OPENAI_DEPLOYMENT": "",
    "AZURE_OPENAI_API_VERSION": "2024-02-15-preview",
    "COSMOS_ENDPOINT": "",
    "COSMOS_KEY": "",
    "COSMOS_DATABASE_NAME": "agent_memory",
    "COSMOS_INTERACTIONS_CONTAINER": "interactions",
    "COSMOS_SUMMARIES_CONTAINER": "session_summaries",
    "COSMOS_INSIGHTS_CONTAINER": "insights",
    "K_TURN_BUFFER": 5,
    "L_TURN_CHUNKS": 10,
    "M_SESSIONS_RECENT": 5,
    "REFLECTION_THRESHOLD_TURNS": 15,
}
"""The configuration as the first seed documents it: names and defaults."""

BAD = {
    "PORT": "eight thousand",
    "RELOAD": "perhaps",
    "LOG_LEVEL": "LOUD",
    "AUTH_MODE": "everybody",
    "MAX_SESSIONS": "-1",
    "SESSION_TTL_MINUTES": "0",
    "EVICTION_INTERVAL_SECONDS": "often",
    "EMBEDDING_DIMENSIONS": "8193",
    "K_TURN_BUFFER": "0",
    "CONTEXT_BUDGET_TOKENS": "199",
    "SHUTDOWN_GRACE_SECONDS": "nan-seconds",
    "RETENTION_DAYS": "1_0",
}


def plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def values(settings: Settings) -> dict[str, Any]:
    return {name.upper(): plain(value) for name, value in settings}


def example_lines() -> list[tuple[bool, str, str]]:
    """(commented out, name, value) of every setting in .env.example, in order."""
    found = [LINE.match(line) for line in EXAMPLE.read_text().splitlines()]
    return [(line[1] == "#", line[2], line[3]) for line in found if line]


# .env.example


def test_every_setting_has_one_line_in_the_example_and_every_line_is_a_setting() -> None:
    names = [name for _, name, _ in example_lines()]
    assert sorted(names) == sorted(known_settings())


def test_every_line_of_the_example_is_a_setting_a_comment_or_empty() -> None:
    for line in EXAMPLE.read_text().splitlines():
        assert not line or LINE.match(line) or line.startswith("# "), line


def test_each_line_of_the_example_gives_the_real_default(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = values(Settings(_env_file=None))
    for _, name, value in example_lines():
        monkeypatch.setenv(name, value)
    assert values(Settings(_env_file=None)) == defaults


def test_the_example_copied_to_env_changes_nothing_not_even_the_choice_of_the_store(tmp_path: Path) -> None:
    defaults = Settings(_env_file=None)
    (tmp_path / ".env").write_text(EXAMPLE.read_text())  # the folder the test runs in
    copied = Settings()
    assert values(copied) == values(defaults)
    assert "store_url" not in copied.model_fields_set


def test_each_setting_of_the_example_stands_below_a_line_that_says_what_it_is() -> None:
    before = ""
    for line in EXAMPLE.read_text().splitlines():
        if LINE.match(line):
            assert before.startswith("# ") or LINE.match(before), f"nothing explains {line}"
        before = line


def test_every_setting_says_what_it_means() -> None:
    assert all(meaning.endswith(".") and len(meaning) > 10 for meaning in known_settings().values())


# Names and values


def test_names_and_defaults_are_those_of_the_first_seed() -> None:
    defaults = values(Settings(_env_file=None))
    assert {name: defaults.get(name, "missing") for name in SEED_1} == SEED_1


@pytest.mark.parametrize("spelling", ["MAX_SESSIONS", "max_sessions"])
def test_a_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    monkeypatch.setenv(spelling, "7")
    assert Settings().max_sessions == 7


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_SESSIONS=7\nPORT=9000\n")
    monkeypatch.setenv("MAX_SESSIONS", "8")
    settings = Settings()
    assert (settings.max_sessions, settings.port) == (8, 9000)


def test_other_variables_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SOMETHING_ELSE=1\n")
    monkeypatch.setenv("ANOTHER", "2")
    assert values(Settings()) == values(Settings(_env_file=None))


@pytest.mark.parametrize("name", ["AZURE_OPENAI_API_KEY", "AZURE_OPENAI_KEY"])
def test_the_azure_key_is_read_under_both_its_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "k-123")
    assert Settings().azure_openai_api_key.get_secret_value() == "k-123"


def test_of_two_azure_keys_the_one_of_the_first_seed_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_KEY", "alias")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "seed")
    assert Settings().azure_openai_api_key.get_secret_value() == "seed"


def test_cosmos_is_the_store_when_its_endpoint_is_set_and_no_other_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().chosen_store_url == "sqlite:///./data/memory.db"
    monkeypatch.setenv("COSMOS_ENDPOINT", "https://x.documents.azure.com")
    assert Settings().chosen_store_url.startswith("cosmos:")
    monkeypatch.setenv("STORE_URL", "transient://")
    assert Settings().chosen_store_url == "transient://"


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, ""),
        ({"REDIS_URL": "redis://cache:6379/1"}, "redis://cache:6379/1"),
        ({"REDIS_HOST": "cache.example"}, "rediss://:@cache.example:6380/0"),
        (
            {"REDIS_HOST": "cache.example", "REDIS_PASSWORD": "a/b:c@d?"},
            "rediss://:a%2Fb%3Ac%40d%3F@cache.example:6380/0",
        ),
        ({"REDIS_URL": "redis://cache", "REDIS_HOST": "other"}, "redis://cache"),
        ({"REDIS_PASSWORD": "alone"}, ""),
    ],
)
def test_redis_is_named_by_its_url_or_by_host_and_password(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], chosen: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Settings().chosen_redis_url == chosen


# What must not happen


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    for name in ("max_sessions", "openai_api_key", "new_one"):
        with pytest.raises(ValidationError):
            setattr(settings, name, 1)


@pytest.mark.parametrize(("name", "value"), BAD.items())
def test_a_bad_value_is_refused_with_its_name_and_without_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A key pasted into the wrong line must not end up in a log."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert name in str(caught.value).upper()
    assert value not in str(caught.value) or value.isdigit()

    ended = CliRunner().invoke(main, ["serve"])
    assert ended.exit_code == 3
    (line,) = ended.output.splitlines()
    assert line.startswith(f"{name}: ")
    assert value not in line or value.isdigit()


def test_a_secret_in_the_wrong_line_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "sk-live-0123456789")
    monkeypatch.setenv("LOG_LEVEL", "sk-live-0123456789")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert "sk-live" not in f"{caught.value}{caught.value!r}"
    ended = CliRunner().invoke(main, ["serve"])
    assert "sk-live" not in ended.output
    assert {line.partition(":")[0] for line in ended.output.splitlines()} == {"PORT", "LOG_LEVEL"}


@pytest.mark.parametrize(
    "name", [name for name in known_settings() if re.search("KEY$|TOKEN$|PASSWORD$|^REDIS_URL$", name)]
)
def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "sk-live-0123456789")
    settings = Settings()
    assert plain(getattr(settings, name.lower())) == "sk-live-0123456789"
    shown = [repr(settings), str(settings), json.dumps(settings.model_dump(mode="json")), settings.model_dump_json()]
    assert not any("sk-live" in text for text in shown)


@pytest.mark.parametrize("name", ["PORT", "MAX_SESSIONS", "SESSION_TTL_MINUTES", "RELOAD", "LOG_LEVEL"])
def test_an_empty_value_is_refused_with_its_name_rather_than_guessed(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert name in str(caught.value).upper()


@pytest.mark.parametrize("name", [n for n in known_settings() if n.endswith(("_SECONDS", "_MINUTES", "_HOURS"))])
@pytest.mark.parametrize("value", ["inf", "nan", "1e14", "-1"])
def test_a_time_that_no_clock_can_add_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name.lower()):
        Settings(_env_file=None, **{name.lower(): value})


def test_the_log_level_may_be_written_in_small_letters() -> None:
    assert Settings(_env_file=None, log_level="warning").log_level == "WARNING"


def test_a_file_of_settings_that_is_no_text_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"HOST=\xff\xfe")
    result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 3
    assert result.output.splitlines() == ["cannot start: .env cannot be read (UnicodeDecodeError)"]


def test_what_the_pages_tell_to_type_behind_a_setting_is_a_command() -> None:
    root = EXAMPLE.parent
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    typed = re.compile(r"^[A-Z][A-Z0-9_]*=\S*(?: [A-Z][A-Z0-9_]*=\S*)* memory-service(?: (\S+)|$)", re.MULTILINE)
    commands = [command for page in pages for command in typed.findall(page.read_text())]
    assert commands
    assert set(commands) <= set(main.commands)  # type: ignore[attr-defined]
