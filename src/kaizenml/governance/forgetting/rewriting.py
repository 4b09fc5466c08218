"""Rows taken out of a Delta table for good: no byte of them is left in its files, its log, its checkpoints or their statistics.

``take_out`` replaces the files that hold such rows by files without them, under names that sort where the old ones sorted, since
rows are read in the order of their files' names. ``scrub`` then removes whatever the newest state does not need: files, log entries
and checkpoints of older states, which know the smallest and largest value of every column. Both may be killed anywhere and called again.
The caller holds the table for writing.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction, RemoveAction

from kaizenml.data import storage
from kaizenml.data.storage import Place

Expression = Any
"""What rows are looked for, as pyarrow's datasets take it. It is false, and not null, where a value is missing."""

_OURS = re.compile(r"-f[0-9a-f]{8}(?=\.parquet$)")
_VERSION = re.compile(r"^(\d{20})\.")
_COUNTED = 32  # columns with statistics, as the format's other writers have it


class File(NamedTuple):
    """A live file: its path in the table, its partition's value, and how many of its rows are looked for."""

    path: str
    partition: str
    found: int


def types_of(table: DeltaTable) -> dict[str, pa.DataType]:
    """Return the columns of a table with their types."""
    return {field.name: field.type for field in pa.schema(table.schema().to_arrow())}


def live(table: DeltaTable, by: str) -> list[tuple[str, str]]:
    """Return the path and the partition of every live file, in the order of partitions and rows."""
    actions = pa.table(table.get_add_actions(flatten=True))
    return sorted(zip(actions["path"].to_pylist(), map(str, actions[f"partition.{by}"].to_pylist()), strict=True))


def look(at: Place, by: str, wanted: Callable[[dict[str, pa.DataType]], Expression | None]) -> list[File]:
    """Return the live files that hold rows that are looked for.

    Parameters
    ----------
    at : where the table lies.
    by : the partition column.
    wanted : makes the expression from the table's columns; None where it has none that could hold the subject.
    """
    table = storage.open_table(at)
    if table is None:
        return []
    expression = wanted({name: kind for name, kind in types_of(table).items() if name != by})
    if expression is None:
        return []
    counted = [File(name, partition, _dataset(at, name, table).count_rows(filter=expression)) for name, partition in live(table, by)]
    return [file for file in counted if file.found]


def rows(at: Place, names: list[str], expression: Expression | None, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the rows that are looked for, file by file; a column that a file does not have is null."""
    table = storage.open_table(at)
    if table is None:
        return
    for name in names:
        yield _dataset(at, name, table).to_table(columns=columns, filter=expression)


def take_out(
    at: Place, by: str, files: list[File], expression: Expression, *, keep_empty: bool, blank: Mapping[str, pa.Array] | None = None
) -> None:
    """Replace files by such without the rows that are looked for.

    Parameters
    ----------
    files : as ``look`` found them.
    keep_empty : whether a file without any row left stays, so that its partition can still be read.
    blank : by column, values that are taken out of the rows that stay.
    """
    table = storage.open_table(at)
    if table is None or not files:
        return
    disk = _filesystem(at)
    schema = plain(pa.schema(table.schema().to_arrow()))
    actions: list[Any] = []
    for file in files:
        fresh = _OURS.sub("", file.path).removesuffix(".parquet") + f"-f{secrets.token_hex(4)}.parquet"
        left = _copy(disk, (file.path, fresh), expression, schema, blank or {})
        actions.append(RemoveAction(file.path, True, 1))  # in 1970: nobody may want it back
        if left or keep_empty:
            size = disk.get_file_info(fresh).size
            actions.append(AddAction(fresh, size, {by: file.partition}, 0, True, json.dumps(_statistics(disk, fresh, left))))
        else:
            disk.delete_file(fresh)
    table.create_write_transaction(actions, mode="append", schema=table.schema(), partition_by=[by])


def change(at: Place, by: str, columns: set[str], changed: Callable[[pa.Table], pa.Table]) -> int:
    """Replace the files that hold one of the columns by such with changed rows; return how many rows these have.

    Parameters
    ----------
    changed : is given some rows at a time, and returns as many. Where it gives a column another type, every file of the table is written
        anew with that type, in one commit.
    """
    table = storage.open_table(at)
    if table is None:
        return 0
    disk, schema = _filesystem(at), plain(pa.schema(table.schema().to_arrow()))
    every = live(table, by)
    held = {path: _schema_of(disk, path) for path, _ in every}
    after = {path: changed(found.empty_table()).schema for path, found in held.items() if columns & set(found.names)}
    types = {field.name: field.type for each in after.values() for field in each}
    target = pa.schema([field.with_type(types.get(field.name, field.type)) for field in schema])
    whole, rows = target != schema, 0
    actions: list[Any] = []
    for path, partition in every if after else []:
        if path not in after and not whole:
            continue
        fresh = _OURS.sub("", path).removesuffix(".parquet") + f"-f{secrets.token_hex(4)}.parquet"
        names = after.get(path, held[path]).names
        count = _changed(disk, (path, fresh), pa.schema([field for field in target if field.name in names]), changed if path in after else None)
        rows += count if path in after else 0
        actions += [] if whole else [RemoveAction(path, True, 1)]
        actions.append(AddAction(fresh, disk.get_file_info(fresh).size, {by: partition}, 0, True, json.dumps(_statistics(disk, fresh, count))))
    if actions:
        stored = Schema.from_arrow(target)
        table.create_write_transaction(actions, mode="overwrite" if whole else "append", schema=stored, partition_by=[by])
    return rows


def _changed(disk: Any, names: tuple[str, str], schema: pa.Schema, changed: Callable[[pa.Table], pa.Table] | None) -> int:
    """Write rows in their order from one file to another, changed; return how many."""
    (source, target), count = names, 0
    with (
        disk.open_input_file(source) as handle, pq.ParquetFile(handle) as file, disk.open_output_stream(target) as out,
        storage.parquet_writer(out, schema) as writer,
    ):  # fmt: skip
        held = plain(file.schema_arrow.remove_metadata())
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group).replace_schema_metadata(None).cast(held)
            rows = rows if changed is None else changed(rows)
            writer.write_table(rows.select(schema.names).cast(schema))
            count += rows.num_rows
    return count


def _schema_of(disk: Any, name: str) -> pa.Schema:
    with disk.open_input_file(name) as handle, pq.ParquetFile(handle) as file:
        return plain(file.schema_arrow.remove_metadata())


def scrub(at: Place) -> int:
    """Remove every byte of the table that its newest state does not need; return how many files that were."""
    table = storage.open_table(at)
    if table is None:
        return 0
    disk, version, removed = _filesystem(at), table.version(), 0
    table.create_checkpoint()
    needed = set(pa.table(table.get_add_actions(flatten=True))["path"].to_pylist())
    for info in disk.get_file_info(pyarrow.fs.FileSelector("", recursive=True)):
        if info.type != pyarrow.fs.FileType.File or info.path in needed:
            continue
        found = _VERSION.match(info.base_name)
        # the newest entry of the log has to stay: writers go on from it
        if "_delta_log" in info.path and (info.base_name == "_last_checkpoint" or (found and int(found[1]) >= version)):
            continue
        with contextlib.suppress(FileNotFoundError):
            disk.delete_file(info.path)
            removed += 1
    return removed


def plain(schema: pa.Schema) -> pa.Schema:
    """Return ordinary types: the engine prefers views, which filters do not take."""
    wide = {pa.string_view(): pa.string(), pa.large_string(): pa.string()}
    return pa.schema([field.with_type(wide.get(field.type, field.type)) for field in schema])


def _filesystem(at: Place) -> Any:
    """Return the file system in which files are named as in the table's log."""
    return pyarrow.fs.SubTreeFileSystem(str(at), pyarrow.fs.LocalFileSystem()) if isinstance(at, Path) else storage.filesystem(at)


def _dataset(at: Place, name: str, table: DeltaTable) -> Any:
    from pyarrow import dataset

    schema = plain(pa.schema(table.schema().to_arrow()))
    return dataset.dataset([name], schema=schema, format="parquet", filesystem=_filesystem(at))


def _copy(disk: Any, names: tuple[str, str], expression: Expression, schema: pa.Schema, blank: Mapping[str, pa.Array]) -> int:
    """Write the rows that are not looked for, in their order, from one file to another; return how many."""
    left, (source, target) = 0, names
    with disk.open_input_file(source) as handle, pq.ParquetFile(handle) as file:
        written = plain(file.schema_arrow.remove_metadata())
        with disk.open_output_stream(target) as out, storage.parquet_writer(out, written) as writer:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                rows = rows.replace_schema_metadata(None).cast(written)
                whole = rows
                for name in schema.names:  # a column that came later is in no older file
                    if name not in whole.column_names:
                        whole = whole.append_column(name, pa.nulls(rows.num_rows, schema.field(name).type))
                kept = whole.filter(~expression).select(rows.column_names)
                for name in blank.keys() & set(kept.column_names):
                    cells = pc.if_else(pc.is_in(kept[name], value_set=blank[name]), pa.scalar(None, kept[name].type), kept[name])
                    kept = kept.set_column(kept.column_names.index(name), name, cells)
                writer.write_table(kept)
                left += kept.num_rows
    return left


def _statistics(disk: Any, name: str, rows: int) -> dict[str, Any]:
    """Return the log's statistics of a file: of whole numbers alone, which are all that is ever asked for here."""
    found: dict[str, Any] = {"numRecords": rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    with disk.open_input_file(name) as handle, pq.ParquetFile(handle) as file:
        meta, schema = file.metadata, file.schema_arrow
        places = {meta.schema.column(place).path: place for place in range(meta.num_columns)}
        for field in list(schema)[:_COUNTED]:
            if not rows or not pa.types.is_integer(field.type):
                continue
            known = [meta.row_group(group).column(places[field.name]).statistics for group in range(meta.num_row_groups)]
            ends = [(one.min, one.max) for one in known if one is not None and one.has_min_max]
            if ends and all(one is not None for one in known):
                found["minValues"][field.name] = min(low for low, _ in ends)
                found["maxValues"][field.name] = max(high for _, high in ends)
                found["nullCount"][field.name] = sum(one.null_count or 0 for one in known)
    return found
