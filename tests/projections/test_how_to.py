"""The page on an engine of one's own: the one it shows keeps the contract, and its blocks run as they stand."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from memory_service.projections.base import Projection
from tests.projections.contract import ProjectionContract
from tests.support.process import beside_stalls

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "engine-of-your-own.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
BASH = re.findall(r"```bash\n(.*?)\n```", PAGE, re.DOTALL)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    file = tmp_path / "my_engine.py"
    file.write_text(PYTHON[0])
    return file


class TestTheEngineOfThePage(ProjectionContract):
    @pytest.fixture
    async def engine(self, module: Path) -> Projection:
        spec = importlib.util.spec_from_file_location("my_engine", module)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        engine: Projection = loaded.MyEngine()
        return engine


def test_its_blocks_run_as_they_stand(module: Path, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    environment |= dict(line.split("=", 1) for block in BASH for line in block.splitlines())
    (tmp_path / "app.py").write_text(PYTHON[1])
    ended = subprocess.run(
        [sys.executable, "-W", "always", "app.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, beside_stalls(ended.stderr)) == (0, "", "")
