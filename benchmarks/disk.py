"""What one fsync costs on the disk under the record: the least a durable answer can take."""

from __future__ import annotations

import os
import time
from pathlib import Path

PAGE = os.urandom(4096)
MOST = 500
_sync = getattr(os, "fdatasync", os.fsync)


def fsync_times(folder: Path, seconds: float, every_s: float = 0.0) -> list[float]:
    """Append a page and sync it, one after the other or now and then, for so long; returns the seconds each took."""
    times: list[float] = []
    path = folder / "fsync.probe"
    with path.open("wb", buffering=0) as file:
        end = time.perf_counter() + seconds
        while not times or (time.perf_counter() < end and len(times) < MOST):
            began = time.perf_counter()
            file.write(PAGE)
            _sync(file.fileno())
            times.append(time.perf_counter() - began)
            time.sleep(every_s)
    path.unlink()
    return times
