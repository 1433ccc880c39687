"""How a command calls a running service (with MEMORY_SERVICE_API_KEY); what goes wrong is said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # an httpx2 takes long to import, and most commands need none
    from client import SyncMemoryServiceClient


@contextmanager
def calling(url: str, user_id: str = "nobody") -> Iterator[SyncMemoryServiceClient]:
    """A client of a running service, for what is about a user or about none."""
    import httpx2

    from client import MemoryServiceError as Failed
    from client import SyncMemoryServiceClient

    with httpx2.Client(trust_env=False) as http:
        try:
            yield SyncMemoryServiceClient(url, user_id=user_id, http=http)
        except (Failed, ValueError) as exc:
            raise click.ClickException(str(exc)) from exc


def ask(url: str, method: str, path: str, **request: Any) -> Any:
    """Send one request, and return what is answered."""
    import httpx2

    from client._caller import credential

    try:
        headers = credential()
    except ValueError as exc:
        raise click.ClickException(str(exc)) from exc
    try:
        answer = httpx2.request(method, url.rstrip("/") + path, trust_env=False, headers=headers, **request)
    except httpx2.TransportError as exc:
        raise click.ClickException(f"no answer from {url} ({type(exc).__name__})") from exc
    try:
        said = answer.json()
        if answer.status_code == 200:
            return said
        raise click.ClickException(said["detail"])
    except (ValueError, KeyError, TypeError) as exc:
        raise click.ClickException(f"{url} answers {answer.status_code}, and is no memory service") from exc
