"""Delimited text: finds the separator, names the line of whatever is wrong, and types the columns."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv

from kaizenml.data.intake.incoming import Piece
from kaizenml.data.kinds import check_names, with_notes
from kaizenml.data.parse import MISSING, parse
from kaizenml.data.people import detect
from kaizenml.errors import InvalidData

_SEPARATORS = ",;\t|"
_BOMS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
_UTF8_BOM = b"\xef\xbb\xbf"


def read_delimited(raw: bytes, name: str, *, separator: str | None = None) -> pa.Table:
    """Read delimited text.

    Parameters
    ----------
    raw : the file's bytes, UTF-8.
    name : the file's name, for messages.
    separator : one character; None finds out which of comma, semicolon, tab and bar it is.

    Returns
    -------
    A table of typed columns (see ``parse``), with a note on each column that was not read plainly.

    Raises
    ------
    InvalidData : wrong encoding, NUL bytes, no rows, a nameless or doubled column, a ragged line, an unclosed quote.
    """
    raw = check_text(raw, name)
    skipped = len(raw) - len(raw.lstrip(b"\r\n"))
    head_line = 1 + raw[:skipped].replace(b"\r\n", b"\n").count(b"\n")
    raw = raw[skipped:]
    if b"\n" not in raw and b"\r" not in raw:
        raw += b"\n"  # a header alone; Arrow looks for the end of its line
    separator = separator or _sniff(raw)
    header = _header(raw, name, separator)
    table = _read(raw, name, separator, header, head_line)
    if not table.num_rows:
        raise InvalidData(
            f"{name} has a header but no rows", remedy="give a file with at least one row below the header", values={"columns": header[:50]}
        )
    # where every row is one line, a note can name the line
    lines = raw.count(b"\n") + (not raw.endswith(b"\n")) if b"\n" in raw else raw.count(b"\r") + (not raw.endswith(b"\r"))
    first_line = head_line + 1 if table.num_rows == lines - 1 else None
    columns, notes = {}, {}
    for column_name, column in zip(header, table.columns, strict=True):
        parsed = parse(column, first_line=first_line, decimal_comma=separator != ",")
        columns[column_name] = parsed.column
        if parsed.note:
            notes[column_name] = parsed.note
    return with_notes(pa.table(columns), notes)


def delimited_pieces(chunks: Iterator[tuple[bytes, float]], name: str, *, separator: str | None = None) -> Iterator[Piece]:
    """Read delimited text that is too much for memory.

    Parameters
    ----------
    chunks : of whole records (see ``streams.records``), each with the share of the file that it ends at; the header comes first.

    Returns
    -------
    Pieces of text columns, to be typed together.
    """
    header: list[str] = []
    head = b""
    line = 1
    for raw, done in chunks:
        text = check_text(raw, name, first_line=line)
        if not header:
            text = text.lstrip(b"\r\n")
            separator = separator or _sniff(text)
            header = _header(text, name, separator)
            end = first_record(text)
            head = text[:end]
        else:
            text = head + text
        assert separator is not None  # sniffed with the header
        table = _read(text, name, separator, header, line - (line > 1))
        lines = raw.count(b"\n") or raw.count(b"\r")
        if table.num_rows:
            rows = table.rename_columns(header)
            plain = table.num_rows == lines - (line == 1)  # every row is one line
            yield Piece(rows, done, raw=True, first_line=line + (line == 1) if plain else None, decimal_comma=separator != ",")
        line += lines


def first_record(text: bytes) -> int:
    """Return where the first record ends: after the first end of line that is not within quotes."""
    ends = b"\n" if b"\n" in text else b"\r"
    at, quotes = 0, 0
    while True:
        end = text.find(ends, at)
        if end < 0:
            return len(text)
        quotes += text.count(b'"', at, end)
        at = end + 1
        if quotes % 2 == 0:
            return at


def check_text(raw: bytes, name: str, *, first_line: int = 1) -> bytes:
    """Return ``raw`` without a byte order mark if it is UTF-8 text, else raise InvalidData that says what it looks like and where."""
    if raw.startswith(_UTF8_BOM):
        raw = raw[3:]
    kind = what_it_is(raw)
    if kind:
        raise InvalidData(f"{name} is {kind}, not text", remedy="give it its right ending, or export it as CSV", values={"found": kind})
    encoding = next((found for mark, found in _BOMS if raw.startswith(mark)), None)
    if encoding is None and b"\0" in raw[:200] and raw[:200].count(b"\0") * 3 > len(raw[:200]):
        encoding = "UTF-16LE" if raw[1:2] == b"\0" else "UTF-16BE"
    if encoding:
        raise InvalidData(f"{name} is {encoding} text, not UTF-8", remedy=_iconv(encoding, name), values={"encoding": encoding})
    at = raw.find(b"\0")
    if at >= 0:
        line = raw.count(b"\n", 0, at) + first_line
        raise InvalidData(
            f"{name} holds a NUL byte on line {line} (byte {at})",
            remedy=f"tr -d '\\000' < {name} > clean-{name}",
            values={"line": line, "offset": at},
        )
    if not raw.isascii():
        _check_utf8(raw, name, first_line)
    return raw


def what_it_is(raw: bytes) -> str | None:
    """Return what well-known binary format the bytes begin like, or None."""
    marks = {
        b"PAR1": "a Parquet file",
        b"PK\x03\x04": "a zip archive (or an Excel workbook)",
        b"\x1f\x8b": "a gzip file",
        b"\xd0\xcf\x11\xe0": "an old Excel workbook",
        b"%PDF": "a PDF",
        b"ARROW1": "an Arrow file",
        b"\x89PNG": "a picture",
        b"\xff\xd8\xff": "a picture",
        b"SQLite format 3": "a SQLite database",
        b"\x28\xb5\x2f\xfd": "a zstd file",
        b"BZh": "a bzip2 file",
        b"\xfd7zXZ": "an xz file",
        b"\x7fELF": "a program",
        b"\x80\x04\x95": "a pickle",
        b"\x80\x05\x95": "a pickle",
    }
    return next((kind for mark, kind in marks.items() if raw.startswith(mark)), None)


def _check_utf8(raw: bytes, name: str, first_line: int) -> None:
    try:
        raw.decode("utf-8")
        return
    except UnicodeDecodeError as error:
        at = error.start
    line = raw.count(b"\n", 0, at) + first_line
    around = raw[raw.rfind(b"\n", 0, at) + 1 : at + 20].split(b"\n")[0]
    # cp1252 has letters where ISO 8859-1 has control characters, and five holes
    guess = "CP1252"
    try:
        shown = around.decode("cp1252")
        raw.decode("cp1252")
    except UnicodeDecodeError:
        guess, shown = "ISO-8859-1", around.decode("latin-1")
    shown = detect.line(shown)
    raise InvalidData(
        f"{name} is not UTF-8: byte 0x{raw[at]:02x} on line {line} (byte {at}); it looks like {guess}, where the line reads {shown[-60:]!r}",
        remedy=_iconv(guess, name),
        values={"line": line, "offset": at, "byte": raw[at], "encoding": guess},
    )


def _iconv(encoding: str, name: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {name} > utf8-{name}"


def _sniff(raw: bytes) -> str:
    """Take the separator that splits the first lines into the same number of fields, the most fields winning."""
    head = raw[: 1 << 16].decode("utf-8", errors="replace")
    lines = re.split(r"\r\n|\n|\r", re.sub(r'"(?:[^"]|"")*"', "", head))[:100]
    lines = [line for line in (lines[:-1] if len(raw) > 1 << 16 else lines) if line]

    def merit(separator: str) -> tuple[float, int]:
        counts = Counter(line.count(separator) for line in lines)
        count, times = max(counts.items(), key=lambda item: (item[1], item[0])) if counts else (0, 0)
        # one that the header lacks separates nothing
        return (0.0, 0) if not count or separator not in lines[0] else (times / len(lines), count)

    best = max(_SEPARATORS, key=merit)
    return best if merit(best) > (0.0, 0) else next((mark for mark in _SEPARATORS if lines and mark in lines[0]), ",")


def _header(raw: bytes, name: str, separator: str) -> list[str]:
    first = io.StringIO(raw[: 1 << 20].decode("utf-8", errors="replace"), newline="")
    try:
        header = next(csv.reader(first, delimiter=separator), [])
    except csv.Error as error:
        raise InvalidData(f"the header of {name} cannot be read: {error}", remedy="mend the first line", values={"line": 1}) from None
    if not header:
        raise InvalidData(f"{name} is empty", remedy="give a file with a header and rows", values={"rows": 0})
    if len(header) > 1 and all(re.fullmatch(r"[+-]?\d*\.?\d+([eE][+-]?\d+)?", field.strip()) for field in header):
        raise InvalidData(
            f"the first line of {name} holds numbers, not column names: {', '.join(header[:5])}",
            remedy="write a line with the column names above it",
            values={"line": 1, "found": header[:20]},
        )
    check_names(header)
    return header


def _read(raw: bytes, name: str, separator: str, header: list[str], head_line: int) -> pa.Table:
    quoted = b'"' in raw
    ragged: list[Any] = []

    def on_ragged(row: Any) -> str:
        ragged.append(row)
        return "skip"

    # the names come from our own reading of the header; Arrow's are placeholders, so that its types can be told for each
    places = [str(place) for place in range(len(header))]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(raw),
            read_options=pyarrow.csv.ReadOptions(column_names=places, skip_rows_after_names=1, block_size=_block_size(raw)),
            parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=quoted, invalid_row_handler=on_ragged),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()), null_values=list(MISSING), strings_can_be_null=True, quoted_strings_can_be_null=True
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return pa.table({place: pa.array([], pa.string()) for place in places})
        _find_fault(raw, name, separator, len(header), head_line)
        raise InvalidData(f"{name} cannot be read: {error}", remedy="mend the file", values={"separator": separator}) from error
    if ragged:
        _find_fault(raw, name, separator, len(header), head_line)
        row = ragged[0]
        raise InvalidData(
            f"a line of {name} has {row.actual_columns} fields, the header has {len(header)}: {detect.line(row.text, header)[:80]!r}",
            remedy="mend the line; a field that holds the separator needs quotes around it",
            values={"found": row.actual_columns, "expected": len(header), "text": detect.line(row.text, header)[:200]},
        )
    # values over several lines are right, or the work of a quote that was not closed
    if quoted and (raw.count(b'"') % 2 or table.num_rows < raw.count(b"\n") - 1):
        _find_fault(raw, name, separator, len(header), head_line)
    return table


def _block_size(raw: bytes) -> int:
    # a line must fit into a block: fall back to one block where lines are huge
    head = raw[: 1 << 22]
    return 1 << 22 if b"\n" in head or b"\r" in head else min(len(raw) + 1, (1 << 31) - 1)


def _find_fault(raw: bytes, name: str, separator: str, width: int, head_line: int) -> None:
    """Read again, slowly and strictly, and raise on the first line that is wrong."""
    text = io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8", newline="")
    reader = csv.reader(text, delimiter=separator, strict=True)
    line = head_line
    try:
        for fields in reader:
            if fields and len(fields) != width:
                raise InvalidData(
                    f"line {line} of {name} has {len(fields)} field{'s' if len(fields) != 1 else ''}, the header has {width}",
                    remedy=f"mend line {line}; a field that holds {separator!r} needs quotes around it",
                    values={"line": line, "found": len(fields), "expected": width, "text": detect.line(separator.join(fields))[:200]},
                )
            line = head_line + reader.line_num
    except csv.Error as error:
        unclosed = "unexpected end" in str(error) or "larger than" in str(error)
        what = (
            f'a quote (") opened on line {line} of {name} is never closed'
            if unclosed
            else f'line {line} of {name} has a quote (") inside a quoted field'
        )
        raise InvalidData(
            what, remedy='close it, or write a quote inside a quoted field twice ("")', values={"line": line, "reason": str(error)}
        ) from None
