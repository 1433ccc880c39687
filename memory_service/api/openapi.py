"""The OpenAPI 3.1 document, made from the route table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from memory_service import __version__
from memory_service.api.accept import NDJSON
from memory_service.api.endpoint import WITH_BODY, Verb
from memory_service.api.keys import SPACES_OF_A_USER, CreateKey
from memory_service.api.schemas import SOMEBODY_SPEAKS, Problem, StoreTurn

ANYWHERE = {
    400: "not HTTP, or a body that is not JSON",
    406: "the answer is of another media type than Accept allows",
    408: "did not arrive in time",
    431: "headers too large",
    503: "try again later",
}
OF_VALUES = {422: "not valid"}
OF_BODIES = {413: "body too large", 415: "of another media type", **OF_VALUES}

_WHO = "With AUTH_MODE=loopback callers on the same host need none, with AUTH_MODE=none nobody does."
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": f"An API key, or a token (JWT). {_WHO}"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": f"An API key. {_WHO}"},
}
"""Either of them; the permission that a route needs is named beside it, as OpenAPI 3.1 names roles."""
HEADERS = {
    "RateLimit-Policy": "How many requests may come at once (q), as many more in how many seconds (w), where limited",
    "RateLimit": "How many requests may come now (r), and in how many seconds there is one more (t), where limited",
    "Retry-After": "Whole seconds after which there is room again",
    "WWW-Authenticate": "How to say who you are",
}
_LIMITS = ("RateLimit-Policy", "RateLimit")
_HEADERS_OF = {"200": _LIMITS, "401": ("WWW-Authenticate",), "429": ("Retry-After", *_LIMITS)}

_REQUEST_NAME = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Your own name for this request, for 24 hours: a repeat is answered as the first time.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}


_RULES: dict[type, dict[str, Any]] = {StoreTurn: SOMEBODY_SPEAKS, CreateKey: SPACES_OF_A_USER}
"""What fields of a body have to do with one another."""


def openapi(verbs: Sequence[Verb]) -> dict[str, Any]:
    types = {kind for verb in verbs for kind in (verb.takes, verb.gives) if kind} | {Problem}
    ordered = sorted((kind for kind in types if not issubclass(kind, BaseModel)), key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    for kind, rule in _RULES.items():
        if kind in ordered:
            components[kind.__name__] |= rule
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
        "components": {"schemas": components, "securitySchemes": SCHEMES, "headers": _headers()},
    }


def _headers() -> dict[str, Any]:
    return {name: {"description": means, "schema": {"type": "string"}} for name, means in HEADERS.items()}


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
    answer = refs[verb.gives] if verb.gives else {"type": "string" if verb.in_lines else "object"}
    responses = {"200": {"description": "done", "content": {verb.answers: {"schema": answer}}}}
    refused = ANYWHERE | {status: "see `code`" for status in verb.errors}
    if not verb.open:
        refused |= {401: "not admitted", 403: "the credential does not allow it", 429: "more than is allowed"}
    if verb.takes:
        refused |= OF_BODIES if verb.method in WITH_BODY else OF_VALUES
    for status, description in sorted(refused.items()):
        responses[str(status)] = {"description": description, "content": problem}
    operation: dict[str, Any] = {
        "operationId": verb.operation or verb.handle.__name__,
        "summary": verb.summary,
        **_admission(verb, responses),
        "responses": responses,
    }
    if verb.takes:
        parameters = [*_parameters(verb), *[_REQUEST_NAME] * verb.named]
        if parameters:
            operation["parameters"] = parameters
        if verb.of_file:
            operation["requestBody"] = {"required": True, "content": {NDJSON: {"schema": {"type": "string"}}}}
        elif verb.method in WITH_BODY:
            schema = _body(verb) if "{" in verb.path else refs[verb.takes]
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _admission(verb: Verb, responses: dict[str, Any]) -> dict[str, Any]:
    """Who may call it. What its answers say of that is added to them."""
    if verb.open:
        return {"security": []}
    for status, names in _HEADERS_OF.items():
        responses[status]["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    whose = " It concerns all tenants: it is for credentials of the operators' tenant." if verb.of_service else ""
    return {
        "description": f"Needs the permission `{verb.needs}`.{whose}",
        "security": [{scheme: [verb.needs]} for scheme in SCHEMES],
    }


def _schema(verb: Verb) -> dict[str, Any]:
    assert verb.takes is not None
    schema: dict[str, Any] = msgspec.json.schema_components([verb.takes])[1][verb.takes.__name__]
    return schema


def _is_of_path(verb: Verb, name: str) -> bool:
    return f"{{{name}}}" in verb.path


def _body(verb: Verb) -> dict[str, Any]:
    """What comes in the body, without what comes in the path."""
    schema = _schema(verb)
    properties = {name: field for name, field in schema["properties"].items() if not _is_of_path(verb, name)}
    required = [name for name in schema.get("required", []) if name in properties]
    return {**schema, "properties": properties, "required": required}


def _parameters(verb: Verb) -> list[dict[str, Any]]:
    """What is in the path, or in the query where there is no JSON body."""
    with_body = verb.method in WITH_BODY and not verb.of_file
    if with_body and "{" not in verb.path:
        return []
    schema = _schema(verb)
    return [
        {
            "name": name,
            "in": "path" if _is_of_path(verb, name) else "query",
            "required": name in schema.get("required", []),
            "schema": field,
        }
        for name, field in schema["properties"].items()
        if _is_of_path(verb, name) or not with_body
    ]
