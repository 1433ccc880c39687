"""The Cosmos DB server of the tests as a process of its own: started, killed, paused, told to fail."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.cosmos.node import HERE, find_node, installed_modules

START_S = 30
CONTROL_S = 10
# Any base64 will do: signatures are not checked.
KEY = "bm90IGEgc2VjcmV0"


class CosmosServer:
    """A server on a free port of 127.0.0.1, the same after `kill` and `start`. It ends with this process at the latest.

    With `journal` what was written is on disk and there again after `kill` and `start`; without, it is gone.
    With `regions` the account is in those, of which the first takes writes. With `tls` it has a certificate, which
    nobody should trust but who talks to 127.0.0.1: without TLS the SDK sends no token.
    """

    def __init__(
        self, folder: Path, *, journal: bool = False, regions: tuple[str, ...] = (), tls: bool = False
    ) -> None:
        self.log = folder / "cosmos.log"
        self.port = 0  # until it chose one
        self.process: subprocess.Popen[str] | None = None
        self._options = ["--data", str(folder / "cosmos.jsonl")] if journal else []
        self._options += ["--tls"] if tls else []
        self._tls = tls
        self._options += ["--regions", ",".join(regions)] if regions else []

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/"

    @property
    def environment(self) -> dict[str, str]:
        """With which a service in a process of its own keeps its record here."""
        return {"STORE_URL": "cosmos:", "COSMOS_ENDPOINT": self.url, "COSMOS_KEY": KEY}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it listens; the first time of all, install what it needs."""
        node = find_node()
        modules = installed_modules(node)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    node.binary,
                    str(HERE / "server" / "main.js"),
                    "--with-parent",
                    "--port",
                    str(self.port),
                    *self._options,
                ],
                env={**os.environ, "NODE_PATH": str(modules)},
                stdin=subprocess.PIPE,  # it ends when this pipe does, so also when this process is killed
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_S)
        said = self.process.stdout.readline() if readable else ""
        if not said.startswith("ready "):
            self.kill()
            raise RuntimeError(f"the Cosmos DB server did not start: {said}{self.log.read_text()}")
        self.port = int(said.strip(" /\n").rpartition(":")[2])

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: nothing in the process gets to run."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        process, self.process = self.process, None
        with process:  # closes the pipes and waits
            process.send_signal(number)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While the block runs, the server hangs: it takes connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def fails(self, *faults: dict[str, Any]) -> None:
        """What goes wrong from now on, instead of what was said before; README.md lists the fields of a fault."""
        self._ask("POST", "faults", list(faults))

    def admits(self, *, status: int = 401, substatus: int | None = None, **good: list[str]) -> None:
        """Serve only who comes with one of these `keys` or `tokens` from now on; answer others with the status."""
        answer = {"status": status} if substatus is None else {"status": status, "substatus": substatus}
        self._ask("POST", "access", {**answer, **good})

    def moves(self, write: str, *, gone: tuple[str, ...] = (), **account: Any) -> None:
        """From now on this region takes the writes; those that are gone hang up on everybody.

        Of the `account` may be said: `several=True` (regions take writes), `consistency="Eventual"`.
        """
        self._ask("POST", "regions", {"write": write, "gone": list(gone), **account})

    def calls(self) -> list[dict[str, Any]]:
        """The requests since the last call of this: op, path, key, status, ru, rows; `fault` if one was injected."""
        asked: list[dict[str, Any]] = self._ask("GET", "log")
        return asked

    def reset(self) -> None:
        """No database, no fault, no record of calls."""
        self._ask("POST", "reset")

    def _ask(self, method: str, what: str, body: Any = None) -> Any:
        connection = self._connection()
        try:
            connection.request(method, f"/_test/{what}", None if body is None else json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self._tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=CONTROL_S)
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=CONTROL_S, context=trusting)
