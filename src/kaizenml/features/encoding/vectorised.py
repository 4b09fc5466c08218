"""The encoder's other form: learnt on a table, then vectorised over Arrow. ``encoder.py`` states the rules; both give the same bits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.errors import InvalidData
from kaizenml.features.encoding.encoder import DAY_US, FLOAT32_MAX, HOUR_US, MAX_CATEGORICAL, EncodedColumn, Encoder
from kaizenml.features.signature import Field

MAX_LEVELS = 10_000  # rarer levels of a category count as unknown; keeps the description small
_YEAR_US = 365 * DAY_US

Float64 = npt.NDArray[np.float64]


def learn(table: pa.Table, fields: list[Field], *, accepts: Iterable[str] | None = None) -> Encoder:
    """Learn how to encode ``fields`` from the rows to train on.

    Parameters
    ----------
    table : training rows; only these, or the encoder knows the hold-out.
    fields : the inputs, in the order of the vector (parts of timestamps come last).
    accepts : further names that a request may hold without being refused; default every other column of ``table``.

    Returns
    -------
    The encoder, as JSON-able values.

    >>> table = pa.table({"size": ["M", "L", "M"], "price": [1.5, 2.0, None]})
    >>> encoder = learn(table, [Field(name="size", kind="category"), Field(name="price", kind="number")])
    >>> encode(encoder, table).tolist()
    [[0.0, 1.5], [1.0, 2.0], [0.0, nan]]
    """
    columns = [_learnt(table, field) for field in fields]
    used = {field.name for field in fields}
    others = table.column_names if accepts is None else accepts
    return Encoder(columns=columns, accepts=[name for name in dict.fromkeys(others) if name not in used])


def encode(encoder: Encoder, table: pa.Table) -> npt.NDArray[np.float32]:
    """Encode every row of a table.

    Parameters
    ----------
    encoder : as learnt.
    table : holds every column of the encoder; those of a feature view may be absent (missing).

    Returns
    -------
    float32, (rows, ``encoder.width``), C-contiguous; missing is NaN.

    Raises
    ------
    InvalidData : a column is absent or of another type than it was.
    """
    vectors = np.empty((table.num_rows, encoder.width), np.float32)
    position = 0
    for column in encoder.ordered:
        for values in _encoded(column, table):
            vectors[:, position] = values
            position += 1
    return vectors


def category_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of categories as plain text."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of times or dates as int64 microseconds since 1970 UTC (naive times are UTC)."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    return column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())


def _learnt(table: pa.Table, field: Field) -> EncodedColumn:
    column = _column(table, field.name, field.kind)
    if field.kind == "category":
        counted = pc.value_counts(category_text(column).combine_chunks())
        counts = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
        # ties by name, so that the same rows in another order give the same encoder
        levels = [level for level, _ in sorted(((v, n) for v, n in counts if v is not None), key=lambda item: (-item[1], item[0]))]
        return EncodedColumn(
            name=field.name, kind=field.kind, view=field.view, levels=levels[:MAX_LEVELS], categorical=0 < len(levels) <= MAX_CATEGORICAL
        )
    if field.kind == "timestamp":
        bounds = pc.min_max(microseconds(column))
        first, last = bounds["min"].as_py(), bounds["max"].as_py()
        return EncodedColumn(name=field.name, kind=field.kind, view=field.view, yearday=first is not None and last - first >= _YEAR_US)
    return EncodedColumn(name=field.name, kind=field.kind, view=field.view)


def _encoded(column: EncodedColumn, table: pa.Table) -> list[Float64]:
    if column.view is not None and column.name not in table.column_names:
        return [np.full(table.num_rows, np.nan)] * len(column.outputs)
    values = _column(table, column.name, column.kind)
    if column.kind == "timestamp":
        return _calendar(microseconds(values), column.yearday)
    if column.kind == "category":
        levels = pa.array(column.levels, pa.string())
        return [_floats(pc.index_in(category_text(values), value_set=levels))]
    if column.kind == "boolean" and not pa.types.is_boolean(values.type):
        return [_floats(values) + 0.0]
    if pa.types.is_boolean(values.type):
        return [_floats(values.cast(pa.uint8()))]
    return [_floats(values) + 0.0 if column.kind == "integer" else _floats(values)]


def _floats(values: pa.ChunkedArray) -> Float64:
    """Return float64 as the row form gives it: missing and infinite are NaN, too large for float32 is clamped."""
    if pa.types.is_integer(values.type) and values.type.bit_width <= 32 and values.null_count == 0:
        return np.asarray(values.to_numpy(), np.float64)
    floats: Float64 = np.array(values.cast(pa.float64(), safe=False).to_numpy(), np.float64)  # null becomes NaN; a copy, to write to
    floats[np.isinf(floats)] = np.nan
    return np.clip(floats, -FLOAT32_MAX, FLOAT32_MAX, out=floats)


def _calendar(times: pa.ChunkedArray, yearday: bool) -> list[Float64]:
    missing = np.asarray(times.is_null().to_numpy(), bool)
    us = np.asarray(times.fill_null(0).to_numpy(), np.int64)
    day, rest = np.divmod(us, DAY_US)
    parts: list[Float64] = [rest / HOUR_US, ((day + 3) % 7).astype(np.float64)]
    if yearday:
        date = day.astype("datetime64[D]")
        parts.append((date - date.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.float64) + 1.0)
    if missing.any():
        for part in parts:
            part[missing] = np.nan
    return parts


_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_dictionary)
_NUMBERS = (pa.types.is_integer, pa.types.is_floating)
_FITS = {
    "number": (*_NUMBERS, pa.types.is_decimal),
    "integer": _NUMBERS,
    "boolean": (pa.types.is_boolean, *_NUMBERS),
    "category": _TEXT,
    "timestamp": (pa.types.is_timestamp, pa.types.is_date),
}


def _column(table: pa.Table, name: str, kind: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise InvalidData(f"the table lacks the column {name!r}", remedy="take a version of the dataset that has it", values={"column": name})
    column = table.column(name)
    if pa.types.is_null(column.type):
        return column.cast({"category": pa.string(), "timestamp": pa.timestamp("us")}.get(kind, pa.float64()))
    if not any(fits(column.type) for fits in _FITS[kind]):
        raise InvalidData(
            f"the column {name!r} holds {column.type}, not what the kind {kind!r} needs",
            remedy=f"kaizen data show, then mend the source or the kind of {name!r} in the contract",
            values={"column": name, "found": str(column.type), "expected": kind},
        )
    return column
