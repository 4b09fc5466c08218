"""The Open Inference Protocol, version 2, over REST, with its binary tensors (KServe's specification). Hot path.

A model is an endpoint, its versions are the numbers of the releases that answer it. An input is a tensor for each column,
``[rows]`` or ``[rows, 1]``; a single tensor ``[rows, columns]`` is read in the order of the model's metadata. Missing is null
in JSON, NaN in numbers. Outputs: ``predict``, ``probabilities`` (rows, classes), ``id``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from kaizenml.errors import InvalidInput, KaizenError, NotFound, Refused, UsageError, not_found
from kaizenml.features.signature import Field, Signature
from kaizenml.serving.dialects.call import BINARY, JSON, Call, Reply, asked, decode, encode, unjournaled
from kaizenml.serving.engine import Answered, Engine
from kaizenml.serving.protocol import Limits, MethodNotAllowed, PredictRequest, check_rows
from kaizenml.serving.routing import LoadedEndpoint

_PATH = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer))?/?")
_REPOSITORY = re.compile(r"/v2/repository/models/(?P<name>[^/]+)/(?P<verb>load|unload)/?")
_HEADER = b"inference-header-content-length"
_FORM = '{"inputs": [{"name": "column", "shape": [1], "datatype": "FP64", "data": [1.5]}]}'
_TYPES = {
    "BOOL": np.dtype(np.bool_), "UINT8": np.dtype("<u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip
DATATYPES = ["BYTES", *_TYPES]
_KINDS = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "category": "BYTES", "timestamp": "BYTES"}
_WIDEST = 10_000  # columns of one tensor
Parameters = dict[str, str | int | float | bool | None]


class Tensor(msgspec.Struct):
    """An input as it comes."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: Parameters = {}


class Wanted(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: Parameters = {}


class InferRequest(msgspec.Struct):
    """``POST /v2/models/{name}/infer``."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: Parameters = {}
    outputs: list[Wanted] = []


class OpenInference:
    """The dialect."""

    def speaks(self, path: str) -> bool:
        return path == "/v2" or path.startswith("/v2/")

    def explain(self, error: KaizenError) -> bytes:
        return encode({"error": f"{error.what}; try: {error.remedy}", "code": error.code, "values": error.values, "remedy": error.remedy})

    def reply(self, engine: Engine, call: Call, limits: Limits) -> Reply:
        path = call.path.rstrip("/")
        if path == "/v2":
            _only(call, "GET")
            return Reply(encode({"name": "kaizenml", "version": "2", "extensions": ["model_repository", "binary_tensor_data"]}))
        if path in ("/v2/health/live", "/v2/health/ready"):
            _only(call, "GET")
            waiting = path.endswith("ready") and (engine.routing.revision < 0 or bool(engine.routing.unavailable))
            return Reply(encode({"ready": not waiting} if path.endswith("ready") else {"live": True}), status=503 if waiting else 200)
        if path == "/v2/repository/index":
            _only(call, "POST")
            return Reply(encode(list(_index(engine))))
        if found := _REPOSITORY.fullmatch(path):
            _only(call, "POST")
            return _managed(engine, found["name"], found["verb"])
        found = _PATH.fullmatch(path)
        if found is None:
            raise NotFound(f"there is no {call.path[:100]!r} here", remedy="POST /v2/models/{name}/infer", values={"path": call.path[:200]})
        endpoint = engine.endpoint(found["name"])
        if found["verb"] == "infer":
            _only(call, "POST")
            return _infer(engine, endpoint, found["version"], call, limits)
        _only(call, "GET")
        _version(endpoint, found["version"])
        if found["verb"] == "ready":
            return Reply(encode({"name": found["name"], "ready": True}))
        return Reply(encode(metadata(found["name"], endpoint)))


def metadata(name: str, endpoint: LoadedEndpoint) -> dict[str, Any]:
    """Return a model's metadata: what it takes and gives."""
    signature = endpoint.arms[0].signature
    kinds = {field.name: _KINDS[field.kind] for field in signature.fields}
    outputs = [{"name": "predict", "datatype": _answer_type(signature), "shape": [-1]}]
    if signature.task != "regression":
        outputs.append({"name": "probabilities", "datatype": "FP64", "shape": [-1, len(signature.classes)]})
    return {
        "name": name,
        "versions": [loaded.route.release.rpartition("@")[2] for loaded in endpoint.arms],
        "platform": "kaizenml",
        "inputs": [{"name": column, "datatype": kinds.get(column, "BYTES"), "shape": [-1]} for column in asked(signature)],
        "outputs": [*outputs, {"name": "id", "datatype": "BYTES", "shape": [-1]}],
    }


def _only(call: Call, method: str) -> None:
    if call.method != method and not (method == "GET" and call.method == "HEAD"):
        values = {"method": call.method, "expected": "GET, HEAD" if method == "GET" else method}
        raise MethodNotAllowed(f"{call.path[:100]} does not take {call.method}", remedy=f"{method} {call.path[:100]}", values=values)


def _version(endpoint: LoadedEndpoint, version: str | None) -> None:
    known = [loaded.route.release.rpartition("@")[2] for loaded in endpoint.arms]
    if version is not None and version not in known:
        raise not_found("version", version[:100], known, remedy="leave the version out, or name one of those that answer now")


def _index(engine: Engine) -> Iterator[dict[str, str]]:
    for name, endpoint in engine.routing.endpoints.items():
        for loaded in endpoint.arms:
            yield {"name": name, "version": loaded.route.release.rpartition("@")[2], "state": "READY", "reason": endpoint.route.killed or ""}
    for name, why in engine.routing.unavailable.items():
        yield {"name": name, "version": "", "state": "UNAVAILABLE", "reason": why}


def _managed(engine: Engine, name: str, verb: str) -> Reply:
    engine.endpoint(name)
    if verb == "load":
        return Reply(b"{}")  # what answers is loaded, always
    what = f"{name!r} cannot be unloaded by a client: its releases come and go with its rollout"
    raise UsageError(what, remedy=f"kaizen kill {name} --why TEXT, or kaizen rollback {name}", values={"endpoint": name})


def _infer(engine: Engine, endpoint: LoadedEndpoint, version: str | None, call: Call, limits: Limits) -> Reply:
    _version(endpoint, version)
    request, tail = _read(call)
    rows = _rows(request, tail, endpoint.arms[0].signature, limits)
    unit = request.parameters.get("unit")
    plain = PredictRequest(rows, unit if isinstance(unit, str | int) and not isinstance(unit, bool) else None)
    answered = engine.answer(endpoint, plain, None, call.trace, version)
    return _written(request, answered)


def _read(call: Call) -> tuple[InferRequest, memoryview]:
    declared = call.header(_HEADER)
    if declared is None:
        return decode(call.body, InferRequest, _FORM), memoryview(b"")
    if not declared.isdigit() or int(declared) > len(call.body):
        what = f"{_HEADER.decode()} is {declared!r}; the body has {len(call.body)} bytes"
        raise InvalidInput(what, remedy="send the length of the JSON part", values={"found": declared})
    length = int(declared)
    return decode(call.body[:length], InferRequest, _FORM), memoryview(call.body)[length:]


def _rows(request: InferRequest, tail: memoryview, signature: Signature, limits: Limits) -> list[dict[str, Any]]:
    fields = {field.name: field for field in signature.fields}
    columns: dict[str, list[Any]] = {}
    count: int | None = None
    if not request.inputs:
        raise InvalidInput("inputs is empty", remedy=f"send {_FORM}", values={"field": "inputs"})
    for tensor in request.inputs:
        rows, width = _shape(tensor, limits)
        if count is not None and rows != count:
            what = f"{tensor.name!r} has {rows} rows, the tensors before it {count}"
            raise InvalidInput(what, remedy="send as many values for every column", values={"field": tensor.name, "found": rows, "expected": count})
        count = rows
        values, tail = _values(tensor, tail, rows * width)
        names = [tensor.name] if width == 1 and (len(request.inputs) > 1 or tensor.name in fields) else asked(signature)
        if len(names) != width:
            what = f"{tensor.name!r} has {width} columns; the model takes {len(names)}"
            remedy = "send one tensor for each column, or all columns in the order of the model's metadata"
            raise InvalidInput(what, remedy=remedy, values={"field": tensor.name, "found": width, "expected": len(names)})
        for place, name in enumerate(names):
            if name in columns:
                raise InvalidInput(f"{name!r} comes twice", remedy="send one tensor for each column", values={"field": name})
            columns[name] = _plain(values[place::width], fields.get(name))
    if tail:
        raise InvalidInput(f"{len(tail)} bytes are left over after the last tensor", remedy="look at binary_data_size", values={"bytes": len(tail)})
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _shape(tensor: Tensor, limits: Limits) -> tuple[int, int]:
    shape = tensor.shape
    if not 1 <= len(shape) <= 2 or any(size < 0 for size in shape) or (len(shape) == 2 and not 1 <= shape[1] <= _WIDEST):
        what = f"{tensor.name!r} has the shape {shape[:8]}"
        raise InvalidInput(what, remedy="send [rows], [rows, 1] or [rows, columns]", values={"field": tensor.name, "found": shape[:8]})
    check_rows(shape[0], limits, "inputs")
    return shape[0], shape[1] if len(shape) == 2 else 1


def _values(tensor: Tensor, tail: memoryview, number: int) -> tuple[Sequence[Any], memoryview]:
    """Return a tensor's values in row-major order, and what is left of the binary part."""
    kind = tensor.datatype
    if kind != "BYTES" and kind not in _TYPES:
        remedy = f"use one of BYTES, {', '.join(_TYPES)}"
        raise InvalidInput(f"{tensor.name!r} has the datatype {kind[:40]!r}", remedy=remedy, values={"field": tensor.name, "found": kind[:40]})
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        values = list(_flat(tensor.data or []))
    else:
        if type(size) is not int or not 0 <= size <= len(tail):
            what = f"{tensor.name!r} claims {size} binary bytes; {len(tail)} are left in the body"
            raise InvalidInput(what, remedy="send binary_data_size as sent, tensors in order", values={"field": tensor.name, "found": size})
        part, tail = tail[:size], tail[size:]
        values = _texts(tensor, part) if kind == "BYTES" else _numbers(tensor, part)
    if len(values) != number:
        what = f"{tensor.name!r} has {len(values)} values; its shape {tensor.shape} asks for {number}"
        counts = {"field": tensor.name, "found": len(values), "expected": number}
        raise InvalidInput(what, remedy="send as many values as the shape says", values=counts)
    return values, tail


def _flat(data: list[Any]) -> Iterator[Any]:
    for item in data:
        if isinstance(item, list):
            if any(isinstance(inner, list) for inner in item):
                raise InvalidInput("data is nested deeper than rows of columns", remedy="send a flat list in row-major order", values={})
            yield from item
        else:
            yield item


def _numbers(tensor: Tensor, part: memoryview) -> list[Any]:
    kind = _TYPES[tensor.datatype]
    if len(part) % kind.itemsize:
        what = f"{tensor.name!r} has {len(part)} binary bytes, not a multiple of {kind.itemsize}"
        raise InvalidInput(what, remedy=f"send {tensor.datatype} in little endian", values={"field": tensor.name, "found": len(part)})
    found: list[Any] = np.frombuffer(part, kind).tolist()
    return found


def _texts(tensor: Tensor, part: memoryview) -> list[str]:
    found, place = [], 0
    while place < len(part):
        length = int.from_bytes(part[place : place + 4], "little")
        place += 4
        if place + length > len(part):
            what = f"the binary text of {tensor.name!r} ends in the middle of a value"
            raise InvalidInput(what, remedy="send each value as its length (4 bytes, little endian) and its bytes", values={"field": tensor.name})
        try:
            found.append(str(part[place : place + length], "utf-8"))
        except UnicodeDecodeError:
            raise InvalidInput(f"{tensor.name!r} holds text that is not UTF-8", remedy="send UTF-8", values={"field": tensor.name}) from None
        place += length
    return found


def _plain(values: Sequence[Any], field: Field | None) -> list[Any]:
    """Return values as JSON gives them: no NaN, and whole floats where whole numbers or truth values are asked for."""
    kind = field.kind if field else None
    if kind == "boolean":
        values = [bool(value) if value in (0, 1) and not isinstance(value, str) else value for value in values]
    return [None if type(value) is float and math.isnan(value) else value for value in values]


def _answer_type(signature: Signature) -> str:
    if signature.task == "regression":
        return "FP64"
    kinds = {type(value) for value in signature.classes}
    return "BOOL" if kinds == {bool} else "INT64" if kinds == {int} else "FP64" if kinds <= {int, float} else "BYTES"


def _written(request: InferRequest, answered: Answered) -> Reply:
    arm, decision = answered.arm, answered.decision
    signature, lineage = arm.signature, arm.route.lineage
    _check_answered(answered)
    every = bool(request.parameters.get("binary_data_output"))
    outputs: dict[str, tuple[str, list[int], list[Any]]] = {
        "predict": (_answer_type(signature), [len(answered.ids)], [prediction.value for prediction in decision.predictions])
    }
    if signature.task != "regression":
        none = [math.nan] * len(signature.classes)  # of a constant answer
        shares = [share for prediction in decision.predictions for share in prediction.probabilities or none]
        outputs["probabilities"] = ("FP64", [len(answered.ids), len(signature.classes)], shares)
    outputs["id"] = ("BYTES", [len(answered.ids)], list(answered.ids))
    if decision.rows is not None:  # rules have decided row by row
        outputs["decided_by"] = ("BYTES", [len(answered.ids)], [by.decided_by for by in decision.rows])
        outputs["reason"] = ("BYTES", [len(answered.ids)], [by.reason or "" for by in decision.rows])
        outputs["release"] = ("BYTES", [len(answered.ids)], [by.release or arm.route.release for by in decision.rows])
    chosen = request.outputs or [Wanted(name) for name in outputs]
    written, binary = [], b""
    for wanted in chosen:
        if wanted.name not in outputs:
            raise not_found("output", wanted.name[:100], outputs, remedy="leave outputs out, or name one of values.known")
        kind, shape, values = outputs[wanted.name]
        part: dict[str, Any] = {"name": wanted.name, "datatype": kind, "shape": shape}
        if bool(wanted.parameters.get("binary_data", every)):
            raw = _packed(kind, values)
            part["parameters"] = {"binary_data_size": len(raw)}
            binary += raw
        else:
            part["data"] = [str(value) for value in values] if kind == "BYTES" else values
        written.append(part)
    told: Parameters = {
        "release": arm.route.release, "arm": arm.route.arm, "decided_by": decision.decided_by, "model": lineage.model, "data": lineage.data,
        "features": ",".join(lineage.features), "code": lineage.code or "", "hash": lineage.hash,
    }  # fmt: skip
    if decision.reason:
        told["reason"] = decision.reason
    name, _, version = answered.endpoint.route.endpoint, "", arm.route.release.rpartition("@")[2]
    document: dict[str, Any] = {"model_name": name, "model_version": version, "parameters": told, "outputs": written}
    if request.id is not None:
        document["id"] = request.id
    text = encode(document)
    if not binary:
        return Reply(text, JSON, unjournaled(answered), endpoint=name, predicted=True)
    return Reply(text + binary, BINARY, ((_HEADER, b"%d" % len(text)), *unjournaled(answered)), endpoint=name, predicted=True)


def _check_answered(answered: Answered) -> None:
    """Raise Refused when a rule refused a row: a tensor has no null, and anything else would be read as an answer."""
    for position, prediction in enumerate(answered.decision.predictions):
        if prediction.value is None and answered.decision.rows is not None:
            reason = answered.decision.rows[position].reason
            raise Refused(
                f"row {position} has no answer: {reason}",
                remedy="leave the row out, or ask through POST /predict/{endpoint}, which answers null with the reason",
                values={"row": position, "reason": reason},
            )


def _packed(kind: str, values: list[Any]) -> bytes:
    if kind != "BYTES":
        return np.array(values, _TYPES[kind]).tobytes()
    texts = [str(value).encode() for value in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
