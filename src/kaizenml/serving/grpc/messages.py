"""The messages of the protocol, made from the table below when the server starts: no generated code that a protobuf could be too new for.

Names and numbers are those of the published specification (package ``inference``), so any client made from it understands them.
The repository's messages are Triton's; KServe's clients number two fields otherwise, which ``RepositoryModelLoad`` allows for.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_MESSAGES: dict[str, list[str]] = {
    "ServerLiveRequest": [],
    "ServerLiveResponse": ["bool live = 1"],
    "ServerReadyRequest": [],
    "ServerReadyResponse": ["bool ready = 1"],
    "ModelReadyRequest": ["string name = 1", "string version = 2"],
    "ModelReadyResponse": ["bool ready = 1"],
    "ServerMetadataRequest": [],
    "ServerMetadataResponse": ["string name = 1", "string version = 2", "repeated string extensions = 3"],
    "ModelMetadataRequest": ["string name = 1", "string version = 2"],
    "ModelMetadataResponse.TensorMetadata": ["string name = 1", "string datatype = 2", "repeated int64 shape = 3"],
    "ModelMetadataResponse": [
        "string name = 1", "repeated string versions = 2", "string platform = 3",
        "repeated ModelMetadataResponse.TensorMetadata inputs = 4", "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    ],
    # the value of a parameter: one of these
    "InferParameter": [
        "choice bool bool_param = 1", "choice int64 int64_param = 2", "choice string string_param = 3", "choice double double_param = 4",
        "choice uint64 uint64_param = 5",
    ],
    # the values of a tensor, flat and row by row; FP16 has no list here and comes raw
    "InferTensorContents": [
        "repeated bool bool_contents = 1", "repeated int32 int_contents = 2", "repeated int64 int64_contents = 3",
        "repeated uint32 uint_contents = 4", "repeated uint64 uint64_contents = 5", "repeated float fp32_contents = 6",
        "repeated double fp64_contents = 7", "repeated bytes bytes_contents = 8",
    ],
    "ModelInferRequest.InferInputTensor": [
        "string name = 1", "string datatype = 2", "repeated int64 shape = 3", "map InferParameter parameters = 4", "InferTensorContents contents = 5",
    ],
    "ModelInferRequest.InferRequestedOutputTensor": ["string name = 1", "map InferParameter parameters = 2"],
    "ModelInferRequest": [
        "string model_name = 1", "string model_version = 2", "string id = 3", "map InferParameter parameters = 4",
        "repeated ModelInferRequest.InferInputTensor inputs = 5", "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6",
        "repeated bytes raw_input_contents = 7",
    ],
    "ModelInferResponse.InferOutputTensor": [
        "string name = 1", "string datatype = 2", "repeated int64 shape = 3", "map InferParameter parameters = 4", "InferTensorContents contents = 5",
    ],
    "ModelInferResponse": [
        "string model_name = 1", "string model_version = 2", "string id = 3", "map InferParameter parameters = 4",
        "repeated ModelInferResponse.InferOutputTensor outputs = 5", "repeated bytes raw_output_contents = 6",
    ],
    "RepositoryIndexRequest": ["string repository_name = 1", "bool ready = 2"],
    "RepositoryIndexResponse.ModelIndex": ["string name = 1", "string version = 2", "string state = 3", "string reason = 4"],
    "RepositoryIndexResponse": ["repeated RepositoryIndexResponse.ModelIndex models = 1"],
    "RepositoryModelLoadRequest": ["string repository_name = 1", "string model_name = 2"],
    "RepositoryModelLoadResponse": ["string model_name = 1", "bool isLoaded = 2"],
    "RepositoryModelUnloadRequest": ["string repository_name = 1", "string model_name = 2"],
    "RepositoryModelUnloadResponse": ["string model_name = 1", "bool isUnloaded = 2"],
}  # fmt: skip

_Field = descriptor_pb2.FieldDescriptorProto


def _described() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="kaizenml/open_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in sorted(_MESSAGES.items(), key=lambda item: item[0].count(".")):  # the outer ones before what they hold
        outer, _, inner = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
        for text in fields:
            _add(made[name], name, text)
    return file


def _add(message: Any, path: str, text: str) -> None:
    words, _, number = text.partition(" = ")
    *label, kind, name = words.split()
    many = label in (["repeated"], ["map"])
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL)
    if label == ["map"]:  # a map is a list of entries, each a message of a key and a value
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add(entry, path, "string key = 1")
        _add(entry, path, f"{kind} value = 2")
        kind = f"{path}.{entry.name}"
    if label == ["choice"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")


# a pool of its own: a process may hold a client's messages of the same names
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_described())
MESSAGES: dict[str, Any] = {
    name: message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES if "." not in name
}
"""Message classes by name."""
