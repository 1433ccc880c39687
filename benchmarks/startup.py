"""From starting the process to its first answer and its first stored turn, and the memory it holds at idle.

    python -m benchmarks.startup [--starts 5] [--turns 2000] [--folder FOLDER] [--json FILE]

The service is started with its defaults over an empty folder and over a record with turns, in turn with the
interpreter alone and with a bare uvicorn application: absolute figures are this machine's and this minute's, what
the service takes beyond those two is its own. Medians. All of them find their modules compiled, as a package that
was installed is. Import times are those of `python -X importtime`, each module's own time summed up by package: the
least of a few runs, and under it all takes longer than it does.

Exit status 1 if the first answer takes over 1.5 s, or it holds over 90 MB before the local embedder is loaded.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks.figures import median, shown, table
from benchmarks.http import machine, say
from benchmarks.load import Generator, Job
from benchmarks.servers import (
    START_S,
    STOP_S,
    Server,
    cpu_seconds,
    environment,
    real_service,
    resident_bytes,
    wait_until_quiet,
    work_folder,
)
from benchmarks.workload import TURNS, Workload, joined

MOST_S, MOST_MB = 1.5, 90
PYTHON, BARE, FRESH, FULL = "python -c pass", "bare uvicorn", "service, empty folder", "service, {turns:,} turns"
BARE_CODE = """
import sys, uvicorn
async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
uvicorn.run(app, port=int(sys.argv[1]), lifespan="off", log_config=None, access_log=False)
"""
IMPORTS = "import memory_service.cli, memory_service.server"
_IMPORTED = re.compile(r"import time: +(\d+) \| +\d+ \| +([\w.]+)")
LARGEST = 10
CALM_S = 0.3
"""Who uses no processor for so long is idle."""
HEADS = ["what", "first answer s", "first turn s", "CPU s", "idle: RSS MB", "private MB", "used: RSS MB", "private MB"]


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a process: all that is resident, and what it shares with no other."""

    resident: int
    private: int | None


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One start. Seconds count from before the process is made; `cpu_s` is what it had used at its first answer."""

    what: str
    answer_s: float
    stored_s: float | None = None
    cpu_s: float | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What a server holds when it has nothing to do: before anything was asked of it, and once it was in use."""

    what: str
    idle: Memory
    used: Memory | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    machine: dict[str, Any]
    turns: int
    starts: list[Start]
    held: list[Held]
    imports_ms: dict[str, float]

    def first_answer_s(self, what: str) -> float:
        return median(one.answer_s for one in self.starts if one.what == what) or 0.0

    @property
    def sound(self) -> bool:
        quick = all(self.first_answer_s(what) <= MOST_S for what in {one.what for one in self.starts})
        return quick and all(one.idle.resident <= MOST_MB * 1_000_000 for one in self.held)


class Process:
    """A server being started on a port chosen beforehand, and one connection to it that waits to be taken."""

    def __init__(self, arguments: Sequence[str], port: int, folder: Path, settings: Mapping[str, str]) -> None:
        self.port, self._log = port, folder / "server.log"
        command, env = [sys.executable, *arguments], compiled(settings)
        self._began = time.perf_counter()
        with self._log.open("wb") as sink:
            self._process = subprocess.Popen(command, cwd=folder, env=env, stdout=sink, stderr=sink)
        self.pid = self._process.pid
        self._http = HTTPConnection("127.0.0.1", port, timeout=START_S)

    def first_answer(self) -> float:
        """Seconds until it has answered."""
        self._connect()
        self.asked("GET", "/health")
        return time.perf_counter() - self._began

    def _connect(self) -> None:
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(ConnectionError):
                self._http.connect()
                return
            time.sleep(0.002)
        raise RuntimeError(f"it did not start:\n{self._log.read_text()}")

    def first_turn(self) -> float:
        """Seconds until a session was begun (or gone on with) and a turn stored in it."""
        of = {"user_id": "user-0", "session_id": "session-0"}
        self.asked("POST", "/sessions/start", **of)
        self.asked("POST", "/memory/store", **of, user_message="What is a 401k?", agent_message="A plan to save by.")
        return time.perf_counter() - self._began

    def asked(self, method: str, path: str, **body: Any) -> None:
        self._http.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
        answer = self._http.getresponse()
        if answer.status != 200:
            raise click.ClickException(f"{method} {path} was answered {answer.status}: {answer.read()!r}")
        answer.read()

    def idle(self) -> Memory:
        """What it holds once it uses no processor any more."""
        before = None
        while (now := cpu_seconds(self.pid)) != before:
            before = now
            time.sleep(CALM_S)
        return memory_of(self.pid)

    def stop(self) -> None:
        self._http.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def memory_of(pid: int) -> Memory:
    """`private` is None where the system does not tell."""
    private = None
    with suppress(OSError):
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
        private = sum(int(kb) * 1024 for kb in re.findall(r"^Private_\w+: +(\d+) kB", told, re.MULTILINE))
    return Memory(resident=resident_bytes(pid), private=private)


def compiled(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that keeps compiled modules, whatever the caller's says."""
    return {name: value for name, value in environment(settings).items() if name != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def bare(folder: Path) -> Iterator[Process]:
    with started(["-c", BARE_CODE, str(port := free_port())], port, folder, {}) as process:
        yield process


@contextmanager
def service(folder: Path) -> Iterator[Process]:
    """The service with its defaults over the record in a folder."""
    arguments = ["-m", "memory_service", "serve", "--port", str(port := free_port())]
    settings = {"STORE_URL": f"sqlite:///{folder}/memory.db", "HOST": "127.0.0.1"}
    with started(arguments, port, folder, settings) as process:
        yield process


@contextmanager
def started(arguments: Sequence[str], port: int, folder: Path, settings: Mapping[str, str]) -> Iterator[Process]:
    process = Process(arguments, port, folder, settings)
    try:
        yield process
    finally:
        process.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


class Starts:
    """The four that are started in turn."""

    def __init__(self, folder: Path, turns: int) -> None:
        self._work, self._turns, self._count = folder, turns, 0
        self._bare, self._full = self._made("bare"), self._made("full")

    def _made(self, name: str) -> Path:
        (made := self._work / name).mkdir()
        return made

    def prepare(self) -> None:
        say(f"preparing a record of {self._turns} turns")
        with real_service(self._full) as server, Generator() as generator:
            workload = Workload(server.port, sessions=max(1, self._turns // TURNS), messages=0)
            outcome = generator.run(Job(port=server.port, lanes=joined(workload.users(), 16)))
            if outcome.errors:
                raise click.ClickException(f"{outcome.errors} requests of the preparation were refused")
            wait_until_quiet(server)
        for opened in (bare(self._bare), service(self._full)):  # which compiles what is not compiled
            with opened as process:
                process.first_answer()

    def round(self) -> Iterator[Start]:
        yield self._python()
        with bare(self._bare) as process:
            answer_s = process.first_answer()
            yield Start(what=BARE, answer_s=answer_s, cpu_s=cpu_seconds(process.pid))
        for what, folder in self._services():
            with service(folder) as process:
                answer_s, cpu_s = process.first_answer(), cpu_seconds(process.pid)
                yield Start(what=what, answer_s=answer_s, stored_s=process.first_turn(), cpu_s=cpu_s)

    def _python(self) -> Start:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], env=compiled({}), check=True)
        return Start(what=PYTHON, answer_s=time.perf_counter() - began)

    def _services(self) -> Iterator[tuple[str, Path]]:
        self._count += 1
        yield FRESH, self._made(f"fresh-{self._count}")
        yield FULL.format(turns=self._turns), self._full

    def held(self) -> Iterator[Held]:
        with bare(self._bare) as process:
            process.first_answer()
            yield Held(what=BARE, idle=process.idle())
        for what, folder in self._services():
            with service(folder) as process:
                process.first_answer()
                idle = process.idle()
                process.first_turn()
                process.asked("POST", "/memory/retrieve", user_id="user-0", query="saving")
                wait_until_quiet(Server(process.pid, f"http://127.0.0.1:{process.port}"))
                yield Held(what=what, idle=idle, used=process.idle())


def import_times(runs: int) -> dict[str, float]:
    """Milliseconds of each package's modules, without what they import, the least of several runs; largest first."""
    least: dict[str, float] = {}
    for _ in range(runs):
        command = [sys.executable, "-X", "importtime", "-c", IMPORTS]
        told = subprocess.run(command, env=compiled({}), capture_output=True, text=True, check=True).stderr
        for package, ms in summed(told).items():
            least[package] = min(ms, least.get(package, ms))
    return dict(sorted(least.items(), key=lambda one: -one[1]))


def summed(told: str) -> dict[str, float]:
    """Milliseconds by package of what `-X importtime` tells."""
    micros: Counter[str] = Counter()
    for own, name in _IMPORTED.findall(told):
        package = name.partition(".")[0]
        micros["the standard library" if package in sys.stdlib_module_names else package] += int(own)
    return {package: micro / 1000 for package, micro in micros.items()}


def tell(report: Report) -> str:
    """The two tables, and a line on what is the service's own."""
    kinds = list(dict.fromkeys(one.what for one in report.starts))
    held = {one.what: one for one in report.held}
    total = sum(report.imports_ms.values())
    rows = [[name, shown(ms), f"{ms / total:.0%}"] for name, ms in list(report.imports_ms.items())[:LARGEST]]
    fresh, bare, python = (report.first_answer_s(what) for what in (FRESH, BARE, PYTHON))
    return "\n".join(
        [
            table(HEADS, [_row(what, report, held.get(what)) for what in kinds]),
            "",
            f"The first answer comes {fresh - python:.2f} s after the interpreter is there,"
            f" {fresh - bare:.2f} s after that of a bare application.",
            "",
            table(["imported by default", "ms", "share"], [*rows, ["all", shown(total), ""]]),
        ]
    )


def _row(what: str, report: Report, held: Held | None) -> list[str]:
    of = [one for one in report.starts if one.what == what]
    times = [median(one.answer_s for one in of), median(one.stored_s for one in of), median(one.cpu_s for one in of)]
    idle, used = (held.idle, held.used) if held else (None, None)
    return [what, *(shown(value, 2) for value in times), *_megabytes(idle), *_megabytes(used)]


def _megabytes(memory: Memory | None) -> list[str]:
    values = (memory.resident, memory.private) if memory else (None, None)
    return [shown(None if value is None else value / 1e6, 1) for value in values]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--starts", default=5, show_default=True, help="Starts of each, of which medians are taken.")
@click.option("--turns", default=2000, show_default=True, help="Turns of the record that is not empty.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where: which disk.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
def main(starts: int, turns: int, folder: Path | None, json_file: Path | None) -> None:
    """Measure how soon the service is there, and how much memory it holds when nothing is asked of it."""
    found: list[Start] = []
    with work_folder(folder) as work:
        subject = Starts(work, turns)
        subject.prepare()
        for number in range(1, starts + 1):
            for one in subject.round():
                say(f"start {number}: {one.what}: {one.answer_s:.2f} s")
                found.append(one)
        held = list(subject.held())
    imports = import_times(min(starts, 3))
    report = Report(machine=machine(), turns=turns, starts=found, held=held, imports_ms=imports)
    print(tell(report))
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(0 if report.sound else 1)


if __name__ == "__main__":
    main()
