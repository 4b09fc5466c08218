"""Writes the rows of a part as they come: small parts at once, large ones file by file, taken into the table when the last row is there."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet

from kaizenml.data import opened, storage, tables
from kaizenml.data.kinds import PART
from kaizenml.data.storage import Place
from kaizenml.errors import Conflict, StorageFull

_HELD_BYTES = 64 << 20  # more rows than this are not held: they go to a file
_FILE_BYTES = 1 << 30  # of rows in memory; packed they are a fraction of it
_GROUP_ROWS = 1 << 18  # whoever wants the rows of some time reads whole groups


class PartWriter:
    """One part under way. What it has written has no reader until ``finish`` takes it into the table, and the catalog then names it."""

    def __init__(self, path: Place, number: int, *, by: str = PART) -> None:
        self._path, self._number, self._by = path, number, by
        self._held: list[pa.Table] = []
        self._schema: pa.Schema | None = None  # of all files, as the table stores it
        self._file: pyarrow.parquet.ParquetWriter | None = None
        self._name = ""
        self._in_file = [0, 0]  # rows, bytes
        self._files: list[Any] = []

    def add(self, rows: pa.Table) -> None:
        """Take the next rows.

        Raises
        ------
        StorageFull : no room; ``drop`` removes what was written.
        """
        if rows.num_rows:
            self._held.append(rows)
        if sum(one.nbytes for one in self._held) > _HELD_BYTES:
            self._flush()

    def finish(self) -> None:
        """Bring all rows into the table: durable, or none of them.

        Raises
        ------
        StorageFull : no room; nothing stays.
        Conflict : another writer has written since, although the caller held the dataset.
        """
        if not self._files and self._file is None:
            if self._held:
                tables.append_part(self._path, pa.concat_tables(self._held, promote_options="default"), self._number, by=self._by)
            return
        self._flush()
        try:
            with tables.room():
                self._close()
                with opened.changing(self._path) as held:
                    if held is not None and self._number in tables.files_of(self._path, held.state, self._by):
                        raise Conflict(f"part {self._number} of {self._path.name!r} was written by another writer meanwhile", remedy="repeat")
                    storage.take(self._path, held.table if held else None, self._files, self._schema, by=self._by, number=self._number)
                storage.sync(self._path, self._folder)
        except StorageFull:
            self.drop()
            raise

    def drop(self) -> None:
        """Remove what was written and not taken into the table."""
        if self._file is not None:
            with suppress(OSError):  # a full disk: the file goes all the same
                self._file.close()
            self._file = None
        self._held, self._files = [], []
        tables.remove_leftovers(self._path, self._number, self._by)

    @property
    def _folder(self) -> str:
        return f"{self._by}={self._number}"

    def _flush(self) -> None:
        if not self._held:
            return
        rows = pa.concat_tables(self._held, promote_options="default")
        self._held = []
        if self._schema is None or any(name not in self._schema.names for name in rows.column_names):
            if self._file is not None:
                with tables.room():
                    self._close()  # rows in quarantine may gain columns; a file has one schema
            # an empty table of these columns tells the types in which the table stores them, and widens it where it must
            fitted = tables.fitted(self._path, rows.schema.empty_table()).schema
            self._schema = fitted if self._schema is None else pa.unify_schemas([self._schema, fitted])
        target = pa.schema([self._schema.field(name) for name in rows.column_names])
        rows = rows.cast(target)
        try:
            with tables.room():
                if self._file is None:
                    self._open(target)
                assert self._file is not None
                self._file.write_table(rows, row_group_size=_GROUP_ROWS)
                self._in_file = [self._in_file[0] + rows.num_rows, self._in_file[1] + rows.nbytes]
                if self._in_file[1] > _FILE_BYTES:
                    self._close()
        except StorageFull:
            self.drop()
            raise

    def _open(self, schema: pa.Schema) -> None:
        # names sort in the order of the rows, whatever follows
        self._name = f"{self._folder}/part-{len(self._files):05d}-{uuid.uuid4()}.parquet"
        self._in_file = [0, 0]
        if isinstance(self._path, Path):
            (self._path / self._folder).mkdir(parents=True, exist_ok=True)
        where = storage.file_name(self._path, self._name)
        self._file = storage.parquet_writer(where, schema, filesystem=storage.filesystem(self._path))

    def _close(self) -> None:
        from deltalake.transaction import AddAction

        if self._file is None:
            return
        self._file.close()
        self._file = None
        size = storage.size_of(self._path, self._name)
        stats = msgspec.json.encode({"numRecords": self._in_file[0]}).decode()
        values: dict[str, str | None] = {self._by: str(self._number)}
        self._files.append(AddAction(self._name, size, values, 0, True, stats))
