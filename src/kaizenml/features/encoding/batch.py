"""The encoder's pass over many rows of a request at once, column by column: bit for bit what ``compile_row`` gives for each.

Rows of one request mostly hold the same plain types. Where a column does, its values are taken over in one call in C;
where it does not, one by one. Rows that came as columns need not be made rows first, and arrays are taken over as they are.
Whatever is wrong is explained by the pass over one row. Hot path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaizenml.features.encoding.columns import Columns
from kaizenml.features.encoding.encoder import FLOAT32_MAX, EncodedColumn, Encoder, RowEncoder, compile_column, fetcher

_NAN = math.nan
Values = Sequence[Any] | NDArray[Any]
Row = Mapping[str, Any]


def compile_rows(
    encoder: Encoder, encode: RowEncoder, dtype: type[np.float32] | type[np.float64] = np.float32
) -> Callable[[Sequence[Row]], NDArray[np.floating[Any]]]:
    """Compile the pass over many rows.

    Parameters
    ----------
    encoder : the description.
    encode : the same, compiled for one row (``compile_row``).
    dtype : of the vectors; float64 for models that were trained on such, elsewhere.

    Returns
    -------
    A function from rows to vectors, (rows, width). It raises InvalidInput as ``encode`` does.

    >>> from kaizenml.features.encoding.encoder import compile_row
    >>> encoder = Encoder(columns=[EncodedColumn(name="price", kind="number")])
    >>> compile_rows(encoder, compile_row(encoder))([{"price": 3}, {"price": None}]).tolist()
    [[3.0], [nan]]
    """
    columns = encoder.ordered
    names = [column.name for column in columns]
    fetch = fetcher(names)
    known = frozenset(names).union(encoder.accepts)
    width = encoder.width
    steps: list[tuple[Callable[[Values], Any], int, int]] = []
    for column in columns:
        begin = steps[-1][2] if steps else 0
        steps.append((_stepped(column), begin, begin + len(column.outputs)))

    def split(rows: Sequence[Row]) -> Iterable[Values]:
        """Return the inputs' columns; KeyError when one is absent, ValueError when there is one too many."""
        held = rows.columns if isinstance(rows, Columns) else None
        if not known.issuperset(set().union(*rows) if held is None else held):
            raise ValueError
        return zip(*map(fetch, rows), strict=True) if held is None else [held[name] for name in names]

    def one_by_one(rows: Sequence[Row]) -> NDArray[np.floating[Any]]:
        vectors: NDArray[np.floating[Any]] = np.array([encode(row, position) for position, row in enumerate(rows)], dtype)
        return vectors.reshape(len(rows), width)

    def encode_rows(rows: Sequence[Row]) -> NDArray[np.floating[Any]]:
        if not rows or not steps:
            return one_by_one(rows)
        parts = np.empty((width, len(rows)))
        try:
            for (step, begin, end), values in zip(steps, split(rows), strict=True):
                if end - begin == 1:
                    parts[begin] = step(values)
                else:
                    parts[begin:end] = step(values)
        except Exception:  # whatever it is, the pass over one row says which row and value
            return one_by_one(rows)
        if (np.abs(parts) > FLOAT32_MAX).any():  # to be clamped, or infinite
            return one_by_one(rows)
        return np.ascontiguousarray(parts.T, dtype)

    return encode_rows


def _stepped(column: EncodedColumn) -> Callable[[Values], Any]:
    listed, array = _step(column), _ARRAYS.get(column.kind)

    def stepped(values: Values) -> Any:
        if not isinstance(values, np.ndarray):
            return listed(values)
        taken = array(values) if array is not None else None
        return listed(values.tolist()) if taken is None else taken

    return stepped


def _whole(values: NDArray[Any]) -> NDArray[Any] | None:
    if values.dtype.kind == "f":
        return values + 0.0 if (np.isnan(values) | (np.floor(values) == values)).all() else None  # whole numbers have no -0
    return values if values.dtype.kind in "iu" else None


def _truth(values: NDArray[Any]) -> NDArray[Any] | None:
    if values.dtype.kind in "iuf" and (np.isnan(values) | (values == 0) | (values == 1)).all():
        return values + 0.0
    return values if values.dtype.kind == "b" else None


_ARRAYS: dict[str, Callable[[NDArray[Any]], NDArray[Any] | None]] = {
    "number": lambda values: values if values.dtype.kind in "iuf" else None, "integer": _whole, "boolean": _truth,
}  # fmt: skip
"""By kind, what takes an array over as it is; None: its values have to be looked at one by one."""


def _step(column: EncodedColumn) -> Callable[[Values], Any]:
    if column.kind == "timestamp":
        return _calendars(column)
    if column.kind == "category":
        return _mapped(column, {level: float(code) for code, level in enumerate(column.levels)}, {str})
    if column.kind == "boolean":
        return _mapped(column, {False: 0.0, True: 1.0}, {bool})
    return _numbers(column, {int} if column.kind == "integer" else {int, float})


def _numbers(column: EncodedColumn, plain: set[type]) -> Callable[[Values], Any]:
    single = compile_column(column)

    def numbers(values: Values) -> Any:
        kinds = set(map(type, values))
        if kinds <= plain:
            return values
        kinds.discard(type(None))
        if kinds <= plain:
            return [_NAN if value is None else value for value in values]
        return list(map(single, values))

    return numbers


class _Codes(dict[Any, float]):
    """Value -> number; NaN for every other value."""

    def __missing__(self, _: Any) -> float:
        return _NAN


def _mapped(column: EncodedColumn, numbers: dict[Any, float], plain: set[type]) -> Callable[[Values], Any]:
    single = compile_column(column)
    take = _Codes(numbers).__getitem__
    plain = plain | {type(None)}

    def mapped(values: Values) -> Any:
        return list(map(take if plain.issuperset(map(type, values)) else single, values))

    return mapped


def _calendars(column: EncodedColumn) -> Callable[[Values], Any]:
    single = compile_column(column)

    def calendars(values: Values) -> Any:
        if {str, type(None)}.issuperset(map(type, values)):  # other types may be equal and yet not alike: 1 and True
            parts = {value: single(value) for value in set(values)}
            return list(zip(*[parts[value] for value in values], strict=True))
        return list(zip(*map(single, values), strict=True))

    return calendars
