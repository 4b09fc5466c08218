"""The Open Inference Protocol, version 2, over REST, with its binary tensors (KServe's specification). Hot path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from kaizenml.errors import InvalidInput, KaizenError, NotFound
from kaizenml.features.encoding.columns import Column, Columns
from kaizenml.features.signature import Signature
from kaizenml.serving.deciding import Answered
from kaizenml.serving.dialects import tensors
from kaizenml.serving.dialects.call import BINARY, JSON, Call, Reply, decode, encode, unjournaled
from kaizenml.serving.engine import Engine
from kaizenml.serving.protocol import Limits, MethodNotAllowed, PredictRequest
from kaizenml.serving.routing import LoadedEndpoint

_PATH = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer))?/?")
_REPOSITORY = re.compile(r"/v2/repository/models/(?P<name>[^/]+)/(?P<verb>load|unload)/?")
_HEADER = b"inference-header-content-length"
_FORM = '{"inputs": [{"name": "column", "shape": [1], "datatype": "FP64", "data": [1.5]}]}'
Parameters = tensors.Told
DATATYPES = ["BYTES", *tensors.TYPES]


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


class IndexRequest(msgspec.Struct):
    """``POST /v2/repository/index``."""

    ready: bool = False


class OpenInference:
    """The dialect."""

    def speaks(self, path: str) -> bool:
        return path == "/v2" or path.startswith("/v2/")

    def explain(self, error: KaizenError) -> bytes:
        return encode({"error": tensors.explained(error), "code": error.code, "values": error.values, "remedy": error.remedy})

    def reply(self, engine: Engine, call: Call, limits: Limits) -> Reply:
        path = call.path.rstrip("/")
        if path == "/v2":
            _only(call, "GET")
            return Reply(encode(tensors.SERVER))
        if path == "/v2/health/live":
            _only(call, "GET")
            return Reply(encode({"live": True}))
        if path == "/v2/health/ready":
            _only(call, "GET")
            ready = tensors.ready(engine)
            return Reply(encode({"live": True, "ready": ready}), status=200 if ready else 503)  # the specification's answer says live
        if path == "/v2/repository/index":
            _only(call, "POST")
            wanted: IndexRequest = decode(call.body, IndexRequest, '{"ready": true}') if call.body.strip() else IndexRequest()
            return Reply(encode(list(tensors.index(engine, wanted.ready))))
        if found := _REPOSITORY.fullmatch(path):
            _only(call, "POST")
            (tensors.load if found["verb"] == "load" else tensors.unload)(engine, found["name"])
            return Reply(b"{}")
        found = _PATH.fullmatch(path)
        if found is None:
            raise NotFound(f"there is no {call.path[:100]!r} here", remedy="POST /v2/models/{name}/infer", values={"path": call.path[:200]})
        endpoint = engine.endpoint(found["name"])
        if found["verb"] == "infer":
            _only(call, "POST")
            return _infer(engine, endpoint, found["version"], call, limits)
        _only(call, "GET")
        tensors.check_version(endpoint, found["version"])
        if found["verb"] == "ready":
            return Reply(encode({"name": found["name"], "ready": True}))
        return Reply(encode(tensors.metadata(found["name"], endpoint)))


def _only(call: Call, method: str) -> None:
    if call.method != method and not (method == "GET" and call.method == "HEAD"):
        values = {"method": call.method, "expected": "GET, HEAD" if method == "GET" else method}
        raise MethodNotAllowed(f"{call.path[:100]} does not take {call.method}", remedy=f"{method} {call.path[:100]}", values=values)


def _infer(engine: Engine, endpoint: LoadedEndpoint, version: str | None, call: Call, limits: Limits) -> Reply:
    tensors.check_version(endpoint, version)
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


def _rows(request: InferRequest, tail: memoryview, signature: Signature, limits: Limits) -> Columns:
    inputs = []
    for tensor in request.inputs:
        values, tail = _values(tensor, tail)
        inputs.append(tensors.Input(tensor.name, tensor.shape, values))
    rows = tensors.table(inputs, signature, limits)
    if tail:
        raise InvalidInput(f"{len(tail)} bytes are left over after the last tensor", remedy="look at binary_data_size", values={"bytes": len(tail)})
    return rows


def _values(tensor: Tensor, tail: memoryview) -> tuple[Column, memoryview]:
    """Return a tensor's values in row-major order, and what is left of the binary part."""
    tensors.check_type(tensor.name, tensor.datatype)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return list(_flat(tensor.data or [])), tail
    if type(size) is not int or not 0 <= size <= len(tail):
        what = f"{tensor.name!r} claims {size} binary bytes; {len(tail)} are left in the body"
        raise InvalidInput(what, remedy="send binary_data_size as sent, tensors in order", values={"field": tensor.name, "found": size})
    return tensors.unpack(tensor.name, tensor.datatype, tail[:size]), tail[size:]


def _flat(data: list[Any]) -> Iterator[Any]:
    for item in data:
        if isinstance(item, list):
            if any(isinstance(inner, list) for inner in item):
                raise InvalidInput("data is nested deeper than rows of columns", remedy="send a flat list in row-major order", values={})
            yield from item
        else:
            yield item


def _written(request: InferRequest, answered: Answered) -> Reply:
    every = bool(request.parameters.get("binary_data_output"))
    found = tensors.outputs(answered)
    written, binary = [], []
    for wanted in request.outputs or [Wanted(name) for name in found]:
        kind, shape, values, _ = tensors.chosen(found, wanted.name)
        part: dict[str, Any] = {"name": wanted.name, "datatype": kind, "shape": shape}
        if bool(wanted.parameters.get("binary_data", every)):
            raw = tensors.pack(kind, values)
            part["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            part["data"] = [str(value) for value in values] if kind == "BYTES" else values
        written.append(part)
    name = answered.endpoint.route.endpoint
    document: dict[str, Any] = {
        "model_name": name, "model_version": tensors.version_of(answered), "parameters": tensors.told(answered), "outputs": written,
    }  # fmt: skip
    if request.id is not None:
        document["id"] = request.id
    text = encode(document)
    if not binary:
        return Reply(text, JSON, unjournaled(answered), endpoint=name, predicted=True)
    headers = ((_HEADER, b"%d" % len(text)), *unjournaled(answered))
    return Reply(text + b"".join(binary), BINARY, headers, endpoint=name, predicted=True)
