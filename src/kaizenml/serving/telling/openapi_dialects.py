"""What the OpenAPI document says of the dialects: Open Inference Protocol, SageMaker, MLflow, Vertex AI."""

from __future__ import annotations

from typing import Any

import msgspec

from kaizenml.errors import KaizenError
from kaizenml.serving.dialects.call import asked
from kaizenml.serving.dialects.invocations import BODIES, Invocations
from kaizenml.serving.dialects.oip import DATATYPES, InferRequest, OpenInference
from kaizenml.serving.dialects.tensors import metadata
from kaizenml.serving.protocol import Limits
from kaizenml.serving.routing import LoadedEndpoint, LoadedRoute, Routing
from kaizenml.serving.telling.openapi_parts import (
    ALWAYS,
    ID,
    PLAIN,
    POSTED,
    TRACEPARENT,
    UNIT_HEADER,
    Schema,
    answers,
    arms_of,
    example_row,
    header,
    json_content,
    operation,
    ref,
    responses,
    tables,
)  # fmt: skip

_V2, _INVOCATIONS = "V2.", "Invocations."
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"}, "datatype": {"enum": DATATYPES}, "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array"}, "parameters": {"type": "object"},
    },
}  # fmt: skip
_VALUES = {"type": "object", "description": "what was seen"}
_TEXT = {"type": "string"}
def _asked() -> Schema:
    """The form of a request, from what decodes it."""
    _, kinds = msgspec.json.schema_components([InferRequest], ref_template="{name}")
    request: Schema = kinds["InferRequest"]
    tensor: Schema = kinds["Tensor"]
    request["properties"]["inputs"] |= {"items": tensor, "minItems": 1}
    request["properties"]["outputs"]["items"] = kinds["Wanted"]
    tensor["properties"]["datatype"] = {"enum": DATATYPES}
    tensor["properties"]["shape"] |= {"minItems": 1, "maxItems": 2, "items": {"type": "integer", "minimum": 1}}
    return request


SCHEMAS: Schema = {
    "V2.Request": _asked(),
    "V2.Error": {
        "type": "object",
        "required": ["error", "code", "values", "remedy"],
        "properties": {"error": _TEXT | {"description": "what happened, and what to do about it"}, "code": _TEXT, "values": _VALUES, "remedy": _TEXT},
    },
    "Invocations.Error": {
        "type": "object",
        "required": ["error_code", "message", "error"],
        "properties": {"error_code": _TEXT, "message": _TEXT, "error": {"$ref": "#/components/schemas/Error/properties/error"}},
    },
    "V2.Answer": {
        "type": "object",
        "required": ["model_name", "model_version", "parameters", "outputs"],
        "properties": {
            "model_name": _TEXT, "model_version": _TEXT, "id": _TEXT,
            "parameters": {"type": "object", "required": ["release", "arm", "decided_by", "hash"], "description": "lineage, and who decided"},
            "outputs": {"type": "array", "items": _TENSOR},
        },
    },
    "V2.Metadata": {
        "type": "object",
        "required": ["name", "versions", "platform", "inputs", "outputs"],
        "properties": {
            "name": _TEXT, "versions": {"type": "array", "items": _TEXT}, "platform": {"const": "kaizenml"},
            "inputs": {"type": "array", "items": _TENSOR}, "outputs": {"type": "array", "items": _TENSOR},
        },
    },
}  # fmt: skip


def responses_of_dialects() -> Schema:
    """Return the error responses in the dialects' forms."""
    v2, invocations = OpenInference(), Invocations({})
    return responses(_V2, "V2.Error", _written(v2)) | responses(_INVOCATIONS, "Invocations.Error", _written(invocations))


def of_endpoint(name: str, endpoint: LoadedEndpoint, limits: Limits) -> Schema:
    """Return the paths that an endpoint has in the dialects."""
    model, errors = f"/v2/models/{name}", answers(*ALWAYS, 503, form=_V2)
    versions = [loaded.route.release.rpartition("@")[2] for loaded in endpoint.arms]
    version = {"name": "version", "in": "path", "required": True, "description": "a release's number", "schema": {"enum": versions}}
    ready = json_content({"type": "object", "required": ["name", "ready"], "properties": {"name": _TEXT, "ready": {"const": True}}})
    described = json_content(ref("V2.Metadata"), metadata(name, endpoint))
    paths: Schema = {}
    told: list[tuple[str, str, Schema]] = [("", f"What {name} takes and gives", described), ("/ready", f"{name} can answer", ready)]
    for path, parameters, suffix in ((model, [], ""), (f"{model}/versions/{{version}}", [version], ".version")):
        for verb, summary, said in told:
            made = operation(summary, "v2", said, errors, parameters=list(parameters))
            paths[f"{path}{verb}"] = {"get": made | {"operationId": f"v2.{verb[1:] or 'metadata'}.{name}{suffix}"}}
        paths[f"{path}/infer"] = {"post": _infer(name, endpoint, parameters, suffix)}
    load = operation("Does nothing: what answers is loaded", "v2", json_content({"type": "object"}), errors | answers(413, 415, form=_V2))
    paths[f"/v2/repository/models/{name}/load"] = {"post": load}
    unload = operation("Refused: releases come and go with their rollout", "v2", {}, answers(400, *ALWAYS, 413, 415, 503, form=_V2))
    del unload["responses"]["200"]
    paths[f"/v2/repository/models/{name}/unload"] = {"post": unload}
    paths[f"/endpoints/{name}/invocations"] = {"post": _invoke(name, endpoint, limits, "named")}
    return paths


def of_server(routing: Routing, invocations: Invocations, limits: Limits) -> Schema:
    """Return the dialects' paths that name no endpoint."""
    flag = {"type": "boolean"}
    live = json_content({"type": "object", "required": ["live"], "properties": {"live": flag}}, {"live": True})
    ready = json_content({"type": "object", "required": ["ready"], "properties": {"ready": flag}}, {"ready": True})
    waiting = {"503": {"description": "An endpoint cannot answer.", "content": ready}}
    server = {"type": "object", "required": ["name", "version", "extensions"], "properties": {"extensions": {"type": "array"}}}
    entry = {"type": "object", "required": ["name", "version", "state", "reason"]}
    errors = answers(401, 405, 429, 500, form=_V2)
    health: Schema = {"security": []}
    paths: Schema = {
        "/v2": {"get": operation("What this server speaks", "v2", json_content(server), answers(*ALWAYS, form=_V2))},
        "/v2/health/live": {"get": operation("The process runs.", "v2", live, errors, **health)},
        "/v2/health/ready": {"get": operation("Every endpoint can answer.", "v2", ready, errors | waiting, **health)},
        "/v2/repository/index": {
            "post": operation("Which models there are", "v2", json_content({"type": "array", "items": entry}), answers(*ALWAYS, 413, 415, form=_V2))
        },
    }
    for path in sorted(invocations.pings):
        paths[path] = {
            "get": operation("Every endpoint can answer.", "invocations", ready, answers(401, 405, 429, 500, form=_INVOCATIONS) | waiting, **health)
        }
    name = invocations.endpoint or (next(iter(routing.endpoints)) if len(routing.endpoints) == 1 else "")
    if name in routing.endpoints:
        for number, path in enumerate(sorted(invocations.asks)):
            paths[path] = {"post": _invoke(name, routing.endpoints[name], limits, f"route{number}")}
    return paths


def _infer(name: str, endpoint: LoadedEndpoint, parameters: list[Schema], suffix: str) -> Schema:
    champion = endpoint.arms[0]
    row = example_row(champion)
    about = {tensor["name"]: tensor["datatype"] for tensor in metadata(name, endpoint)["inputs"]}
    tensors = [{"name": column, "shape": [1], "datatype": about[column], "data": [row[column]]} for column in asked(champion.signature)]
    length = header("Inference-Header-Content-Length", "length of the JSON part, where binary tensors follow it", _TEXT | {"pattern": "^[0-9]+$"})
    body = json_content(ref("V2.Request"), {"inputs": tensors}) | _BINARY
    said = json_content(ref("V2.Answer")) | _BINARY
    return operation(
        f"Predict {champion.signature.target}", "v2", said, answers(400, 409, *ALWAYS, *POSTED, form=_V2), body=body,
        parameters=[*parameters, TRACEPARENT, length], operationId=f"v2.infer.{name}{suffix}",
        description="A tensor for each column, `[rows]` or `[rows, 1]`, or one `[rows, columns]` in the metadata's order.",
    )  # fmt: skip


def _invoke(name: str, endpoint: LoadedEndpoint, limits: Limits, suffix: str) -> Schema:
    champion = endpoint.arms[0]
    signature = champion.signature
    said: Schema = {
        "type": "object",
        "required": ["predictions", "ids", "decided_by", "reason", "arm", "release", "lineage"],
        "properties": {
            "predictions": {"type": "array", "items": {"anyOf": [ref(f"{name}.Value"), {"type": "null"}]}}, "ids": {"type": "array", "items": _TEXT},
            "probabilities": {"type": "array"}, "classes": {"type": "array"}, "decided_by": {"enum": ["model", "fallback", "kill", "mixed"]},
            "reason": {"type": ["string", "null"]}, "arm": _TEXT, "release": _TEXT, "lineage": ref("Lineage"),
            "rows": {"type": "array", "items": {"type": "object", "required": ["decided_by", "reason", "release"]}},  # where rules decided
        },
    }  # fmt: skip
    shown: Schema = {"predictions": [champion.naive.value]}
    if signature.task != "regression":
        shown |= {"probabilities": [champion.naive.probabilities], "classes": signature.classes}
    shown |= {"ids": [ID], "decided_by": "model", "reason": None, "arm": champion.route.arm, "release": champion.route.release}
    shown["lineage"] = msgspec.to_builtins(champion.route.lineage)
    row = example_row(champion)
    csv = ",".join(row) + "\n" + ",".join("" if value is None else str(value) for value in row.values()) + "\n"
    body = json_content(_frames(champion, name, limits), {"dataframe_records": [row]}) | {"text/csv": {"schema": _TEXT, "example": csv}}
    body |= tables("a column for each input, as for /predict")
    variant = header("X-Amzn-SageMaker-Target-Variant", "the arm or release that is to answer", arms_of(endpoint))
    made = operation(
        f"Predict {signature.target}", "invocations", json_content(said, shown) | tables("columns, as from /predict"),
        answers(409, *ALWAYS, *POSTED, form=_INVOCATIONS), body=body,
        parameters=[TRACEPARENT, variant, UNIT_HEADER], operationId=f"invocations.{suffix}.{name}",
        description=f"Rows as objects, or as lists in this order: {', '.join(asked(signature))}. CSV with a header, or without in that order.",
    )  # fmt: skip
    variants = {"x-Amzn-Invoked-Production-Variant": {"schema": _TEXT, "required": True}}
    made["responses"]["200"]["headers"] = variants
    return made


def _frames(champion: LoadedRoute, name: str, limits: Limits) -> Schema:
    plain = {"type": "array", "items": PLAIN}
    columns = {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True}
    split = {
        "type": "object",
        "required": ["columns", "data"],
        "properties": {"columns": columns, "data": {"type": "array", "items": plain, "minItems": 1}, "index": {"type": ["array", "null"]}},
    }
    width = len(asked(champion.signature))
    row: Schema = {"anyOf": [ref(f"{name}.Row"), plain | {"minItems": width, "maxItems": width}]}
    listed = {"anyOf": [{"type": "array", "items": row, "minItems": 1, "maxItems": limits.rows}, {"type": "object", "additionalProperties": plain}]}
    beside = {"type": "object", "properties": {"unit": {"type": ["string", "integer"]}}}
    properties: dict[str, Any] = {body: split if body == "dataframe_split" else listed for body in BODIES}
    properties |= {"params": beside, "parameters": {}, "signature_name": {}}
    return {
        "type": "object", "properties": properties, "additionalProperties": False, "oneOf": [{"required": [body]} for body in BODIES],
    }  # fmt: skip


def _written(dialect: OpenInference | Invocations) -> Any:
    def write(error: KaizenError) -> Any:
        return msgspec.json.decode(dialect.explain(error))

    return write
