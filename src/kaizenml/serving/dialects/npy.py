"""NPY bodies (numpy's file format), read by hand: a bounded header, plain values only, never a pickle. Hot path.

A structured array names its columns; a plain one of one or two dimensions holds them in the order of the model's metadata.
"""

from __future__ import annotations

import ast
import io
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaizenml.errors import InvalidInput
from kaizenml.features.encoding.columns import Column, Columns, time_texts
from kaizenml.serving.protocol import Limits, check_rows

_MAGIC = b"\x93NUMPY"
_HEADER_LONGEST = 1_000_000  # bytes; ten thousand columns with long names
_PLAIN = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|[US][1-9][0-9]{0,6}|M8\[(D|h|m|s|ms|us|ns)\])")
_LAST_LETTER, _SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)
_REMEDY = "send what numpy.save(file, array, allow_pickle=False) writes, of numbers, truth values, texts or times"


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    by_column: bool
    shape: tuple[int, ...]


def read(body: bytes, names: list[str], limits: Limits) -> Columns:
    """Return the rows of an NPY body.

    Parameters
    ----------
    names : the columns of an array that names none, in order.

    Raises
    ------
    InvalidInput : not NPY, objects in it, a shape that does not fit.
    TooLarge : too many rows.
    """
    header, begin = _header(body)
    rows = _rows(header, len(body) - begin, names, limits)
    values: NDArray[Any] = np.frombuffer(body, header.dtype, offset=begin)
    if header.dtype.names is not None:
        return Columns({name: _column(name, values[name]) for name in header.dtype.names})
    table = values.reshape((len(names), rows) if header.by_column else (rows, len(names)))
    return Columns({name: _column(name, table[place] if header.by_column else table[:, place]) for place, name in enumerate(names)})


def write(columns: dict[str, NDArray[Any]]) -> bytes:
    """Return an NPY body of a structured array with these columns, each with a row of values for each row."""
    kinds = [(name, values.dtype, values.shape[1:]) for name, values in columns.items()]
    table = np.empty(len(next(iter(columns.values()))), np.dtype(kinds))
    for name, values in columns.items():
        table[name] = values
    file = io.BytesIO()
    np.lib.format.write_array(file, table, allow_pickle=False)
    return file.getvalue()


def _header(body: bytes) -> tuple[_Header, int]:
    """Return what the header says, and where the values begin."""
    if body[:6] != _MAGIC or len(body) < 12 or body[6] not in (1, 2, 3):
        raise InvalidInput("the body is not NPY", remedy=_REMEDY, values={"found": repr(body[:8])})
    wide = 2 if body[6] == 1 else 4
    begin = 8 + wide
    length = int.from_bytes(body[8:begin], "little")
    if length > _HEADER_LONGEST or begin + length > len(body):
        raise InvalidInput(f"the NPY header claims {length:,} bytes", remedy=_REMEDY, values={"found": length, "limit": _HEADER_LONGEST})
    try:
        found = ast.literal_eval(body[begin : begin + length].decode("utf-8" if body[6] == 3 else "latin-1"))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise InvalidInput(f"the NPY header cannot be read: {str(error)[:100]}", remedy=_REMEDY, values={}) from None
    if not isinstance(found, dict) or set(found) != {"descr", "fortran_order", "shape"}:
        raise InvalidInput("the NPY header does not say descr, fortran_order and shape", remedy=_REMEDY, values={})
    shape = found["shape"]
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidInput(f"the NPY header has the shape {str(shape)[:100]}", remedy=_REMEDY, values={"found": str(shape)[:100]})
    return _Header(_dtype(found["descr"]), bool(found["fortran_order"]) and len(shape) == 2, shape), begin + length


def _dtype(described: Any) -> np.dtype[Any]:
    if isinstance(described, str):
        if _PLAIN.fullmatch(described):
            return np.dtype(described)
    elif isinstance(described, list) and described and all(isinstance(one, tuple) and len(one) == 2 for one in described):
        names = [name for name, _ in described]
        if all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names):
            return np.dtype([(name, _dtype(kind)) for name, kind in described if isinstance(kind, str)])
    shown = str(described)[:100]
    raise InvalidInput(f"arrays of {shown} are not taken", remedy=_REMEDY, values={"found": shown})


def _rows(header: _Header, size: int, names: list[str], limits: Limits) -> int:
    """Return the number of rows; what is claimed must be there."""
    shape, named = header.shape, header.dtype.names is not None
    width = 1 if named or len(shape) < 2 else shape[1]
    fits = len(shape) == 1 or (len(shape) == 2 and (not named or shape[1] == 1))
    if not fits or (not named and width != len(names)):
        wanted = f"[rows] with named columns, or [rows, {len(names)}]"
        what = f"the array has the shape {list(shape[:8])}; the model takes {wanted}"
        raise InvalidInput(what, remedy=f"send {wanted}", values={"found": list(shape[:8]), "expected": names[:100]})
    check_rows(shape[0], limits, "rows")
    claimed = shape[0] * width * header.dtype.itemsize
    if claimed != size:
        what = f"the array claims {claimed:,} bytes of values; the body has {size:,}"
        raise InvalidInput(what, remedy=_REMEDY, values={"found": size, "expected": claimed})
    return shape[0]


def _column(name: str, values: NDArray[Any]) -> Column:
    if values.dtype.kind == "M":
        farthest = np.datetime64("9999-12-31", "D").astype(values.dtype) if values.dtype != "M8[ns]" else None
        if farthest is not None and (np.abs(values[~np.isnat(values)].astype(np.int64)) > farthest.astype(np.int64)).any():
            raise InvalidInput(f"{name!r} holds a time beyond the year 9999", remedy="look at its unit", values={"field": name})
        return time_texts(values)
    if values.dtype.kind == "b" and (values.view(np.uint8) > 1).any():
        raise InvalidInput(f"{name!r} holds bytes as truth values that are neither 0 nor 1", remedy=_REMEDY, values={"field": name})
    if values.dtype.kind == "S":
        try:
            return [text.decode() for text in values.tolist()]
        except UnicodeDecodeError:
            raise _no_text(name) from None
    if values.dtype.kind == "U":
        letters = np.ascontiguousarray(values).view(np.dtype("u4").newbyteorder(values.dtype.byteorder))
        if ((letters > _LAST_LETTER) | ((letters >= _SURROGATES[0]) & (letters <= _SURROGATES[1]))).any():
            raise _no_text(name)
        return values.tolist()  # type: ignore[no-any-return]
    return values


def _no_text(name: str) -> InvalidInput:
    return InvalidInput(f"{name!r} holds text that is not Unicode", remedy="send UTF-8 as S, or U", values={"field": name})
