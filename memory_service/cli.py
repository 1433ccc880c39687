"""The command line."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import msgspec
import uvicorn

from memory_service import __version__
from memory_service.calling import ask, calling
from memory_service.cli_backup import backup, restore
from memory_service.cli_drivers import drivers
from memory_service.cli_keys import keys
from memory_service.cli_run import read_settings, run
from memory_service.cli_users import users
from memory_service.errors import DriverUnavailable, MemoryServiceError
from memory_service.logs import configure_logging
from memory_service.migration import Migration, Report
from memory_service.projections import make_projection, names_of
from memory_service.settings import Settings
from memory_service.stores import make_store
from memory_service.stores.base import Store
from memory_service.values import Scope

if TYPE_CHECKING:  # an engine is imported when it is chosen
    from memory_service.projections.base import Projection

COUNT = click.IntRange(min=0)
EXCERPT_CHARACTERS = 200


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """A memory for agents."""


for command in (drivers, users, keys, backup, restore):
    main.add_command(command)


@main.command()
@click.option("--host", help="Address to listen on (default: HOST).")
@click.option("--port", type=int, help="Port to listen on, 0 for a free one (default: PORT).")
def serve(host: str | None, port: int | None) -> None:
    """Run the service. Settings come from the environment and from .env."""
    settings = read_settings(host=host, port=port)
    configure_logging(settings.log_level)
    if settings.reload:
        uvicorn.run(
            "memory_service.app:create_app",
            factory=True,
            reload=True,
            host=settings.host,
            port=settings.port,
            log_config=None,
        )
    else:
        from memory_service.server import run_until_stopped

        def announce(url: str) -> None:
            click.echo(f"Agent memory service {__version__} on {url} (AUTH_MODE={settings.auth_mode})", err=True)

        sys.exit(run(run_until_stopped(settings, announce)))


@main.command()
@click.option("--from", "source", metavar="URL", help="Copy everything out of this store (as STORE_URL) ...")
@click.option("--to", "target", metavar="URL", help="... into this one. Run again, it goes on where it was.")
@click.option("--check", is_flag=True, help="Write nothing; say whether everything is there.")
@click.option("--fresh", is_flag=True, help="Make the tables of the memory drivers anew; the record is left as it is.")
def migrate(source: str | None, target: str | None, check: bool, fresh: bool) -> None:
    """Prepare the store of the settings and its memory drivers (tables, containers), or copy everything from one store
    to another.

    Stop the services that write to either of them first.
    """
    configure_logging("WARNING")
    if source is None and target is None and not check:
        for name in run(prepare(read_settings(), fresh)):
            click.echo(f"{name}: ready")
        return
    if source is None or target is None or fresh:
        raise click.UsageError("--from and --to belong together, and --fresh is without them")
    require_two_records(source, target, check)
    report = run(copy(read_settings(store_url=source), read_settings(store_url=target), check))
    for conflict in report.conflicts:
        why = f"{conflict.session_id!r} went on differently in the target"
        click.echo(f"{_named(conflict.scope)} was left out: {why}", err=True)
    for scope in report.damaged:
        click.echo(f"{_named(scope)} is not complete: what is on record cannot be read", err=True)
    missing = "missing" if check else "copied"
    click.echo(f"users {report.users}, {missing} {report.written}, there already {report.same}")
    sys.exit(1 if report.conflicts or report.damaged or (check and report.written) else 0)


def require_two_records(source: str, target: str, check: bool) -> None:
    if source == target:
        raise click.UsageError("--from and --to name the same store")
    require_record("--from", source)
    if check:
        require_record("--to", target)


def require_record(option: str, url: str) -> None:
    """Nothing is made where something is to be looked for. Raises UsageError."""
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).exists():
        raise click.UsageError(f"{option}: there is no file {path}")
    if path != url and not Path(path).stat().st_size:
        raise click.UsageError(f"{option}: {path} is empty")


def _named(scope: Scope) -> str:
    return f"user {scope.user_id!r} of tenant {scope.tenant_id!r}"


async def prepare(settings: Settings, fresh: bool) -> list[str]:
    """Open the store and the engines of memory drivers once: what they need is made. Returns their names.

    `fresh`: the engines lose all they hold first, and are brought everything anew when the service runs.
    """
    names = names_of(settings.memory_driver)
    if fresh and not names:
        raise click.UsageError(
            "--fresh is for the tables of memory drivers, and MEMORY_DRIVER names none; no record is wiped"
        )
    async with AsyncExitStack() as stack:
        store = make_store(settings)
        await store.start(stack)
        for name in names:
            engine = make_projection(name, settings)
            await engine.start(stack)
            try:
                await (emptied(store, name, engine) if fresh else engine.check())
            except DriverUnavailable as exc:
                raise click.ClickException(f"{exc}; run it again when that is there") from exc
    return [settings.chosen_store_url.partition(":")[0], *names]


async def emptied(store: Store, name: str, engine: Projection) -> None:
    """Let an engine lose all it holds, and note that it has: before, should this be cut off, and behind what others
    have brought meanwhile.
    """
    await store.follow(name, anew=True)
    await engine.drop()
    await store.follow(name, anew=True)


async def copy(source: Settings, target: Settings, check: bool) -> Report:
    def tell(report: Report) -> None:
        if report.users % 100 == 0:
            click.echo(f"users {report.users}, copied {report.written}, there already {report.same}", err=True)

    async with AsyncExitStack() as stack:
        stores = make_store(source), make_store(target)
        for store in stores:
            await store.start(stack)
        try:
            return await Migration(*stores, check=check, tell=tell).run()
        except MemoryServiceError as exc:
            raise click.ClickException(f"stopped ({exc}); run it again, it goes on where it was") from exc


@main.command()
@click.option(
    "--conversation",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON file of conversations to replay instead of the one that is shipped.",
)
@click.option("--port", type=int, default=8000, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--stay/--exit", default=True, help="Stay up afterwards, or end.")
def demo(conversation: Path | None, port: int, stay: bool) -> None:
    """Replay weeks of conversation into a fresh service, and show what it remembers."""
    from memory_service.demo import read_conversations, run_demo

    configure_logging("WARNING")
    run(run_demo(read_conversations(conversation), port=port, stay=stay))


@main.command()
@click.option("--url", default="http://localhost:8000", show_default=True, help="The running service.")
@click.option("--state", type=click.Choice(["dead", "pending", "done"]), default="dead", show_default=True)
def reflections(url: str, state: str) -> None:
    """List what reflection gave up on, or still has to do."""
    for row in ask(url, "GET", "/reflections", params={"state": state})["reflections"]:
        turns = f"turns {row['first_turn']}-{row['last_turn']}"
        tried = f"{row['attempts']} attempts: {row['last_error'] or '-'}"
        click.echo(f"{row['user_id']} {row['session_id']} {turns}, {tried}")


@main.command()
@click.argument("user_id")
@click.argument("session_id")
@click.option("--url", default="http://localhost:8000", show_default=True, help="The running service.")
def replay(user_id: str, session_id: str, url: str) -> None:
    """Reflect again on a session that was given up."""
    answer = ask(url, "POST", "/reflections/replay", json={"user_id": user_id, "session_id": session_id})
    click.echo(f"reflection: {answer['reflection']}")


@main.group()
def memories() -> None:
    """What users of a running service remember."""


@memories.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--url", default="http://localhost:8000", show_default=True, help="The running service.")
def import_memories(file: BinaryIO, url: str) -> None:
    """Store the memories of FILE: one JSON object a line, with user_id and content, and if you like conversation_id,
    tags, metadata and memory_id.

    A memory without a memory_id is named by what its line says: run again, each is there once. `-` is standard input.
    """
    from memory_service.importing import MemoryImport

    with calling(url) as client:
        work, length = MemoryImport(client), size_of(file)
        with click.progressbar(length=length, label="memories", file=sys.stderr) as shown:
            for done in work.run(file):
                shown.update(done)
    for number, why in sorted(work.skipped):
        click.echo(f"line {number} was left out: {why}", err=True)
    click.echo(f"memories {work.stored}, left out {len(work.skipped)}")
    sys.exit(1 if work.skipped else 0)


def size_of(file: BinaryIO) -> int:
    """Its bytes, or 0 where nobody knows."""
    try:
        return os.fstat(file.fileno()).st_size
    except (OSError, ValueError):
        return 0


@main.group()
def knowledge() -> None:
    """What all users of a running service may know."""


@knowledge.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--category", help="Of all pieces (default: the first folder's name, or general).")
@click.option("--url", default="http://localhost:8000", show_default=True, help="The running service.")
def import_folder(folder: Path, category: str | None, url: str) -> None:
    """Let everybody know what is in the *.md and *.txt files of FOLDER.

    A piece is named by the path of its file, so that run again it changes what has changed. What a file that is gone
    has told stays.
    """
    from memory_service.documents import Import, files_in

    with calling(url) as client:
        work, files = Import(client, folder, category), files_in(folder)
        with click.progressbar(files, label=f"{len(files)} files", file=sys.stderr) as shown:
            work.run(shown)
    for file, why in work.skipped:
        click.echo(f"{click.format_filename(file)} was left out: {why}", err=True)
    done = ", ".join(f"{name} {work.counts[name]}" for name in ("created", "replaced", "unchanged", "deleted"))
    click.echo(f"files {len(files) - len(work.skipped)}, {done}, left out {len(work.skipped)}")
    sys.exit(1 if work.skipped else 0)


@knowledge.command("recall")
@click.argument("query")
@click.option("--category", help="Look into this one alone.")
@click.option("--top-k", type=click.IntRange(1, 100), default=5, show_default=True, help="Pieces to show at most.")
@click.option("--url", default="http://localhost:8000", show_default=True, help="The running service.")
def recall_knowledge(query: str, category: str | None, top_k: int, url: str) -> None:
    """Search what everybody may know, best first."""
    from memory_service.documents import printable

    with calling(url) as client:
        for found in client.recall_knowledge(query, top_k, category)["results"]:
            head = f"{found['score']:.2f} {found['doc_id']} [{found['category']}] {found['title'] or ''}"
            click.echo(printable(head))
            click.echo(f"     {printable(found['content'])[:EXCERPT_CHARACTERS]}")


@main.command()
@click.option("--kills", type=COUNT, default=0, help="Kill the service under load so many times.")
@click.option("--stops", type=COUNT, default=0, help="Stop it under load with SIGTERM so many times.")
@click.option("--power-cuts", type=COUNT, default=0, help="Cut the power at so many places of recorded runs.")
@click.option("--io-faults", is_flag=True, help="Let each call that changes the disk fail once.")
@click.option("--model-modes", is_flag=True, help="Let the model misbehave in every way there is.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same choices.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def chaos(
    kills: int, stops: int, power_cuts: int, io_faults: bool, model_modes: bool, seed: int, as_json: bool
) -> None:
    """Prove on this machine that nothing acknowledged is lost. Without options: a short run of everything."""
    from memory_service.chaos import Plan, run_plan, table

    if not (kills or stops or power_cuts or io_faults or model_modes):
        kills, stops, power_cuts, io_faults, model_modes = 18, 2, 100, True, True
    plan = Plan(
        kills=kills, stops=stops, power_cuts=power_cuts, io_faults=io_faults, model_modes=model_modes, seed=seed
    )
    logging.getLogger("memory_service").setLevel(logging.CRITICAL + 1)  # what is broken on purpose needs no word
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped or interrupted, it leaves nothing behind
    report = run_plan(plan, progress=lambda line: click.echo(line, err=True))
    click.echo(table(report))
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    sys.exit(0 if report.passed else 1)
