"""The OpenAPI 3.1 document of the data plane, made from the signatures of what is served.

A schema says what is taken, no more and no less: an input outside the range seen in training is answered, so ranges are told
(``x-seen``) and are no bounds. What JSON Schema cannot say (a tensor's data fits its shape) stands in a description.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kaizenml.features.signature import Field, Signature, ViewUse
from kaizenml.features.view import Pushed
from kaizenml.rollouts.snapshot import Lineage
from kaizenml.serving.dialects.invocations import Invocations
from kaizenml.serving.outcomes import Taken
from kaizenml.serving.protocol import Limits
from kaizenml.serving.routing import LoadedEndpoint, LoadedRoute, Routing
from kaizenml.serving.telling import openapi_dialects as dialects
from kaizenml.serving.telling.openapi_parts import (
    ALWAYS,
    ID,
    MOMENT,
    PLAIN,
    POSTED,
    TRACEPARENT,
    TYPES,
    UNIT,
    UNIT_HEADER,
    Schema,
    answers,
    arms_of,
    error_schema,
    example_row,
    header,
    json_content,
    operation,
    ref,
    responses,
    tables,
)

_ASKED = "a column for each input: a structured NPY array, or one [rows, columns] in the metadata's order; or an Arrow IPC stream"
_ANSWERED = "columns id, value, probabilities, decided_by; release, arm and classes in headers; a refused row is null, in NPY blank or 409"


def document(
    routing: Routing, limits: Limits | None = None, *, root_path: str = "", auth: bool = False, invocations: Invocations | None = None
) -> Schema:
    """Return the document.

    Parameters
    ----------
    routing : what is served.
    limits : how large a request may be.
    invocations : the dialect, which knows the paths that the environment gave it.
    root_path : the path prefix under which a proxy shows the server.
    auth : whether tokens are asked for.
    """
    limits = limits or Limits()
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Error": error_schema(), **_structs(Taken, Lineage, Pushed)}
    for name, endpoint in sorted(routing.endpoints.items()):
        schemas |= {f"{name}.Row": _row(endpoint.arms[0]), f"{name}.Value": _value(endpoint.signatures)}
        paths |= {f"/predict/{name}": {"post": _predict(name, endpoint, limits)}, f"/outcomes/{name}": {"post": _outcomes(name, endpoint, limits)}}
        paths |= dialects.of_endpoint(name, endpoint, limits)
    paths |= dialects.of_server(routing, invocations or Invocations(), limits) | _own(auth)
    made: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "kaizenml data plane", "version": str(routing.revision),
            "summary": "Predictions with their lineage, and outcomes that arrive later.",
            "description": "Made from the signatures of the releases that answer now; `version` is the revision of the routing.",
        },
        "servers": [{"url": root_path or "/"}],
        "tags": [
            {"name": "predict", "description": "kaizenml's own protocol"},
            {"name": "v2", "description": "Open Inference Protocol, version 2"},
            {"name": "invocations", "description": "SageMaker, MLflow, Vertex AI"},
            {"name": "features", "description": "values that requests look up"},
            {"name": "server", "description": "health, counters, this document"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas | dialects.SCHEMAS,
            "responses": responses("", "Error", lambda error: {"error": error.document()}) | dialects.responses_of_dialects(),
        },
    }  # fmt: skip
    if auth:
        made["security"] = [{"token": []}]
        made["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "A token of `kaizen tokens create`."}
        }
    return made


def _predict(name: str, endpoint: LoadedEndpoint, limits: Limits) -> Schema:
    champion = endpoint.arms[0]
    signature, row = champion.signature, example_row(champion)
    rows = {"type": "array", "minItems": 1, "maxItems": limits.rows, "items": ref(f"{name}.Row")}
    asked = {"type": "object", "required": ["inputs"], "additionalProperties": False, "properties": {"inputs": rows, "unit": UNIT}}
    said: Schema = {
        "type": "object",
        "required": ["predictions", "release", "classes", "lineage"],
        "properties": {
            "predictions": {"type": "array", "items": _said(name, champion.signature)},
            "release": {"type": "string", "description": "who answered, as name@number"},
            "classes": {"type": "array", "description": "in the order of `probabilities`; empty for a regression"},
            "lineage": ref("Lineage"),
        },
    }
    if signature.views:
        said["properties"]["features"] = _fresh(signature.views)
    naive = champion.naive
    first = {
        "id": ID, "value": naive.value, "probabilities": naive.probabilities, "decided_by": "model", "reason": None, "arm": champion.route.arm,
    }  # fmt: skip
    shown = {"predictions": [first], "release": champion.route.release, "classes": signature.classes}
    shown["lineage"] = msgspec.to_builtins(champion.route.lineage)
    pinned = header("x-kaizen-arm", "the arm or release that is to answer; default by weight", arms_of(endpoint))
    summary = f"Predict {signature.target} ({champion.route.release})"
    errors = answers(409, *ALWAYS, *POSTED)
    return operation(
        summary, "predict", json_content(said, shown) | tables(_ANSWERED), errors, parameters=[TRACEPARENT, pinned, UNIT_HEADER],
        body=json_content(asked, {"inputs": [row]}) | tables(_ASKED), operationId=f"predict.{name}",
        description="Many rows come as whole columns: an NPY array or an Arrow stream. The answer has the form that `accept` names, else JSON.",
    )  # fmt: skip


def _fresh(views: list[ViewUse]) -> Schema:
    count = {"type": "integer", "minimum": 0}
    view = {
        "type": "object",
        "properties": {
            "age_s": {"type": ["number", "null"], "description": "of the oldest values that counted"},
            "missing": count | {"description": "rows whose entity is not known, or null"},
            "stale": count | {"description": "rows whose values are older than the view allows"},
        },
    }
    return {"type": "object", "properties": {each.name: view for each in views}, "description": "what was looked up, by feature view"}


def _said(name: str, signature: Signature) -> Schema:
    shares: Schema = {"type": ["array", "null"], "items": {"type": "number", "minimum": 0, "maximum": 1}, "description": "in the order of `classes`"}
    return {
        "type": "object",
        "required": ["id", "value", "probabilities", "decided_by", "reason", "arm"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "send it along with the outcome"},
            "value": {"anyOf": [ref(f"{name}.Value"), {"type": "null", "description": "refused by a rule, see `reason`"}]},
            "probabilities": shares,
            "decided_by": {"enum": ["model", "fallback", "kill"]},
            "reason": {"type": ["string", "null"], "description": "why it was not the model"},
            "arm": {"type": "string"},
            "release": {"type": "string", "description": "who decided, where it is another release than the one for all rows"},
        },
    }


def _outcomes(name: str, endpoint: LoadedEndpoint, limits: Limits) -> Schema:
    item = {
        "type": "object",
        "required": ["id", "value"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "minLength": 1, "maxLength": 200, "description": "the prediction's"},
            "value": _truth(endpoint.signatures),
            "at": TYPES["timestamp"] | {"description": "when it was known: ISO 8601 or seconds since 1970; default now"},
        },
    }
    rows = {"type": "array", "minItems": 1, "maxItems": limits.rows, "items": item}
    asked = {"type": "object", "required": ["outcomes"], "additionalProperties": False, "properties": {"outcomes": rows}}
    shown = {"outcomes": [{"id": ID, "value": endpoint.arms[0].naive.value, "at": MOMENT}]}
    taken = msgspec.to_builtins(Taken(accepted=1, late=0, early=0, duplicate=0, conflicting=0, unknown=0))
    summary = f"Tell what became of predictions of {endpoint.arms[0].signature.target}"
    body = json_content(asked, shown)
    return operation(
        summary, "predict", json_content(ref("Taken"), taken), answers(*ALWAYS, *POSTED), body=body, operationId=f"outcomes.{name}",
        description="Idempotent: late, early, duplicate and unknown ids are taken and told apart.",
    )  # fmt: skip


def _row(loaded: LoadedRoute) -> Schema:
    """What one row may hold. A release whose files cannot be loaded takes anything: it answers naively."""
    signature = loaded.signature
    properties = {field.name: _field(field) for field in signature.fields}
    for view in signature.views:
        for key in view.entities:
            properties.setdefault(key, PLAIN | {"description": f"finds the features of the view {view.name}"})
    row: Schema = {"type": "object", "properties": properties, "examples": [example_row(loaded)]}
    if loaded.model is None:
        return row
    known = {name for view in signature.views for name in view.features} | {each.name for each in signature.derived}
    for each in signature.derived:
        kinds = dict(zip(each.inputs, each.takes, strict=False))
        for name in each.inputs:
            if name not in known:
                schema = dict(TYPES[kinds[name]]) if name in kinds else dict(PLAIN)
                properties.setdefault(name, schema | {"description": f"{each.name} is computed from it"})
        properties.setdefault(each.name, dict(TYPES[each.kind]) | {"description": "computed when absent"})
    for name in loaded.model.accepts:
        properties.setdefault(name, PLAIN | {"description": "may be sent along; the model does not use it"})
    row |= {"additionalProperties": False, "required": [field.name for field in signature.fields if field.view is None]}
    wanted = [_found(view) for view in signature.views]
    for each in signature.derived:
        given = [name for name in each.inputs if name not in known and name not in row["required"]]
        # a value that is computed comes from what the row holds besides, or is in the row itself
        wanted += [{"anyOf": [{"required": given}, {"required": [each.name]}]}] if given else []
    if wanted:
        row["allOf"] = wanted
    return row


def _found(view: ViewUse) -> Schema:
    """A view's features come by its entity, or all in the row itself."""
    return {"anyOf": [{"required": view.entities}, {"required": list(view.features)}]}


def _field(field: Field) -> Schema:
    schema = dict(TYPES[field.kind])
    told = [f"looked up in the view {field.view} when absent"] if field.view else []
    if field.minimum is not None and field.maximum is not None and field.kind != "timestamp":
        told.append(f"seen in training from {field.minimum:g} to {field.maximum:g}")
    schema["x-seen"] = {"minimum": field.minimum, "maximum": field.maximum, "missing": field.nullable}
    if told:
        schema["description"] = "; ".join(told)
    if field.examples:
        schema["examples"] = list(field.examples)
    return schema


def _value(signatures: list[Signature]) -> Schema:
    if signatures[0].task == "regression":
        return {"type": "number"}
    return {"enum": list({(type(name), name): name for signature in signatures for name in signature.classes}.values())}


def _truth(signatures: list[Signature]) -> Schema:
    """What an outcome may be: a class, where 0 and 1 stand for false and true, or a number."""
    schema = _value(signatures)
    if "enum" not in schema:
        return schema
    alike: list[Any] = list(schema["enum"])
    for name in schema["enum"]:
        if isinstance(name, bool | int | float) and name in (0, 1):
            alike += [other for other in (bool(name), int(name)) if not any(type(one) is type(other) and one == other for one in alike)]
    return {"enum": alike, "examples": list(schema["enum"])}


def _features() -> Schema:
    row = {"type": "object", "additionalProperties": PLAIN, "description": "the view's entity, its event time, and every column that it reads"}
    asked = {
        "type": "object", "required": ["rows"], "additionalProperties": False,
        "properties": {"rows": {"type": "array", "minItems": 1, "items": row}},
    }  # fmt: skip
    taken = msgspec.to_builtins(Pushed(view="weather.0123456789ab", rows=1, kept=1, late=0))
    view = {"name": "view", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}, "description": "the name of a feature view"}
    shown = {"rows": [{"origin": "JFK", "at": MOMENT, "temp": 39.0}]}
    return operation(
        "Push newest values of a feature view", "features", json_content(ref("Pushed"), taken), answers(*ALWAYS, *POSTED), parameters=[view],
        body=json_content(asked, shown), operationId="features.push", description="Online at once, and kept for the view's dataset. Idempotent.",
    )  # fmt: skip


def _own(auth: bool) -> Schema:
    ready = {
        "type": "object",
        "required": ["ready"] if auth else ["ready", "revision", "endpoints", "unavailable", "problems"],  # the rest is for those with a token
        "properties": {
            "ready": {"type": "boolean"}, "revision": {"type": "integer"}, "endpoints": {"type": "object"},
            "unavailable": {"type": "object", "additionalProperties": {"type": "string"}}, "problems": {"type": "array", "items": {"type": "string"}},
        },
    }  # fmt: skip
    live = {"type": "object", "required": ["live"], "properties": {"live": {"const": True}}}
    text = {"schema": {"type": "string"}}
    errors = answers(*ALWAYS)
    told: list[tuple[str, str, Schema]] = [
        ("/metrics", "Counters and gauges for Prometheus, summed over all workers.", {"text/plain": text}),
        ("/openapi.json", "This document.", json_content({"type": "object"})),
        ("/docs", "This document as a page.", {"text/html": text}),
    ]
    paths = {path: {"get": operation(summary, "server", said, errors)} for path, summary, said in told}
    health: Schema = {"security": []}
    errors = answers(401, 405, 429, 500)
    paths["/features/{view}"] = {"post": _features()}
    paths["/health/live"] = {"get": operation("The process runs.", "server", json_content(live, {"live": True}), errors, **health)}
    waiting = {"503": {"description": "An endpoint cannot answer; it is told which, and why.", "content": json_content(ready)}}
    paths["/health/ready"] = {"get": operation("Every endpoint can answer.", "server", json_content(ready), errors | waiting, **health)}
    return paths


def _structs(*kinds: type[msgspec.Struct]) -> Schema:
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return schemas
