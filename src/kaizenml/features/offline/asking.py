"""Features for rows that somebody brings: a data frame, a file, a dataset or a query; views of any version side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from kaizenml.context import Context
from kaizenml.data import keys as project_keys
from kaizenml.data import store as datasets
from kaizenml.data import tables
from kaizenml.data.intake import sources
from kaizenml.errors import InvalidInput, NotFound, nearest
from kaizenml.features import join
from kaizenml.features.defining import definitions
from kaizenml.features.encoding.vectorised import microseconds
from kaizenml.features.offline import frame
from kaizenml.features.view import FeatureView, Framed
from kaizenml.settings import Engine

PIECE = 5_000_000
"""Rows that are asked for at once where they are written by an engine beside this process."""


def features_for(ctx: Context, rows: Any, *, at: str | None = None, views: Sequence[str] | None = None, engine: Engine | None = None) -> pa.Table:
    """Return rows, all and in their order, with features as they were known at each row's moment.

    Parameters
    ----------
    rows : a table of Arrow, pandas or Polars (whatever exports an Arrow stream) with the entities' columns.
    at : its column with the moments; naive times are UTC. None: the newest values.
    views : names, or ``name@version`` for a definition of before; default all views of the project. Of a view that is there twice, the
        features of the second are named ``feature@version``.
    engine : what computes them; default the project's.

    Returns
    -------
    Arrow; derived inputs are there too where all that they are computed from is.

    Raises
    ------
    NotFound : no such view or version.
    InvalidInput : ``at`` is no column with times, or the rows lack the column of a view's entity.
    """
    table = rows if isinstance(rows, pa.Table) else pa.table(rows)
    chosen = frame.views(ctx) if views is None else [frame.view_named(ctx, name) for name in views]
    _check_entities(table, chosen)
    hidden = {name for view in chosen for name in hidden_entities(ctx, view)}
    given, table = table, _as_stored(ctx, table, hidden)
    known_at = None if at is None else _moments(table, at)
    engine = engine or ctx.settings.project.engine
    told: set[str] = set()
    for view in chosen:
        again, width = view.name in told, table.num_columns
        told.add(view.name)
        named = _apart(view) if again else view
        table = frame.with_features(ctx, table, [named], [], known_at=known_at, told="the rows", engine=engine)
        if again:
            names = [f"{name}@{view.version}" for name in view.features]
            table = table.rename_columns([*table.column_names[:width], *names])
    for each in definitions.of(ctx).derived:
        if set(each.inputs) <= set(table.column_names) and each.name not in table.column_names:
            table = frame.with_features(ctx, table, [], [each], known_at=None, told="the rows")
    for name in hidden:
        table = table.set_column(given.column_names.index(name), given.schema.field(name), given[name])
    return table


def rows_named(ctx: Context, rows: str) -> pa.Table:
    """Return the rows of a dataset (``name`` or ``name@2``), of a file, or of a SELECT over datasets."""
    if rows.lstrip().lower().startswith(("select ", "with ")):
        from kaizenml.data import sql

        with ctx.catalog.read() as connection:
            names = [each.name for each in datasets.every(connection) if each.name in rows]
        return sql.query(rows, {name: tables.read_allowed(ctx, name) for name in names})
    if sources.loadable(path := Path(rows)):
        return sources.load(path)
    return tables.read_allowed(ctx, rows)


def written(ctx: Context, rows: str, out: Path, *, at: str | None = None, views: Sequence[str] | None = None, engine: Engine) -> Framed:
    """Write a dataset's or a Parquet file's rows with their features to the Parquet file ``out``, ``PIECE`` at a time: memory is bounded.

    Takes its arguments as ``rows_named`` and ``features_for`` do. The file is there when it is whole.
    """
    count, known, into = 0, dict[str, int](), None
    aside = out.with_name(f".{out.name}.part")
    try:
        for piece in _pieces(tables.allowed_batches(ctx, rows) if not rows.endswith(".parquet") else _file_batches(Path(rows))):
            table = features_for(ctx, piece, at=at, views=views, engine=engine)
            into = into or pyarrow.parquet.ParquetWriter(aside, table.schema)
            into.write_table(table)
            count += table.num_rows
            for name in table.column_names[piece.num_columns :]:
                known[name] = known.get(name, 0) + table.num_rows - table.column(name).null_count
        if into is not None:
            into.close()
            aside.replace(out)
        else:
            write(features_for(ctx, rows_named(ctx, rows), at=at, views=views, engine=engine), out)
    finally:
        aside.unlink(missing_ok=True)
    return Framed(rows=count, known=known, out=str(out))


def _pieces(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    count = 0
    for batch in batches:
        begin = 0
        while begin < batch.num_rows:
            part = batch.slice(begin, PIECE - count)
            held.append(part)
            begin, count = begin + part.num_rows, count + part.num_rows
            if count == PIECE:
                yield pa.concat_tables(held)
                held, count = [], 0
    if held:
        yield pa.concat_tables(held)


def _file_batches(path: Path) -> Iterator[pa.Table]:
    sources.check_is_file(path)
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield pa.Table.from_batches([batch])


def check_out(path: Path) -> None:
    """See that a frame can be written there, before it is computed.

    Raises
    ------
    InvalidInput : the name says neither CSV nor Parquet.
    NotFound : there is no such folder.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise InvalidInput(f"{path.name} is neither .csv nor .parquet", remedy="name the file with one of these", values={"file": str(path)})
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent} for {path.name}", remedy=f"mkdir -p {path.parent}", values={"file": str(path)})


def write(table: pa.Table, path: Path) -> None:
    """Write CSV or Parquet, as the file's name says."""
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pyarrow.parquet.write_table(table, path)


def hidden_entities(ctx: Context, view: FeatureView) -> list[str]:
    """Return the columns of a view's entity that its dataset stores as pseudonyms."""
    try:
        personal = tables.version(ctx, view.dataset).personal if view.dataset else {}
    except NotFound:
        return []
    return [name for name in view.entities if personal.get(name) == "pseudonym"]


def _as_stored(ctx: Context, table: pa.Table, hidden: Iterable[str]) -> pa.Table:
    """Return rows with these columns as they are stored: who asks by a customer's number need not know its pseudonym, nor the other way round."""
    for name in hidden:
        coded = pc.dictionary_encode(table[name]).combine_chunks()
        keys = project_keys.open_keys(ctx.state)
        values = pa.array([keys.pseudonym_of(value) for value in coded.dictionary.to_pylist()], pa.string())
        table = table.set_column(table.column_names.index(name), name, values.take(coded.indices))
    return table


def _check_entities(table: pa.Table, views: Sequence[FeatureView]) -> None:
    for view in views:
        for name in view.entities:
            if name not in table.column_names:
                close = nearest(name, table.column_names)
                hint = f"; did you mean {close!r}?" if close else ""
                raise InvalidInput(
                    f"the rows have no column {name!r}, by which the features of {view.name!r} are found{hint}",
                    remedy=f"give it, or leave the view out: --views {next((each.name for each in views if each != view), 'NAME')}",
                    values={"view": view.name, "column": name, "nearest": close},
                )


def _apart(view: FeatureView) -> FeatureView:
    """Return a view whose features have names that nothing else has."""
    return msgspec.structs.replace(view, name=f"{view.name}@{view.version}", plain=False)


def _moments(table: pa.Table, at: str) -> join.Int64:
    known: Iterable[str] = table.column_names
    kind = table.schema.field(at).type if at in table.column_names else None
    if kind is None or not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        close = nearest(at, known)
        what = f"the column {at!r} holds {kind}, not times" if kind is not None else f"the rows have no column {at!r}"
        hint = f"; did you mean {close!r}?" if close and close != at else ""
        raise InvalidInput(what + hint, remedy="name a column with times as at", values={"found": at, "nearest": close})
    times = microseconds(table.column(at))
    return np.where(np.asarray(times.is_null().to_numpy(), bool), join.MISSING, np.asarray(times.fill_null(0).to_numpy(), np.int64))
