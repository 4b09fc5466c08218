"""SageMaker's, MLflow's and Vertex' ways of asking: one body, ``{"predictions": [...]}`` back. Hot path.

``/ping``, ``/invocations`` and ``/endpoints/{name}/invocations`` are SageMaker's (and MLflow's) paths; Vertex names its own by
``AIP_PREDICT_ROUTE`` and ``AIP_HEALTH_ROUTE``. Bodies: ``dataframe_split``, ``dataframe_records``, ``instances``, ``inputs``; CSV, NPY and Arrow.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kaizenml.errors import InvalidInput, KaizenError, NotFound, nearest
from kaizenml.features.signature import FieldKind, Signature
from kaizenml.serving.deciding import Answered
from kaizenml.serving.dialects import tables
from kaizenml.serving.dialects.call import Call, Reply, asked, decode, encode, unjournaled
from kaizenml.serving.engine import Engine
from kaizenml.serving.protocol import Limits, MethodNotAllowed, PredictRequest, UnsupportedMedia, check_rows

_NAMED = re.compile(r"/endpoints/(?P<name>[^/]+)/invocations/?")
_FORM = '{"dataframe_records": [{"column": value}]}, or the same as dataframe_split, instances or inputs'
BODIES = ("dataframe_split", "dataframe_records", "instances", "inputs")
_BESIDE = ("params", "parameters", "signature_name")  # sent along by clients; only a unit in them means anything here
_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
Plain = str | int | float | bool | None


class Split(msgspec.Struct):
    """A data frame as pandas writes it with ``orient="split"``."""

    columns: list[str]
    data: list[list[Plain]]
    index: list[Any] | None = None


class Invocations:
    """The dialect.

    Parameters
    ----------
    environ : where ``AIP_PREDICT_ROUTE``, ``AIP_HEALTH_ROUTE`` and ``KAIZEN_ENDPOINT`` are looked for.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.asks = {"/invocations", environ.get("AIP_PREDICT_ROUTE", "/invocations")}
        self.pings = {"/ping", environ.get("AIP_HEALTH_ROUTE", "/ping")}
        self.endpoint = environ.get("KAIZEN_ENDPOINT")

    def speaks(self, path: str) -> bool:
        return path in self.asks or path in self.pings or _NAMED.fullmatch(path) is not None

    def explain(self, error: KaizenError) -> bytes:
        return encode({"error_code": error.code.upper(), "message": f"{error.what}; try: {error.remedy}", "error": error.document()})

    def reply(self, engine: Engine, call: Call, limits: Limits) -> Reply:
        if call.path in self.pings:
            if call.method not in ("GET", "HEAD"):
                values = {"method": call.method, "expected": "GET, HEAD"}
                raise MethodNotAllowed(f"{call.path[:100]} does not take {call.method}", remedy=f"GET {call.path[:100]}", values=values)
            waiting = engine.routing.revision < 0 or bool(engine.routing.unavailable)
            return Reply(encode({"ready": not waiting}), status=503 if waiting else 200)
        if call.method != "POST":
            values = {"method": call.method, "expected": "POST"}
            raise MethodNotAllowed(f"{call.path[:100]} does not take {call.method}", remedy=f"POST {call.path[:100]}", values=values)
        found = _NAMED.fullmatch(call.path)
        name = found["name"] if found else self.endpoint or _only(engine)
        endpoint = engine.endpoint(name)
        signature = endpoint.arms[0].signature
        rows, unit = _read(call, signature, limits)
        check_rows(len(rows), limits, "rows")
        variant = call.header(b"x-amzn-sagemaker-target-variant")
        answered = engine.answer(endpoint, PredictRequest(rows, unit), None, call.trace, variant)
        return _written(name, answered, tables.form(call.headers.get(b"accept", b"")))


def _only(engine: Engine) -> str:
    names = sorted(engine.routing.endpoints)
    if len(names) != 1:
        what = f"{len(names)} endpoints answer here, and the path names none"
        raise NotFound(what, remedy="POST /endpoints/{name}/invocations, or set KAIZEN_ENDPOINT", values={"known": names[:50]})
    return names[0]


def _read(call: Call, signature: Signature, limits: Limits) -> tuple[Sequence[dict[str, Any]], str | int | None]:
    if tabular := tables.form(call.headers.get(b"content-type", b"")):
        return tables.read(tabular, call.body, signature, limits), call.header(tables.UNIT)
    kind = (call.header(b"content-type") or "application/json").partition(";")[0].strip().lower()
    if kind == "text/csv":
        return _from_csv(call.body, signature, limits), None
    if kind != "application/json" and not kind.endswith("+json"):
        expected = f"application/json, text/csv, {' or '.join(one.decode() for one in tables.FORMS)}"
        values = {"found": kind[:100], "expected": expected}
        raise UnsupportedMedia(f"{kind[:100]!r} is not understood here", remedy=f"send {expected}", values=values)
    document = decode(_without_nan(call.body), dict[str, msgspec.Raw], _FORM)
    given = [name for name in document if name in BODIES]
    for name in document:
        if name not in BODIES and name not in _BESIDE:
            close = nearest(name, BODIES)
            what = f"{name[:100]!r} is not known here" + (f"; did you mean {close!r}?" if close else "")
            raise InvalidInput(what, remedy=f"send {_FORM}", values={"field": name[:100], "nearest": close, "known": list(BODIES)})
    if len(given) != 1:
        raise InvalidInput(f"the body holds {len(given)} of {', '.join(BODIES)}, not one", remedy=f"send {_FORM}", values={"found": given})
    rows = _split(document[given[0]]) if given[0] == "dataframe_split" else _listed(document[given[0]], given[0], signature)
    return rows, _unit(document)


def _without_nan(body: bytes) -> bytes:
    """Return the body with null for each NaN: so does MLflow's client write what a data frame misses, and it is no JSON."""
    if b"NaN" not in body:
        return body
    try:
        return encode(json.loads(body, parse_constant={"NaN": None}.__getitem__))
    except (ValueError, KeyError, RecursionError, OverflowError):
        return body  # what is wrong with it is said by who reads it


def _unit(document: dict[str, msgspec.Raw]) -> str | int | None:
    for name in ("params", "parameters"):
        beside = decode(bytes(document[name]), Any, _FORM) if name in document else None
        if isinstance(beside, dict) and isinstance(beside.get("unit"), str | int) and not isinstance(beside["unit"], bool):
            unit: str | int = beside["unit"]
            return unit
    return None


def _split(raw: msgspec.Raw) -> list[dict[str, Any]]:
    frame: Split = decode(bytes(raw), Split, '{"dataframe_split": {"columns": ["column"], "data": [[value]]}}')
    if len(set(frame.columns)) < len(frame.columns):
        raise InvalidInput("a column comes twice in dataframe_split", remedy="send each column once", values={"field": "columns"})
    for position, row in enumerate(frame.data):
        if len(row) != len(frame.columns):
            what = f"data[{position}] has {len(row)} values for {len(frame.columns)} columns"
            raise InvalidInput(what, remedy="send a value for every column, null where it is not known", values={"row": position})
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.data]


def _listed(raw: msgspec.Raw, name: str, signature: Signature) -> list[dict[str, Any]]:
    """Rows as objects, as lists in the order of the signature, or as an object of columns."""
    kinds = dict[str, list[Plain]] | list[dict[str, Plain] | list[Plain]]
    found = decode(bytes(raw), kinds, f'{{"{name}": [{{"column": value}}]}}')
    if isinstance(found, dict):
        lengths = {len(values) for values in found.values()}
        if len(lengths) != 1:
            raise InvalidInput(f"the columns in {name} differ in length", remedy="send as many values for every column", values={"field": name})
        return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    return [row if isinstance(row, dict) else _positional(row, position, signature) for position, row in enumerate(found)]


def _positional(row: Sequence[Any], position: int, signature: Signature) -> dict[str, Any]:
    names = asked(signature)
    if len(row) != len(names):
        what = f"row {position} has {len(row)} values; the model takes {len(names)}"
        remedy = f"send objects, or lists in this order: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
        raise InvalidInput(what, remedy=remedy, values={"row": position, "found": len(row), "expected": names[:100]})
    return dict(zip(names, row, strict=True))


def _from_csv(body: bytes, signature: Signature, limits: Limits) -> list[dict[str, Any]]:
    """Read CSV with a header that names inputs, or without one in the order of the signature."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the CSV is not UTF-8 at byte {error.start}", remedy="send UTF-8", values={"position": error.start}) from None
    kinds: dict[str, FieldKind] = {field.name: field.kind for field in signature.fields}
    names: list[str] | None = None
    rows = []
    try:
        for line, cells in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
            if not cells:
                continue
            if names is None:
                heads = set(cells) & set(asked(signature))
                names = cells if heads and len(set(cells)) == len(cells) else asked(signature)
                if names is cells:
                    continue
            if len(cells) != len(names):
                what = f"line {line} of the CSV has {len(cells)} values for {len(names)} columns"
                raise InvalidInput(what, remedy="send a value for every column, nothing where it is not known", values={"line": line})
            rows.append({name: _cell(cell, kinds.get(name)) for name, cell in zip(names, cells, strict=True)})
            if len(rows) > limits.rows:
                break
    except csv.Error as error:
        raise InvalidInput(f"the CSV cannot be read: {error}", remedy="send RFC 4180 CSV", values={"problem": str(error)}) from None
    return rows


def _cell(cell: str, kind: FieldKind | None) -> Any:
    if cell in _MISSING:
        return None
    if kind in ("number", "integer"):
        try:
            number = float(cell)
        except ValueError:
            return cell  # the encoder says what is wrong with it
        return int(number) if kind == "integer" and number.is_integer() else number
    if kind == "boolean":
        return {"true": True, "1": True, "false": False, "0": False}.get(cell.lower(), cell)
    return cell


def _written(name: str, answered: Answered, tabular: bytes | None) -> Reply:
    arm, decision = answered.arm, answered.decision
    variant = ((b"x-amzn-invoked-production-variant", arm.route.arm.encode()),)
    if tabular is not None:
        reply = tables.written(tabular, answered)
        return reply._replace(headers=reply.headers + variant)
    document: dict[str, Any] = {"predictions": [prediction.value for prediction in decision.predictions]}
    if arm.signature.task != "regression":
        document |= {"probabilities": [prediction.probabilities for prediction in decision.predictions], "classes": arm.signature.classes}
    document |= {"ids": answered.ids, "decided_by": decision.decided_by, "reason": decision.reason, "arm": arm.route.arm}
    if decision.rows is not None:
        document["rows"] = [{"decided_by": by.decided_by, "reason": by.reason, "release": by.release or arm.route.release} for by in decision.rows]
    document |= {"release": arm.route.release, "lineage": msgspec.to_builtins(arm.route.lineage)}
    return Reply(encode(document), headers=variant + unjournaled(answered), endpoint=name, predicted=True)
