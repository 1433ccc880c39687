"""What the profiles of a tenant's users have to look like, by JSON Schema. Read once; nothing is fetched.

What does not fit is told by its place and the rule, in words that hold nothing of what was sent: a name in the place
is told only if the schema has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from memory_service.errors import UnsafeStart, ValidationFailed

EVERYBODY = "*"
"""Stands for the tenants that are not named."""
INVALID = "profile_invalid"
_NAMES = ("additionalProperties", "unevaluatedProperties", "propertyNames")
"""Rules about which fields there may be."""
_TOO_OLD = re.compile(r"https?://json-schema\.org/draft-0[0-3]/")
"""Before draft 4: what they mean by the same words is another thing, and nobody checks it here."""


class _Schema:
    """Of one tenant. Raises UnsafeStart if it is none, or needs anything that is not in it."""

    def __init__(self, tenant_id: str, schema: Any) -> None:
        whose = f"PROFILE_SCHEMAS: the schema of {json.dumps(tenant_id)}"
        if not isinstance(schema, dict):
            raise UnsafeStart(f"{whose} is not an object")
        if not isinstance(schema.get("$schema", ""), str):
            raise UnsafeStart(f"{whose} is not valid at $.$schema: type")
        kind = validator_for(schema, default=Draft202012Validator)
        try:
            if any(map(_TOO_OLD.match, _stated(schema, "$schema"))):
                raise UnsafeStart(f"{whose} is of a draft before draft 4")
            kind.check_schema(schema)
            registry: Registry[Any] = Registry()  # which retrieves nothing
            resource = Resource.from_contents(schema, default_specification=DRAFT202012)
            resolver = registry.resolver_with_root(resource)
            for reference in _stated(schema, "$ref", "$dynamicRef"):
                resolver.lookup(reference)
            self._validator = kind(schema, registry=registry)
            self.fits({})  # one that only refers to itself never ends
        except SchemaError as exc:
            raise UnsafeStart(f"{whose} is not valid at {exc.json_path}: {exc.validator}") from exc
        except Unresolvable as exc:
            raise UnsafeStart(f"{whose} refers to what is not in it; nothing is fetched") from exc
        except RecursionError as exc:
            raise UnsafeStart(f"{whose} refers to itself without an end") from exc
        self._names = set(_names(schema))

    def fits(self, document: dict[str, Any]) -> bool:
        return bool(self._validator.is_valid(document))

    def check(self, place: str, document: dict[str, Any]) -> None:
        try:
            error = best_match(self._validator.iter_errors(document))
        except RecursionError:
            raise ValidationFailed(place, "the schema of its tenant refers to itself without an end", INVALID) from None
        if error is not None:
            path = place + "".join(map(self._step, error.absolute_path))
            raise ValidationFailed(path, f"does not fit the schema of its tenant ({error.validator})", INVALID)

    def keeps(self, field: str, value: str) -> bool:
        """Whether a document might have this field: what else it would need does not matter."""
        errors = self._validator.iter_errors({field: value})
        try:
            return not any(error.absolute_path or error.validator in _NAMES for error in errors)
        except RecursionError:  # as in `check`: no document can have it
            return False

    def _step(self, part: str | int) -> str:
        if isinstance(part, int):
            return f"[{part}]"
        return f".{part}" if part in self._names else ".*"


class ProfileSchemas:
    """By tenant. A tenant without a schema may write what it likes."""

    def __init__(self, path: str) -> None:
        """Raises UnsafeStart."""
        try:
            given = json.loads(Path(path).read_bytes())
        except OSError as exc:
            raise UnsafeStart(f"PROFILE_SCHEMAS: the file cannot be read ({type(exc).__name__})") from exc
        except (ValueError, RecursionError) as exc:
            raise UnsafeStart("PROFILE_SCHEMAS: the file is not JSON") from exc
        if not isinstance(given, dict):
            raise UnsafeStart('PROFILE_SCHEMAS: the file is not of the form {"tenant": {...}, "*": {...}}')
        self._schemas = {tenant_id: _Schema(tenant_id, schema) for tenant_id, schema in given.items()}

    def bind(self, tenant_id: str) -> bool:
        return self._of(tenant_id) is not None

    def check(self, tenant_id: str, place: str, document: dict[str, Any]) -> None:
        schema = self._of(tenant_id)
        if schema is not None:
            schema.check(place, document)

    def keeps(self, tenant_id: str, field: str, value: str) -> bool:
        schema = self._of(tenant_id)
        return schema is None or schema.keeps(field, value)

    def _of(self, tenant_id: str) -> _Schema | None:
        return self._schemas.get(tenant_id) or self._schemas.get(EVERYBODY)


def _stated(schema: Any, *names: str) -> Iterator[str]:
    """The texts that stand under these names, wherever in it."""
    if isinstance(schema, dict):
        yield from (schema[name] for name in names if isinstance(schema.get(name), str))
    yield from (found for inner in _inside(schema) for found in _stated(inner, *names))


def _names(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict) and isinstance(schema.get("properties"), dict):
        yield from schema["properties"]
    yield from (name for inner in _inside(schema) for name in _names(inner))


def _inside(schema: Any) -> Iterable[Any]:
    if isinstance(schema, dict):
        return schema.values()
    return schema if isinstance(schema, list) else ()
