"""Files of any size as pieces: small ones are read at once, large ones some dozens of megabytes at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.parquet

from kaizenml.data.intake import sources
from kaizenml.data.intake.delimited import delimited_pieces
from kaizenml.data.intake.incoming import Piece
from kaizenml.data.intake.json_lines import json_pieces
from kaizenml.data.intake.streams import CODECS, WHOLE_BYTES, Bytes, Located, reachable, records
from kaizenml.data.kinds import normalise
from kaizenml.errors import InvalidData, KaizenError, TooLarge

_PIECE_BYTES = 32 << 20
_MOST_WHOLE = 4 << 30  # of formats that can only be read at once


def pieces_of(at: Located, sheet: str | None = None) -> Iterator[Piece]:
    """Read a file; of a workbook, this sheet.

    Raises
    ------
    NotFound, InvalidData, Unavailable : as ``sources.load``, or the file cannot be reached.
    """
    suffixes = [suffix.lower() for suffix in PurePath(at.name).suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in (*CODECS, ".zip") else None
    ending = suffixes[-1] if suffixes else ""
    whole = packed == ".zip" or at.size <= WHOLE_BYTES // (16 if packed else 1) or ending not in sources.ENDINGS
    if at.filesystem is None and (sheet is not None or whole):
        yield Piece(sources.load(Path(at.path), sheet))
    elif packed is None and ending in sources.PARQUET:
        yield from _parquet(at)
    elif packed is None and ending in sources.ARROW:
        yield from _arrow(at)
    else:
        yield from _bytes(at, packed, ending, sheet)


def _bytes(at: Located, packed: str | None, ending: str, sheet: str | None) -> Iterator[Piece]:
    if packed == ".zip":
        what = f"{at.shown} is a zip archive, which is read on this machine only"
        raise InvalidData(what, remedy="pack it with gzip or zstd", values={"file": at.shown})
    with closing(Bytes(at, CODECS[packed] if packed else None)) as stream:
        streamed = ending in sources.SEPARATOR or ending in sources.JSON
        head = stream.read((WHOLE_BYTES if streamed else _MOST_WHOLE) + 1)
        shown = at.name.removesuffix(packed or "")
        array = ending in sources.JSON and head.lstrip()[:1] == b"["
        if array and len(head) > WHOLE_BYTES:
            head += stream.read(_MOST_WHOLE)
        if len(head) <= (WHOLE_BYTES if streamed and not array else _MOST_WHOLE):
            yield Piece(sources.table_of(head, shown, ending, at.shown, sheet))
        elif not streamed or array:
            remedy = "write it as Parquet, CSV, or JSON with one object per line: these are read in pieces"
            raise TooLarge(f"{at.shown} is larger than {_MOST_WHOLE >> 30} GiB and can only be read at once", remedy=remedy)
        else:
            chunks = records(head, stream, at.shown, quotes=ending in sources.SEPARATOR)
            yield from json_pieces(chunks, shown) if ending in sources.JSON else delimited_pieces(chunks, shown, separator=sources.SEPARATOR[ending])


def _parquet(at: Located) -> Iterator[Piece]:
    with closing(at.open()) as opened, _sound(at, "Parquet"):
        file = pyarrow.parquet.ParquetFile(opened)
        total = file.metadata.num_rows
        size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
        rows = max(min(int(total * _PIECE_BYTES / max(size, 1)), 1 << 20), 1 << 13)
        read = 0
        for batch in file.iter_batches(rows):
            read += batch.num_rows
            yield Piece(normalise(pa.Table.from_batches([batch])), read / max(total, 1))


def _arrow(at: Located) -> Iterator[Piece]:
    with closing(at.open()) as opened, _sound(at, "Arrow"):
        try:
            file = pa.ipc.open_file(opened)
            batches = (file.get_batch(place) for place in range(file.num_record_batches))
        except pa.ArrowInvalid:
            opened.seek(0)
            batches = iter(pa.ipc.open_stream(opened))
        for group in grouped(batches):
            yield Piece(normalise(pa.Table.from_batches(group)), opened.tell() / max(at.size, 1))


def grouped(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Put record batches together, and cut large ones, to pieces of some dozens of megabytes."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        step = max(int(batch.num_rows * _PIECE_BYTES / max(batch.nbytes, 1)), 1)
        for start in range(0, batch.num_rows, step):
            held.append(batch.slice(start, step))
            if sum(one.nbytes for one in held) >= _PIECE_BYTES:
                yield held
                held = []
    if held:
        yield held


class _sound:  # noqa: N801  (a context manager that reads as one)
    """Tell a damaged file as such."""

    def __init__(self, at: Located, what: str) -> None:
        self._at, self._what = at, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pa.ArrowException) and not isinstance(error, KaizenError):
            raise InvalidData(
                f"{self._at.shown} is not a sound {self._what} file, or is cut off", remedy="copy or write it again",
                values={"size_bytes": self._at.size, "reason": str(error)[:300]},
            ) from error  # fmt: skip
        if isinstance(error, OSError):
            with reachable(self._at.shown):
                raise error


def with_rows(pieces: Iterator[Piece], shown: str) -> Iterator[Piece]:
    """Return the pieces, of which there must be one with a row."""
    filled = (piece for piece in pieces if piece.rows.num_rows)
    first = next(filled, None)
    if first is None:
        raise InvalidData(f"{shown} has no rows", remedy="give at least one row", values={"source": shown, "rows": 0})
    return itertools.chain([first], filled)
