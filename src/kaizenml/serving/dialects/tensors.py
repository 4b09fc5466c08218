"""Tensors of the Open Inference Protocol, whatever way they come: columns out of inputs, outputs out of answers. Hot path.

A model is an endpoint, its versions are the numbers of the releases that answer it. An input is a tensor for each column,
``[rows]`` or ``[rows, 1]``; a single tensor ``[rows, columns]`` is read in the order of the model's metadata. Missing is null
in JSON, NaN in numbers. Outputs: ``predict``, ``probabilities`` (rows, classes), ``id``. A row that a rule refuses is NaN or an empty
text in ``predict``; where neither can be told from an answer, who asks for ``predict`` gets an error instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from kaizenml.errors import InvalidInput, KaizenError, Refused, UsageError, not_found
from kaizenml.features.encoding.columns import Column, Columns
from kaizenml.features.signature import Field, Signature
from kaizenml.serving.deciding import Answered
from kaizenml.serving.dialects.call import asked
from kaizenml.serving.engine import Engine
from kaizenml.serving.protocol import Limits, check_rows
from kaizenml.serving.routing import LoadedEndpoint

TYPES = {
    "BOOL": np.dtype(np.bool_), "UINT8": np.dtype("<u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip
PLATFORM = "kaizenml"
SERVER = {"name": "kaizenml", "version": "2", "extensions": ["model_repository", "binary_tensor_data"]}
_KINDS = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "category": "BYTES", "timestamp": "BYTES"}
_WIDEST = 10_000  # columns of one tensor
Told = dict[str, str | int | float | bool | None]


class Input(NamedTuple):
    """A tensor with its values in row-major order."""

    name: str
    shape: Sequence[int]
    values: Column


class Output(NamedTuple):
    """A tensor of an answer, its values in row-major order."""

    datatype: str
    shape: list[int]
    values: list[Any]
    refusal: Refused | None = None
    """Why it cannot be given: a row has no answer, and its datatype no word for that."""


def table(inputs: Sequence[Input], signature: Signature, limits: Limits) -> Columns:
    """Return the rows that the tensors hold; InvalidInput and TooLarge say what does not fit."""
    fields = {field.name: field for field in signature.fields}
    columns: dict[str, Column] = {}
    count: int | None = None
    if not inputs:
        raise InvalidInput("inputs is empty", remedy="send a tensor for each column", values={"field": "inputs"})
    for tensor in inputs:
        rows, width = _size(tensor.name, tensor.shape, limits)
        if count is not None and rows != count:
            what = f"{tensor.name!r} has {rows} rows, the tensors before it {count}"
            raise InvalidInput(what, remedy="send as many values for every column", values={"field": tensor.name, "found": rows, "expected": count})
        count = rows
        if len(tensor.values) != rows * width:
            what = f"{tensor.name!r} has {len(tensor.values)} values; its shape {list(tensor.shape)} asks for {rows * width}"
            counts = {"field": tensor.name, "found": len(tensor.values), "expected": rows * width}
            raise InvalidInput(what, remedy="send as many values as the shape says", values=counts)
        names = [tensor.name] if width == 1 and (len(inputs) > 1 or tensor.name in fields) else asked(signature)
        if len(names) != width:
            what = f"{tensor.name!r} has {width} columns; the model takes {len(names)}"
            remedy = "send one tensor for each column, or all columns in the order of the model's metadata"
            raise InvalidInput(what, remedy=remedy, values={"field": tensor.name, "found": width, "expected": len(names)})
        for place, name in enumerate(names):
            if name in columns:
                raise InvalidInput(f"{name!r} comes twice", remedy="send one tensor for each column", values={"field": name})
            columns[name] = _plain(tensor.values[place::width], fields.get(name))
    return Columns(columns)


def check_type(name: str, datatype: str) -> None:
    """Raise InvalidInput when there is no such datatype."""
    if datatype != "BYTES" and datatype not in TYPES:
        remedy = f"use one of BYTES, {', '.join(TYPES)}"
        raise InvalidInput(f"{name!r} has the datatype {datatype[:40]!r}", remedy=remedy, values={"field": name, "found": datatype[:40]})


def unpack(name: str, datatype: str, part: bytes | memoryview) -> Column:
    """Return the values of a tensor from its binary form."""
    if datatype == "BYTES":
        return _texts(name, memoryview(part))
    kind = TYPES[datatype]
    if len(part) % kind.itemsize:
        what = f"{name!r} has {len(part)} binary bytes, not a multiple of {kind.itemsize}"
        raise InvalidInput(what, remedy=f"send {datatype} in little endian", values={"field": name, "found": len(part)})
    if datatype == "BOOL":  # a byte that is neither 0 nor 1 is no truth value to numpy either
        found: NDArray[Any] = np.frombuffer(part, np.uint8)
        if found.size and found.max() > 1:
            byte = int(found.max())
            raise InvalidInput(f"{name!r} holds the byte {byte} as a BOOL", remedy="send 0 or 1", values={"field": name, "found": byte})
        return found.view(np.bool_)
    return np.frombuffer(part, kind)


def pack(datatype: str, values: list[Any]) -> bytes:
    """Return the binary form of a tensor."""
    if datatype != "BYTES":
        return np.array(values, TYPES[datatype]).tobytes()
    texts = [str(value).encode() for value in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def decoded(name: str, value: bytes | memoryview) -> str:
    """Return one text of a BYTES tensor."""
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{name!r} holds text that is not UTF-8", remedy="send UTF-8", values={"field": name}) from None


def outputs(answered: Answered) -> dict[str, Output]:
    """Return all tensors of an answer by name."""
    decision, signature, count = answered.decision, answered.arm.signature, len(answered.ids)
    values: list[Any] = [prediction.value for prediction in decision.predictions]
    refusal = None
    if refused := refused_rows(answered):
        blank = blank_of(signature)
        values = [blank if value is None else value for value in values]
        if blank is None:
            refusal = no_answer(answered, refused[0], "ask for the outputs probabilities, decided_by and reason, leave the row out")
    found = {"predict": Output(answer_type(signature), [count], values, refusal)}
    if signature.task != "regression":
        none = [math.nan] * len(signature.classes)  # of a constant answer
        shares = [share for prediction in decision.predictions for share in prediction.probabilities or none]
        found["probabilities"] = Output("FP64", [count, len(signature.classes)], shares)
    found["id"] = Output("BYTES", [count], list(answered.ids))
    if decision.rows is not None:  # rules have decided row by row
        found["decided_by"] = Output("BYTES", [count], [by.decided_by for by in decision.rows])
        found["reason"] = Output("BYTES", [count], [by.reason or "" for by in decision.rows])
        found["release"] = Output("BYTES", [count], [by.release or answered.arm.route.release for by in decision.rows])
    return found


def refused_rows(answered: Answered) -> list[int]:
    """Return the places of the rows that a rule refused."""
    if answered.decision.rows is None:
        return []
    return [position for position, prediction in enumerate(answered.decision.predictions) if prediction.value is None]


def blank_of(signature: Signature) -> float | str | None:
    """Return what stands for "no answer" among a model's answers where null has no place; None: whatever it were could be read as one."""
    kind = answer_type(signature)
    if kind == "BYTES":
        return None if "" in signature.classes else ""
    return math.nan if kind == "FP64" else None


def no_answer(answered: Answered, position: int, otherwise: str) -> Refused:
    """Return the error that says of a row that it has no answer; ``otherwise``: what else can be done in this protocol."""
    assert answered.decision.rows is not None
    reason = answered.decision.rows[position].reason
    remedy = f"{otherwise}, or ask through POST /predict/{{endpoint}}, which answers null with the reason"
    return Refused(f"row {position} has no answer: {reason}", remedy=remedy, values={"row": position, "reason": reason})


def chosen(found: dict[str, Output], name: str) -> Output:
    """Return an output that is asked for; NotFound names the nearest, Refused the row that it cannot tell of."""
    if name not in found:
        raise not_found("output", name[:100], found, remedy="leave outputs out, or name one of values.known")
    refusal = found[name].refusal
    if refusal is not None:
        raise refusal
    return found[name]


def told(answered: Answered) -> Told:
    """Return what an answer says of itself: release, arm, who decided, lineage."""
    route, decision = answered.arm.route, answered.decision
    lineage = route.lineage
    found: Told = {
        "release": route.release, "arm": route.arm, "decided_by": decision.decided_by, "model": lineage.model, "data": lineage.data,
        "features": ",".join(lineage.features), "code": lineage.code or "", "hash": lineage.hash,
    }  # fmt: skip
    if decision.reason:
        found["reason"] = decision.reason
    if not answered.journaled:
        found["journaled"] = False
    return found


def version_of(answered: Answered) -> str:
    """Return the version that answered."""
    return answered.arm.route.release.rpartition("@")[2]


def metadata(name: str, endpoint: LoadedEndpoint) -> dict[str, Any]:
    """Return a model's metadata: what it takes and gives."""
    signature = endpoint.arms[0].signature
    kinds = {field.name: _KINDS[field.kind] for field in signature.fields}
    given = [{"name": "predict", "datatype": answer_type(signature), "shape": [-1]}]
    if signature.task != "regression":
        given.append({"name": "probabilities", "datatype": "FP64", "shape": [-1, len(signature.classes)]})
    return {
        "name": name,
        "versions": _versions(endpoint),
        "platform": PLATFORM,
        "inputs": [{"name": column, "datatype": kinds.get(column, "BYTES"), "shape": [-1]} for column in asked(signature)],
        "outputs": [*given, {"name": "id", "datatype": "BYTES", "shape": [-1]}],
    }


def check_version(endpoint: LoadedEndpoint, version: str | None) -> None:
    """Raise NotFound when no arm of the endpoint has this number."""
    known = _versions(endpoint)
    if version is not None and version not in known:
        raise not_found("version", version[:100], known, remedy="leave the version out, or name one of those that answer now")


def ready(engine: Engine) -> bool:
    """Tell whether every endpoint can answer."""
    return engine.routing.revision >= 0 and not engine.routing.unavailable


def index(engine: Engine, only_ready: bool = False) -> Iterator[dict[str, str]]:
    """Yield what the repository holds: a line for each release that answers, and for each endpoint that cannot."""
    for name, endpoint in engine.routing.endpoints.items():
        for version in _versions(endpoint):
            yield {"name": name, "version": version, "state": "READY", "reason": endpoint.route.killed or ""}
    for name, why in () if only_ready else engine.routing.unavailable.items():
        yield {"name": name, "version": "", "state": "UNAVAILABLE", "reason": why}


def load(engine: Engine, name: str) -> None:
    """Do nothing for what answers, for it is loaded always; raise NotFound or Unavailable for what does not."""
    engine.endpoint(name)


def unload(engine: Engine, name: str) -> NoReturn:
    """Refuse: rollouts decide what answers."""
    engine.endpoint(name)
    what = f"{name!r} cannot be unloaded by a client: its releases come and go with its rollout"
    raise UsageError(what, remedy=f"kaizen kill {name} --why TEXT, or kaizen rollback {name}", values={"endpoint": name})


def explained(error: KaizenError) -> str:
    """Say an error in one line, for protocols that know only of a text."""
    return f"{error.what}; try: {error.remedy}" if error.remedy else error.what


def _versions(endpoint: LoadedEndpoint) -> list[str]:
    return [loaded.route.release.rpartition("@")[2] for loaded in endpoint.arms]


def _size(name: str, shape: Sequence[int], limits: Limits) -> tuple[int, int]:
    if not 1 <= len(shape) <= 2 or any(size < 0 for size in shape) or (len(shape) == 2 and not 1 <= shape[1] <= _WIDEST):
        shown = list(shape[:8])
        what = f"{name!r} has the shape {shown}"
        raise InvalidInput(what, remedy="send [rows], [rows, 1] or [rows, columns]", values={"field": name, "found": shown})
    check_rows(shape[0], limits, "inputs")
    return shape[0], shape[1] if len(shape) == 2 else 1


def _texts(name: str, part: memoryview) -> list[Any]:
    found, place = [], 0
    while place < len(part):
        length = int.from_bytes(part[place : place + 4], "little")
        place += 4
        if place + length > len(part):
            what = f"the binary text of {name!r} ends in the middle of a value"
            raise InvalidInput(what, remedy="send each value as its length (4 bytes, little endian) and its bytes", values={"field": name})
        found.append(decoded(name, part[place : place + length]))
        place += length
    return found


def _plain(values: Column, field: Field | None) -> Column:
    """Return values as JSON gives them: no NaN, and truth values also where they came as 0 and 1."""
    boolean = field is not None and field.kind == "boolean"
    if isinstance(values, np.ndarray):
        return values.astype(np.bool_) if boolean and ((values == 0) | (values == 1)).all() else values
    if boolean:
        values = [bool(value) if value in (0, 1) and not isinstance(value, str) else value for value in values]
    return [None if type(value) is float and math.isnan(value) else value for value in values]


def answer_type(signature: Signature) -> str:
    """Return the datatype of a model's answers."""
    if signature.task == "regression":
        return "FP64"
    kinds = {type(value) for value in signature.classes}
    return "BOOL" if kinds == {bool} else "INT64" if kinds == {int} else "FP64" if kinds <= {int, float} else "BYTES"
