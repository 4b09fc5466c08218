"""From text to typed columns: whole numbers, numbers, booleans and instants are recognised; what would lose something stays text."""

from __future__ import annotations

import re
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.dataset import Kind
from kaizenml.data.kinds import NO_INSTANT, STORED, TWO_INSTANTS, notes_of, with_notes

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "NaN", "nan")
"""Spellings of a missing value in any column."""

MISSING_AMONG_VALUES = ("None", "none", "NONE", "?", "-", "--", ".", "Null", "na", "N.A.", "missing")
"""Spellings that mean missing only where all the rest are numbers, booleans or instants."""

_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_INFINITE = r"[+-]?(inf|Inf|INF|infinity|Infinity)"
_CODE = r"^[+-]?0[0-9xX]"  # 007 is a name, not a number
_COMMA = r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?$"
_BOOLEAN = r"true|false|True|False|TRUE|FALSE"
_CLOCK = r"\d{1,2}:\d{2}(:\d{2}(\.\d{1,9})?)?"
_ISO = r"\d{4}-\d{2}-\d{2}([T ]\d{2}(:?\d{2}(:?\d{2}(\.\d{1,9})?)?)?)?"
_ZONE = r" ?(Z|UTC|[+-]\d{2}:?\d{2}|[+-]\d{2})"

_DATES = (  # (shape, formats that can be meant)
    (r"\d{1,2}/\d{1,2}/\d{4}", ("%d/%m/%Y", "%m/%d/%Y")),
    (r"\d{1,2}-\d{1,2}-\d{4}", ("%d-%m-%Y", "%m-%d-%Y")),
    (r"\d{1,2}\.\d{1,2}\.\d{4}", ("%d.%m.%Y",)),
    (r"\d{4}/\d{1,2}/\d{1,2}", ("%Y/%m/%d",)),
    (r"\d{1,2}[ -][A-Z][a-z]{2}[ -]\d{4}", ("%d-%b-%Y",)),
    (r"[A-Z][a-z]{2} \d{1,2},? \d{4}", ("%b-%d-%Y",)),
)
_TIMES = ((r"", ""), (r"[ T]\d{1,2}:\d{2}", " %H:%M"), (r"[ T]\d{1,2}:\d{2}:\d{2}", " %H:%M:%S"), (r" \d{1,2}:\d{2} ?[AaPp][Mm]", " %I:%M%p"))

_LOOKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("number", re.compile(f"({_NUMBER}|{_INFINITE})")),
    ("boolean", re.compile(_BOOLEAN)),
    ("timestamp", re.compile(f"({_ISO}({_ZONE})?|({'|'.join(shape for shape, _ in _DATES)})([ T]{_CLOCK}( ?[AaPp][Mm])?)?)")),
)


class Parsed(NamedTuple):
    """A column as it was understood; ``note`` says why when that is not plain."""

    column: pa.ChunkedArray
    note: str | None = None


def parse(column: pa.ChunkedArray, *, first_line: int | None = None, decimal_comma: bool = False) -> Parsed:
    """Give a column of strings the type that all of its values share.

    Parameters
    ----------
    column : strings, missing values already null.
    first_line : line of the first value in the file, to name lines in the note; None when rows are not lines.
    decimal_comma : whether ``1,5`` can be a number (files whose fields are not separated by commas).

    Returns
    -------
    int64, float64, bool or timestamp[us, UTC]; else the strings as they are, with a note when most values would have been
    something else. Codes with leading zeros and whole numbers beyond 64 bits stay text. Yes and no, 0 and 1 stay
    what they are: an answer is given in the words of the data.
    """
    sample = [value for value in column.slice(0, 2000).to_pylist() if value is not None][:1000]
    if not sample:
        sample = column.drop_null().slice(0, 1000).to_pylist()
    if not sample:
        return Parsed(pa.chunked_array([pa.nulls(len(column))]))
    plain = [value.strip() for value in sample if value.strip() not in MISSING_AMONG_VALUES]
    if decimal_comma and plain and all(re.fullmatch(_COMMA[1:-1], value) for value in plain) and any("," in value for value in plain):
        return _commas(column)
    for kind, look in _LOOKS:
        share = sum(look.fullmatch(value) is not None for value in plain) / max(len(plain), 1)
        if share >= 0.5:
            parsed = _as_numbers(column) if kind == "number" else parse_as(column, "boolean" if kind == "boolean" else "timestamp")
            return parsed if not isinstance(parsed, pa.ChunkedArray) else _all_or_text(column, parsed, kind, first_line)
    return Parsed(column)


def with_dates(table: pa.Table, *, first_line: int | None = None) -> pa.Table:
    """Read the strings of a typed file as instants where all of a column are dates or times; other strings are meant as such.

    Parameters
    ----------
    table : normalised rows.
    first_line : as for ``parse``.

    Returns
    -------
    The table, with a note on each column that stays text though most of its values are dates.
    """
    notes = notes_of(table)
    for place, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        if pa.types.is_string(column.type) and name not in notes:
            parsed = parse_dates(column, first_line=first_line)
            if parsed.note:
                notes[name] = parsed.note
            if not pa.types.is_string(parsed.column.type):
                table = table.set_column(place, name, parsed.column)
    return with_notes(table, notes)


def parse_dates(column: pa.ChunkedArray, *, first_line: int | None = None) -> Parsed:
    """Read strings as instants if all of them are; else leave them, with a note when most are."""
    if not _mostly_dates(column):
        return Parsed(column)
    present = pc.if_else(pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(MISSING)), None, column)
    parsed = _all_or_text(present, parse_as(present, "timestamp"), "timestamp", first_line)
    return Parsed(column, parsed.note) if pa.types.is_string(parsed.column.type) else parsed


def _mostly_dates(column: pa.ChunkedArray) -> bool:
    sample = column.slice(0, 2000).drop_null().to_pylist()[:1000] or column.drop_null().slice(0, 1000).to_pylist()
    look = dict(_LOOKS)["timestamp"]
    return bool(sample) and sum(look.fullmatch(value.strip()) is not None for value in sample) >= 0.5 * len(sample)


def parse_as(column: pa.ChunkedArray, kind: Kind) -> pa.ChunkedArray:
    """Read strings as ``kind``; what cannot be read becomes null."""
    target = STORED[kind]
    if pa.types.is_string(target):
        return column
    if kind == "timestamp":
        return _instants(column)
    try:
        # Arrow also takes 0x1f for a whole number and 1 for true; the masks below decide those
        if kind == "number" or (kind == "integer" and not _any(pc.match_substring_regex(column, "[xX]"))):
            return column.cast(target)
    except pa.ArrowInvalid:
        pass
    clean = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), r"^\+", "")
    shapes = {"number": f"^({_NUMBER}|{_INFINITE})$", "integer": r"^-?\d{1,18}(\.0*)?$", "boolean": f"^({_BOOLEAN}|0|1)$"}
    fits = pc.match_substring_regex(clean, shapes[kind])
    kept = pc.if_else(fits, clean, None)
    if kind == "integer":
        kept = pc.replace_substring_regex(kept, r"\.0*$", "")
    return pc.utf8_lower(kept).cast(target) if kind == "boolean" else kept.cast(target)


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray | Parsed:
    codes = pc.match_substring_regex(_starting_with_zero(column), _CODE)
    if _any(codes):
        return Parsed(column, "text, because leading zeros make it a code")
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        pass
    numbers = parse_as(column, "number")
    if _any(pc.match_substring_regex(column, r"^[+-]?\d{19,}$")):
        return Parsed(column, "text, because whole numbers beyond 64 bits would lose digits")
    clean = pc.utf8_trim_whitespace(column)
    if numbers.null_count > column.null_count or not _any(pc.match_substring_regex(clean, r"[.eEfF]")):
        whole = parse_as(column, "integer")
        if whole.null_count == numbers.null_count and not _any(pc.match_substring_regex(clean, r"\d\.")):
            return whole
    return numbers


def _starting_with_zero(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Keep the few values that could be codes, so that the regular expression runs over those only."""
    start = pc.utf8_slice_codeunits(column, 0, 1)
    return column.filter(pc.is_in(start, value_set=pa.array(["0", "-", "+", " "])))


def _all_or_text(column: pa.ChunkedArray, parsed: pa.ChunkedArray, kind: str, first_line: int | None) -> Parsed:
    if parsed.null_count == column.null_count:
        return Parsed(parsed)
    lost = pc.and_(pc.is_null(parsed), pc.is_valid(column))
    strangers = pc.and_(lost, pc.invert(pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(MISSING_AMONG_VALUES))))
    if not _any(strangers):
        spellings = pc.unique(column.filter(lost)).to_pylist()
        return Parsed(parsed, f"missing where it says {', '.join(map(repr, spellings[:3]))}")
    at = pc.index(strangers, True).as_py()
    count, values = pc.sum(strangers).as_py(), len(column) - column.null_count
    where = f"on line {first_line + at}" if first_line is not None else f"in row {at + 1}"
    if kind == "timestamp" and count == values:
        return Parsed(column, f"text, because {column[at].as_py()!r} {where} {TWO_INSTANTS}")
    verdict = {"number": "is no number", "boolean": "is no boolean", "timestamp": NO_INSTANT}[kind]
    more = "nor is 1 other" if count == 2 else f"nor are {count - 1:,} others"
    others = f"{more} of {values:,} values" if count > 1 else f"the other {values - 1:,} values are"
    return Parsed(column, f"text, because {column[at].as_py()!r} {where} {verdict}; {others}")


def _commas(column: pa.ChunkedArray) -> Parsed:
    fits = pc.match_substring_regex(pc.utf8_trim_whitespace(column), _COMMA)
    lost = pc.and_(pc.invert(fits), pc.invert(pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(MISSING_AMONG_VALUES))))
    if _any(lost):
        return Parsed(column, f"text, because {column[pc.index(lost, True).as_py()].as_py()!r} is no number with a decimal comma")
    points = pc.replace_substring(pc.replace_substring(pc.utf8_trim_whitespace(column), ".", ""), ",", ".")
    return Parsed(parse_as(pc.if_else(fits, points, None), "number"), "numbers with a decimal comma")


def _instants(column: pa.ChunkedArray) -> pa.ChunkedArray:
    for target in (pa.timestamp("us"), STORED["timestamp"]):
        try:
            found = column.cast(target)
            return found if target.tz else pc.assume_timezone(found, "UTC")
        except pa.ArrowInvalid:
            continue
    clean = pc.utf8_trim_whitespace(column)
    # beyond microseconds is cut; a zone is written the one way that Arrow reads
    clean = pc.replace_substring_regex(clean, r"(:\d{2}\.\d{6})\d+", r"\1")
    clean = pc.replace_substring_regex(clean, r" ?(UTC|Z)$", "Z")
    clean = pc.replace_substring_regex(clean, r"(\d{2}:\d{2}(:\d{2}(\.\d+)?)?) ([+-]\d{2})", r"\1\4")
    parts = []
    zoned = pc.match_substring_regex(clean, f"^{_ISO}{_ZONE}$")
    if _any(zoned):
        parts.append(_cast_or_null(pc.if_else(zoned, clean, None), STORED["timestamp"]))
    naive = pc.match_substring_regex(clean, f"^{_ISO}$")
    if _any(naive):
        parts.append(pc.assume_timezone(_cast_or_null(pc.if_else(naive, clean, None), pa.timestamp("us")), "UTC"))
    parts += [found for shape, formats in _DATES if (found := _written(clean, shape, formats)) is not None]
    return pc.coalesce(*parts) if parts else pa.chunked_array([pa.nulls(len(column), STORED["timestamp"])])


def _cast_or_null(column: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    try:
        return column.cast(target)
    except pa.ArrowInvalid:  # the shape of a date without being one: the 30th of February
        return pa.chunked_array([pa.array([_one(value, target) for value in column.to_pylist()], target)])


def _one(value: str | None, target: pa.DataType) -> pa.Scalar | None:
    try:
        return None if value is None else pa.scalar(value, pa.string()).cast(target).as_py()
    except pa.ArrowInvalid:
        return None


def _written(column: pa.ChunkedArray, shape: str, formats: tuple[str, ...]) -> pa.ChunkedArray | None:
    """Read one shape of date. Where day and month could be swapped, one reading must fit all values and the other not."""
    mine = pc.match_substring_regex(column, f"^{shape}([ T]{_CLOCK}( ?[AaPp][Mm])?)?$")
    if not _any(mine):
        return None
    dates = pc.if_else(mine, column, None)
    readings = [reading for form in formats if (reading := _read(dates, shape, form)).null_count == dates.null_count]
    if len(readings) == 2 and not readings[0].equals(readings[1]):
        return pa.chunked_array([pa.nulls(len(column), STORED["timestamp"])])
    return readings[0] if readings else _read(dates, shape, formats[0])


def _read(dates: pa.ChunkedArray, shape: str, form: str) -> pa.ChunkedArray:
    found = []
    for clock, clock_form in _TIMES:
        fits = pc.match_substring_regex(dates, f"^{shape}{clock}$")
        if not _any(fits):
            continue
        text = pc.if_else(fits, dates, None)
        if "%b" in form:
            text = pc.replace_substring_regex(text, r"^(\w+)[ -](\w+),?[ -](\d{4})", r"\1-\2-\3")
        text = pc.replace_substring_regex(pc.replace_substring_regex(text, r"T(\d)", r" \1"), r" ([AaPp][Mm])$", r"\1")
        read = pc.strptime(text, format=form + clock_form, unit="us", error_is_null=True)
        # strptime turns the 31st of February into the 3rd of March
        number = pc.replace_substring_regex(text, _day_of(form), r"\1").cast(pa.int64()) if "%b" not in form else pc.day(read)
        found.append(pc.assume_timezone(pc.if_else(pc.equal(pc.day(read), number), read, None), "UTC"))
    return pc.coalesce(*found) if found else pa.chunked_array([pa.nulls(len(dates), STORED["timestamp"])])


def _day_of(form: str) -> str:
    place = [piece for piece in re.split(r"[/.-]", form)].index("%d")
    return "^" + "".join((r"(\d+)" if at == place else r"\d+") + (r"[/.-]" if at < 2 else "") for at in range(3)) + ".*$"


def _any(mask: pa.ChunkedArray) -> bool:
    return bool(pc.any(mask).as_py())
