"""The load by `wrk` instead of our own generator, where it is installed and asked for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import Request
from benchmarks.workload import bodies

SCRIPT = """
local bodies = {}
for line in io.lines("%(bodies)s") do bodies[#bodies + 1] = line end
local sent, headers = 0, {["content-type"] = "application/json"}
function request()
    sent = sent + 1
    return wrk.format("POST", "%(path)s", headers, bodies[sent %% #bodies + 1])
end
function done(summary, latency, requests)
    local e = summary.errors
    local told = '{"requests": %%d, "micros": %%d, "p50_us": %%d, "p99_us": %%d, "errors": %%d}\\n'
    io.write(told:format(summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def run(requests: Sequence[Request], port: int, *, connections: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Send the requests over and over from one thread of wrk; returns what its `done` above tells."""
    path = requests[0].head.split(b" ", 2)[1].decode()
    words, script = folder / "wrk.bodies", folder / "wrk.lua"
    words.write_bytes(b"\n".join(bodies(requests)))
    script.write_text(SCRIPT % {"bodies": words, "path": path})
    whole_seconds = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{whole_seconds}s", "--timeout", "30s", "-s", str(script)]
    ran = subprocess.run(
        [*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True, timeout=whole_seconds + 60
    )
    told: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return told
