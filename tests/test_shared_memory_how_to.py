"""The page on memory that agents share: its commands make the keys that its Python uses, and it prints what it says."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from memory_service.cli import main
from memory_service.server import running
from memory_service.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "shared-memory.md").read_text()
(COMMANDS,), (SCRIPT,) = (re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) for language in ("bash", "python"))
SERVICE = "http://localhost:8000"


def make_keys(folder: Path) -> None:
    for line in COMMANDS.splitlines():
        command, *words, into, file = shlex.split(line)
        assert (command, into) == ("memory-service", ">")
        (folder / file).write_text(CliRunner().invoke(main, words).stdout)


async def test_what_the_page_does_goes_as_it_says(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(auth_mode="keys")
    monkeypatch.setenv("STORE_URL", settings.store_url)
    await asyncio.to_thread(make_keys, tmp_path)
    said = re.findall(r"print\(.*\)  # (.*)", SCRIPT)
    assert (len(said), SCRIPT.count(SERVICE)) == (2, 1)
    async with running(settings) as url:
        script = [sys.executable, "-c", SCRIPT.replace(SERVICE, url)]
        environment = {"PYTHONPATH": f"{ROOT}:{':'.join(filter(None, sys.path))}"}
        done = await asyncio.to_thread(
            subprocess.run, script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert (done.stdout.splitlines(), done.stderr) == (said, "")
