"""The content hashes of parts and versions.

Scheme 1 is plain hexadecimal: ``content_hash`` of all rows at once. Scheme 2 begins with ``2:`` and is for parts of more than ``BLOCK`` rows:
the SHA-256 of the content hashes of its blocks, so that a part of any size is hashed, and verified, in bounded memory. A part of one block
has the same hash in both. Parts that were hashed whole by an older kaizenml, whatever their size, are verified as they were hashed.
"""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.dataset import Kind

BLOCK = 1 << 20
"""Rows of a block. Stored hashes depend on it: another number needs another scheme."""
_BLOCKS = "2:"


class PartHash:
    """Hashes the rows of a part as they come; how they were batched makes no difference."""

    def __init__(self) -> None:
        self._held: list[pa.Table] = []
        self._rows = 0
        self._blocks: list[str] = []

    def add(self, rows: pa.Table) -> None:
        """Take the next rows, in the columns of those before."""
        while rows.num_rows:
            taken = rows.slice(0, BLOCK - self._rows)
            self._held.append(taken)
            self._rows += taken.num_rows
            rows = rows.slice(taken.num_rows)
            if self._rows == BLOCK:
                self._close()

    def value(self) -> str:
        """Return the hash of all rows taken; at least one has been."""
        if self._rows:
            self._close()
        if len(self._blocks) == 1:
            return self._blocks[0]
        return _BLOCKS + hashlib.sha256(msgspec.json.encode(self._blocks)).hexdigest()

    def _close(self) -> None:
        self._blocks.append(content_hash(pa.concat_tables(self._held)))
        self._held, self._rows = [], 0


def in_blocks(stored: str) -> bool:
    """Whether a part's stored hash is of scheme 2, and so can be verified block by block."""
    return stored.startswith(_BLOCKS)


def content_hash(table: pa.Table) -> str:
    """Return the SHA-256 of a table's content.

    It covers, in the order of their names, each column's name, type, missing values and values in row order; it does not depend on
    how rows are chunked, compressed or filed.
    """
    digest = hashlib.sha256()
    for name in sorted(table.column_names):
        column = table[name]
        digest.update(msgspec.json.encode([name, str(column.type), len(column)]))
        valid = pc.is_valid(column).to_numpy()
        digest.update(np.packbits(valid).data)
        if pa.types.is_string(column.type):
            digest.update(np.ascontiguousarray(pc.fill_null(pc.binary_length(column), 0).to_numpy(), dtype="<i4").data)
            for chunk in column.chunks:
                digest.update(_text_bytes(chunk))
        else:
            plain = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
            values = pc.fill_null(plain, False if pa.types.is_boolean(plain.type) else 0).to_numpy()
            # -0.0 and 0.0 are the same number
            digest.update(np.ascontiguousarray(values + 0.0 if values.dtype.kind == "f" else values).data)
    return digest.hexdigest()


def version_hash(columns: dict[str, Kind], parts: list[str]) -> str:
    """Return the hash of a version: of its columns' kinds and its parts' content hashes, in order."""
    return hashlib.sha256(msgspec.json.encode([sorted(columns.items()), parts])).hexdigest()


def _text_bytes(chunk: pa.Array) -> bytes:
    """Return the bytes of all values one after the other."""
    packed = pc.fill_null(chunk, "")
    _, offsets, data = packed.buffers()
    if data is None:
        return b""
    bounds = np.frombuffer(offsets, dtype="<i4")[packed.offset : packed.offset + len(packed) + 1]
    return memoryview(data)[int(bounds[0]) : int(bounds[-1])].tobytes() if len(packed) else b""
