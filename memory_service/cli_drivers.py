"""Commands about the memory drivers of a running service."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from memory_service.calling import ask

LOOK_EVERY_S = 0.5
COMPARED_AT_ONCE = 100
COUNTED = ("users", "lagging_users", "items", "missing", "surplus", "other")
PATIENCE_S = 60.0
"""For a page of users to be compared, whose items an engine tells one page after the other."""

of_service = click.option("--url", default="http://localhost:8000", show_default=True, help="The running service.")


@click.group()
def drivers() -> None:
    """Engines that follow the record of a running service (MEMORY_DRIVER)."""


@drivers.command("list")
@of_service
def list_drivers(url: str) -> None:
    """Say which there are, in the order in which they are asked, and how they fare."""
    show(ask(url, "GET", "/drivers"))


@drivers.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@of_service
def switch(names: tuple[str, ...], url: str) -> None:
    """Ask these from now on, in this order; `builtin` is the record itself.

    It holds until the service ends: MEMORY_DRIVER says who is asked when it starts again. Of several replicas each is
    switched by itself.
    """
    wanted = [name for given in names for name in given.split(",") if name.strip()]
    if not wanted:
        raise click.UsageError("name those that are to be asked; builtin is the record itself")
    show(ask(url, "POST", "/drivers/switch", json={"drivers": wanted}))


@drivers.command()
@click.argument("name")
@click.option("--wait/--no-wait", default=True, help="Stay until everything has been brought.")
@of_service
def rebuild(name: str, wait: bool, url: str) -> None:
    """Let a driver forget all it holds, and bring it everything anew. Meanwhile the record answers."""
    left = lagging(ask(url, "POST", "/drivers/rebuild", json={"driver": name}), name)
    if wait:
        watch(name, left, lambda: lagging(ask(url, "GET", "/drivers"), name))
    click.echo(f"{name}: {'brought everything' if wait else f'{left} users to be brought'}")


def watch(name: str, left: int, look: Callable[[], int]) -> None:
    """Show how many users are still to be brought, until there are none."""
    with click.progressbar(length=left, label=f"{name}: users", file=sys.stderr) as shown:
        while left:
            time.sleep(LOOK_EVERY_S)
            before, left = left, look()
            shown.update(max(before - left, 0))


def lagging(told: Any, name: str) -> int:
    """How many users a driver lacks something of; ends with a word if it is away."""
    (state,) = (one for one in told["drivers"] if one["name"].lower() == name.lower())
    if not state["connected"]:
        raise click.ClickException(f"{name} is away ({state['error']}); it is brought everything when it is back")
    count: int = state["lagging_users"]
    return count


@drivers.command()
@click.argument("name")
@of_service
def compare(name: str, url: str) -> None:
    """Hold what a driver has against the record, item by item. Status 1 if they differ."""
    total, cursor, more = (
        dict.fromkeys(("users", "lagging_users", "items", "missing", "surplus", "other"), 0),
        None,
        True,
    )
    while more:
        body = {"driver": name, "limit": COMPARED_AT_ONCE, **({"cursor": cursor} if cursor else {})}
        page = ask(url, "POST", "/drivers/compare", json=body, timeout=PATIENCE_S)
        total = {field: count + page[field] for field, count in total.items()}
        for one in page["differences"]:
            click.echo(f"{one['user_id']}: missing {one['missing']}, surplus {one['surplus']}, other {one['other']}")
        cursor, more = page["cursor"], page["more"]
        click.echo(f"users {total['users']}", err=True)
    click.echo(", ".join(f"{field.replace('_', ' ')} {count}" for field, count in total.items()))
    sys.exit(1 if total["missing"] or total["surplus"] or total["other"] else 0)


@drivers.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@of_service
def drop(name: str, yes: bool, url: str) -> None:
    """Take away all that a driver holds, and keep it up no more. The record stays as it is."""
    if not yes:
        click.confirm(f"Take away all that {name} holds?", abort=True)
    show(ask(url, "POST", "/drivers/drop", json={"driver": name}, timeout=PATIENCE_S))


def show(told: Any) -> None:
    click.echo(f"asked: {', '.join([*told['asked'], 'builtin'])}")
    for state in told["drivers"]:
        fares = "up" if state["connected"] else f"away ({state['error']})"
        click.echo(f"{state['name']}: {fares}, {state['lagging_users']} users to be brought")
