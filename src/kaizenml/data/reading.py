"""Any version of a dataset, in the form that one's own tools take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa

from kaizenml.context import Context
from kaizenml.data import tables
from kaizenml.data.kinds import PART, STORED
from kaizenml.data.storage import Remote
from kaizenml.errors import MissingExtra, UsageError

Form = Literal["arrow", "batches", "duckdb", "pandas", "polars", "spark"]


def read(ctx: Context, ref: str, columns: list[str] | None = None, *, as_: Form = "arrow") -> Any:
    """Read a dataset version.

    Parameters
    ----------
    ref : ``name`` (the newest version) or ``name@number``.
    columns : names in the order wanted, ``_source`` among them where it is wanted; None for all.
    as_ : ``arrow``, a table; ``batches``, a ``pyarrow.RecordBatchReader`` that reads as it is read from, in bounded memory; ``duckdb``, a
        relation over all rows; ``pandas`` or ``polars``, a frame; ``spark``, the SELECT that gives the rows to Spark, from the table's own
        files.

    Raises
    ------
    NotFound, InvalidData : no such version or column.
    MissingExtra : the library is not installed.

    Examples
    --------
    >>> read(ctx, "orders@3", ["price"], as_="polars")  # doctest: +SKIP
    """
    if as_ == "batches":
        return _reader(ctx, ref, columns)
    if as_ == "spark":
        return _select(ctx, ref, columns)
    if as_ not in ("arrow", "duckdb", "pandas", "polars"):
        raise UsageError(f"as_ {as_!r} is none of arrow, batches, duckdb, pandas, polars, spark", remedy='as_="arrow"', values={"found": as_})
    table = tables.read(ctx, ref, columns)
    try:
        if as_ == "duckdb":
            import duckdb

            return duckdb.connect().from_arrow(table)
        if as_ == "polars":
            import polars

            return polars.from_arrow(table)
        if as_ == "pandas":
            import pandas  # noqa: F401  (what to_pandas needs)

            return table.to_pandas()
    except ImportError:
        remedy = "pip install 'kaizenml[duckdb]'" if as_ == "duckdb" else f"pip install {as_}"
        raise MissingExtra(f"{as_} is not installed", remedy=remedy) from None
    return table


def _reader(ctx: Context, ref: str, columns: list[str] | None) -> pa.RecordBatchReader:
    pieces = tables.batches(ctx, ref, columns)
    version = tables.version(ctx, ref)
    kinds = tables.kinds_of(version, list(version.columns) if columns is None else columns)
    schema = pa.schema([(name, STORED[kind]) for name, kind in kinds.items()])

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in pieces:
            yield from rows.to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _select(ctx: Context, ref: str, columns: list[str] | None) -> str:
    version = tables.version(ctx, ref)
    path = tables.folder(ctx, version.dataset)
    where = path.uri.replace("s3://", "s3a://", 1) if isinstance(path, Remote) else path.resolve().as_uri()
    kinds = tables.kinds_of(version, list(version.columns) if columns is None else columns)
    names = ", ".join("`" + name.replace("`", "``") + "`" for name in kinds)
    return f"SELECT {names} FROM delta.`{where}` WHERE {PART} IN ({', '.join(map(str, version.parts))})"  # noqa: S608  (our own names and numbers)
