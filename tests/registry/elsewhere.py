"""Models as other people make them, on scikit-learn's own data, with the rows and answers that go along."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

TOML = '[project]\nname = "clinic"\n'
LOADERS = {"binary": load_breast_cancer, "multiclass": load_wine, "regression": load_diabetes}


@cache
def table(task: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return inputs, answers and column names of a real table."""
    found = LOADERS[task]()
    names = [name.replace(" ", "_").replace("/", "_") for name in found.feature_names]
    return found.data, found.target, names


def write_rows(path: Path, x: np.ndarray, names: list[str], **answers: Any) -> Path:
    """Write rows with their answers as CSV, every digit of them."""
    columns = {name: pa.array(x[:, place]) for place, name in enumerate(names)}
    pyarrow.csv.write_csv(pa.table({**columns, **{name.replace("__", ":"): pa.array(values) for name, values in answers.items()}}), path)
    return path


def answers_of(task: str, scores: np.ndarray, target: str = "y") -> dict[str, Any]:
    """Return the columns that hold what a model answered."""
    if task != "multiclass":
        return {target: scores}
    return {f"{target}__{place}": scores[:, place] for place in range(scores.shape[1])}


def dict_rows(x: np.ndarray, names: list[str]) -> list[dict[str, float]]:
    return [dict(zip(names, line, strict=True)) for line in x.tolist()]


# -- ONNX by hand: protocol buffers' wire format, so that no test needs the package that makes such files


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: bytes | int | str) -> bytes:
    """One field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    body = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(body)) + body


def tensor(name: str, values: np.ndarray) -> bytes:
    """A TensorProto of float32."""
    dims = b"".join(field(1, size) for size in values.shape)
    return dims + field(2, 1) + field(8, name) + field(9, np.ascontiguousarray(values, "<f4").tobytes())


def outside(name: str, place: str, size: int = 4) -> bytes:
    """A TensorProto whose values lie in another file."""
    entry = field(1, "location") + field(2, place)
    return field(1, size) + field(2, 1) + field(8, name) + field(13, entry) + field(14, 1)


def value_info(name: str, width: int | None, kind: int = 1) -> bytes:
    sizes = field(1, field(2, "rows")) + field(1, field(1, width) if width else field(2, "width"))
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, sizes)))


def node(kind: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    return b"".join(field(1, each) for each in inputs) + field(2, output) + field(4, kind) + b"".join(field(5, each) for each in attributes)


def linear_onnx(weights: np.ndarray, bias: np.ndarray, link: str = "", *, more: bytes = b"") -> bytes:
    """An ONNX model: ``link(x @ weights + bias)``. ``more`` goes into its graph."""
    steps = [node("MatMul", ["x", "w"], "wx"), node("Add", ["wx", "b"], "scores" if link else "out")]
    if link:
        steps.append(node(link, ["scores"], "out"))
    graph = b"".join(field(1, step) for step in steps) + field(2, "linear") + field(5, tensor("w", weights)) + field(5, tensor("b", bias))
    graph += field(11, value_info("x", len(weights))) + field(12, value_info("out", weights.shape[1])) + more
    return field(1, 8) + field(2, "by-hand") + field(7, graph) + field(8, field(1, "") + field(2, 17))
