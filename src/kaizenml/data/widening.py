"""The types of columns whose rows come in pieces: what the first pieces look like holds until a later one says otherwise."""

from __future__ import annotations

import re
from collections.abc import Set

import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.intake.incoming import Piece
from kaizenml.data.kinds import TWO_INSTANTS, notes_of, with_notes
from kaizenml.data.parse import MISSING_AMONG_VALUES, Parsed, parse, parse_dates

_DAY_FIRST = r"^ *(1[3-9]|2\d|3\d)[/-]\d{1,2}[/-]\d{4}"
_MONTH_FIRST = r"^ *\d{1,2}[/-](1[3-9]|2\d|3\d)[/-]\d{4}"


class Widening:
    """What the columns of a source have turned out to hold. Once all pieces were seen, reading them again gives every column one type."""

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}
        self.notes: dict[str, str] = {}
        self._witnesses: dict[str, list[str]] = {}  # dates that tell day-month from month-day, for all pieces
        self._open: set[str] = set()  # dates of which no piece yet told which they are

    def read(self, piece: Piece, *, as_text: Set[str]) -> tuple[pa.Table, set[str]]:
        """Give a piece's columns their types.

        Parameters
        ----------
        piece : the next one; in columns of text that is typed, only dates are looked for.
        as_text : columns that are text whatever they look like.

        Returns
        -------
        The piece's rows, and the columns of which earlier pieces would now be read otherwise.
        """
        rows = piece.rows
        widened: set[str] = set()
        columns: dict[str, pa.ChunkedArray] = {}
        self.notes |= {name: note for name, note in notes_of(rows).items() if name not in self.notes}
        for name, column in zip(rows.column_names, rows.columns, strict=True):
            if name in as_text and pa.types.is_string(column.type):
                columns[name] = column
                continue
            parsed = self._parsed(name, column, piece)
            before = self.types.get(name)
            if before is None and parsed.note and parsed.note.endswith(TWO_INSTANTS):
                self._open.add(name)
                self.notes.setdefault(name, parsed.note)
                columns[name] = parsed.column
                continue
            now = _wider(before, parsed.column.type)
            if (before is not None and now != before) or (name in self._open and not pa.types.is_string(now) and not pa.types.is_null(now)):
                widened.add(name)
                self._open.discard(name)
                self.notes.pop(name, None)
            if not pa.types.is_null(now):
                self.types[name] = now
            if parsed.note:
                # what was counted was counted in this piece
                self.notes.setdefault(name, parsed.note.partition("; ")[0])
            columns[name] = _conform(column, parsed.column, now)
        return pa.table(columns), widened

    def with_notes(self, rows: pa.Table) -> pa.Table:
        """Attach what was noted so far."""
        return with_notes(rows, {name: note for name, note in self.notes.items() if name in rows.column_names})

    def _parsed(self, name: str, column: pa.ChunkedArray, piece: Piece) -> Parsed:
        known = self.types.get(name)
        if column.null_count == len(column):
            return Parsed(pa.chunked_array([pa.nulls(len(column))]))
        if not pa.types.is_string(column.type) or (known is not None and pa.types.is_string(known)):
            return Parsed(column)
        witnesses = self._witnesses.setdefault(name, [])
        for shape in (_DAY_FIRST, _MONTH_FIRST):
            if len(witnesses) < 2 and not any(re.match(shape, witness) for witness in witnesses):
                place = pc.index(pc.match_substring_regex(column, shape), True).as_py()
                witnesses += [column[place].as_py()] if place >= 0 else []
        given = pa.chunked_array([*column.chunks, pa.array(witnesses, pa.string())]) if witnesses else column
        if piece.raw:
            parsed = parse(given, first_line=piece.first_line, decimal_comma=piece.decimal_comma)
        else:
            parsed = parse_dates(given, first_line=piece.first_line)
        found = parsed.column.slice(0, len(column))
        if pa.types.is_string(found.type) and known is not None and not pa.types.is_string(known):
            different = pc.unique(found.drop_null())
            if len(different) <= len(MISSING_AMONG_VALUES) and pc.all(pc.is_in(different, value_set=pa.array(MISSING_AMONG_VALUES))).as_py():
                return Parsed(pa.chunked_array([pa.nulls(len(column))]))  # missing, among values that came before
        return Parsed(found, parsed.note)


def _wider(before: pa.DataType | None, now: pa.DataType) -> pa.DataType:
    if before is None or pa.types.is_null(before) or before == now:
        return now
    if pa.types.is_null(now):
        return before
    return pa.float64() if {before, now} == {pa.int64(), pa.float64()} else pa.string()


def _conform(given: pa.ChunkedArray, parsed: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    if parsed.type == target or pa.types.is_null(parsed.type):
        return parsed
    if pa.types.is_string(target):
        return given if pa.types.is_string(given.type) else given.cast(target)
    return parsed.cast(target, safe=False)
