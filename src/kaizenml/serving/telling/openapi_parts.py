"""What the OpenAPI document is put together from: operations, contents, the error responses in a dialect's form, examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaizenml.errors import KaizenError, from_document
from kaizenml.features.signature import Field
from kaizenml.serving.dialects.tables import FORMS
from kaizenml.serving.protocol import UNIT_LONGEST
from kaizenml.serving.routing import LoadedEndpoint, LoadedRoute

Schema = dict[str, Any]
PLAIN = {"type": ["string", "number", "boolean", "null"]}
UNIT = {
    "anyOf": [{"type": "string", "minLength": 1, "maxLength": UNIT_LONGEST}, {"type": ["integer", "null"]}],
    "description": "what keeps its arm while releases compete, for example a customer",
}  # fmt: skip
MOMENT = "2026-03-01T12:30:00Z"
TYPES: dict[str, Schema] = {
    "number": {"type": ["number", "null"]},
    "integer": {"type": ["integer", "null"]},
    "boolean": {"type": ["boolean", "integer", "null"], "minimum": 0, "maximum": 1},
    "category": {"type": ["string", "null"]},
    "timestamp": {
        "anyOf": [
            {"type": "string", "format": "date-time"}, {"type": "null"},
            {"type": "number", "minimum": -62_135_596_800, "exclusiveMaximum": 253_402_300_800},
        ],
    },
}  # fmt: skip
_FALLING_BACK: dict[str, Any] = {"number": 1.5, "integer": 1, "boolean": True, "category": "text", "timestamp": MOMENT}
ID = "0123456789abcdef0123456789abcdef"
STATUSES = {
    400: "The call is wrong in itself.",
    401: "The token is missing or wrong.",
    403: "The token does not allow this.",
    404: "There is no such path, endpoint, arm or version; the nearest right name is told.",
    405: "The path is there, the method is not.",
    408: "The client took too long to send it.",
    409: "A rule refused a row, and there is no word for that here which could not be read as an answer.",
    413: "Too many bytes or rows, or nested too deep.",
    415: "The body is of another kind, or compressed.",
    422: "The body does not fit: row, field, value and remedy are told.",
    429: "Too many requests for now.",
    431: "Too many headers, or too long ones.",
    500: "A mistake of the server's.",
    503: "Not now: no release can answer, or too much is asked at once.",
    507: "The disk is full, so nothing was answered or taken.",
}
ALWAYS = (401, 403, 404, 405, 408, 429, 431, 500)
"""What any path but those of health may say."""
POSTED = (413, 415, 422, 503, 507)
"""What a path that takes a body may say beside."""
_HEADERS = {401: ("WWW-Authenticate", "Bearer"), 405: ("Allow", "POST"), 429: ("Retry-After", "1"), 503: ("Retry-After", "1")}


def answers(*statuses: int, form: str = "") -> Schema:
    """Return references to the error responses in a dialect's form."""
    return {str(status): {"$ref": f"#/components/responses/{form}{status}"} for status in sorted(statuses)}


def operation(
    summary: str, tag: str, said: Schema, errors: Schema, *, parameters: list[Schema] | None = None, body: Schema | None = None, **more: Any
) -> Schema:
    """Put an operation together.

    Parameters
    ----------
    said : content of the 200 answer, by media type.
    errors : the other responses.
    body : content of the request, by media type.
    """
    made: Schema = {"summary": summary, "tags": [tag], **more}
    if parameters:
        made["parameters"] = parameters
    if body is not None:
        made["requestBody"] = {"required": True, "content": body}
    return made | {"responses": {"200": {"description": "Answered.", "content": said}, **errors}}


def json_content(schema: Schema, example: Any = None) -> Schema:
    """Return content that is JSON of a schema."""
    return {"application/json": {"schema": schema} | ({} if example is None else {"example": example})}


def tables(description: str) -> Schema:
    """Return content that is a table: an NPY body, or an Arrow IPC stream."""
    schema = {"type": "string", "format": "binary", "description": description}
    return {form.decode(): {"schema": schema} for form in FORMS}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def header(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


TRACEPARENT = header(
    "traceparent", "W3C trace context: kept in the journal, and the parent of the span", {"type": "string"}
) | {"example": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}  # fmt: skip


UNIT_HEADER = header("x-kaizen-unit", "the key for sticky arms, for all rows of a table (JSON bodies carry their own)", {"type": "string"})


def arms_of(endpoint: LoadedEndpoint) -> Schema:
    """Return what a caller may write to choose who answers: an arm, a release, or a release's number."""
    routes = [loaded.route for loaded in endpoint.arms]
    return {"enum": list(dict.fromkeys(word for route in routes for word in (route.arm, route.release, route.release.rpartition("@")[2])))}


def example_row(loaded: LoadedRoute) -> Schema:
    """Return a row that the release takes: its first examples; what views give is left to them."""
    row = {field.name: example_value(field) for field in loaded.signature.fields if field.view is None}
    row |= {key: "text" for view in loaded.signature.views for key in view.entities if key not in row}
    known = {name for view in loaded.signature.views for name in view.features} | {each.name for each in loaded.signature.derived}
    for each in loaded.signature.derived:
        kinds = dict(zip(each.inputs, each.takes, strict=False))
        row |= {name: _FALLING_BACK[kinds.get(name, "number")] for name in each.inputs if name not in known and name not in row}
    return row


def example_value(field: Field) -> Any:
    return field.examples[0] if field.examples else _FALLING_BACK[field.kind]


def error_schema() -> Schema:
    told = "what was seen: where it applies `row`, `field`, `found`, `expected`, `nearest` (the right name most like it), `known`, `limit`"
    values = {"type": "object", "description": told}
    inner = {
        "type": "object",
        "required": ["code", "message", "values", "remedy"],
        "properties": {
            "code": {"type": "string", "description": "stable; one for each kind of error"},
            "message": {"type": "string", "description": "what happened, in one sentence"},
            "values": values,
            "remedy": {"type": "string", "description": "what to do about it"},
        },
    }
    return {"type": "object", "required": ["error"], "properties": {"error": inner}}


def responses(form: str, schema: str, write: Callable[[KaizenError], Any]) -> Schema:
    """Return the error responses in one form, each with an example."""
    made: Schema = {}
    for status, description in STATUSES.items():
        made[f"{form}{status}"] = {"description": description, "content": json_content(ref(schema), write(_example_error(status)))}
        if status in _HEADERS:
            name, value = _HEADERS[status]
            made[f"{form}{status}"]["headers"] = {name: {"schema": {"type": "string"}, "example": value}}
    return made


def _example_error(status: int) -> KaizenError:
    code, message, remedy, values = _EXAMPLES[status]
    return from_document({"code": code, "message": message, "values": values, "remedy": remedy})


_EXAMPLES: dict[int, tuple[str, str, str, Schema]] = {
    400: (
        "usage", "'shop' cannot be unloaded by a client: its releases come and go with its rollout", "kaizen rollback shop", {"endpoint": "shop"},
    ),
    401: ("unauthorized", "no token was sent", "send the header 'authorization: Bearer TOKEN'", {}),
    403: ("forbidden", "this token may not ask for predictions", "use a token with the scope 'predict'", {"scope": "predict"}),
    404: (
        "not_found", "there is no endpoint 'shp'; did you mean 'shop'?", "kaizen status", {"name": "shp", "nearest": "shop", "known": ["shop"]},
    ),
    405: ("method_not_allowed", "/predict/shop does not take GET", "POST /predict/shop", {"method": "GET", "expected": "POST"}),
    408: ("too_slow", "the request was not whole after 30 s", "send it quicker, or raise body_timeout under [serve]", {"limit_s": 30.0}),
    409: (
        "refused", "row 0 has no answer: price > 1000", "leave the row out, or ask through POST /predict/{endpoint}",
        {"row": 0, "reason": "price > 1000"},
    ),
    413: ("too_large", "10,001 rows in inputs; the limit is 10,000", "send at most 10,000 at once", {"rows": 10_001, "limit": 10_000}),
    415: (
        "unsupported_media", "'text/plain' is not understood here", "send JSON with the header 'content-type: application/json'",
        {"found": "text/plain", "expected": "application/json"},
    ),
    422: (
        "invalid_input", "inputs[0].price: 'far' is not a number", "send a number, or null when it is not known",
        {"row": 0, "field": "price", "found": "far", "expected": "a number"},
    ),
    429: ("rate_limited", "more requests than this token may send", "wait as long as Retry-After says", {"retry_after_s": 1}),
    431: ("headers_too_large", "more than 100 headers", "send fewer, or raise max_headers under [serve]", {"limit": 100}),
    500: ("error", "the server made a mistake; the request may be fine", "look at the server's log", {}),
    503: ("unavailable", "endpoint 'shop' cannot answer", "kaizen rollback shop", {"endpoint": "shop"}),
    507: ("storage_full", "the disk that holds the prediction journal is full; the request was not answered", "free some space and repeat", {}),
}  # fmt: skip
