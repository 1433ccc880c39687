"""Embedding through OpenAI's API. What leaves this file is a value or a ModelError, as in `openai.py`."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from openai import AsyncOpenAI, omit
from pydantic import BaseModel, Field

from memory_service.errors import BadModelOutput
from memory_service.llm.openai import Answered, Endpoint, settings_of

MAX_BATCH_TEXTS = 128
MAX_TEXT_BYTES = 8_000
"""Of a text that is embedded, from its beginning. A token is never less than a byte, so this fits a limit of 8,191."""
MAX_BATCH_BYTES = 250_000
"""Likewise for the 300,000 tokens of one request: one long batch must not be refused for ever."""
SMALLEST_NORM = 1e-12


class _Row(BaseModel):
    embedding: str | list[Annotated[float, Field(allow_inf_nan=False)]]
    index: int | None = None


class _Rows(Answered):
    data: list[_Row]


class OpenAIEmbedder:
    """Implements Embedder. `timeout_s` is for one request of up to 128 texts; longer lists take several in turn."""

    local = False
    keyword_weight = 0.6

    def __init__(
        self, client: AsyncOpenAI, model: str, *, dimensions: int | None = None, timeout_s: float, space_prefix: str
    ) -> None:
        self._client = client
        self._model = model
        self._name = f"{space_prefix}:{model}"
        self._asked = dimensions
        self._dimensions = dimensions
        settings = settings_of(client, "AZURE_OPENAI_EMBEDDING_DEPLOYMENT", "OPENAI_EMBEDDING_MODEL")
        self._endpoint = Endpoint(timeout_s, settings)

    @property
    def space(self) -> str | None:
        """Provider, model and dimensions: what is behind a model's name may change, and its vectors with it."""
        return f"{self._name}:{self._dimensions}" if self._dimensions else None

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one row per text; as long as no text of this space was embedded, rows of zeros may be of length 0.

        Only the first MAX_TEXT_BYTES of a text count.
        """
        sendable = [_sendable(text) for text in texts]
        places = [place for place, text in enumerate(sendable) if text]
        rows = [await self._batch(batch) for batch in _batches([sendable[place] for place in places])]
        if rows:
            self._dimensions = _width(rows)
        vectors = np.zeros((len(texts), self._dimensions or 0), dtype=np.float32)
        if rows:
            vectors[places] = np.concatenate(rows)
        return vectors

    def usage(self) -> dict[str, int]:
        return dict(self._endpoint.usage)

    async def _batch(self, texts: list[str]) -> NDArray[np.float32]:
        async with self._endpoint.question():
            request = self._client.embeddings.with_streaming_response.create(
                model=self._model,
                input=texts,
                dimensions=self._asked or omit,
                encoding_format="base64",
                timeout=self._endpoint.timeout,
            )
            return self._checked((await self._endpoint.fetch(request, _Rows)).data, len(texts))

    def _checked(self, rows: list[_Row], count: int) -> NDArray[np.float32]:
        """Put the rows in order of their texts, at unit length."""
        places = [place if row.index is None else row.index for place, row in enumerate(rows)]
        if sorted(places) != list(range(count)):
            raise BadModelOutput(f"{len(rows)} vectors for {count} texts, or not one for each")
        vectors = [_numbers(row) for _, row in sorted(zip(places, rows, strict=True), key=lambda pair: pair[0])]
        wanted = self._asked or len(vectors[0])
        if not wanted or any(len(vector) != wanted for vector in vectors):
            raise BadModelOutput(f"vectors that are not of {wanted} dimensions")
        return _unit_length(np.stack(vectors))


def _sendable(text: str) -> str:
    """Return as much of the beginning as any endpoint takes; empty if there is nothing to embed."""
    return text.replace("\x00", "").encode("utf-8", "ignore").strip()[:MAX_TEXT_BYTES].decode("utf-8", "ignore")


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    room = MAX_BATCH_BYTES
    for text in texts:
        length = len(text.encode())
        if len(batch) == MAX_BATCH_TEXTS or length > room:
            yield batch
            batch, room = [], MAX_BATCH_BYTES
        batch.append(text)
        room -= length
    if batch:
        yield batch


def _numbers(row: _Row) -> NDArray[np.float64]:
    if isinstance(row.embedding, list):
        return np.array(row.embedding, dtype=np.float64)
    try:
        return np.frombuffer(base64.b64decode(row.embedding, validate=True), dtype="<f4").astype(np.float64)
    except ValueError:
        raise BadModelOutput("a vector that is neither numbers nor base64 of floats") from None


def _width(batches: list[NDArray[np.float32]]) -> int:
    widths: set[int] = {rows.shape[1] for rows in batches}
    if len(widths) > 1:
        raise BadModelOutput(f"vectors of {len(widths)} different dimensions")
    return widths.pop()


def _unit_length(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scale each row to length 1. Raises BadModelOutput on a row of (nearly) nothing but zeros: it has no direction."""
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise BadModelOutput("a vector with numbers that are not finite")
    if (norms < SMALLEST_NORM).any():
        raise BadModelOutput("a vector of zeros")
    unit: NDArray[np.float32] = (vectors / norms).astype(np.float32)
    return unit
