"""Large contents of several kinds, the same each time."""

from __future__ import annotations

import base64
import random
from typing import Any

MEGABYTE = 1_000_000


def prose(words: int = 15_000) -> str:
    """Not all alike, as what repeats itself would be: 100 kB of some 2,000 different words."""
    drawn = random.Random(1)
    known = ["".join(drawn.choices("etaoinshrdlu", k=drawn.randint(2, 9))) for _ in range(2000)]
    return " ".join(drawn.choices(known, k=words))[:100_000]


def image(size: int = MEGABYTE) -> str:
    """A data URL as a picture has it: of which a quarter at most can be had back."""
    return "data:image/png;base64," + base64.b64encode(random.Random(2).randbytes(size * 3 // 4)).decode()[:size]


def rows(count: int = 3000) -> list[dict[str, Any]]:
    drawn = random.Random(3)
    return [
        {"id": n, "price": drawn.random(), 'a "quoted" name': "\\é\U0001f95c\x01", "none": None} for n in range(count)
    ]


def incompressible(size: int = 20_000) -> str:
    drawn = random.Random(4)
    return "".join(map(chr, drawn.choices(range(32, 127), k=size)))
