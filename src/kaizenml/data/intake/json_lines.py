"""JSON lines, and JSON arrays of objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.json

from kaizenml.data.intake.delimited import check_text
from kaizenml.data.intake.incoming import Piece
from kaizenml.data.kinds import check_names, normalise, with_notes
from kaizenml.data.parse import with_dates
from kaizenml.data.people import detect
from kaizenml.errors import InvalidData

_HUGE = re.compile(rb"[:\s]-?\d{19,}\s*[,}]")


def read_json(raw: bytes, name: str, *, first_line: int = 1, dates: bool = True) -> pa.Table:
    """Read one JSON object per line, or an array of objects.

    Numbers and booleans are what they are; strings become instants when all of a column are dates, and stay text otherwise.

    Parameters
    ----------
    first_line : number of the first line, for messages.
    dates : False leaves strings as they are; the pieces of a file are typed together.

    Raises
    ------
    InvalidData : not UTF-8, a line that is no JSON or no object (with its number), no rows.
    """
    raw = check_text(raw, name, first_line=first_line)
    if raw.lstrip()[:1] == b"[":
        table = _from_rows(_array(raw, name), first_line=None)
    else:
        table = _fast(raw)
        if table is None:
            rows = _lines(raw, name, first_line)
            table = _from_rows(rows, _first_line(raw, len(rows), first_line))
    if not table.num_rows or not table.num_columns:
        raise InvalidData(f"{name} holds no rows", remedy="give a file with one JSON object per line", values={"rows": 0})
    check_names(table.column_names)
    return with_dates(normalise(table), first_line=_first_line(raw, table.num_rows, first_line)) if dates else normalise(table)


def json_pieces(chunks: Iterator[tuple[bytes, float]], name: str) -> Iterator[Piece]:
    """Read JSON lines that are too many for memory; ``chunks`` are whole lines, each with the share of the file that it ends at."""
    line = 1
    for raw, done in chunks:
        if raw.strip():
            rows = read_json(raw, name, first_line=line, dates=False)
            yield Piece(rows, done, first_line=_first_line(raw, rows.num_rows, line), sparse=True)
        line += raw.count(b"\n")


def _first_line(raw: bytes, rows: int, first_line: int) -> int | None:
    """Return the line of the first row where every row is one line, so that a note can name the line."""
    return first_line if rows == raw.count(b"\n") + (not raw.endswith(b"\n")) else None


def _fast(raw: bytes) -> pa.Table | None:
    """Let Arrow read it; None when it cannot, or would round a whole number."""
    if _HUGE.search(raw):
        return None
    try:
        # strings are told to stay strings: Arrow would turn some into times without a zone
        block = pyarrow.json.ReadOptions(block_size=min(len(raw) + 1, (1 << 31) - 1))
        table = pyarrow.json.read_json(pa.BufferReader(raw), read_options=block)
        fields = [pa.field(field.name, pa.string()) for field in table.schema if pa.types.is_timestamp(field.type)]
        if fields:
            options = pyarrow.json.ParseOptions(explicit_schema=pa.schema(fields))
            table = pyarrow.json.read_json(pa.BufferReader(raw), read_options=block, parse_options=options).select(table.column_names)
        return table
    except pa.ArrowException:
        return None


def _array(raw: bytes, name: str) -> list[dict[str, Any]]:
    try:
        rows = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise InvalidData(
            f"{name} is not JSON: {error}", remedy="mend the file, or write one object per line", values={"reason": str(error)}
        ) from None
    for place, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InvalidData(
                f"element {place} of {name} is {_word(row)}, not an object",
                remedy='write objects: {"column": value, ...}',
                values={"element": place},
            )
    return list(rows)


def _lines(raw: bytes, name: str, first_line: int) -> list[dict[str, Any]]:
    decode = msgspec.json.Decoder().decode
    rows = []
    for number, line in enumerate(raw.split(b"\n"), first_line):
        if not line.strip():
            continue
        try:
            row = decode(line)
        except msgspec.DecodeError as error:
            text = line.decode("utf-8", errors="replace")
            shown = detect.line(text, re.findall(r'"([^"]{1,60})"\s*:', text))[:80]
            raise InvalidData(
                f"line {number} of {name} is not JSON: {str(error)[0].lower()}{str(error)[1:]}: {shown!r}",
                remedy=f"mend line {number}: one JSON object per line",
                values={"line": number, "text": shown},
            ) from None
        if not isinstance(row, dict):
            raise InvalidData(
                f"line {number} of {name} is {_word(row)}, not an object",
                remedy='write one object per line: {"column": value, ...}',
                values={"line": number},
            )
        rows.append(row)
    return rows


def _from_rows(rows: list[dict[str, Any]], first_line: int | None) -> pa.Table:
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    check_names(names)
    columns, notes = {}, {}
    for column in names:
        values = [row.get(column) for row in rows]
        columns[column], note = _column(values, first_line)
        if note:
            notes[column] = note
    return with_notes(pa.table(columns), notes) if columns else pa.table({})


def _column(values: list[Any], first_line: int | None) -> tuple[pa.Array, str | None]:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} or kinds <= {bool} or kinds <= {str}:
        try:
            return pa.array(values), None
        except (pa.ArrowInvalid, OverflowError):
            return pa.array(
                [None if value is None else str(value) for value in values]
            ), "text, because whole numbers beyond 64 bits would lose digits"
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64()), None
    texts = pa.array([None if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in values])
    if kinds <= {dict, list}:
        return texts, "nested values, kept as their JSON text"
    first = next(type(value) for value in values if value is not None)
    at = next(place for place, value in enumerate(values) if value is not None and type(value) is not first)
    where = f"on line {first_line + at}" if first_line is not None else f"in row {at + 1}"
    return texts, f"text, because {values[at]!r} {where} is {_word(values[at])}, unlike the values before it"


def _word(value: Any) -> str:
    words = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return words.get(type(value), type(value).__name__)
