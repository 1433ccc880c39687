"""What was erased is noted so that it can be told again, and so that the note tells nobody whose it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_service.errors import StoreUnavailable, UnsafeStart
from memory_service.tombstones import Tombstones, name_of
from memory_service.values import Scope
from tests.support.values import NOON, a_scope

ANA = a_scope()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "memory.db.erasures"


def test_what_was_noted_is_read_again_by_its_names(path: Path) -> None:
    (of_user,) = Tombstones(path).add("user", ANA, [()], NOON)
    of_turns = Tombstones(path).add("turn", ANA, [("s", 1), ("s", 2)], NOON)
    key, noted = Tombstones(path).read()
    assert [one.erasure_id for one in noted] == [of_user, *of_turns]
    assert [one.of for one in noted] == [name_of(key, ANA, names) for names in ((), ("s", 1), ("s", 2))]
    assert {one.erased_at for one in noted} == {NOON}


def test_no_two_things_are_named_alike() -> None:
    named = {
        name_of("key", scope, names)
        for scope in (ANA, a_scope("an"), a_scope("a", "na"), Scope(tenant_id="ana", user_id="default"))
        for names in ((), ("s",), ("s", 1), ("s1",), ("s", 11), ("s", 1, 1))
    }
    assert len(named) == 4 * 6
    assert name_of("another key", ANA, ()) not in named


def test_a_file_names_nobody_and_is_its_owner_s_alone(path: Path) -> None:
    Tombstones(path).add("session", a_scope("zebrafinch", "tenant-z"), [("session-z",)], NOON)
    text = path.read_text()
    assert not any(name in text for name in ("zebrafinch", "tenant-z", "session-z"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_file_says_that_nothing_was_erased(path: Path) -> None:
    assert Tombstones(path).read() == ("", [])
    assert not path.exists()


@pytest.mark.parametrize("before", [1, 50])
def test_a_line_that_a_power_cut_has_torn_was_never_acknowledged(path: Path, before: int) -> None:
    Tombstones(path).add("turn", ANA, [("s1", seq) for seq in range(before)], NOON)
    whole = path.read_bytes()
    Tombstones(path).add("user", a_scope("ben"), [()], NOON)
    path.write_bytes(path.read_bytes()[:-5])
    assert len(Tombstones(path).read()[1]) == before
    Tombstones(path).add("user", a_scope("cem"), [()], NOON)
    key, noted = Tombstones(path).read()
    assert [one.of for one in noted[before:]] == [name_of(key, a_scope("cem"), ())]
    assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize("text", ["", "a diary\n", "{}\n", '{"key":"k"}\nscribbles\n'])
def test_a_file_that_is_none_of_ours_is_said_and_left(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UnsafeStart, match="file of erasures"):
        Tombstones(path).read()
    if "key" not in text:
        with pytest.raises(StoreUnavailable, match="ERASURES_FILE"):
            Tombstones(path).add("user", ANA, [()], NOON)
    assert path.read_text() == text


def test_what_cannot_be_noted_is_said(path: Path) -> None:
    path.parent.mkdir()
    path.mkdir()
    with pytest.raises(StoreUnavailable, match="ERASURES_FILE"):
        Tombstones(path).add("user", ANA, [()], NOON)
