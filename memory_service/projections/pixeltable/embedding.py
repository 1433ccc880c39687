"""By what Pixeltable embeds. Its tables remember this function by its name and the module's: keep both."""

from __future__ import annotations

import numpy as np
import pixeltable as pxt
from numpy.typing import NDArray
from pixeltable.func import Batch

from memory_service.llm.offline import LocalEmbedder
from memory_service.text import LONGEST_KEY

WIDTH = 256


@pxt.udf(batch_size=256)  # type: ignore[untyped-decorator]  # mypy reads no Pixeltable
def embed(text: Batch[str]) -> Batch[pxt.Array[(WIDTH,), pxt.Float]]:
    vectors: NDArray[np.float32] = LocalEmbedder().vectors_of([one[:LONGEST_KEY] for one in text])
    return list(vectors)
