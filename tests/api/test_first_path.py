"""The main road, end to end, over real HTTP."""

from __future__ import annotations

from client import MemoryServiceClient


async def test_a_new_session_begins_with_what_an_ended_one_taught(client: MemoryServiceClient) -> None:
    await client.start_session()
    await client.store_turn("I'm allergic to walnuts.", "Noted: no walnuts.")
    ended = await client.end_session(wait_s=10)
    context = await client.start_session()

    assert ended["reflection"] == "done"
    assert ended["summary_generated"]
    assert any("walnuts" in insight for insight in context["insights"])
    assert "walnuts" in context["formatted_context"]
