"""Bearer tokens (JWT) of an identity provider: checked, and what their claims allow."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import jwt
from jwt.exceptions import PyJWTError
from msgspec import Struct

from memory_service.access import OF_MEMORY, PERMISSIONS, OfMemory, Permission
from memory_service.api.auth import Caller
from memory_service.errors import ValidationFailed
from memory_service.jwks import KeySet
from memory_service.limits import SPACE, check_id, space_id

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that only the provider can make: `none`, and those by a shared secret, are not among them."""
LEEWAY_S = 60
MOST_CHARACTERS = 16_384
SCOPE = "memory:"
OF_USERS: frozenset[Permission] = OF_MEMORY
OF_SERVICES: frozenset[Permission] = OF_USERS | {"metrics"}
"""What tokens may that name no permission of ours."""


class TokenRules(Struct, frozen=True, kw_only=True):
    """What tokens must say, and where they say whose they are. `tenant`: of all of them, whatever they say.

    `service_clients`: clients whose tokens are bound to no user.
    """

    issuer: str = ""
    audiences: tuple[str, ...] = ()
    tenant: str = ""
    tenant_claim: str = "tenant_id"
    user_claim: str = "sub"
    spaces_claim: str = "memory_spaces"
    service_clients: frozenset[str] = frozenset()


class Tokens:
    def __init__(self, keys: KeySet, rules: TokenRules) -> None:
        self._keys, self._rules = keys, rules

    async def start(self, stack: AsyncExitStack) -> None:
        await self._keys.start(stack)

    async def caller(self, text: str) -> Caller | None:
        """Return who calls by this token; None if it is not right. Raises IdentityProviderUnavailable."""
        key_id = _key_id_of(text)
        key = await self._keys.find(key_id) if key_id else None
        if key is None:
            return None
        rules = self._rules
        try:
            claims = jwt.decode(
                text,
                key,
                algorithms=ALGORITHMS,
                issuer=rules.issuer or None,
                audience=rules.audiences or None,
                leeway=LEEWAY_S,
                options={"require": ["exp"], "verify_aud": bool(rules.audiences)},
            )
            return caller_of(claims, rules)
        except (PyJWTError, ValueError, TypeError, OverflowError):
            return None


def _key_id_of(text: str) -> str | None:
    """The name of the key that a token says it is signed with, if it may be right at all."""
    if len(text) > MOST_CHARACTERS or not text.isascii():
        return None
    try:
        head = jwt.get_unverified_header(text)
    except (PyJWTError, ValueError, TypeError, RecursionError):
        return None
    key_id = head.get("kid")
    return key_id if isinstance(key_id, str) and head.get("alg") in ALGORITHMS else None


def caller_of(claims: dict[str, Any], rules: TokenRules) -> Caller:
    """Raises ValidationFailed where a claim that must be there is missing, or one is not in order."""
    tenant_id = rules.tenant or check_id("tenant", claims.get(rules.tenant_claim))
    told = [claims.get(claim) for claim in ("client_id", "azp")]
    client = next((one for one in told if _is_text(one) and one in rules.service_clients), None)
    if client is not None:
        permissions = _named_in(claims) or OF_SERVICES
        return Caller(tenant_id=tenant_id, permissions=permissions, principal=f"client {client}")
    user_id = check_id("user", claims.get(rules.user_claim))
    if user_id.startswith(SPACE):
        raise ValidationFailed("user", "no user can be called as spaces are")
    named, spaces = _named_in(claims), _spaces_in(claims.get(rules.spaces_claim))
    return Caller(
        tenant_id=tenant_id,
        user_id=user_id,
        permissions=named or OF_USERS,
        principal=f"user {user_id}",
        spaces=_within(named, spaces) if named else spaces,
    )


def _within(named: frozenset[Permission], spaces: dict[str, frozenset[OfMemory]]) -> dict[str, frozenset[OfMemory]]:
    """Of what is granted for spaces, what the token's own permissions allow; a space where that is nothing is none."""
    return {space: left for space, granted in spaces.items() if (left := granted & named)}


def _spaces_in(told: Any) -> dict[str, frozenset[OfMemory]]:
    """What a token may in which spaces: `{"NAME": "read write"}`, or a list in place of the text of words."""
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise ValidationFailed("spaces", "not an object")
    return {space_id("spaces", name): _granted_by(words) for name, words in told.items()}


def _granted_by(words: Any) -> frozenset[OfMemory]:
    named = words.split() if isinstance(words, str) else words
    if not isinstance(named, list) or not named or not all(_is_text(word) and word in OF_MEMORY for word in named):
        raise ValidationFailed("spaces", f"each grants some of {', '.join(sorted(OF_MEMORY))}")
    return frozenset(named)


def _named_in(claims: dict[str, Any]) -> frozenset[Permission]:
    """Permissions of ours that a token names: `scope` is a text of words, `scp` one or a list, by the provider."""
    words: set[str] = set()
    for claim in ("scope", "scp"):
        told = claims.get(claim)
        words.update(
            told.split() if isinstance(told, str) else filter(_is_text, told) if isinstance(told, list) else ()
        )
    return frozenset(permission for permission in PERMISSIONS if f"{SCOPE}{permission}" in words)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
