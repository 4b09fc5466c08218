"""ONNX files looked at before a library opens them: one file by itself, which says no more than it holds. Imports only the standard library.

A graph may keep its weights in other files, by a path of its own choosing; such a file is refused wherever it comes from. The
walk follows protocol buffers' wire format (https://protobuf.dev/programming-guides/encoding/) and the field numbers of
``onnx.proto``; numbers and weights are skipped over, so it costs a few microseconds for each tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kaizenml.errors import Corrupt

_DEEPEST = 64  # graphs within graphs
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTION = 7, 20, 25
# of each message, the fields that hold messages in which a tensor may be
_INSIDE: dict[str, dict[int, str]] = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_TRAINING: "training", _MODEL_FUNCTION: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_NODE_OPERATOR = 4
_EXTERNAL = 1


def read(path: Path) -> bytes:
    """Return a file's bytes, having looked through it.

    Raises
    ------
    Corrupt : it is not an ONNX model, is cut off, or keeps weights in other files.
    """
    try:
        body = path.read_bytes()
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from None
    try:
        look(body)
    except ValueError as error:
        raise _refused(path, str(error)) from None
    return body


def look(body: bytes) -> None:
    """Raise ValueError, in words that follow a file's name, unless this is a whole ONNX model that refers to no other file."""
    view = memoryview(body)
    found = {number for number, _, _ in _fields(view)}
    if 1 not in found or _MODEL_GRAPH not in found:
        raise ValueError("is not an ONNX model")
    _walk(view, "model", 0)


def may_not_end(body: bytes) -> bool:
    """Tell of a whole model whether it holds a loop, whose end may depend on what it is asked."""
    return _holds_loop(memoryview(body), "model")


def _holds_loop(view: memoryview, kind: str) -> bool:
    inside = _INSIDE[kind]
    for number, _, value in _fields(view):
        if not isinstance(value, memoryview):
            continue
        if kind == "node" and number == _NODE_OPERATOR and bytes(value) == b"Loop":
            return True
        if inside.get(number) in ("graph", "node", "attribute", "function", "training") and _holds_loop(value, inside[number]):
            return True
    return False


def _walk(view: memoryview, kind: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"nests graphs more than {_DEEPEST} deep")
    inside = _INSIDE[kind]
    for number, wire, value in _fields(view):
        if number not in inside:
            continue
        if wire != 2:
            raise ValueError("is not an ONNX model: a message is written as a number")
        assert isinstance(value, memoryview)
        if inside[number] == "tensor":
            _look_at_tensor(value)
        else:
            _walk(value, inside[number], depth + 1)


def _look_at_tensor(view: memoryview) -> None:
    for number, wire, value in _fields(view):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value == _EXTERNAL):
            where = f" ({_location(value)!r})" if wire == 2 and isinstance(value, memoryview) else ""
            raise ValueError(f"keeps its weights in another file{where}; a model is one file by itself")


def _location(view: memoryview) -> str:
    try:
        found = (bytes(value) for number, _, value in _fields(view) if number == 2 and isinstance(value, memoryview))
        return next(found, b"").decode("utf-8", "replace")[:100]
    except ValueError:
        return ""


def _fields(view: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Give (field number, wire type, value) of one message. ValueError when a length points past the end."""
    place, end = 0, len(view)
    while place < end:
        key, place = _number(view, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _number(view, place)
            yield number, wire, value
            continue
        if wire == 2:
            length, place = _number(view, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("is not an ONNX model")
        if length > end - place:
            raise ValueError(f"is cut off, or claims {length:,} bytes where {end - place:,} are")
        yield number, wire, view[place : place + length]
        place += length


def _number(view: memoryview, place: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        if place >= len(view) or shift > 63:
            raise ValueError("is not an ONNX model, or is cut off")
        byte = view[place]
        found |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return found, place
        shift += 7


def _refused(path: Path, what: str) -> Corrupt:
    return Corrupt(f"{path.name} {what}", remedy="save it again as one whole ONNX file", values={"file": str(path)})
