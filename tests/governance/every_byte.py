"""Every byte under a folder, as it lies there and as whoever opens it would read it."""

from __future__ import annotations

import gzip
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def found(root: Path, *values: str, numbers: tuple[int, ...] = ()) -> list[str]:
    """Return where one of the values is, as text in any file or column, or as a number in a column or in eight bytes."""
    needles = [value.encode() for value in values] + [str(number).encode() for number in numbers]
    raw = [number.to_bytes(8, order, signed=True) for number in numbers for order in ("little", "big")]
    hits = []
    for where, content, plain in contents(root):
        hits += [f"{where}: {needle!r}" for needle in needles + (raw if plain else []) if needle in content]
    return hits


def contents(root: Path) -> Iterator[tuple[str, bytes, bool]]:
    """Yield (where, bytes, whether they are bytes of a file) for every file, and for all that is packed in it."""
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        where, whole = str(path.relative_to(root)), path.read_bytes()
        yield where, whole, True
        if path.suffix == ".parquet":
            yield from ((where, text, False) for text in _parquet(path))
        elif whole[:16] == b"SQLite format 3\0":
            yield from ((where, text, False) for text in _sqlite(path))
        elif whole[:2] == b"\x1f\x8b":
            yield where, gzip.decompress(whole), True
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{where}/{name}", archive.read(name), True


def _parquet(path: Path) -> Iterator[bytes]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            meta = file.metadata.row_group(group)
            for column in range(meta.num_columns):
                yield repr(meta.column(column).statistics).encode()
            rows = file.read_row_group(group)
            for column in rows.columns:
                yield "\n".join(map(str, column.to_pylist())).encode()
        yield str(file.metadata.metadata).encode()


def _sqlite(path: Path) -> Iterator[bytes]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    yield from unpacked(value)
    finally:
        connection.close()


def unpacked(value: Any) -> Iterator[bytes]:
    """Yield the bytes of a value, and what is packed in them."""
    yield value if isinstance(value, bytes) else str(value).encode()
    if isinstance(value, bytes):
        try:
            yield zlib.decompress(value)
        except zlib.error:
            return
