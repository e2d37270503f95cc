"""Builds the OpenAPI document of an application from its routes.

Deliberately does not know what any of them does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flaxen import __version__
from flaxen.api_description.answers import ANSWERS
from flaxen.api_description.bodies import Schemas
from flaxen.api_description.operation import JSON, Operation, Schema, ref
from flaxen.api_description.operations import Route, make_operations
from flaxen.server.config import ServerConfig

_PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
# Describes a route that has no entry in `operations`.
_UNKNOWN = Operation(summary="See docs/server.md.", errors=(400, 404, 409, 413, 429, 500, 503))


def make_document(routes: Iterable[Route], config: ServerConfig) -> dict[str, Any]:
    """The description of a server's routes.

    Args:
      routes: methods and paths, as they were added to the application.
      config: says whether keys are needed, and where the server is found.
    """
    schemas = Schemas()
    known = make_operations(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for method, path in routes:
        described = _describe(method, path, known.get((method, path), _UNKNOWN), config)
        paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})[method.lower()] = described
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "flaxen",
            "version": __version__,
            "description": "OpenAI's API, with vLLM's additions. GET /docs has the reference.",
        },
        "servers": [{"url": config.root_path or "/"}],
        "paths": paths,
        "components": {"schemas": {**ANSWERS, **schemas.found}},
    }
    if config.api_keys:
        document["components"]["securitySchemes"] = _SECURITY
        document["security"] = [{name: []} for name in _SECURITY]
    return document


def _describe(method: str, path: str, operation: Operation, config: ServerConfig) -> dict[str, Any]:
    names = _PARAMETER.findall(path)
    words = re.findall(r"\w+", _PARAMETER.sub(r"\1", path))
    described: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *words]),
        "summary": operation.summary,
        "responses": _responses(operation, config),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "schema": dict(schema)}
        for name, schema in operation.query.items()
    ]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        content = {operation.body_type: {"schema": operation.body}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.is_open and config.api_keys:
        described["security"] = []
    return described


def _responses(operation: Operation, config: ServerConfig) -> dict[str, Any]:
    answers: Mapping[str, Schema] = operation.answers or {JSON: {}}
    found: dict[str, Any] = {
        "200": {
            "description": "the answer",
            "content": {kind: {"schema": schema} for kind, schema in answers.items()},
        }
    }
    statuses = {400, *operation.errors}  # an x-request-id that is none is a 400 everywhere
    if config.api_keys and not operation.is_open:
        statuses.add(401)
    error = {"description": "an error", "content": {JSON: {"schema": ref(operation.error)}}}
    return found | {str(status): error for status in sorted(statuses)}
