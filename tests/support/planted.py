"""A service with a planted fault. Run as a script, it serves.

    python tests/support/planted.py hasty serve      # it acknowledges turns shortly before it commits them
    python tests/support/planted.py gullible serve   # it believes a model that makes up turns

The harness must report what comes of it; if it does not, it proves nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).parents[2])
sys.path[:] = [ROOT, *(place for place in sys.path if place != str(Path(__file__).parent))]

from memory_service import reflection  # noqa: E402 (the path comes first)
from memory_service.cli import main  # noqa: E402
from memory_service.stores.sqlite.writer import Writer  # noqa: E402

LATE_S = 0.01


def write_hastily(self: Any, group: Any) -> Any:
    honest = self._point

    def point(name: str) -> None:
        if name == "before_commit":
            self._loop.call_soon_threadsafe(self._wake, [(future, None) for _, future, _ in group])
            self.waiting += len(group)  # they are woken once more when it is durable, which then does nothing
            time.sleep(LATE_S)
        honest(name)

    self._point = point
    try:
        return honestly(self, group)
    finally:
        self._point = honest


def believe(key: Any, sitting: Any, number: Any, finding: Any, said_at: Any, reader: Any) -> Any:
    claimed = dict.fromkeys(finding.turns, max(said_at.values()))
    return sceptically(key, sitting, number, finding, claimed | said_at, reader)


honestly, sceptically = Writer._write, reflection._insight

if __name__ == "__main__":
    if sys.argv.pop(1) == "hasty":
        Writer._write = write_hastily  # type: ignore[method-assign]
    else:
        reflection._insight = believe
    main()
