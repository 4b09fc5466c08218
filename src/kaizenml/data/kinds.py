"""Column kinds and how they are stored: whole numbers as int64, numbers as float64, instants as microseconds in UTC, the rest as it reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.dataset import Kind
from kaizenml.errors import InvalidData, nearest

STORED: dict[Kind, pa.DataType] = {
    "number": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "category": pa.string(),
    "text": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"),
}
PART = "_part"
VERSION = "_version"
SOURCE = "_source"
RESERVED = (PART, VERSION, SOURCE, "_row", "_rule", "_reason")

NO_INSTANT = "is no date or time"
TWO_INSTANTS = "can be read as day-month or month-day"
"""What a note says of a column that is text only because of some values that should have been instants."""

_NOTES = b"kaizen.notes"
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def normalise(data: Any) -> pa.Table:
    """Bring any table to the storage types.

    Parameters
    ----------
    data : an Arrow table, or anything that exports one (a pandas or Polars frame, a DuckDB relation, a record batch).

    Returns
    -------
    A table of float64, int64, bool, string and timestamp[us, UTC] columns; columns without any value keep the null type.
    NaN is a missing value. Times without a zone are taken as UTC. Nested values become their JSON text. Decimals
    become float64, dates the instant at which they begin, times of day text, durations seconds.

    Raises
    ------
    InvalidData : not a table, a nameless or doubled column, or values of a type that has no meaning here (raw bytes).
    """
    table = _as_table(data)
    check_names(table.column_names)
    notes = notes_of(table)
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        stored, note = _stored(name, column)
        columns.append(stored)
        if note:
            notes[name] = note
    return with_notes(pa.table(dict(zip(table.column_names, columns, strict=True))), notes)


def kind_of(column: pa.ChunkedArray) -> Kind | None:
    """Return the kind of a normalised column; None when it holds no value at all. Strings are told apart by how often they repeat."""
    kind = column.type
    if column.null_count == len(column):
        return None
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind):
        return "number"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_timestamp(kind):
        return "timestamp"
    return _kind_of_text(column)


def check_names(names: Iterable[str]) -> None:
    """Raise InvalidData when a column has no name, a reserved one, or one that differs from another only in case."""
    seen: dict[str, tuple[int, str]] = {}
    for place, name in enumerate(names, 1):
        if not name.strip():
            raise InvalidData(
                f"column {place} has no name", remedy="name every column in the header (pandas: to_csv(..., index=False))", values={"column": place}
            )
        if name in RESERVED:
            raise InvalidData(f"column {place} is named {name!r}, a name that is kept for kaizenml", remedy="rename it", values={"column": name})
        other = seen.setdefault(name.lower(), (place, name))
        if other[0] != place:
            what = f"columns {other[0]} and {place} are both named {name!r}"
            if other[1] != name:
                what = f"columns {other[0]} and {place}, {other[1]!r} and {name!r}, differ only in case"
            raise InvalidData(what, remedy="rename one of them", values={"columns": [other[0], place], "name": name})


def with_notes(table: pa.Table, notes: dict[str, str]) -> pa.Table:
    """Attach one sentence per column on how it was read (``{column: sentence}``)."""
    return table.replace_schema_metadata({_NOTES: json.dumps(notes)} if notes else None)


def notes_of(table: pa.Table) -> dict[str, str]:
    """Return the sentences that ``with_notes`` attached."""
    metadata = table.schema.metadata or {}
    notes: dict[str, str] = json.loads(metadata[_NOTES]) if _NOTES in metadata else {}
    return {name: note for name, note in notes.items() if name in table.column_names}


def no_column(name: str, names: Iterable[str], where: str) -> InvalidData:
    """Build the error for a column that is not there, naming the nearest one that is."""
    known = list(names)
    close = nearest(name, known)
    hint = f"; did you mean {close!r}?" if close else f"; there is {', '.join(map(repr, known[:12]))}"
    return InvalidData(
        f"{where} has no column {name!r}{hint}", remedy="name one of its columns", values={"column": name, "nearest": close, "known": known[:50]}
    )


def _as_table(data: Any) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if not hasattr(data, "__arrow_c_stream__"):
        raise InvalidData(
            f"a {type(data).__name__} is not a table",
            remedy="give an Arrow table, a pandas or Polars frame, or a file",
            values={"type": type(data).__name__},
        )
    try:
        table = pa.table(data)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidData(
            f"the {type(data).__name__} cannot be read as a table: {error}", remedy="give each column one type", values={"type": type(data).__name__}
        ) from error
    # a pandas frame's row labels are no data of its user's
    return table.select([name for name in table.column_names if not _PANDAS_INDEX.fullmatch(name)])


def _stored(name: str, column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, str | None]:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        kind = column.type
    if pa.types.is_dictionary(kind):
        return _stored(name, column.cast(kind.value_type))
    if kind in (pa.int64(), pa.bool_(), pa.string(), pa.null()):
        return column, None
    if pa.types.is_floating(kind):
        wide = column.cast(pa.float64())
        holes = pc.is_nan(wide)
        return (pc.if_else(holes, None, wide) if pc.any(holes).as_py() else wide), None
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return _stored_number(column)
    if pa.types.is_timestamp(kind):
        instants = column.cast(pa.timestamp("us", kind.tz), safe=False)
        return (instants.cast(STORED["timestamp"]) if kind.tz else pc.assume_timezone(instants, "UTC")), None
    if pa.types.is_date(kind):
        return pc.assume_timezone(column.cast(pa.timestamp("us")), "UTC"), None
    if pa.types.is_duration(kind):
        ticks = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
        return pc.divide(column.cast(pa.int64()).cast(pa.float64()), ticks), "durations, in seconds"
    if pa.types.is_nested(kind):
        texts = [None if value is None else msgspec.json.encode(value).decode() for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())]), "nested values, kept as their JSON text"
    try:
        return column.cast(pa.string()), None
    except pa.ArrowException as error:
        raise InvalidData(
            f"column {name!r} holds {kind}, which is no kind of value that a model can learn from",
            remedy="leave the column out",
            values={"column": name},
        ) from error


def _stored_number(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, str | None]:
    whole = pa.types.is_integer(column.type) or column.type.scale == 0
    if whole:
        try:
            return column.cast(pa.int64()), None
        except pa.ArrowInvalid:
            return column.cast(pa.string()), "text, because whole numbers beyond 64 bits would lose digits"
    return column.cast(pa.float64(), safe=False), None


def _kind_of_text(column: pa.ChunkedArray) -> Kind:
    """Short values that repeat are categories; long or mostly single ones are text."""
    values = len(column) - column.null_count
    distinct = pc.count_distinct(column).as_py()
    length = pc.mean(pc.utf8_length(column)).as_py()
    return "category" if length <= 60 and (distinct <= 20 or distinct * 2 <= values) else "text"
