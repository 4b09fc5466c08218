"""Looks for a text in every byte of a folder, also where it is compressed."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq


def traces(folder: Path, text: str) -> list[str]:
    """Return where the text is: raw bytes of files, values and statistics of Parquet files, what gzip and SQLite hold."""
    wanted = text.encode()
    return [f"{file.relative_to(folder)}: {how}" for file in sorted(folder.rglob("*")) if file.is_file() for how, raw in _read(file) if wanted in raw]


def _read(file: Path) -> Iterator[tuple[str, bytes]]:
    raw = file.read_bytes()
    yield "bytes", raw
    if raw[:4] == b"PAR1":
        yield "rows", repr(pq.read_table(file).to_pylist()).encode()
        yield "statistics", repr(pq.read_metadata(file).to_dict()).encode()
    elif raw[:2] == b"\x1f\x8b":
        yield "gzip", gzip.decompress(raw)
    elif raw[:15] == b"SQLite format 3":
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for row in connection.execute(f'SELECT * FROM "{table}"'):
                    for cell in row:
                        if isinstance(cell, bytes):
                            yield table, cell
