"""The page on memory drivers: its blocks are those of the seed but for imports, and all of them run as they stand."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_service.settings import known_settings
from tests.automem.launcher import AutoMemServer
from tests.pixeltable.launcher import PixeltableHome
from tests.support.process import beside_stalls

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "memory-drivers.md").read_text()
BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w+)\n(?P<text>.*?)\n```", re.DOTALL)
README = (ROOT / "README.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
IN_README = "In your own process"
SECTIONS[IN_README] = README.split(f"\n## {IN_README}\n")[1].partition("\n## ")[0]

APPLICATION = """
# Get the configured driver (singleton)
driver = get_memory_driver()
# Recall user memories
memories = driver.recall(
    user_id="user123",
    conversation_id="conv456",
    query="previous conversations",
    top_k=10,
    use_vector=True
)
# Recall global knowledge
knowledge = driver.recall_global_knowledge(
    query="company policies",
    top_k=5,
    category="policies"
)
# Store a memory
driver.store(
    user_id="user123",
    content="User said hello",
    conversation_id="conv456",
    tags=["user", "greeting"]
)
# Store global knowledge
driver.store_global_knowledge(
    content="Company policy document",
    category="policies",
    title="Remote Work Policy",
    doc_id="POL-001"
)
# Delete a memory
driver.delete(memory_id="mem123", user_id="user123")
# Health check
status = driver.health_check()
"""
CUSTOM = """
class MyCustomDriver(BaseMemoryDriver):
    def __init__(self):
        # Initialize your backend connection
        pass
    def recall(self, user_id, **kwargs):
        # Implement memory retrieval
        pass
    def recall_global_knowledge(self, query, **kwargs):
        # Implement knowledge retrieval
        pass
    # ... implement other methods
"""
REGISTER = 'MemoryDriverManager.register_driver("custom", MyCustomDriver)'
SWITCH = """
# Explicitly switch to a different driver
driver = set_memory_driver("pgvector")
"""
AFTER = """
driver = get_memory_driver()
memories = driver.recall(user_id="123", query="test")
"""
"""The blocks of the seed, without imports."""


def blocks(section: str, language: str = "python") -> list[re.Match[str]]:
    return [found for found in BLOCK.finditer(SECTIONS[section]) if found["language"] == language]


def bare(code: str) -> tuple[str, list[str]]:
    """What it does, however it is laid out and whatever it imports; and its comments."""
    tree = ast.parse(code)
    tree.body = [one for one in tree.body if not isinstance(one, ast.Import | ast.ImportFrom)]
    return ast.unparse(tree), re.findall(r"#.*", code)


def on_page() -> list[tuple[str, list[str]]]:
    return [bare(found["text"]) for section in SECTIONS for found in blocks(section)]


@pytest.mark.parametrize(
    "seed", [APPLICATION, CUSTOM, REGISTER, SWITCH], ids=["application", "custom", "register", "switch"]
)
def test_a_block_of_the_seed_is_there_with_other_imports_alone(seed: str) -> None:
    assert bare(seed) in on_page()


def test_what_the_seed_does_after_a_migration_is_there_with_another_import_alone() -> None:
    assert any(code.startswith(bare(AFTER)[0]) for code, _ in on_page())


@pytest.fixture
def servers(postgres_url: str, automem_server: AutoMemServer, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the page's settings are in this run: where it names servers, those of the tests."""
    home = PixeltableHome()
    yield {"DATABASE_URL": postgres_url, "AUTOMEM_URL": automem_server.url, **home.environment}
    home.end()


def run(folder: Path, section: str, servers: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run all blocks of a section in one process; those that are introduced as a file are written to it."""
    script = []
    for found in blocks(section):
        named = re.search(r"in `(\w+\.py)`:$", found["before"])
        if named:
            (folder / named[1]).write_text(found["text"])
        else:
            script.append(found["text"])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    for found in blocks(section, "bash"):
        environment |= dict(line.split("=", 1) for line in found["text"].splitlines())
    elsewhere = servers.keys() - {"DATABASE_URL", "AUTOMEM_URL"}  # the page need not say where Pixeltable is
    environment |= {name: value for name, value in servers.items() if name in environment.keys() | elsewhere}
    (folder / "app.py").write_text("\n".join(script))
    return subprocess.run(
        [sys.executable, "-W", "always", "app.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("section", [name for name in SECTIONS if blocks(name)])
def test_the_blocks_of_a_section_run_as_they_stand(tmp_path: Path, section: str, servers: dict[str, str]) -> None:
    ended = run(tmp_path, section, servers)
    assert (ended.returncode, ended.stdout, beside_stalls(ended.stderr)) == (0, "", "")
    opened = section not in ("A driver of your own", "Switch at run time")
    assert (tmp_path / "data" / "memory.db").exists() == opened


def test_a_driver_written_by_the_seed_works_with_its_import_changed_alone(tmp_path: Path) -> None:
    """The outline of the seed, finished as one would, and used as the application does."""
    outline = CUSTOM.replace(
        "    # ... implement other methods",
        "    store = store_global_knowledge = delete = lambda self, *given, **named: (given, named)\n"
        "    def health_check(self): return {'status': 'healthy'}",
    ).replace("# Implement memory retrieval\n        pass", "return [user_id, kwargs]")
    (tmp_path / "theirs.py").write_text("from memory_service.drivers.base import BaseMemoryDriver\n" + outline)
    application = [
        APPLICATION,
        "assert memories[0] == 'user123' and memories[1]['top_k'] == 10",
        "print(status)",
    ]
    script = "\n".join(["from memory_service.drivers import get_memory_driver", *application])
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path), *filter(None, sys.path)]),
        "MEMORY_DRIVER": "theirs:MyCustomDriver",
    }
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, beside_stalls(ended.stderr)) == (0, "{'status': 'healthy'}\n", "")


def test_settings_that_the_page_names_are_settings() -> None:
    named = set(re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", PAGE)) - {"TEST_AUTOMEM_URL", "TEST_AUTOMEM_TOKEN"}
    assert {"MEMORY_DRIVER", "STORE_URL", "DATABASE_URL", "AUTOMEM_URL"} <= named <= set(known_settings())
