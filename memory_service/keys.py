"""API keys: made, shown once, found again by what a caller presents, replaced and revoked.

A key is `mem_ID_SECRET`: the id is public, and by it the key is looked up; the secret ends in a checksum, by which a
slip of the pen, or a scanner that looks for secrets, tells a key from other text without asking anybody.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import string
import zlib
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from memory_service.access import OfMemory, Permission
from memory_service.errors import KeyNotFound, KeyNotInUse, ValidationFailed
from memory_service.stores.base import Store
from memory_service.stores.keys import ApiKey

logger = logging.getLogger(__name__)

KNOWN_S = 4.0
"""So long what the store said of an id is believed: a key that is revoked elsewhere works at most so much longer."""
MOST_KNOWN = 10_000
"""Ids remembered: so many that there are, and so many that there are not. One who makes ids up fills no memory, and
pushes out none that there are."""
OVERLAP = timedelta(hours=24)
PREFIX = "mem_"

_ID_LENGTH, _RANDOM_LENGTH, _CHECK_LENGTH = 8, 36, 6
_OF_IDS, _OF_SECRETS = string.ascii_lowercase + string.digits, string.ascii_letters + string.digits
_FORM = re.compile(rf"{PREFIX}([a-z0-9]{{{_ID_LENGTH}}})_([A-Za-z0-9]{{{_RANDOM_LENGTH + _CHECK_LENGTH}}})")
_NAMED = re.compile(rf"{PREFIX}([a-z0-9]{{{_ID_LENGTH}}})_.*|([a-z0-9]{{{_ID_LENGTH}}})")


class _Known(msgspec.Struct, frozen=True):
    """What the store said of an id, and until when that is believed."""

    key: ApiKey | None
    until: float


class Keys:
    """`now` is the service's clock, `monotonic` (seconds) counts how long an answer of the store is believed."""

    def __init__(self, store: Store, *, now: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._store, self._now, self._monotonic = store, now, monotonic
        self._there: dict[str, _Known] = {}
        self._not_there: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[ApiKey | None]] = {}

    async def create(
        self,
        name: str,
        tenant_id: str,
        permissions: Collection[Permission],
        *,
        user_id: str | None = None,
        spaces: Mapping[str, Collection[OfMemory]] | None = None,
        lifetime: timedelta | None = None,
        by: str = "",
    ) -> tuple[ApiKey, str]:
        """Make a key; returns it with its text, which nobody can tell again. `by`: who did it without a request.

        Raises ValidationFailed for spaces of a key that is bound to no user.
        """
        if spaces and user_id is None:
            raise ValidationFailed("$.spaces", "only with a user: a key of all users may name every space as it is")
        key_id = await self._new_id()
        stem = f"{PREFIX}{key_id}_{_random(_OF_SECRETS, _RANDOM_LENGTH)}"
        text, now = stem + _check_of(stem), self._now()
        key = ApiKey(
            key_id=key_id,
            name=name,
            tenant_id=tenant_id,
            user_id=user_id,
            permissions=frozenset(permissions),
            digest=_digest(text.rpartition("_")[2]),
            created_at=now,
            expires_at=now + lifetime if lifetime else None,
            spaces={name: frozenset(granted) for name, granted in (spaces or {}).items()},
        )
        await self._put(key)
        logger.info("an API key was created", extra={"key": key_id, "by": by})
        return key, text

    async def of_tenant(self, tenant_id: str | None = None) -> list[ApiKey]:
        """Return the keys of a tenant, or all, oldest first: revoked and expired ones too."""
        return await self._store.keys(tenant_id)

    async def get(self, key_id: str, tenant_id: str | None = None) -> ApiKey:
        """Return a key as the store has it, by its id or by the whole of it.

        Raises KeyNotFound, for one of another tenant than the given one too.
        """
        named = id_in(key_id)
        key = await self._store.find_key(named) if named else None
        if key is None or tenant_id not in (None, key.tenant_id):
            raise KeyNotFound
        return key

    async def revoke(self, key: ApiKey, *, by: str = "") -> ApiKey:
        """Let a key be of no use from now on; one that was revoked stays as it is."""
        if key.revoked_at is not None:
            return key
        revoked = replace(key, revoked_at=self._now())
        await self._put(revoked)
        logger.info("an API key was revoked", extra={"key": key.key_id, "by": by})
        return revoked

    async def rotate(self, key: ApiKey, overlap: timedelta = OVERLAP, *, by: str = "") -> tuple[ApiKey, str]:
        """Make another key of the same rights, which lives as long; the old one expires after the overlap.

        Without an overlap the old one is revoked. Raises KeyNotInUse for one that holds no more.
        """
        now = self._now()
        if not key.holds(now):
            raise KeyNotInUse
        lifetime = key.expires_at - key.created_at if key.expires_at else None
        made = await self.create(
            key.name,
            key.tenant_id,
            key.permissions,
            user_id=key.user_id,
            spaces=key.spaces,
            lifetime=lifetime,
            by=by,
        )
        if not overlap:
            await self.revoke(key, by=by)
        elif key.expires_at is None or now + overlap < key.expires_at:
            await self._put(replace(key, expires_at=now + overlap))
        return made

    # What callers present

    def remembered(self, text: str) -> ApiKey | None:
        """Return the key that this text is of, if it holds and need not be asked for."""
        form = _FORM.fullmatch(text)
        known = self._there.get(form[1]) if form else None
        if form is None or known is None or known.until <= self._monotonic():
            return None
        return self._if_right(known.key, form[2])

    def was_right(self, text: str) -> bool:
        """Whether this text was found to be that of a key a moment ago, be it that it must be asked for again."""
        form = _FORM.fullmatch(text)
        known = self._there.get(form[1]) if form else None
        return form is not None and known is not None and self._if_right(known.key, form[2]) is not None

    async def find(self, text: str) -> ApiKey | None:
        """Return the key that this text is of, if there is one and it holds. A slip of the pen asks nobody."""
        form = _FORM.fullmatch(text)
        if form is None or not text.endswith(_check_of(text[:-_CHECK_LENGTH])):
            return None
        return self._if_right(await self._known(form[1]), form[2])

    def _if_right(self, key: ApiKey | None, secret: str) -> ApiKey | None:
        if key is None or not hmac.compare_digest(key.digest, _digest(secret)) or not key.holds(self._now()):
            return None
        return key

    async def _known(self, key_id: str) -> ApiKey | None:
        """What there is of an id. Of many who ask at once one asks the store."""
        known = self._there.get(key_id) or self._not_there.get(key_id)
        if known is not None and known.until > self._monotonic():
            return known.key
        asking = self._asking.get(key_id)
        if asking is None:
            asking = self._asking[key_id] = asyncio.create_task(self._ask(key_id))
            asking.add_done_callback(lambda _: self._asking.pop(key_id))
        return await asyncio.shield(asking)

    async def _ask(self, key_id: str) -> ApiKey | None:
        until = self._monotonic() + KNOWN_S  # from before it is asked: the answer may be as old as that
        key = await self._store.find_key(key_id)
        self._forget(key_id)
        kept = self._not_there if key is None else self._there
        if len(kept) >= MOST_KNOWN:
            del kept[next(iter(kept))]
        kept[key_id] = _Known(key, until)
        return key

    async def _new_id(self) -> str:
        while True:
            key_id = _random(_OF_IDS, _ID_LENGTH)
            if await self._store.find_key(key_id) is None:
                return key_id

    async def _put(self, key: ApiKey) -> None:
        await self._store.put_key(key)
        self._forget(key.key_id)

    def _forget(self, key_id: str) -> None:
        self._there.pop(key_id, None)
        self._not_there.pop(key_id, None)


def id_in(text: str) -> str | None:
    """The id that a text is, or that a whole key names; of any other text nothing: it may be a secret."""
    found = _NAMED.fullmatch(text)
    return (found[1] or found[2]) if found else None


def _random(letters: str, length: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(length))


def _digest(secret: str) -> str:
    """Of 200 random bits, so no slow hash is needed, and none could be made to work hard by those who guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _check_of(stem: str) -> str:
    number, found = zlib.crc32(stem.encode()), ""
    for _ in range(_CHECK_LENGTH):
        number, place = divmod(number, len(_OF_SECRETS))
        found += _OF_SECRETS[place]
    return found
