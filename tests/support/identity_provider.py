"""An identity provider that signs tokens and tells its public keys over real HTTP: counted, late or away if told."""

from __future__ import annotations

import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from tests.support.scripted_http import Answer, ScriptedHTTP, Step

RSA_KEYS = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
"""Made once: they take long."""
JWKS = "/keys"


class IdentityProvider:
    """`keys` by their ids, each with the algorithm it signs by. A context manager that serves them meanwhile."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {
            "rsa": ("RS256", RSA_KEYS[0]),
            "ec": ("ES256", ec.generate_private_key(ec.SECP256R1())),
            "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
        }
        self.beside: list[dict[str, Any]] = []
        """What it tells beside keys of ours."""
        self._http = ScriptedHTTP()

    def __enter__(self) -> IdentityProvider:
        self._http.start()
        self.tells()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.stop()

    @property
    def url(self) -> str:
        return self._http.url + JWKS

    @property
    def fetches(self) -> int:
        return len(self._http.asked)

    def tells(self, *steps: Step) -> None:
        """Answer the next fetches so, and all later ones by its keys as they are now."""
        self._http.script.clear()
        self._http.script.extend([*steps, *(Answer(content=self.told()) for _ in range(50))])

    def told(self) -> dict[str, Any]:
        algorithms: Any = get_default_algorithms()
        told = [
            {**algorithms[name].to_jwk(key.public_key(), as_dict=True), "kid": key_id, "alg": name, "use": "sig"}
            for key_id, (name, key) in self.keys.items()
        ]
        return {"keys": [*told, *self.beside]}

    def token(self, key_id: str = "rsa", *, head: dict[str, Any] | None = None, **claims: Any) -> str:
        """Sign claims; a claim of None is left out."""
        name, key = self.keys[key_id]
        given = {"sub": "ana", "tenant_id": "acme", "exp": time.time() + 600, **claims}
        present = {claim: value for claim, value in given.items() if value is not None}
        return jwt.encode(present, key, name, {"kid": key_id, **(head or {})})
