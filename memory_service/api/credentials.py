"""The gate of AUTH_MODE=keys and jwt: who presents a credential is served as that allows, and nobody else."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from memory_service.api.auth import Caller, Headers
from memory_service.errors import Unauthenticated
from memory_service.keys import PREFIX, Keys
from memory_service.limits import SPACE
from memory_service.rate_limits import Buckets
from memory_service.stores.keys import ApiKey

if TYPE_CHECKING:  # what checks tokens is imported where they are taken
    from memory_service.api.tokens import Tokens

WRONG_AT_ONCE = 20
"""So many wrong credentials an address may bring before it has to wait."""
NEIGHBOURS_BITS = 64
"""Of an address of IP version 6: who has one has all that differ in these."""
_REFUSAL = "no valid credential was sent: send an API key or a token as `Authorization: Bearer ...`"
"""The same for one that is missing, unknown, wrong, revoked or expired: which, is nobody's business."""


class CredentialGate:
    """`wrong`: how many wrong credentials may come from an address. Without `tokens` keys alone are taken."""

    def __init__(self, wrong: Buckets, tokens: Tokens | None = None) -> None:
        self._wrong, self._tokens = wrong, tokens

    async def __call__(self, scope: Any) -> Caller:
        text = presented(scope["headers"])
        if not text:
            raise Unauthenticated(_REFUSAL)
        keys: Keys = scope["state"]["service"].keys
        key = keys.remembered(text)
        if key is not None:
            return _caller_of(key)
        if self._tokens is not None and not text.startswith(PREFIX):
            caller = await self._tokens.caller(text)
        else:
            caller = await self._by_key(keys, text, address_of(scope))
        if caller is None:
            self._wrong.take(address_of(scope))
            raise Unauthenticated(_REFUSAL)
        return caller

    async def _by_key(self, keys: Keys, text: str, address: str) -> Caller | None:
        """An unknown key costs a look into the store, so it is paid for before, and paid back if it is right.

        One that was right a moment ago pays nothing: others behind the same proxy may have spent all there is.
        """
        if keys.was_right(text):
            key = await keys.find(text)
        else:
            self._wrong.take(address)
            key = await keys.find(text)
            self._wrong.give_back(address)
        return _caller_of(key) if key else None


def presented(headers: Headers) -> str:
    """The credential of a request; empty if there is none, or more than one. What other schemes say is for a proxy."""
    found = set()
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credential = value.partition(b" ")
            if scheme.lower() == b"bearer":
                found.add(credential.strip())
        elif name == b"x-api-key":
            found.add(value.strip())
    return found.pop().decode("latin-1") if len(found) == 1 else ""


def address_of(scope: Any) -> str:
    client = scope.get("client")
    if client is None or ":" not in client[0]:
        return client[0] if client else ""
    try:
        address = ip_address(client[0].partition("%")[0])
    except ValueError:
        return str(client[0])
    assert isinstance(address, IPv6Address)
    return str(address.ipv4_mapped or int(address) >> NEIGHBOURS_BITS)


def _caller_of(key: ApiKey) -> Caller:
    return Caller(
        tenant_id=key.tenant_id,
        user_id=key.user_id,
        permissions=key.permissions,
        principal=f"key {key.key_id}",
        spaces={SPACE + name: granted for name, granted in key.spaces.items()},
    )
