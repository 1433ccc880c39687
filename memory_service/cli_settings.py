"""How a command reads the settings, and ends where that cannot be."""

from __future__ import annotations

import sys
from typing import Any

import click
from pydantic import ValidationError

from memory_service.settings import Settings

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
