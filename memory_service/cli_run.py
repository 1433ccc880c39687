"""What commands have in common that open a record themselves: their settings, and a loop to run on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from memory_service.errors import UnsafeStart
from memory_service.settings import Settings

T = TypeVar("T")

CANNOT_START = 3


def read_settings(**given: Any) -> Settings:
    """Read the settings, those given on the command line first; ends with a plain list of what is wrong."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as exc:
        for error in exc.errors(include_input=False, include_url=False, include_context=False):
            click.echo(f"{'.'.join(map(str, error['loc'])).upper()}: {error['msg']}", err=True)
        sys.exit(CANNOT_START)
    except (OSError, UnicodeDecodeError) as exc:
        click.echo(f"cannot start: .env cannot be read ({type(exc).__name__})", err=True)
        sys.exit(CANNOT_START)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on the fastest loop there is; what makes a start unsafe is said in one line."""
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)
    except UnsafeStart as exc:
        click.echo(f"cannot start: {exc}", err=True)
        sys.exit(CANNOT_START)
