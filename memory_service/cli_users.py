"""Commands about one user of a running service: all that is kept of them, to a file, from one, and away."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, BinaryIO, cast

import click

from memory_service.calling import calling

COUNTED = ("sessions", "sittings", "requests", "turns", "memories")
of_service = click.option("--url", default="http://localhost:8000", show_default=True, help="The running service.")


@click.group()
def users() -> None:
    """All that a running service keeps of a user."""


@users.command("export")
@click.argument("user_id")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write (default: standard output). It has its name when it is whole.",
)
@of_service
def export_user(user_id: str, output: Path | None, url: str) -> None:
    """Write all that is kept of USER_ID: one JSON object a line, derived memories, vectors and pending work too."""
    with calling(url, user_id) as client:
        if output is None:
            count = client.export_user(sys.stdout.buffer)
        else:
            with written(output) as file, click.progressbar(length=0, label="bytes", file=sys.stderr) as shown:
                count = client.export_user(cast(BinaryIO, Counting(file, shown)))
    click.echo(f"{user_id}: {count} things", err=True)


@users.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--as", "user_id", metavar="USER_ID", help="Whose it becomes (default: whose it was).")
@of_service
def import_user(file: Path, user_id: str | None, url: str) -> None:
    """Make a user what FILE says, that `users export` has written. One of whom something else is kept is left alone.

    Cut off, it goes on when it is run again. Nothing is written unless all of FILE is right.
    """
    progress = click.progressbar(length=file.stat().st_size, label="bytes", file=sys.stderr)
    with calling(url) as client, file.open("rb") as read, progress as shown:
        done = client.import_user(cast(BinaryIO, Counting(read, shown)), user_id=user_id)
    counts = ", ".join(f"{name} {done[name]}" for name in COUNTED)
    click.echo(f"{done['user_id']}: {done['change']}, {counts}")


@users.command("erase")
@click.argument("user_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@of_service
def erase_user(user_id: str, yes: bool, url: str) -> None:
    """Erase all that is kept of USER_ID, for good."""
    if not yes:
        click.confirm(f"Erase all that is kept of {user_id!r}?", abort=True, err=True)
    with calling(url, user_id) as client:
        counts = client.erase_user()["erased"]
    click.echo(f"{user_id}: erased, " + ", ".join(f"{name} {counts[name]}" for name in COUNTED))


class Counting:
    """A file that shows how much of it was read or written."""

    def __init__(self, file: IO[bytes], shown: Any) -> None:
        self._file, self._shown = file, shown

    def write(self, data: bytes) -> int:
        self._shown.length += len(data)
        self._shown.update(len(data))
        return self._file.write(data)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._shown.update(len(data))
        return data

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, place: int) -> int:
        return self._file.seek(place)


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file for its owner alone that gets its name at the end of the block, if all went well."""
    try:
        part = NamedTemporaryFile(prefix=f".{path.name}.", suffix=".part", dir=path.parent, delete=False)  # noqa: SIM115
    except OSError as exc:
        raise click.ClickException(f"cannot write {path}: {exc.strerror}") from exc
    try:
        with part:
            yield part
            part.flush()
            os.fsync(part.fileno())
        Path(part.name).replace(path)
    except OSError as exc:
        raise click.ClickException(f"cannot write {path}: {exc.strerror}") from exc
    finally:
        with suppress(FileNotFoundError):
            Path(part.name).unlink()
