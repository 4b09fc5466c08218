"""Rows of an addition that comes in pieces, kept aside so that checks in SQL see all of them: in files, in the columns that the checks read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from kaizenml.data import sql
from kaizenml.data.dataset import Query
from kaizenml.scratch import Scratch

ROW = "_row"  # a row's number in the addition, from 1
_LIMIT_S = 1800.0


class Staged:
    """The good rows so far. Values are as they came, also those that will be hidden: the files go when it is closed."""

    def __init__(self, folder: Path, checks: Sequence[Query]) -> None:
        self._scratch = Scratch(folder, "checks-")
        self._checks = checks
        self._schema: pa.Schema | None = None
        self._kept: list[str] = []
        self._file: pyarrow.parquet.ParquetWriter | None = None

    def add(self, good: pa.Table, numbers: pa.Array) -> None:
        """Take good rows with their numbers; all in the same columns."""
        rows = good.append_column(ROW, numbers)
        if self._file is None:
            self._schema = rows.schema.remove_metadata()
            read: set[str] = set()
            for check in self._checks:
                read |= sql.columns_read(check.sql, {"rows": self._schema.empty_table()}).get("rows", set())
            self._kept = [name for name in self._schema.names if name in read or name == ROW]
            kept = pa.schema([self._schema.field(name) for name in self._kept])
            self._file = pyarrow.parquet.ParquetWriter(self._scratch.path / "rows.parquet", kept, compression="lz4")
        self._file.write_table(rows.select(self._kept).cast(self._file.schema), row_group_size=1 << 18)

    def ask(self, query: Query, without: Sequence[np.ndarray[Any, Any]]) -> sql.Answer:
        """Run a check over the rows but those that earlier ones named."""
        from pyarrow import dataset

        assert self._file is not None  # a source has at least one row
        assert self._schema is not None
        self._file.close()
        # columns that no check reads are null: names that a query mentions without reading them are there all the same
        rows: Any = dataset.dataset([str(self._scratch.path / "rows.parquet")], schema=self._schema, format="parquet")
        for gone in without:
            rows = rows.filter(~pc.is_in(pc.field(ROW), value_set=pa.array(gone)))
        return sql.answer(query.sql, {"rows": rows}, ROW, limit_s=_LIMIT_S, spill=self._scratch.path / "spill")

    def close(self) -> None:
        """Remove the files."""
        if self._file is not None:
            self._file.close()
        self._scratch.close()
