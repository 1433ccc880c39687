"""Commands that copy the record of SQLite while it is served, and put a copy in its place."""

from __future__ import annotations

import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from memory_service.cli_run import CANNOT_START, read_settings
from memory_service.errors import UnsafeStart

OF_OTHERS = {
    "postgres": "PostgreSQL has its own: pg_dump, or the backups of whoever runs it",
    "postgresql": "PostgreSQL has its own: pg_dump, or the backups of whoever runs it",
    "cosmos": "Azure Cosmos DB has its own: turn on continuous backup, and restore to a new account",
    "transient": "transient:// keeps nothing that could be copied",
}
PAGE = "docs/how-to/backup-and-restore.md"

of_store = click.option("--store-url", metavar="URL", help="The record (default: STORE_URL).")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@of_store
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def backup(file: Path, store_url: str | None, force: bool) -> None:
    """Copy the SQLite record to FILE, while the service runs or not.

    All that was answered before this began is in it. FILE has its name when it is whole, checked and on the disk.
    """
    record = record_of(store_url)
    from memory_service.stores.sqlite.backup import back_up

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # interrupted, it takes away what it has begun
    with click.progressbar(length=0, label="pages", file=sys.stderr) as shown:

        def tell(left: int, of: int) -> None:
            shown.length = of
            shown.update(of - left - shown.pos)

        in_one_line(back_up, record, file, force=force, tell=tell)
    click.echo(f"{file}: {file.stat().st_size} bytes, checked")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@of_store
def restore(file: Path, store_url: str | None) -> None:
    """Put the backup FILE in the place of the SQLite record. Stop the service first.

    What is there now is kept beside it, under another name.
    """
    record = record_of(store_url)
    from memory_service.stores.sqlite import backup as sqlite

    kept = in_one_line(sqlite.restore, file, record, datetime.now(UTC))
    click.echo(f"{record} is what {file} was" + (f"; what was there is {kept}" if kept else ""))


def record_of(store_url: str | None) -> Path:
    """The file of the record; ends with who else makes backups where it is none of SQLite."""
    url = read_settings(store_url=store_url).chosen_store_url
    scheme, _, path = url.partition(":///")
    if scheme != "sqlite":
        scheme = url.partition(":")[0]
        raise click.UsageError(f"{OF_OTHERS.get(scheme, f'there is no store {scheme!r}')} ({PAGE})")
    return Path(path)


def in_one_line(work: Any, *args: Any, **more: Any) -> Any:
    """Do it, or end with the line that says why it cannot be done."""
    try:
        return work(*args, **more)
    except UnsafeStart as exc:
        click.echo(str(exc), err=True)
        sys.exit(CANNOT_START)
