"""The image: what is installed in it, and which store it chooses. It is read here, not built: that needs an engine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("azure", "postgres", "profiles", "redis")
WANTED = [*PROJECT["dependencies"], *(one for extra in EXTRAS for one in PROJECT["optional-dependencies"][extra])]


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9_-]+", requirement)
    assert found
    return found[0].lower()


@pytest.mark.parametrize("requirement", WANTED, ids=name_of)
def test_what_the_service_and_its_stores_of_production_need_is_locked(requirement: str) -> None:
    assert re.search(rf"^{name_of(requirement)}==", LOCK, re.MULTILINE)


def test_everything_that_is_locked_is_locked_by_its_hashes() -> None:
    """One without would be refused by pip, with all the others."""
    packages = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(packages) > len(WANTED)
    assert [package.split("\n")[0] for package in packages if "--hash=sha256:" not in package] == []
    assert "--require-hashes -r requirements.lock" in DOCKERFILE


def test_the_lock_names_no_host() -> None:
    assert "://" not in LOCK


def test_the_image_leaves_the_choice_of_the_store_to_who_runs_it() -> None:
    """STORE_URL, once set, has the last word; COSMOS_ENDPOINT would be ignored. The default lies in the volume."""
    assert not re.search(r"^(?!#).*STORE_URL", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^WORKDIR /$", DOCKERFILE.rpartition("FROM ")[2], re.MULTILINE)
    assert "VOLUME /data" in DOCKERFILE


def test_the_builder_is_given_what_is_copied_and_nothing_else() -> None:
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_through == copied
