"""What the protocol's calls do: a message in, a message out. The engine answers as always; nothing here knows of sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from kaizenml.errors import InvalidInput, TooLarge
from kaizenml.features.encoding.columns import Column
from kaizenml.serving.deciding import Answered
from kaizenml.serving.dialects import tensors
from kaizenml.serving.engine import Engine
from kaizenml.serving.grpc.messages import MESSAGES
from kaizenml.serving.protocol import Limits, PredictRequest

_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
Metadata = Mapping[str, str | bytes]


class Answer(NamedTuple):
    """What goes back. ``endpoint`` is who predicted, "" when nobody did."""

    body: bytes
    endpoint: str = ""


class Service:
    """The calls by name.

    Parameters
    ----------
    engine : answers.
    limits : how large a request may be.
    """

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self.calls: dict[str, Callable[[bytes, Metadata], Answer]] = {
            "ServerLive": self._live, "ServerReady": self._ready, "ServerMetadata": self._server, "ModelReady": self._model_ready,
            "ModelMetadata": self._model, "ModelInfer": self._infer, "RepositoryIndex": self._index, "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }  # fmt: skip

    def _live(self, _body: bytes, _headers: Metadata) -> Answer:
        return _answer("ServerLiveResponse", live=True)

    def _ready(self, _body: bytes, _headers: Metadata) -> Answer:
        return _answer("ServerReadyResponse", ready=tensors.ready(self._engine))

    def _server(self, _body: bytes, _headers: Metadata) -> Answer:
        return _answer("ServerMetadataResponse", **tensors.SERVER)

    def _model_ready(self, body: bytes, _headers: Metadata) -> Answer:
        request = self._read("ModelReadyRequest", body)
        tensors.check_version(self._engine.endpoint(request.name), request.version or None)
        return _answer("ModelReadyResponse", ready=True)

    def _model(self, body: bytes, _headers: Metadata) -> Answer:
        request = self._read("ModelMetadataRequest", body)
        endpoint = self._engine.endpoint(request.name)
        tensors.check_version(endpoint, request.version or None)
        return _answer("ModelMetadataResponse", **tensors.metadata(request.name, endpoint))

    def _index(self, body: bytes, _headers: Metadata) -> Answer:
        request = self._read("RepositoryIndexRequest", body)
        return _answer("RepositoryIndexResponse", models=list(tensors.index(self._engine, request.ready)))

    def _load(self, body: bytes, _headers: Metadata) -> Answer:
        name = self._named("RepositoryModelLoadRequest", body)
        tensors.load(self._engine, name)
        return _answer("RepositoryModelLoadResponse", model_name=name, isLoaded=True)

    def _unload(self, body: bytes, _headers: Metadata) -> Answer:
        tensors.unload(self._engine, self._named("RepositoryModelUnloadRequest", body))

    def _named(self, kind: str, body: bytes) -> str:
        request = self._read(kind, body)
        name: str = request.model_name or request.repository_name  # KServe's clients send the model's name where Triton's send the repository's
        return name

    def _infer(self, body: bytes, headers: Metadata) -> Answer:
        request = self._read("ModelInferRequest", body)
        endpoint = self._engine.endpoint(request.model_name)
        version = request.model_version or None
        tensors.check_version(endpoint, version)
        rows = tensors.table(_inputs(request), endpoint.arms[0].signature, self._limits)
        plain = PredictRequest(rows, _unit(request.parameters))
        pinned = version or _text(headers.get("x-kaizen-arm"))
        answered = self._engine.answer(endpoint, plain, None, _text(headers.get("traceparent")), pinned)
        return Answer(_written(request, answered), request.model_name)

    def _read(self, name: str, body: bytes) -> Any:
        if len(body) > self._limits.body_bytes:
            remedy = "send fewer rows at once, or raise max_body_bytes under [serve] in kaizen.toml"
            values = {"bytes": len(body), "limit": self._limits.body_bytes}
            raise TooLarge(f"the message has {len(body):,} bytes; the limit is {self._limits.body_bytes:,}", remedy=remedy, values=values)
        try:
            return MESSAGES[name].FromString(body)
        except DecodeError as error:
            remedy = "send the message of the Open Inference Protocol's specification"
            raise InvalidInput(f"this is no {name}: {error}", remedy=remedy, values={"expected": name}) from None


def _answer(kind: str, /, **fields: Any) -> Answer:
    return Answer(MESSAGES[kind](**fields).SerializeToString())


def _text(value: str | bytes | None) -> str | None:
    return value[:100] if isinstance(value, str) else None


def _unit(parameters: Any) -> str | int | None:
    if "unit" not in parameters:
        return None
    choice = parameters["unit"].WhichOneof("parameter_choice")
    unit: str | int | None = getattr(parameters["unit"], choice) if choice in ("string_param", "int64_param", "uint64_param") else None
    return unit


def _inputs(request: Any) -> list[tensors.Input]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        what = f"raw_input_contents has {len(raw)} parts for {len(request.inputs)} inputs"
        remedy = "send one part for each input, in their order, or all in contents"
        raise InvalidInput(what, remedy=remedy, values={"found": len(raw), "expected": len(request.inputs)})
    found = []
    for place, tensor in enumerate(request.inputs):
        tensors.check_type(tensor.name, tensor.datatype)
        if raw and tensor.HasField("contents"):
            what = f"{tensor.name!r} has contents, and the request raw_input_contents"
            raise InvalidInput(what, remedy="send the one or the other", values={"field": tensor.name})
        values = tensors.unpack(tensor.name, tensor.datatype, raw[place]) if raw else _contents(tensor)
        found.append(tensors.Input(tensor.name, tensor.shape, values))
    return found


def _contents(tensor: Any) -> Column:
    kept = _CONTENTS.get(tensor.datatype)
    if kept is None:
        what = f"{tensor.name!r} has the datatype {tensor.datatype}, which contents cannot hold"
        raise InvalidInput(what, remedy="send it in raw_input_contents", values={"field": tensor.name, "found": tensor.datatype})
    wrong = next((field.name for field, _ in tensor.contents.ListFields() if field.name != kept), None)
    if wrong is not None:
        what = f"{tensor.name!r} is {tensor.datatype}, and has {wrong}"
        raise InvalidInput(what, remedy=f"send {kept}", values={"field": tensor.name, "found": wrong, "expected": kept})
    values = list(getattr(tensor.contents, kept))
    return [tensors.decoded(tensor.name, value) for value in values] if kept == "bytes_contents" else values


def _written(request: Any, answered: Answered) -> bytes:
    """Answer raw where the request came raw."""
    found = tensors.outputs(answered)
    name = answered.endpoint.route.endpoint
    response = MESSAGES["ModelInferResponse"](model_name=name, model_version=tensors.version_of(answered), id=request.id)
    for key, value in tensors.told(answered).items():
        response.parameters[key].string_param = str(value)
    raw = bool(request.raw_input_contents)
    for wanted in [output.name for output in request.outputs] or found:
        kind, shape, values, _ = tensors.chosen(found, wanted)
        output = response.outputs.add(name=wanted, datatype=kind, shape=shape)
        if raw:
            response.raw_output_contents.append(tensors.pack(kind, values))
        else:
            getattr(output.contents, _CONTENTS[kind]).extend([str(value).encode() for value in values] if kind == "BYTES" else values)
    body: bytes = response.SerializeToString()
    return body
