"""The service as a process, but that no turn is given its vectors: what the store is asked for is asked by callers.

STORE_URL=... python -m benchmarks.quiet
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import uvicorn

from memory_service.app import Surroundings, app_around, open_service
from memory_service.server import Server, listening, url_of
from memory_service.settings import Settings

NEVER_S = 86_400
CALM = {
    "sweep_interval_seconds": NEVER_S,
    "k_turn_buffer": 1000,  # nothing is compacted
    "reflection_threshold_turns": 100_000,
    "query_cache_seconds": 0,
}


async def serve() -> None:
    settings = Settings(_env_file=None, **CALM)
    with listening("127.0.0.1", 0) as listener:
        async with open_service(settings, Surroundings(gather_s=NEVER_S)) as service:
            config = uvicorn.Config(app_around(nullcontext(service), settings), access_log=False, log_config=None)
            print(f"on {url_of(listener)}", flush=True)
            await Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve())
