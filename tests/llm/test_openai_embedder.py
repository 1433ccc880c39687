"""Embedding with the real `openai` client, over real HTTP."""

from __future__ import annotations

import base64
import math
import struct

import numpy as np
import pytest

from memory_service.chaos import model_answers
from memory_service.chaos import model_modes as model
from memory_service.chaos.model_modes import Mode
from memory_service.chaos.model_server import EMBEDDING_MODEL
from memory_service.errors import BadModelOutput, ModelUnavailable
from memory_service.llm.openai_embedder import MAX_TEXT_BYTES
from tests.llm.asking import SECRET, embedder, silent


async def test_texts_that_share_words_are_near_each_other(server, client) -> None:
    rows = await embedder(client).embed(["I drink green tea", "green tea I drink", "the car is at the garage"])
    assert rows.dtype == np.float32
    assert rows.shape == (3, 64)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert rows[0] @ rows[1] > 0.99 > 0.5 > rows[0] @ rows[2]


async def test_rows_are_in_the_order_of_the_texts_whatever_the_order_of_the_answer(server, client) -> None:
    server.play(model.vectors([[0, 2, 0], [0, 0, 3], [1, 0, 0]], indices=[1, 2, 0]))
    assert (await embedder(client).embed(["a", "b", "c"])).tolist() == np.eye(3).tolist()


async def test_rows_without_numbers_are_in_the_order_they_came(server, client) -> None:
    server.play(model.vectors([[5, 0], [0, 5]], indices=[None, None]))
    assert (await embedder(client).embed(["a", "b"])).tolist() == np.eye(2).tolist()


async def test_rows_may_come_as_base64(server, client) -> None:
    server.play(model.vectors([base64.b64encode(struct.pack("<2f", 3, 4)).decode()]))
    assert (await embedder(client).embed(["a"]))[0].tolist() == pytest.approx([0.6, 0.8])
    assert server.calls[0].body["encoding_format"] == "base64"


async def test_a_text_with_nothing_to_embed_gets_zeros_and_is_not_sent(server, client) -> None:
    rows = await embedder(client).embed(["", "tea", " \n", "\x00", "car"])
    assert server.calls[0].texts == ["tea", "car"]
    assert np.flatnonzero(np.linalg.norm(rows, axis=1)).tolist() == [1, 4]


async def test_nothing_at_all_to_embed_asks_nobody(server, client) -> None:
    assert (await embedder(client).embed([])).shape == (0, 0)
    assert (await embedder(client, dimensions=8).embed(["", ""])).tolist() == [[0.0] * 8] * 2
    assert server.calls == []


async def test_many_texts_go_in_batches_and_come_back_in_order(server, client) -> None:
    texts = [f"word{n}" for n in range(300)]
    embeds = embedder(client)
    rows = await embeds.embed(texts)
    assert [len(call.texts) for call in server.calls] == [128, 128, 44]
    assert [text for call in server.calls for text in call.texts] == texts
    assert rows == pytest.approx(np.array([model_answers.embed(text, 64) for text in texts]), abs=1e-6)
    assert embeds.usage()["calls"] == 3


async def test_a_long_text_is_embedded_by_its_beginning_and_long_batches_are_divided(server, client) -> None:
    """No text and no batch may hold more tokens than an endpoint takes, or it would be refused for ever."""
    await embedder(client).embed(["茶" * 100_000] * 50)
    assert all(len(text.encode()) <= MAX_TEXT_BYTES for call in server.calls for text in call.texts)
    assert server.calls[0].texts[0] == "茶" * (MAX_TEXT_BYTES // 3)
    assert [len(call.texts) for call in server.calls] == [31, 19]


async def test_dimensions_are_asked_for_only_if_wished(server, client) -> None:
    assert (await embedder(client, dimensions=16).embed(["tea"])).shape == (1, 16)
    await embedder(client).embed(["tea"])
    assert [call.body.get("dimensions") for call in server.calls] == [16, None]


async def test_a_space_is_named_by_provider_model_and_dimensions_once_they_are_known(server, client) -> None:
    embeds = embedder(client)
    assert embeds.space is None
    await embeds.embed(["tea"])
    assert embeds.space == f"openai:{EMBEDDING_MODEL}:64"
    assert embedder(client, dimensions=256).space == f"openai:{EMBEDDING_MODEL}:256"
    assert embeds.keyword_weight == 0.6


UNUSABLE_VECTORS: dict[str, Mode] = {
    "too few": model.vectors([[1.0, 0.0]]),
    "too many": model.vectors([[1.0, 0.0]] * 3),
    "one twice": model.vectors([[1.0, 0.0]] * 2, indices=[1, 1]),
    "of two lengths": model.vectors([[1.0, 0.0], [1.0]]),
    "of no length": model.vectors([[], []]),
    "NaN": model.vectors([[1.0, 0.0], [math.nan, 1.0]]),
    "NaN in base64": model.vectors([base64.b64encode(struct.pack("<2f", math.nan, 1)).decode()] * 2),
    "infinite": model.vectors([[1.0, 0.0], [math.inf, 1.0]]),
    "too large to measure": model.vectors([[1.0, 0.0], [1e300, 1e300]]),
    "without a direction": model.vectors([[1.0, 0.0], [0.0, 0.0]]),
    "next to nothing": model.vectors([[1.0, 0.0], [1e-200, 0.0]]),
    "no base64": model.vectors(["tea!", "tea!"]),
    "not whole floats": model.vectors(["dGVh", "dGVh"]),
    "words": model.vectors([[SECRET], [SECRET]]),
    "an error that looks like success": model.raw({"error": {"message": SECRET}}),
    "a page": model.raw(f"<html>{SECRET}</html>", media_type="text/html"),
}


@pytest.mark.parametrize("what", UNUSABLE_VECTORS)
async def test_vectors_that_cannot_be_used_are_bad_output(server, client, what: str) -> None:
    server.play(UNUSABLE_VECTORS[what])
    with pytest.raises(BadModelOutput) as caught:
        await embedder(client).embed([SECRET, "tea"])
    assert silent(caught.value)
    assert len(server.calls) == 1


async def test_other_dimensions_are_another_space(server, client) -> None:
    embeds = embedder(client)
    await embeds.embed(["tea"])
    server.play(model.vectors([[1.0, 0.0]]))
    assert (await embeds.embed(["tea", ""])).tolist() == [[1, 0], [0, 0]]
    assert embeds.space == f"openai:{EMBEDDING_MODEL}:2"
    assert (await embeds.embed(["", "tea"])).shape == (2, 64)
    assert embeds.space == f"openai:{EMBEDDING_MODEL}:64"


async def test_dimensions_that_were_asked_for_are_insisted_on(server, client) -> None:
    server.play(model.vectors([[1.0, 0.0]]))
    with pytest.raises(BadModelOutput, match="256 dimensions"):
        await embedder(client, dimensions=256).embed(["tea"])


async def test_batches_of_different_dimensions_are_no_answer(server, client) -> None:
    server.play(model.vectors([[1.0, 0.0]] * 128), model.vectors([[1.0]] * 2))
    with pytest.raises(BadModelOutput, match="2 different dimensions"):
        await embedder(client).embed([f"word{n}" for n in range(130)])


async def test_an_unusable_answer_fixes_nothing(server, client) -> None:
    embeds = embedder(client)
    server.play(model.vectors([[math.inf, 0.0]]))
    with pytest.raises(BadModelOutput):
        await embeds.embed(["tea"])
    assert (await embeds.embed(["tea"])).shape == (1, 64)


async def test_an_endpoint_that_gives_other_dimensions_than_were_asked_for_is_refused(server, client) -> None:
    server.play(model.vectors([[1.0, 0.0]]))
    with pytest.raises(BadModelOutput, match="16 dimensions"):
        await embedder(client, dimensions=16).embed(["tea"])


async def test_calls_failures_and_tokens_of_an_embedder_are_counted(server, client) -> None:
    embeds = embedder(client)
    await embeds.embed(["green tea", "", "coffee"])
    await embeds.embed([""])
    server.play(model.status(500))
    with pytest.raises(ModelUnavailable):
        await embeds.embed(["tea"])
    assert embeds.usage() == {"calls": 2, "failures": 1, "prompt_tokens": 3}
