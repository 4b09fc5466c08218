"""The dataset of predictions: every answer and every shadow's, drained from the journal, one Delta table per endpoint.

Columns: ``id``, ``at``, ``day`` (the partition), ``role`` (live or shadow), ``release``, ``arm``, ``decided_by``, ``reason``,
``unit``, ``value`` (JSON text), ``score`` (P(classes[1]) of a binary model, the largest probability of a multiclass one, the
value of a regression), ``probabilities``, ``propensity`` (how probable the decision was where chance had a hand in it; weigh such
rows by one over it), and on live rows the inputs as ``x_<input>``. ``_batch`` numbers the drains: a cursor over it survives
compaction and vacuum, which a table version would not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from kaizenml.context import Context
from kaizenml.errors import Corrupt, not_found
from kaizenml.refs import check_name
from kaizenml.serving.ids import seconds_of

FOLDER = "predictions"  # below the project's state
BATCHES = "kaizen-batches"  # application id that numbers the drains of a table
BASE = pa.schema(
    [
        ("id", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("day", pa.string()),
        ("_batch", pa.int64()),  # early: statistics, which reading by cursor leans on, are kept for the first columns only
        ("role", pa.string()),
        ("release", pa.string()),
        ("arm", pa.string()),
        ("decided_by", pa.string()),
        ("reason", pa.string()),
        ("unit", pa.string()),
        ("value", pa.string()),
        ("score", pa.float64()),
        ("probabilities", pa.list_(pa.float64())),
        ("propensity", pa.float64()),
    ]
)
Mark = tuple[int, int, int, int]
_tables: dict[Path, tuple[Mark | None, DeltaTable]] = {}
_lock = threading.Lock()


def folder(state: Path, endpoint: str) -> Path:
    """Return where an endpoint's predictions lie."""
    return state / FOLDER / check_name(endpoint)


def endpoints(state: Path) -> list[str]:
    """Return the endpoints that have predictions."""
    return sorted(path.parent.name for path in (state / FOLDER).glob("*/_delta_log"))


def open_table(state: Path, endpoint: str) -> DeltaTable | None:
    """Return the endpoint's table at its newest version, or None when nothing was drained yet.

    Tables stay open between calls: bringing one up to date reads only what is new in its log.
    """
    path = folder(state, endpoint)
    with _lock:
        mark, table = _tables.get(path, (None, None))
        # a forgetting makes the log anew, in a folder that may even have the number of one before: its entry of the same version is another file
        if table is not None and mark is not None and _mark(path, table.version()) == mark:
            if _mark(path, table.version() + 1) is None:
                return table
            before = table.version()
            try:
                table.update_incremental()
            except DeltaError:
                pass  # it is made anew just now
            else:
                fresh = _mark(path, table.version())
                if _mark(path, before) == mark:  # still: what was read is of the same table
                    _tables[path] = (fresh, table)
                    return table
        try:
            table = DeltaTable(path) if (path / "_delta_log").exists() else None
        except TableNotFoundError:
            return None
        except DeltaError as error:
            values = {"folder": str(path)}
            raise Corrupt(f"the predictions of {endpoint!r} cannot be read: {error}", remedy=f"look at {path}", values=values) from error
        if table is not None:
            _tables[path] = (_mark(path, table.version()), table)
        return table


def _mark(path: Path, version: int) -> Mark | None:
    """Return what tells an entry of a table's log from another of its name; None where there is none."""
    try:
        found = os.stat(path / "_delta_log" / f"{version:020d}.json")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def read(
    ctx: Context, endpoint: str, *, days: list[str] | None = None, columns: list[str] | None = None, role: str | None = None
) -> pa.Table:
    """Read an endpoint's predictions, in the order in which they were drained.

    Parameters
    ----------
    days : only these days (YYYY-MM-DD), default all.
    columns : only these columns, default all but ``_batch``. A column that no release has had yet is null.
    role : ``live`` or ``shadow``, default both.

    Returns
    -------
    A table; empty, with the base columns, when nothing was drained yet.
    """
    table = open_table(ctx.state, endpoint)
    wanted = columns if columns is not None else [name for name in names(table) if name != "_batch"]
    if table is None:
        return _shaped(None, wanted)
    condition = pc.field("role") == role if role else None
    return _scan(table, wanted, condition, _files(table, days=set(days) if days is not None else None))


def added_since(ctx: Context, endpoint: str, cursor: int, columns: list[str] | None = None) -> tuple[pa.Table, int]:
    """Read what was drained after ``cursor``; each row is returned once by following the cursors.

    Parameters
    ----------
    cursor : as returned by the former call; 0 for the beginning.
    columns : only these columns, default all but ``_batch``.

    Returns
    -------
    The rows, and the cursor to go on from.
    """
    table = open_table(ctx.state, endpoint)
    wanted = columns if columns is not None else [name for name in names(table) if name != "_batch"]
    if table is None:
        return _shaped(None, wanted), cursor
    newest = table.transaction_version(BATCHES) or 0
    if newest <= cursor:
        return _shaped(None, wanted), cursor
    condition = (pc.field("_batch") > cursor) & (pc.field("_batch") <= newest)
    return _scan(table, wanted, condition, _files(table, after=cursor)), newest


def find(ctx: Context, identity: str) -> tuple[str, pa.Table]:
    """Return the endpoint of a prediction and its rows (live first). Raises NotFound."""
    for endpoint in endpoints(ctx.state):
        table = open_table(ctx.state, endpoint)
        if table is None:
            continue
        day = _day(seconds_of(identity))
        wanted = [name for name in names(table) if name != "_batch"]
        found = _scan(table, wanted, pc.field("id") == identity, _files(table, days={day}))
        if found.num_rows:
            return endpoint, found.sort_by("role")
    raise not_found("prediction", identity, [], remedy="send the id as the answer gave it; `kaizen serving drain` brings in the newest")


def names(table: DeltaTable | None) -> list[str]:
    """Return the table's columns."""
    return [field.name for field in table.schema().fields] if table is not None else list(BASE.names)


def _day(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _files(table: DeltaTable, *, days: set[str] | None = None, after: int = 0) -> list[str]:
    """Return the files that can hold what is asked for, oldest rows first, by the statistics in the table's log."""
    actions = pa.table(table.get_add_actions(flatten=True))
    paths = actions["path"].to_pylist()
    if not paths:
        return []
    day = [str(value) for value in actions["partition.day"].to_pylist()]
    have = actions.column_names
    unknown = [None] * len(paths)
    low = actions["min._batch"].to_pylist() if "min._batch" in have else unknown
    high = actions["max._batch"].to_pylist() if "max._batch" in have else unknown
    chosen = [
        (-1 if first is None else first, date, path)
        for path, date, first, last in zip(paths, day, low, high, strict=True)
        if (days is None or date in days) and (last is None or last > after)
    ]
    return [path for _, _, path in sorted(chosen)]


def _scan(table: DeltaTable, wanted: list[str], condition: Any, files: list[str]) -> pa.Table:
    if not files:
        return _shaped(None, wanted, table)
    from pyarrow import dataset as pads  # loads pandas where that is installed: a second that only reading needs to spend
    from pyarrow.fs import LocalFileSystem

    root = Path(table.table_uri.removeprefix("file://"))
    full = schema(table)
    partitioning = pads.partitioning(pa.schema([("day", pa.string())]), flavor="hive")
    dataset = pads.FileSystemDataset.from_paths(
        [str(root / path) for path in files],
        schema=full,
        format=pads.ParquetFileFormat(),
        filesystem=LocalFileSystem(),
        partitions=[partitioning.parse(path) for path in files],
    )
    have = [name for name in wanted if name in full.names]
    found = dataset.to_table(columns=have, filter=condition, use_threads=len(files) > 1)
    return _shaped(found, wanted, table)


def schema(table: DeltaTable) -> pa.Schema:
    """Return the table's columns with their ordinary types."""
    raw = pa.schema(table.schema().to_arrow())
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in raw])


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the ordinary form of a type (the table's engine prefers views and large forms)."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def _shaped(found: pa.Table | None, wanted: Iterable[str], table: DeltaTable | None = None) -> pa.Table:
    """Give a result every wanted column, null where there is none."""
    known = schema(table) if table is not None else BASE
    columns: dict[str, Any] = {}
    rows = found.num_rows if found is not None else 0
    for name in wanted:
        kind = known.field(name).type if name in known.names else pa.null()
        columns[name] = found[name] if found is not None and name in found.column_names else pa.nulls(rows, kind)
    return pa.table(columns)
