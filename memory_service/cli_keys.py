"""Commands about API keys: straight on the record of the settings, or over a running service."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from msgspec import to_builtins

from memory_service.access import OF_MEMORY, OPERATORS, PERMISSIONS, Permission
from memory_service.calling import ask
from memory_service.cli_run import read_settings, run
from memory_service.clock import SharedClock
from memory_service.errors import MemoryServiceError, RecordInUse, UnsafeStart, ValidationFailed
from memory_service.keys import Keys
from memory_service.limits import check_id, check_name, check_user_id, space_id
from memory_service.logs import configure_logging
from memory_service.stores import make_store
from memory_service.stores.keys import ApiKey

BY = "command line"
ONCE = "This is told once: what is kept of it is a digest."

at_service = click.option(
    "--url", help="A running service, asked with the key of MEMORY_SERVICE_API_KEY (default: the record of STORE_URL)."
)


@click.group()
def keys() -> None:
    """API keys: who is served with AUTH_MODE=keys, and what each may do."""
    configure_logging("WARNING")


@keys.command()
@click.argument("name")
@click.option("--tenant", help="Whose memory it is for (default: the tenant of the operators, or of your key).")
@click.option("--user", help="The one user of that tenant whom it is for (default: all of them).")
@click.option(
    "--permissions",
    default="read,write",
    show_default=True,
    help=f"What it may: {','.join(sorted(PERMISSIONS))}; or all.",
)
@click.option(
    "--space",
    "spaces",
    metavar="SPACE:PERMISSIONS",
    multiple=True,
    help="What a key of one user may in a space, such as research:read,write. As often as you like.",
)
@click.option("--expires-in-days", type=click.FloatRange(0, 3650, min_open=True), help="Then it ends (default: never).")
@at_service
def create(
    name: str,
    tenant: str | None,
    user: str | None,
    permissions: str,
    spaces: tuple[str, ...],
    expires_in_days: float | None,
    url: str | None,
) -> None:
    """Make a key called NAME, and write it on standard output."""
    if spaces and user is None:
        raise click.UsageError("--space: only with --user; a key of all users may name every space as it is")
    body: dict[str, Any] = {"name": name, "permissions": permissions_of(permissions)}
    given: dict[str, Any] = {"tenant_id": tenant, "user_id": user, "expires_in_days": expires_in_days}
    given["spaces"] = spaces_of(spaces) or None
    body |= {field: value for field, value in given.items() if value is not None}
    show_made(ask(url, "POST", "/keys", json=body) if url else run(created(body)))


@keys.command("list")
@click.option("--tenant", help="Of this tenant alone.")
@at_service
def list_keys(tenant: str | None, url: str | None) -> None:
    """List keys: whose they are, what they may, and until when."""
    params = {"tenant_id": tenant} if tenant else {}
    for key in ask(url, "GET", "/keys", params=params)["keys"] if url else run(listed(tenant)):
        state = f"revoked {key['revoked_at']}" if key["revoked_at"] else f"until {key['expires_at'] or 'revoked'}"
        whose = f"{key['tenant_id']}/{key['user_id'] or '*'}"
        click.echo(f"{key['key_id']} {whose} {allowed(key)} {state} {key['name']}")


@keys.command()
@click.argument("key_id")
@at_service
def revoke(key_id: str, url: str | None) -> None:
    """Let a key be of no use from now on: within five seconds at every service."""
    key_id = id_of(key_id)
    key = ask(url, "DELETE", f"/keys/{key_id}") if url else run(revoked(key_id))
    click.echo(f"{key['key_id']}: revoked {key['revoked_at']}")


@keys.command()
@click.argument("key_id")
@click.option(
    "--overlap-hours", type=click.FloatRange(0, 720), default=24, show_default=True, help="How long both work; 0: not."
)
@at_service
def rotate(key_id: str, overlap_hours: float, url: str | None) -> None:
    """Make a key of the same rights, and let the old one end."""
    key_id = id_of(key_id)
    body = {"overlap_hours": overlap_hours}
    show_made(ask(url, "POST", f"/keys/{key_id}/rotate", json=body) if url else run(rotated(key_id, overlap_hours)))


def permissions_of(given: str) -> list[Permission]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    wanted = [permission for permission in sorted(PERMISSIONS) if permission in names or names == ["all"]]
    if not wanted or (names != ["all"] and set(names) - PERMISSIONS):
        raise click.UsageError(f"--permissions: write some of {','.join(sorted(PERMISSIONS))}, or all")
    return wanted


def spaces_of(given: Sequence[str]) -> dict[str, list[str]]:
    """What is granted by the names of spaces. Raises UsageError."""
    found: dict[str, list[str]] = {}
    for one in given:
        name, _, granted = one.partition(":")
        try:
            space_id("--space", name)
        except ValidationFailed as exc:
            raise click.UsageError(str(exc)) from exc
        found[name] = sorted({word.strip() for word in granted.split(",")})
        if not OF_MEMORY.issuperset(found[name]):
            raise click.UsageError(f"--space: write SPACE:{','.join(sorted(OF_MEMORY))}, or some of these")
    if len(found) < len(given):
        raise click.UsageError("--space: a space is named twice")
    return found


def allowed(key: Any) -> str:
    """What a key may, and what in which spaces."""
    spaces = (f"space:{name}:{','.join(sorted(granted))}" for name, granted in sorted(key["spaces"].items()))
    return " ".join([",".join(sorted(key["permissions"])), *spaces])


def id_of(given: str) -> str:
    """Takes a whole key too, and the id of it alone. Raises UsageError."""
    key_id = given.split("_")[1] if given.startswith("mem_") else given
    try:
        return check_id("KEY_ID", key_id)
    except ValidationFailed as exc:
        raise click.UsageError(str(exc)) from exc


def show_made(key: Any) -> None:
    click.echo(f"{key['key_id']}: {allowed(key)} of {key['tenant_id']}. {ONCE}", err=True)
    click.echo(key["key"])


# On the record


async def created(body: dict[str, Any]) -> Any:
    days = body.get("expires_in_days")
    async with on_record() as kept:
        made = await kept.create(
            check_name("NAME", body["name"]),
            check_id("--tenant", body.get("tenant_id", OPERATORS)),
            body["permissions"],
            user_id=check_user_id("--user", body["user_id"]) if "user_id" in body else None,
            spaces=body.get("spaces"),
            lifetime=timedelta(days=days) if days else None,
            by=BY,
        )
        return told(*made)


async def listed(tenant_id: str | None) -> list[Any]:
    async with on_record() as kept:
        return [told(key) for key in await kept.of_tenant(tenant_id)]


async def revoked(key_id: str) -> Any:
    async with on_record() as kept:
        return told(await kept.revoke(await kept.get(key_id), by=BY))


async def rotated(key_id: str, overlap_hours: float) -> Any:
    async with on_record() as kept:
        return told(*await kept.rotate(await kept.get(key_id), timedelta(hours=overlap_hours), by=BY))


@asynccontextmanager
async def on_record() -> AsyncIterator[Keys]:
    """The keys in the record of the settings. What goes wrong is said in one line."""
    async with AsyncExitStack() as stack:
        store = make_store(read_settings())
        try:
            await store.start(stack)
        except RecordInUse as exc:
            way_out = "or name it by --url, with a key that may admin in MEMORY_SERVICE_API_KEY"
            raise click.ClickException(f"{exc}, {way_out}") from exc
        clock = SharedClock(lambda: datetime.now(UTC), store.clock)
        await clock.follow()
        try:
            yield Keys(store, now=clock, monotonic=time.monotonic)
        except UnsafeStart:
            raise
        except MemoryServiceError as exc:
            raise click.ClickException(str(exc) or exc.title) from exc


def told(key: ApiKey, text: str = "") -> Any:
    return {**to_builtins(key), "key": text}
