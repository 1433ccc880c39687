"""Drivers that use the record share one that is open: switching loses nothing, closes nothing, and finds the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from memory_service.drivers import BaseMemoryDriver
from memory_service.drivers.manager import DriverManager
from memory_service.errors import UnsafeStart
from tests.automem.launcher import AutoMemServer
from tests.drivers.contract import contents
from tests.drivers.test_manager import Notes
from tests.support.engines import ShelfEngine

SHELF = "tests.support.engines:ShelfEngine"


@pytest.fixture
def manager(
    monkeypatch: pytest.MonkeyPatch, postgres_url: str, automem_server: AutoMemServer
) -> Iterator[DriverManager]:
    """A manager in an application whose environment names the engines' servers."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("AUTOMEM_URL", automem_server.url)
    manager = DriverManager()
    yield manager
    manager.reset_cache()


def test_switching_finds_the_same_and_the_former_goes_on(manager: DriverManager) -> None:
    builtin = manager.get_driver()
    builtin.store("ana", "Ana eats no walnuts")
    made = [builtin]
    for name in ("pgvector", "automem", "pgvector, AutoMem", SHELF, "builtin", "PGVECTOR"):
        driver = manager.set_driver(name)
        assert manager.get_driver() is driver
        assert "Ana eats no walnuts" in contents(driver.recall("ana", query="walnuts"))
        driver.store("ana", f"walnuts, stored through {name}")
        made.append(driver)
    assert made[1] is made[-1]
    for driver in made:
        assert len(driver.recall("ana", query="walnuts", top_k=100)) == len(made)


def test_a_driver_of_the_environment_is_an_engine(manager: DriverManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_DRIVER", "automem,pgvector")
    driver = manager.get_driver()
    assert driver.health_check()["driver"] == "automem,pgvector"
    assert manager.set_driver("builtin").health_check()["driver"] == "builtin"


def test_many_threads_may_switch_and_use_drivers_at_once(manager: DriverManager) -> None:
    names = ["builtin", "pgvector", "automem", "pgvector,automem"]

    def work(number: int) -> int:
        driver = manager.get_driver(names[number % len(names)])
        driver.store("ana", f"walnuts {number}")
        return len(driver.recall("ana", query="walnuts", top_k=100))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(24)))
    assert all(found)
    assert len(manager.get_driver("pgvector").recall("ana", query="walnuts", top_k=100)) == 24


def test_an_engine_that_cannot_be_used_is_refused_with_the_first_call_and_leaves_the_record_alone(
    manager: DriverManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    builtin = manager.get_driver()
    builtin.store("ana", "Ana eats no walnuts")
    monkeypatch.setattr(ShelfEngine, "from_settings", _refuse)
    for _ in range(2):
        with pytest.raises(UnsafeStart, match="a line to run"):
            manager.set_driver(SHELF).recall("ana", query="walnuts")
    health = manager.get_driver().health_check()
    assert (health["status"], health["connected"], health["driver"]) == ("unhealthy", False, SHELF)
    assert "a line to run" in health["error"]
    assert len(builtin.recall("ana", query="walnuts")) == 1


def _refuse(settings: object) -> None:
    raise UnsafeStart("a line to run")


def test_resetting_closes_the_record_and_what_follows_it(manager: DriverManager) -> None:
    manager.set_driver("pgvector").store("ana", "Ana eats no walnuts")
    manager.reset_cache()
    assert "memory-driver" not in {thread.name for thread in threading.enumerate()}
    assert len(manager.get_driver("pgvector").recall("ana", query="walnuts")) == 1


@pytest.mark.parametrize("name", ["notes,pgvector", "pgvector,notes"])
def test_a_driver_that_stands_alone_is_not_one_of_several(manager: DriverManager, name: str) -> None:
    manager.register_driver("notes", Notes)
    with pytest.raises(ValueError, match="'notes' does not follow the record"):
        manager.set_driver(name)


def test_engines_follow_no_other_driver_called_builtin(manager: DriverManager) -> None:
    manager.register_driver("builtin", Notes)
    with pytest.raises(ValueError, match="the driver 'builtin' is another one here"):
        manager.set_driver("pgvector")


def test_many_memories_are_stored_at_once_in_their_order(manager: DriverManager) -> None:
    driver: BaseMemoryDriver = manager.set_driver("pgvector")
    given = [{"user_id": f"user{number % 3}", "content": f"note {number}", "tags": ["n"]} for number in range(250)]
    told = driver.store_many(iter(given))
    assert contents(told) == [memory["content"] for memory in given]
    assert [one["user_id"] for one in told] == [memory["user_id"] for memory in given]
    assert len({one["id"] for one in told}) == 250
    newest = contents(driver.recall("user0", top_k=100))
    assert newest == [memory["content"] for memory in reversed(given) if memory["user_id"] == "user0"][:100]
    assert driver.store_many([]) == []


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"content": ""}, ValueError), ({"user_id": "a b"}, ValueError), ({"colour": "red"}, TypeError)],
)
def test_of_many_of_which_one_cannot_be_none_is_stored(
    manager: DriverManager, wrong: dict[str, str], error: type[Exception]
) -> None:
    driver = manager.get_driver()
    with pytest.raises(error):
        driver.store_many([{"user_id": "ana", "content": "walnuts"}, {"user_id": "ana", "content": "tea", **wrong}])
    assert driver.recall("ana") == []


def test_a_driver_of_ones_own_stores_many_one_by_one() -> None:
    class Counting(Notes):
        def store(self, user_id: str, content: str, **kwargs: object) -> dict[str, object]:  # type: ignore[override]
            return {"user_id": user_id, "content": content, **kwargs}

    given = [{"user_id": "ana", "content": "a"}, {"user_id": "ben", "content": "b", "tags": ["x"]}]
    assert Counting().store_many(given) == given
