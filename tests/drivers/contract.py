"""What every memory driver must do, whatever is behind it.

An engine's test file subclasses `DriverContract` and gives a `driver` over nothing. Where engines differ it is
tolerant: an id may be of any type, and be told as `id` or as `memory_id`; whatever is told beside what is asked for
here is fine; a score need not be told; where meaning shall not count, an engine without keywords may give the newest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memory_service.drivers import BaseMemoryDriver

Told = dict[str, Any]
ANA, BEN = "ana", "ben"
ODD_TEXTS = [
    "  spaces around\t",
    "two\nlines\r\n",
    "Ünïcode 日本語 👩‍👩‍👧",
    "'; DROP TABLE memories; --",
    '{"a": "\\u0000"}',
    "%s $1 ?",
]


def id_of(told: Told) -> Any:
    return told["id"] if "id" in told else told["memory_id"]


def content(told: Told) -> str:
    text = told["memory"]["content"]
    assert isinstance(text, str)
    return text


def contents(found: list[Told]) -> list[str]:
    return [content(told) for told in found]


class DriverContract:
    @pytest.fixture
    def driver(self) -> Iterator[BaseMemoryDriver]:
        """A driver over an engine that remembers nothing yet."""
        raise NotImplementedError

    # Memories of a user

    def test_what_was_stored_is_recalled_at_once_in_the_form_that_all_share(self, driver: BaseMemoryDriver) -> None:
        metadata = {"source": "chat", "turn": 3, "nested": {"of": [1, 2.5, None, True, "x"]}}
        stored = driver.store(ANA, "Ana eats no walnuts", "c1", ["food", "allergy"], metadata)
        for found in (driver.recall(ANA, query="walnuts"), driver.recall(ANA)):
            assert contents(found) == ["Ana eats no walnuts"]
            (told,) = found
            assert id_of(told) == id_of(stored)
            assert (sorted(told["memory"]["tags"]), told["memory"]["metadata"]) == (["allergy", "food"], metadata)
            assert (str(told["user_id"]), str(told["conversation_id"])) == (ANA, "c1")
            said_at = datetime.fromisoformat(told["created_at"])
            assert abs(datetime.now(UTC) - said_at) < timedelta(minutes=1)

    def test_what_was_stored_without_anything_beside_has_nothing_beside(self, driver: BaseMemoryDriver) -> None:
        stored = driver.store(ANA, "Ana likes tea")
        (told,) = driver.recall(ANA)
        assert (told["memory"]["tags"], told["memory"]["metadata"], told["conversation_id"]) == ([], {}, None)
        assert id_of(stored) == id_of(told)

    def test_nothing_of_another_user_is_recalled(self, driver: BaseMemoryDriver) -> None:
        driver.store(ANA, "Ana eats no walnuts", "shared", ["food"])
        assert driver.recall(BEN, query="walnuts") == driver.recall(BEN) == []
        assert driver.recall(BEN, conversation_id="shared", query="walnuts") == []
        assert driver.recall(BEN, conversation_id="shared") == []

    def test_the_nearest_comes_first(self, driver: BaseMemoryDriver) -> None:
        driver.store(ANA, "Ana eats no walnuts")
        for text in ("The train to Porto leaves at nine", "We painted the kitchen blue", "It rained at sea"):
            driver.store(ANA, text)
        found = driver.recall(ANA, query="Are walnuts fine for Ana?")
        assert content(found[0]) == "Ana eats no walnuts"
        scores = [told["score"] for told in found if "score" in told]
        assert scores == sorted(scores, reverse=True)
        assert all(isinstance(score, int | float) for score in scores)

    @pytest.mark.parametrize("use_vector", [True, False])
    @pytest.mark.parametrize("query", [None, "", "  "])
    def test_without_a_query_the_newest_come_first(
        self, driver: BaseMemoryDriver, use_vector: bool, query: str | None
    ) -> None:
        for text in ("first", "second", "third"):
            driver.store(ANA, text, "c")
        assert contents(driver.recall(ANA, query=query, use_vector=use_vector)) == ["third", "second", "first"]
        assert contents(driver.recall(ANA, "c", query, 2, use_vector)) == ["third", "second"]

    def test_what_bears_the_word_is_recalled_where_meaning_does_not_count(self, driver: BaseMemoryDriver) -> None:
        driver.store(ANA, "Ana eats no walnuts")
        driver.store(ANA, "It rained at sea")
        assert "Ana eats no walnuts" in contents(driver.recall(ANA, query="walnuts", use_vector=False))

    def test_no_more_are_recalled_than_were_asked_for_and_ten_unless_told(self, driver: BaseMemoryDriver) -> None:
        for number in range(12):
            driver.store(ANA, f"walnuts, note {number}")
        assert len(driver.recall(ANA, query="walnuts")) == len(driver.recall(ANA)) == 10
        assert len(driver.recall(ANA, query="walnuts", top_k=3)) == len(driver.recall(ANA, top_k=3)) == 3

    def test_of_a_conversation_nothing_else_is_recalled(self, driver: BaseMemoryDriver) -> None:
        for number in range(12):
            driver.store(ANA, f"walnuts walnuts {number}", "noisy")
        driver.store(ANA, "and once walnuts were spoken of, among other things", "quiet")
        driver.store(ANA, "walnuts in no conversation")
        for query in ("walnuts", None):
            quiet = driver.recall(ANA, conversation_id="quiet", query=query, top_k=5)
            assert contents(quiet) == ["and once walnuts were spoken of, among other things"]
            assert driver.recall(ANA, conversation_id="unknown", query=query) == []

    def test_what_bears_an_excluded_tag_is_left_out_before_the_best_are_taken(self, driver: BaseMemoryDriver) -> None:
        for number in range(12):
            driver.store(ANA, f"walnuts walnuts {number}", "c", ["noise", str(number)])
        driver.store(ANA, "walnuts, plainly", "c")
        driver.store(ANA, "walnuts, and a harmless tag", "c", ["noisy"])
        for query in ("walnuts", None):
            found = driver.recall(ANA, query=query, top_k=5, exclude_tags=["noise", "other"])
            assert set(contents(found)) == {"walnuts, plainly", "walnuts, and a harmless tag"}
            assert len(driver.recall(ANA, query=query, exclude_tags=[])) == 10
            both = driver.recall(ANA, conversation_id="c", query=query, exclude_tags=["noise", "noisy"])
            assert contents(both) == ["walnuts, plainly"]
            assert driver.recall(ANA, conversation_id="unknown", query=query, exclude_tags=["noise"]) == []

    def test_ids_that_are_numbers_are_the_same_as_their_digits(self, driver: BaseMemoryDriver) -> None:
        driver.store(7, "Ana eats no walnuts", 12)  # type: ignore[arg-type]
        for found in (driver.recall(7, 12), driver.recall("7", "12", "walnuts")):  # type: ignore[arg-type]
            assert contents(found) == ["Ana eats no walnuts"]
            assert (str(found[0]["user_id"]), str(found[0]["conversation_id"])) == ("7", "12")
        assert driver.recall("8") == driver.recall("7", "13") == []

    @pytest.mark.parametrize("text", [*ODD_TEXTS, "long " * 2000], ids=[*map(ascii, ODD_TEXTS), "long"])
    def test_texts_come_back_as_they_were(self, driver: BaseMemoryDriver, text: str) -> None:
        driver.store(ANA, text, tags=["a b", "日本"], metadata={"text": text[:100]})
        (told,) = driver.recall(ANA)
        assert (content(told), told["memory"]["metadata"]) == (text, {"text": text[:100]})
        assert driver.recall(ANA, exclude_tags=["日本"]) == []

    def test_what_a_caller_does_with_what_it_gave_or_got_changes_no_memory(self, driver: BaseMemoryDriver) -> None:
        tags, metadata = ["food"], {"list": [1]}
        stored = driver.store(ANA, "walnuts", tags=tags, metadata=metadata)
        document = driver.store_global_knowledge("walnuts", "food", metadata=metadata)
        tags.append("more")
        metadata["list"].append(2)
        for _ in range(2):
            found = [driver.recall(ANA)[0], driver.recall(ANA, query="walnuts")[0]]
            found += [driver.recall_global_knowledge("walnuts")[0]]
            for told in found:
                assert told["memory"]["metadata"]["list"] == [1]
                assert "more" not in told["memory"]["tags"]
            for told in (*found, stored, document):
                told.get("memory", {}).get("metadata", {"list": []}).get("list", []).append(3)
                told.get("memory", {}).get("tags", []).append("more")

    def test_the_same_said_twice_is_two_memories(self, driver: BaseMemoryDriver) -> None:
        first, second = driver.store(ANA, "walnuts"), driver.store(ANA, "walnuts")
        assert id_of(first) != id_of(second)
        assert len(driver.recall(ANA)) == 2

    # Deleting

    def test_a_deleted_memory_is_recalled_no_more(self, driver: BaseMemoryDriver) -> None:
        stored, other = driver.store(ANA, "Ana eats no walnuts", "c"), driver.store(ANA, "Ana likes tea", "c")
        driver.recall(ANA, query="walnuts")
        assert driver.delete(id_of(stored), ANA) is True
        assert driver.delete(id_of(stored), ANA) is False
        for found in (driver.recall(ANA), driver.recall(ANA, "c"), driver.recall(ANA, query="walnuts")):
            assert {id_of(told) for told in found} <= {id_of(other)}

    def test_what_is_not_there_or_another_user_s_is_not_deleted(self, driver: BaseMemoryDriver) -> None:
        stored = driver.store(ANA, "Ana eats no walnuts")
        assert driver.delete(id_of(stored), BEN) is False
        assert driver.delete("mem123", ANA) is False
        assert driver.delete("12345", "nobody") is False
        assert contents(driver.recall(ANA)) == ["Ana eats no walnuts"]

    # Knowledge

    def test_knowledge_is_recalled_in_the_form_that_all_share(self, driver: BaseMemoryDriver) -> None:
        text = "Remote work is fine on three days a week"
        driver.store_global_knowledge(text, "Policies", "Remote Work Policy", "POL-001", {"pages": 3})
        (told,) = driver.recall_global_knowledge("remote work")
        assert (content(told), told["category"].lower()) == (text, "policies")
        expected = {"pages": 3, "title": "Remote Work Policy", "doc_id": "POL-001"}
        metadata = told["memory"]["metadata"]
        assert {name: metadata[name] for name in expected} == expected
        assert metadata["category"].lower() == "policies"
        assert isinstance(told["memory"]["tags"], list)
        assert datetime.fromisoformat(told["created_at"])

    def test_knowledge_is_found_by_its_category_however_that_is_written(self, driver: BaseMemoryDriver) -> None:
        driver.store_global_knowledge("Three days of remote work", "Policies", doc_id="a")
        driver.store_global_knowledge("Three days of soup, and soup on three days", "food", doc_id="b")
        for category in ("policies", "POLICIES"):
            found = driver.recall_global_knowledge("three days", category=category)
            assert contents(found) == ["Three days of remote work"]
        assert driver.recall_global_knowledge("three days", category="unknown") == []
        assert len(driver.recall_global_knowledge("three days")) == 2
        assert len(driver.recall_global_knowledge("three days", top_k=1)) == 1

    def test_knowledge_of_the_same_doc_id_takes_the_place_of_the_former(self, driver: BaseMemoryDriver) -> None:
        for text in ("Thirty days of leave", "Thirty-one days of leave"):
            driver.store_global_knowledge(text, "policies", doc_id="POL-001")
        assert contents(driver.recall_global_knowledge("days of leave")) == ["Thirty-one days of leave"]

    def test_knowledge_needs_neither_title_nor_doc_id(self, driver: BaseMemoryDriver) -> None:
        driver.store_global_knowledge("Three days of remote work", "policies")
        driver.store_global_knowledge("Three days of soup", "food")
        assert len(driver.recall_global_knowledge("three days")) == 2

    def test_knowledge_and_memories_are_kept_apart(self, driver: BaseMemoryDriver) -> None:
        driver.store_global_knowledge("Walnuts grow on trees", "food")
        driver.store(ANA, "Ana eats no walnuts")
        assert contents(driver.recall(ANA, query="walnuts")) == ["Ana eats no walnuts"]
        assert contents(driver.recall(ANA)) == ["Ana eats no walnuts"]
        assert contents(driver.recall_global_knowledge("walnuts")) == ["Walnuts grow on trees"]

    # All the rest

    def test_a_driver_that_works_says_so(self, driver: BaseMemoryDriver) -> None:
        told = driver.health_check()
        assert (told["status"], told["connected"]) == ("healthy", True)
        assert isinstance(told["driver"], str)
        assert told["driver"]
        assert "error" not in told

    @pytest.mark.parametrize(
        "call",
        [
            lambda driver: driver.store("", "text"),
            lambda driver: driver.store(None, "text"),
            lambda driver: driver.store("a user", "text"),
            lambda driver: driver.store(ANA, ""),
            lambda driver: driver.store(ANA, "a NUL \x00"),
            lambda driver: driver.store(ANA, "half a character \ud800"),
            lambda driver: driver.store(ANA, "text", "a/b"),
            lambda driver: driver.store(ANA, "text", tags="food"),
            lambda driver: driver.store(ANA, "text", metadata={"at": datetime.now(UTC)}),
            lambda driver: driver.store(ANA, "text", metadata=[("a", 1)]),
            lambda driver: driver.store_global_knowledge("", "policies"),
            lambda driver: driver.store_global_knowledge("text", ""),
            lambda driver: driver.recall("../ben"),
            lambda driver: driver.recall(ANA, top_k=0),
            lambda driver: driver.recall(ANA, query="x" * 2001),
            lambda driver: driver.recall(ANA, exclude_tags="food"),
            lambda driver: driver.recall_global_knowledge("text", top_k=-1),
            lambda driver: driver.delete("", ANA),
            lambda driver: driver.delete("a/b", ANA),
        ],
    )
    def test_what_cannot_be_is_refused_and_leaves_nothing(
        self, driver: BaseMemoryDriver, call: Callable[[BaseMemoryDriver], object]
    ) -> None:
        with pytest.raises(ValueError):
            call(driver)
        assert driver.recall(ANA) == driver.recall_global_knowledge("text policies") == []

    def test_many_threads_may_store_and_recall_at_once(self, driver: BaseMemoryDriver) -> None:
        def work(user: str) -> list[str]:
            for number in range(8):
                driver.store(user, f"{user} has note {number}", "c")
                driver.recall(user, query="note")
            return contents(driver.recall(user, top_k=100))

        users = [f"user{number}" for number in range(8)]
        with ThreadPoolExecutor(len(users)) as pool:
            for user, found in zip(users, pool.map(work, users), strict=True):
                assert found == [f"{user} has note {number}" for number in reversed(range(8))]
