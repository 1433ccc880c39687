"""The drivers pgvector, automem and pixeltable keep the contract that all drivers keep, over the real engines.

Twice where that is quick: as an application has them, when an engine may lack what was stored a moment ago, and when it
has been brought everything and answers itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from memory_service.drivers import BaseMemoryDriver
from memory_service.settings import Settings
from tests.automem.launcher import AutoMemServer
from tests.cosmos.launcher import KEY, CosmosServer
from tests.drivers.caught_up import CaughtUpDriver, caught_up, through
from tests.drivers.contract import ANA, DriverContract, contents
from tests.pixeltable.launcher import PixeltableHome

MakeSettings = Callable[..., Settings]


class EngineContract(DriverContract):
    """With everything brought."""

    def test_it_is_the_engine_that_answers(self, driver: CaughtUpDriver) -> None:
        driver.store(ANA, "Ana eats no walnuts", "c", ["food"])
        driver.store_global_knowledge("Walnuts grow on trees", "food")
        for number, recall in enumerate(
            (
                lambda: driver.recall(ANA, query="walnuts"),
                lambda: driver.recall(ANA, "c", "walnuts", exclude_tags=["else"]),
                lambda: driver.recall(ANA, query="walnuts", use_vector=False),
                lambda: driver.recall_global_knowledge("walnuts", category="food"),
            ),
            start=1,
        ):
            assert len(recall()) == 1
            assert driver.answered == number

    def test_its_health_is_asked_of_the_engine(self, driver: CaughtUpDriver) -> None:
        told = driver.health_check()
        assert (told["status"], told["connected"], told["record"]["status"]) == ("healthy", True, "healthy")


class TestPGVector(DriverContract):
    @pytest.fixture
    def driver(self, make_settings: MakeSettings, postgres_url: str) -> Iterator[BaseMemoryDriver]:
        with through(make_settings(database_url=postgres_url), "pgvector") as driver:
            yield driver


class TestPGVectorCaughtUp(EngineContract):
    @pytest.fixture
    def driver(self, make_settings: MakeSettings, postgres_url: str) -> Iterator[CaughtUpDriver]:
        with caught_up(make_settings(database_url=postgres_url), "pgvector") as driver:
            yield driver


class TestPGVectorBesideTheRecordInOneDatabase(EngineContract):
    @pytest.fixture
    def driver(self, make_settings: MakeSettings, postgres_url: str) -> Iterator[CaughtUpDriver]:
        with caught_up(make_settings(store_url=postgres_url, database_url=postgres_url), "pgvector") as driver:
            yield driver


def test_a_database_that_was_emptied_is_filled_again(make_settings: MakeSettings, postgres_url: str) -> None:
    settings = make_settings(database_url=postgres_url)
    with caught_up(settings, "pgvector") as driver:
        driver.store(ANA, "Ana eats no walnuts")
        assert len(driver.recall(ANA, query="walnuts")) == 1
    with psycopg.connect(postgres_url) as db:
        db.execute("DROP TABLE memory_copies, memory_copies_migrations")
    with caught_up(settings, "pgvector") as driver:
        assert contents(driver.recall_now(ANA, query="walnuts")) == ["Ana eats no walnuts"]
        assert contents(driver.recall(ANA, query="walnuts")) == ["Ana eats no walnuts"]
        assert driver.answered > 0


class TestAutoMem(DriverContract):
    @pytest.fixture
    def driver(self, make_settings: MakeSettings, automem_server: AutoMemServer) -> Iterator[BaseMemoryDriver]:
        with through(make_settings(automem_url=automem_server.url), "automem") as driver:
            yield driver


class TestAutoMemCaughtUp(EngineContract):
    @pytest.fixture
    def driver(self, make_settings: MakeSettings, automem_server: AutoMemServer) -> Iterator[CaughtUpDriver]:
        with caught_up(make_settings(automem_url=automem_server.url), "automem") as driver:
            yield driver


class TestPixeltableCaughtUp(EngineContract):
    @pytest.fixture
    def driver(self, make_settings: MakeSettings, pixeltable_home: PixeltableHome) -> Iterator[CaughtUpDriver]:
        with caught_up(make_settings(), "pixeltable") as driver:
            driver.until_there()
            driver.have_patience("pixeltable")
            yield driver


class TestSeveral(EngineContract):
    @pytest.fixture
    def driver(
        self, make_settings: MakeSettings, postgres_url: str, automem_server: AutoMemServer
    ) -> Iterator[CaughtUpDriver]:
        settings = make_settings(database_url=postgres_url, automem_url=automem_server.url)
        with caught_up(settings, "pgvector", "automem") as driver:
            yield driver

    def test_where_the_first_is_away_the_next_answers_and_that_is_said(
        self, make_settings: MakeSettings, postgres_url: str, automem_server: AutoMemServer
    ) -> None:
        settings = make_settings(database_url=postgres_url, automem_url=automem_server.url)
        with caught_up(settings, "automem", "pgvector") as driver:
            driver.store(ANA, "Ana eats no walnuts")
            assert "degraded" not in driver.recall(ANA, query="walnuts")[0]
            automem_server.kill()
            (told,) = driver.recall_now(ANA, query="walnuts")
            assert (told["memory"]["content"], told["degraded"]) == ("Ana eats no walnuts", ["driver"])
            health = driver.health_check()
            assert (health["status"], health["connected"]) == ("unhealthy", False)
            assert "automem" in health["error"]


def test_over_cosmos_db_it_is_the_engine_that_answers_too(
    make_settings: MakeSettings, cosmos_server: CosmosServer, postgres_url: str
) -> None:
    settings = make_settings(
        store_url="cosmos:", cosmos_endpoint=cosmos_server.url, cosmos_key=KEY, database_url=postgres_url
    )
    with caught_up(settings, "pgvector") as driver:
        EngineContract().test_it_is_the_engine_that_answers(driver)
