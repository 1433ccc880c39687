"""What of an answer must be the same everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.properties.lanes import Answer

ASK_FOR_REFLECTION = ("/sessions/end", "/reflections/replay")
HOW_FAR = ("reflection", "attempts", "last_error", "insights_count", "summary_generated")
OF_THE_SITTING = ("active_context", "cumulative_summary", "formatted_context")


def comparable(answer: Answer) -> tuple[int, Any]:
    """An answer without what may differ: how durable the store is, a request's own id, the order among equals.

    And what tells how far a reflection is that has just been asked for, where `answer` is to the asking.
    """
    left_out = {"durability", "request_id", "facts", *(HOW_FAR if answer.path in ASK_FOR_REFLECTION else ())}
    body = {name: value for name, value in answer.body.items() if name not in left_out}
    if "results" in body:
        body["results"] = sorted((_rounded(result) for result in body["results"]), key=lambda r: (-r["score"], r["id"]))
    if isinstance(
        body.get("erased"), dict
    ):  # the name of a request goes some time after it may: each store has its own occasions
        body["erased"] = {name: count for name, count in body["erased"].items() if name != "requests"}
    if "reflections" in body:
        body["reflections"] = sorted(body["reflections"], key=str)
    return answer.status, body


def _rounded(result: dict[str, Any]) -> dict[str, Any]:
    """Sums in another order differ in their last digits."""
    parts = {name: round(part, 4) for name, part in result["score_parts"].items()}
    return {**result, "score": round(result["score"], 4), "score_parts": parts}


def without_the_sitting(context: Answer) -> Answer:
    """A context but for what was said: turns and their summary stand for the same, and either may be there."""
    body = {name: value for name, value in context.body.items() if name not in OF_THE_SITTING}
    return replace(context, body=body)
