"""Who is calling, and what they may do. Every path but the health probes goes through here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

import msgspec
from msgspec.structs import replace

from memory_service.access import OPERATORS, PERMISSIONS, OfMemory, Permission
from memory_service.errors import InsufficientScope, ScopeMismatch, Unauthenticated
from memory_service.values import Scope
from memory_service.whole import SERVED

Headers = list[tuple[bytes, bytes]]


class Caller(msgspec.Struct, frozen=True):
    """What a credential allows: one tenant, or one user of it, and some permissions.

    `principal` tells credentials apart, and no secret; `request_key` is the caller's own name for this request.
    `spaces`: beside its user, those that a credential may name, by their ids, and what it may there and only there.
    `wanted`: what the request needs, of a caller with spaces.
    """

    tenant_id: str = "default"
    user_id: str | None = None
    permissions: frozenset[Permission] = PERMISSIONS
    principal: str = ""
    request_key: str | None = None
    spaces: Mapping[str, frozenset[OfMemory]] = {}
    wanted: Permission | None = None

    def scope(self, user_id: str) -> Scope:
        """Whose memory is meant: a user's, or a space's.

        Raises ScopeMismatch if this caller may not name it, and InsufficientScope if he may not do there what he wants.
        """
        if self.user_id is None or self.user_id == user_id:
            self._check(self.permissions, user_id)
        elif user_id in self.spaces:
            self._check(self.spaces[user_id], user_id)
        else:
            raise ScopeMismatch("this credential is bound to another user", user_id)
        return Scope(tenant_id=self.tenant_id, user_id=user_id)

    def may(self, permission: Permission, user_id: str) -> bool:
        """Tell whether this caller may do that too with the memory of this user or space."""
        if self.user_id is None or self.user_id == user_id:
            return permission in self.permissions
        return permission in self.spaces.get(user_id, ())

    def of_all_users(self) -> str:
        """The tenant, for what concerns all its users. Raises ScopeMismatch if this caller is bound to one of them."""
        tenant_id = self.of_any_user()
        if self.user_id is not None:
            raise ScopeMismatch("this credential is bound to one user, and this concerns all of the tenant")
        return tenant_id

    def of_any_user(self) -> str:
        """The tenant, for what each of its users may. Raises InsufficientScope: what he may in spaces is not for it."""
        self._check(self.permissions)
        return self.tenant_id

    def require(self, permission: Permission, *, of_service: bool = False) -> Caller:
        """Return the caller of a request that needs this: who has it for a space alone may still name no other.

        Raises InsufficientScope, or ScopeMismatch for what concerns all tenants.
        """
        if permission not in self.permissions and not any(permission in granted for granted in self.spaces.values()):
            raise InsufficientScope(permission)
        caller = replace(self, wanted=permission) if self.spaces else self
        if of_service and caller.of_all_users() != OPERATORS:
            raise ScopeMismatch("this concerns all tenants; it is for credentials of the operators' tenant")
        return caller

    def _check(self, granted: frozenset[Permission], user_id: str | None = None) -> None:
        """Of a caller without spaces `require` has looked at all there is."""
        if self.spaces and self.wanted not in granted:
            raise InsufficientScope(self.wanted or "read", user_id)


Gate = Callable[[Any], Awaitable[Caller]]
"""Takes an ASGI scope; raises Unauthenticated."""

ANYONE = Caller()
_HARMLESS = frozenset((b"accept", b"accept-encoding", b"connection", b"content-length", b"content-type", b"user-agent"))
"""Headers that most requests have, and that say nothing of where they come from."""
_FORWARDED = (b"forwarded", b"x-forwarded-", b"x-real-ip", b"via", b"cf-connecting-ip", b"true-client-ip")
_REFUSAL = (
    "only callers on this host are served (AUTH_MODE=loopback); to serve others set AUTH_MODE=keys and make them keys "
    "with `memory-service keys create`, or AUTH_MODE=none and protect the port yourself"
)


async def admit_anyone(scope: Any) -> Caller:
    return ANYONE


async def admit_loopback(scope: Any) -> Caller:
    """Admit who calls from this host, under a local name, not through a proxy and not from a foreign web page.

    A proxy on this host speaks for others, and a web page can reach a local port under a name of its own:
    neither is a caller on this host.
    """
    if scope.get(SERVED):  # nothing but the head and the connection counts here, and both are the same
        return ANYONE
    client = scope.get("client")
    if client is None or not is_loopback(client[0]) or not _is_local(scope["headers"]):
        raise Unauthenticated(_REFUSAL)
    return ANYONE


def _is_local(headers: Headers) -> bool:
    named = False
    for name, value in headers:
        if name in _HARMLESS:
            continue
        if name == b"host":
            if not is_local_name(value.decode("latin-1")):
                return False
            named = True
        elif name.startswith(_FORWARDED) or (
            name == b"origin" and not is_local_name(value.decode("latin-1").partition("://")[2])
        ):
            return False
    return named


def is_loopback(address: str) -> bool:
    if address == "127.0.0.1":  # nearly always
        return True
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


@lru_cache(maxsize=64)
def is_local_name(authority: str) -> bool:
    """Tell whether a Host (with or without a port) names this host."""
    authority = authority.lower()
    name = authority[1:].partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)
