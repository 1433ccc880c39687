"""Named points in the code at which a test may end the process. In service they are calls that do nothing.

They are where a crash would hurt most if the design were wrong; `memory-service chaos` kills at each.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from threading import Lock

from memory_service.errors import UnsafeStart

Point = Callable[[str], None]

POINTS = (
    "before_commit",  # rows are written, nothing is durable
    "after_memories",  # memories are durable, what says so is not (in a store that writes them apart)
    "after_commit",  # durable, nobody has been told
    "before_reply",  # the verb is done, the answer not sent
    "in_eviction",  # a session is being dropped from the pool
    "in_compaction",  # the model has answered, the summary is not committed
    "after_claim",  # a reflection is claimed, the model not asked
    "after_model",  # the model has answered, nothing of it is committed
    "in_migration",  # a migration has run, its transaction is open
)


def nowhere(name: str) -> None:
    """Do nothing: what every point is in service."""


class KillAt:
    """Ends the process with SIGKILL when the named point is reached for the n-th time (`NAME:N`)."""

    def __init__(self, spec: str) -> None:
        name, _, times = spec.partition(":")
        if name not in POINTS or not times.isdecimal():
            raise UnsafeStart(f"KILL_AT: write NAME:N with one of {', '.join(POINTS)}")
        self._name = name
        self._left = int(times)
        self._lock = Lock()

    def __call__(self, name: str) -> None:
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
