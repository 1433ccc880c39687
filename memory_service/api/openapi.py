"""The OpenAPI 3.1 document, made from the route table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from memory_service import __version__
from memory_service.api.endpoint import Verb
from memory_service.api.schemas import SOMEBODY_SPEAKS, Problem, StoreTurn

ANYWHERE = {
    400: "not HTTP, or a body that is not JSON",
    406: "the answer can only be JSON",
    408: "did not arrive in time",
    431: "headers too large",
    503: "try again later",
}
OF_VALUES = {422: "not valid"}
OF_BODIES = {413: "body too large", 415: "not JSON", **OF_VALUES}

_REQUEST_NAME = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Your own name for this request, for 24 hours: a repeat is answered as the first time.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}


def openapi(verbs: Sequence[Verb]) -> dict[str, Any]:
    types = {struct for verb in verbs for struct in (verb.json or verb.takes, verb.gives) if struct} | {Problem}
    ordered = sorted(types, key=lambda struct: struct.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    if StoreTurn in ordered:
        components[StoreTurn.__name__] |= SOMEBODY_SPEAKS
    refs = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, Any] = {}
    for verb in verbs:
        paths.setdefault(verb.path, {})[verb.method.lower()] = _operation(verb, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Agent memory service", "version": __version__, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(verb: Verb, refs: dict[type, Any]) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": refs[Problem]}}
    answer = refs[verb.gives] if verb.gives else {"type": "object"}
    responses = {"200": {"description": "done", "content": {"application/json": {"schema": answer}}}}
    refused = ANYWHERE | {status: "see `code`" for status in verb.errors}
    if not verb.open:
        refused |= {401: "not admitted", 403: "the credential does not allow it", 429: "more than is allowed"}
    if verb.takes:
        refused |= OF_BODIES if verb.json else OF_VALUES
    for status, description in sorted(refused.items()):
        responses[str(status)] = {"description": description, "content": problem}
    operation: dict[str, Any] = {
        "operationId": verb.handle.__name__,
        "summary": verb.summary,
        "responses": responses,
    }
    if parameters := _parameters(verb):
        operation["parameters"] = parameters
    if verb.json:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": refs[verb.json]}}}
    return operation


def _parameters(verb: Verb) -> list[dict[str, Any]]:
    """What is in the path, in the query or in a header."""
    named = [_REQUEST_NAME] if verb.named else []
    if verb.takes is None or verb.takes is verb.json:
        return named
    schema = msgspec.json.schema_components([verb.takes])[1][verb.takes.__name__]
    return named + [
        {
            "name": name,
            "in": "path" if f"{{{name}}}" in verb.path else "query",
            "required": name in schema.get("required", []),
            "schema": field,
        }
        for name, field in schema["properties"].items()
        if name != "body"
    ]
