"""Which driver is in use: by MEMORY_DRIVER, by name, by class; made once, whoever asks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from memory_service import drivers
from memory_service.drivers import BaseMemoryDriver, MemoryDriverManager, get_memory_driver, set_memory_driver
from memory_service.drivers.builtin import BuiltinMemoryDriver
from memory_service.drivers.manager import DriverManager

OURS = ["automem", "builtin", "pgvector", "pixeltable"]
FILE = """
from memory_service.drivers.base import BaseMemoryDriver

class MyDriver(BaseMemoryDriver):
    recall = recall_global_knowledge = store = store_global_knowledge = delete = health_check = lambda *a, **k: None

class NoDriver:
    pass
"""


class Notes(BaseMemoryDriver):
    """The least that a driver of one's own can be."""

    def __init__(self) -> None:
        self.closed = 0

    def recall(self, user_id: str, **kwargs: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        return [{"user_id": user_id, **kwargs}]

    def recall_global_knowledge(self, query: str, **kwargs: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        return []

    def store(self, user_id: str, content: str, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        return {}

    def store_global_knowledge(self, content: str, category: str, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        return {}

    def delete(self, memory_id: str, user_id: str | None = None) -> bool:
        return False

    def health_check(self) -> dict[str, Any]:
        return {"status": "healthy", "driver": "notes", "connected": True}

    def close(self) -> None:
        self.closed += 1


class Others(Notes):
    pass


@pytest.fixture
def manager() -> Iterator[DriverManager]:
    manager = DriverManager()
    yield manager
    manager.reset_cache()


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Iterator[DriverManager]:
    """The manager of the process, as new before and after."""
    monkeypatch.setattr(MemoryDriverManager, "_known", dict(MemoryDriverManager._known))
    MemoryDriverManager.reset_cache()
    yield MemoryDriverManager
    MemoryDriverManager.reset_cache()


def test_the_built_in_driver_is_in_use_unless_told_otherwise(manager: DriverManager) -> None:
    driver = manager.get_driver()
    assert isinstance(driver, BuiltinMemoryDriver)
    assert manager.get_driver() is manager.get_driver("builtin") is manager.get_driver(" BuiltIn ") is driver


@pytest.mark.parametrize("value", ["notes", "NOTES"])
def test_the_setting_names_the_driver(manager: DriverManager, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    manager.register_driver("Notes", Notes)
    monkeypatch.setenv("MEMORY_DRIVER", value)
    assert type(manager.get_driver()) is Notes


def test_the_setting_may_stand_in_the_file(manager: DriverManager) -> None:
    Path(".env").write_text("MEMORY_DRIVER=notes\n")
    manager.register_driver("notes", Notes)
    assert type(manager.get_driver()) is Notes


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module of the application's, which nobody has imported yet."""
    Path("my_memory_driver.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    yield "my_memory_driver"
    sys.modules.pop("my_memory_driver", None)


def test_a_driver_may_be_named_by_where_it_is(
    manager: DriverManager, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setenv("MEMORY_DRIVER", f"{module}:MyDriver")
    driver = manager.get_driver()
    assert type(driver).__name__ == "MyDriver"
    assert manager.get_driver(f"{module}:MyDriver") is driver
    assert manager.get_available_drivers() == OURS


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my_memory_driver:NoDriver", "must inherit from BaseMemoryDriver"),
        ("my_memory_driver:Missing", "'my_memory_driver:Missing' not found: .*Missing"),
        ("my_missing_driver:MyDriver", "'my_missing_driver:MyDriver' not found: No module named 'my_missing_driver'"),
        ("my_memory_driver:", "not found"),
        (":MyDriver", "not found"),
        (".my_memory_driver:MyDriver", "not found"),
    ],
)
def test_where_there_is_no_driver_it_is_said_why(manager: DriverManager, module: str, name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        manager.get_driver(name)


@pytest.mark.parametrize("name", ["xyz", "pg-vector", "", ",", "pgvector,xyz", "a:b:c", "a b:C"])
def test_an_unknown_name_is_refused_with_those_that_are_known(manager: DriverManager, name: str) -> None:
    with pytest.raises(ValueError) as caught:
        manager.set_driver(name)
    available = ", ".join(OURS)
    assert str(caught.value) == f"Memory driver '{name}' not found. Available drivers: {available}"
    manager.register_driver("Zebra", Notes)
    manager.register_driver("aardvark", Notes)
    with pytest.raises(ValueError, match=rf"Available drivers: aardvark, {available}, zebra$"):
        manager.get_driver("XYZ")
    assert manager.get_available_drivers() == ["aardvark", *OURS, "zebra"]


def test_a_refused_name_changes_nothing(manager: DriverManager) -> None:
    manager.register_driver("notes", Notes)
    driver = manager.set_driver("notes")
    with pytest.raises(ValueError, match="not found"):
        manager.set_driver("xyz")
    assert manager.get_driver() is driver


@pytest.mark.parametrize("given", [object, int, Notes(), "notes", None])
def test_only_drivers_can_be_registered(manager: DriverManager, given: Any) -> None:
    with pytest.raises(ValueError, match="must inherit from BaseMemoryDriver"):
        manager.register_driver("notes", given)
    assert manager.get_available_drivers() == OURS


@pytest.mark.parametrize("name", ["", " ", "a:b", None])
def test_a_driver_needs_a_name_by_which_it_can_be_found(manager: DriverManager, name: Any) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        manager.register_driver(name, Notes)


def test_switching_keeps_both_open_and_back_gives_the_same(manager: DriverManager) -> None:
    manager.register_driver("notes", Notes)
    manager.register_driver("others", Others)
    notes = manager.set_driver("notes")
    others = manager.set_driver("others")
    assert manager.get_driver() is others
    assert (type(notes), type(others)) == (Notes, Others)
    assert manager.set_driver("NOTES") is manager.get_driver() is notes
    assert notes.closed == others.closed == 0  # type: ignore[attr-defined]


def test_what_is_registered_anew_takes_the_place_of_the_former(manager: DriverManager) -> None:
    manager.register_driver("notes", Notes)
    former = manager.set_driver("notes")
    manager.register_driver("Notes", Others)
    assert type(manager.get_driver()) is Others
    assert former.closed == 1  # type: ignore[attr-defined]


def test_resetting_closes_what_was_made_and_reads_the_setting_anew(
    manager: DriverManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.register_driver("notes", Notes)
    monkeypatch.setenv("MEMORY_DRIVER", "notes")
    notes, others = manager.get_driver(), manager.set_driver("builtin")
    others.store("ana", "x")
    manager.reset_cache()
    assert notes.closed == 1  # type: ignore[attr-defined]
    assert "memory-driver" not in {thread.name for thread in threading.enumerate()}
    assert type(manager.get_driver()) is Notes
    assert manager.get_driver() is not notes


def test_one_that_fails_to_close_keeps_no_other_from_it(manager: DriverManager) -> None:
    class Failing(Notes):
        def close(self) -> None:
            super().close()
            raise OSError("the disk went away")

    class Plain(Notes):
        close = None  # type: ignore[assignment]

    for name, kind in (("a", Notes), ("b", Failing), ("c", Notes), ("d", Plain)):
        manager.register_driver(name, kind)
    made = [manager.get_driver(name) for name in "abcd"]
    with pytest.raises(OSError, match="the disk went away"):
        manager.reset_cache()
    assert [driver.closed for driver in made] == [1, 1, 1, 0]  # type: ignore[attr-defined]


def test_many_threads_that_ask_at_once_are_given_the_same(manager: DriverManager) -> None:
    made: list[BaseMemoryDriver] = []
    together = threading.Barrier(8)

    class Slow(Notes):
        def __init__(self) -> None:
            threading.Event().wait(0.02)
            super().__init__()
            made.append(self)

    manager.register_driver("slow", Slow)

    def ask(name: str | None) -> BaseMemoryDriver:
        together.wait(10)
        return manager.get_driver(name)

    manager.set_driver("slow")
    manager.register_driver("slow", Slow)
    made.clear()
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, ["slow", None] * 4))
    assert list(answers) == made


def test_a_driver_may_be_made_of_others(manager: DriverManager) -> None:
    class Both(Notes):
        def __init__(self) -> None:
            super().__init__()
            self.first = manager.get_driver("notes")

    manager.register_driver("notes", Notes)
    manager.register_driver("both", Both)
    assert manager.get_driver("both").first is manager.get_driver("notes")  # type: ignore[attr-defined]


# The one of the process


def test_the_functions_are_about_the_one_manager_of_the_process(default: DriverManager) -> None:
    driver = get_memory_driver()
    assert driver is get_memory_driver() is MemoryDriverManager.get_driver()
    MemoryDriverManager.register_driver("custom", Notes)
    assert set_memory_driver("custom") is get_memory_driver()
    assert get_memory_driver().recall("ana", top_k=3) == [{"user_id": "ana", "top_k": 3}]
    assert set_memory_driver("builtin") is driver


def test_the_built_in_driver_works_from_the_settings_alone(
    default: DriverManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_URL", "sqlite:///./elsewhere.db")
    get_memory_driver().store("ana", "Ana eats no walnuts")
    assert Path("elsewhere.db").exists()
    assert not Path("data").exists()


def test_importing_the_face_imports_no_engine() -> None:
    """An application that has a driver of its own need not pay for ours."""
    import subprocess

    script = (
        "import sys, memory_service.drivers; print([m for m in ('numpy', 'apsw', 'starlette') if m in sys.modules])"
    )
    path = str(Path(drivers.__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
