"""The OpenAPI 3.1 document, made from the route table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

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
    types = {kind for verb in verbs for kind in (verb.takes, verb.gives) if kind} | {Problem}
    ordered = sorted((kind for kind in types if not issubclass(kind, BaseModel)), key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    if StoreTurn in ordered:
        components[StoreTurn.__name__] |= SOMEBODY_SPEAKS
    refs: dict[type, Any] = dict(zip(ordered, schemas, strict=True))
    of_models, described = _described(types)
    refs, components = refs | of_models, components | described
    paths: dict[str, Any] = {}
    for verb in verbs:
        paths.setdefault(verb.path, {})[verb.method.lower()] = _operation(verb, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Agent memory service", "version": __version__, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {"schemas": components},
    }


def _described(kinds: Iterable[type]) -> tuple[dict[type, Any], dict[str, Any]]:
    """Where each of the gateway's models among them is described, and the descriptions."""
    models: list[type[BaseModel]] = [kind for kind in kinds if issubclass(kind, BaseModel)]
    ordered = sorted(models, key=lambda kind: kind.__name__)
    refs, described = models_json_schema(
        [(kind, "validation") for kind in ordered], ref_template="#/components/schemas/{model}"
    )
    return {kind: schema for (kind, _), schema in refs.items()}, described.get("$defs", {})


def _operation(verb: Verb, refs: dict[type, Any]) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": refs[Problem]}}
    answer = refs[verb.gives] if verb.gives else {"type": "object"}
    responses = {"200": {"description": "done", "content": {"application/json": {"schema": answer}}}}
    refused = ANYWHERE | {status: "see `code`" for status in verb.errors}
    if not verb.open:
        refused |= {401: "not admitted", 403: "the credential does not allow it"}
    if verb.takes:
        refused |= OF_BODIES if verb.method == "POST" else OF_VALUES
    for status, description in sorted(refused.items()):
        responses[str(status)] = {"description": description, "content": problem}
    operation: dict[str, Any] = {
        "operationId": verb.operation or verb.handle.__name__,
        "summary": verb.summary,
        "responses": responses,
    }
    if verb.takes and verb.method == "POST":
        if verb.named:
            operation["parameters"] = [_REQUEST_NAME]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": refs[verb.takes]}}}
    elif verb.takes:
        operation["parameters"] = _parameters(verb)
    return operation


def _parameters(verb: Verb) -> list[dict[str, Any]]:
    assert verb.takes is not None
    schema = next(iter(msgspec.json.schema_components([verb.takes])[1].values()))
    return [
        {
            "name": name,
            "in": "path" if f"{{{name}}}" in verb.path else "query",
            "required": name in schema.get("required", []),
            "schema": field,
        }
        for name, field in schema["properties"].items()
    ]
