"""Chooses by the settings who is served, and how much each may ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from memory_service.api.auth import Caller, Gate, Headers, admit_anyone, admit_loopback
from memory_service.api.credentials import WRONG_AT_ONCE, CredentialGate
from memory_service.api.endpoint import Allowance, Unlimited
from memory_service.errors import UnsafeStart, ValidationFailed
from memory_service.limits import check_id
from memory_service.rate_limits import Buckets, RateLimits
from memory_service.settings import Settings

if TYPE_CHECKING:  # without AUTH_MODE=jwt what checks tokens is not imported
    from memory_service.api.tokens import Tokens


def make_gate(settings: Settings, tokens: Tokens | None, clock: Callable[[], float]) -> Gate:
    if settings.auth_mode == "loopback":
        return admit_loopback
    if settings.auth_mode == "none":
        return admit_anyone
    wrong = Buckets(settings.rate_limit_wrong_credentials, WRONG_AT_ONCE, clock=clock)
    return CredentialGate(wrong, tokens)


def make_tokens(settings: Settings, clock: Callable[[], float]) -> Tokens:
    """Raises UnsafeStart."""
    if not settings.jwt_jwks_url.startswith(("https://", "http://")):
        raise UnsafeStart("AUTH_MODE=jwt needs JWT_JWKS_URL: https://... where the identity provider tells its keys")
    try:
        if settings.jwt_tenant:
            check_id("JWT_TENANT", settings.jwt_tenant)
        import cryptography  # noqa: F401 (without it PyJWT knows no public keys)

        from memory_service.api.tokens import TokenRules, Tokens
        from memory_service.jwks import KeySet
    except ModuleNotFoundError as exc:
        raise UnsafeStart(f"AUTH_MODE=jwt needs {exc.name}: pip install 'agent-memory-service[jwt]'") from exc
    except ValidationFailed as exc:
        raise UnsafeStart(str(exc)) from exc
    rules = TokenRules(
        issuer=settings.jwt_issuer,
        audiences=_listed(settings.jwt_audience),
        tenant=settings.jwt_tenant,
        tenant_claim=settings.jwt_tenant_claim,
        user_claim=settings.jwt_user_claim,
        spaces_claim=settings.jwt_spaces_claim,
        service_clients=frozenset(_listed(settings.jwt_service_clients)),
    )
    return Tokens(KeySet(settings.jwt_jwks_url, clock=clock), rules)


def _listed(given: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in given.split(",") if one.strip())


def make_allowance(settings: Settings, clock: Callable[[], float]) -> Allowance:
    per_credential, per_tenant = settings.rate_limit_per_credential, settings.rate_limit_per_tenant
    if not per_credential and not per_tenant:
        return Unlimited()
    return Limited(RateLimits(per_credential, per_tenant, clock=clock))


class Limited:
    """Tells callers with each answer what there is left, in the fields of draft-ietf-httpapi-ratelimit-headers-10."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        policies = (f'"{name}";q={quota};w={window_s}' for name, quota, window_s in limits.policies())
        self._policy = (b"ratelimit-policy", ", ".join(policies).encode())

    def spend(self, caller: Caller, cost: int) -> None:
        self._limits.spend(caller.tenant_id, caller.principal, cost)

    def told(self, caller: Caller) -> Headers:
        left = self._limits.left(caller.tenant_id, caller.principal)
        told = (f'"{name}";r={room};t={more_in_s}' for name, room, more_in_s in left)
        return [self._policy, (b"ratelimit", ", ".join(told).encode())]
