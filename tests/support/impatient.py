"""The service with little patience for PostgreSQL: what it says after twelve seconds, it says after one.

Run as a script, it serves: `python tests/support/impatient.py serve`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
sys.path[:] = [ROOT, *(place for place in sys.path if place != str(Path(__file__).parent))]

from memory_service.cli import main  # noqa: E402 (the path comes first)
from memory_service.stores.postgres import client  # noqa: E402

CALL_S, VERB_S = 0.5, 1.0

if __name__ == "__main__":
    client.CALL_S, client.VERB_S = CALL_S, VERB_S
    main()
