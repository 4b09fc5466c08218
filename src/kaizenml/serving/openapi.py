"""The OpenAPI document, made from the signatures of what is served."""

from __future__ import annotations

from typing import Any

from kaizenml.features.signature import Field, Signature
from kaizenml.serving.routing import LoadedEndpoint, Routing

_TYPES: dict[str, dict[str, Any]] = {
    "number": {"type": ["number", "null"]},
    "integer": {"type": ["integer", "null"]},
    "boolean": {"type": ["boolean", "null"]},
    "category": {"type": ["string", "null"]},
    "timestamp": {"type": ["string", "number", "null"], "format": "date-time"},
}


def document(routing: Routing, *, root_path: str = "", auth: bool = False) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the endpoints.

    Parameters
    ----------
    root_path : the path prefix under which a proxy shows the server.
    auth : whether tokens are asked for.
    """
    paths: dict[str, Any] = {}
    for name, endpoint in sorted(routing.endpoints.items()):
        paths[f"/predict/{name}"] = {"post": _predict(name, endpoint)}
        paths[f"/outcomes/{name}"] = {"post": _outcomes(name, endpoint)}
    told = {"/health/live": "The process runs.", "/health/ready": "Every endpoint can answer.", "/metrics": "Counters for Prometheus."}
    for path, summary in told.items():
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": summary}}}}
    info = {"title": "kaizenml data plane", "version": str(routing.revision)}
    found: dict[str, Any] = {"openapi": "3.1.0", "info": info, "servers": [{"url": root_path or "/"}], "paths": paths}
    return _with_tokens(found) if auth else found


def _with_tokens(found: dict[str, Any]) -> dict[str, Any]:
    """Say in a document that its operations ask for a token, except those that tell whether the process is well."""
    refusals = {
        "401": {"description": "No valid token was shown.", "headers": {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}},
        "403": {"description": "The token's scopes do not allow it."},
        "429": {"description": "The token's rate is used up.", "headers": {"Retry-After": {"schema": {"type": "integer"}}}},
    }
    for path, operations in found["paths"].items():
        for operation in operations.values():
            if path.startswith("/health/"):
                operation["security"] = []
            else:
                operation["responses"] |= refusals
    scheme = {"type": "http", "scheme": "bearer", "description": "A token of `kaizen tokens create`."}
    return found | {"components": {"securitySchemes": {"token": scheme}}, "security": [{"token": []}]}


def _predict(name: str, endpoint: LoadedEndpoint) -> dict[str, Any]:
    loaded = endpoint.arms[0]
    rows = {"type": "array", "minItems": 1, "items": _row(loaded.signature)}
    said = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "value": {"anyOf": [_value(loaded.signature), {"type": "null", "description": "refused by a rule, see `reason`"}]},
            "probabilities": {"type": ["array", "null"], "items": {"type": "number"}, "description": "in the order of `classes`"},
            "decided_by": {"enum": ["model", "fallback", "kill"]},
            "reason": {"type": ["string", "null"]},
            "arm": {"type": "string"},
            "release": {"type": "string", "description": "who decided, where it is another release than the one for all rows"},
        },
    }
    answer = {
        "type": "object",
        "properties": {
            "predictions": {"type": "array", "items": said},
            "release": {"type": "string"},
            "classes": {"type": "array"},
            "lineage": {"type": "object"},
        },
    }
    body = {"type": "object", "required": ["inputs"], "properties": {"inputs": rows, "unit": {"type": ["string", "integer", "null"]}}}
    return _operation(f"Predict {loaded.signature.target} ({name}, {loaded.route.release})", body, answer)


def _outcomes(name: str, endpoint: LoadedEndpoint) -> dict[str, Any]:
    item = {
        "type": "object",
        "required": ["id", "value"],
        "properties": {"id": {"type": "string"}, "value": _value(endpoint.arms[0].signature), "at": {"type": ["string", "number", "null"]}},
    }
    body = {"type": "object", "required": ["outcomes"], "properties": {"outcomes": {"type": "array", "minItems": 1, "items": item}}}
    counts = {state: {"type": "integer"} for state in ("accepted", "late", "early", "duplicate", "conflicting", "unknown")}
    return _operation(f"Tell what became of predictions of {name}", body, {"type": "object", "properties": counts})


def _operation(summary: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    problem = {"description": "What is wrong, the values seen, and what to do about it."}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": "Answered.", "content": {"application/json": {"schema": answer}}},
            **dict.fromkeys(("404", "413", "415", "422", "503", "507"), problem),
        },
    }


def _row(signature: Signature) -> dict[str, Any]:
    properties = {field.name: _field(field) for field in signature.fields}
    properties |= {view.entity: {"description": f"key of feature view {view.name}"} for view in signature.views if view.entity not in properties}
    required = [field.name for field in signature.fields if field.view is None]
    return {"type": "object", "properties": properties, "required": required}


def _field(field: Field) -> dict[str, Any]:
    schema: dict[str, Any] = dict(_TYPES[field.kind])
    if field.view:
        schema["description"] = f"looked up in feature view {field.view} when absent"
    if field.examples:
        schema["examples"] = field.examples
    return schema


def _value(signature: Signature) -> dict[str, Any]:
    return {"type": "number"} if signature.task == "regression" else {"enum": signature.classes}
