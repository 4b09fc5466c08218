"""Queries that people write, run by DuckDB over tables that we give it: one SELECT, no file, no network, a bounded time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from kaizenml.errors import InvalidData, MissingExtra

MEMORY = "2GB"
LIMIT_S = 120.0
_BATCH_ROWS = 1 << 18


class Answer(NamedTuple):
    """What a query gives, as far as it matters for a check."""

    named: pa.ChunkedArray | None
    """The values of the column that was asked for, where the query gives it."""
    columns: list[str]
    rows: int
    single: Any = None
    """The value, where the query gives one row of one column."""


def query(sql: str, tables: Mapping[str, Any], *, limit_s: float = LIMIT_S) -> pa.Table:
    """Run one SELECT over tables by their names.

    Parameters
    ----------
    sql : one statement that only reads.
    tables : what it may name: Arrow tables, or whatever else exports Arrow (a data set of files, a reader).
    limit_s : after so many seconds it is stopped.

    Raises
    ------
    MissingExtra : DuckDB is not installed.
    InvalidData : not one SELECT, a mistake in it (DuckDB's words), or it ran too long. The query can reach neither files nor the network.
    """
    with _asked(sql, tables, limit_s) as relation:
        found: pa.Table = relation.to_arrow_table()
        return found


def batches(sql: str, tables: Mapping[str, Any], *, limit_s: float, spill: Path) -> Iterator[pa.Table]:
    """Run one SELECT as ``query`` does, and yield its rows some at a time, in bounded memory: first none of them, which tells their columns.

    Parameters
    ----------
    limit_s : after so many seconds it is stopped; also whoever reads may not take longer.
    spill : a folder for what goes beyond the memory that a query may take.
    """
    with _asked(sql, tables, limit_s, spill) as relation:
        found = relation.to_arrow_reader(_BATCH_ROWS)
        yield found.schema.empty_table()
        for batch in found:
            yield pa.Table.from_batches([batch])


def answer(sql: str, tables: Mapping[str, Any], column: str, *, limit_s: float = LIMIT_S, spill: Path | None = None) -> Answer:
    """Run one SELECT, and bring only what counts: the values of ``column`` if it gives that, else how many rows it gives.

    Parameters
    ----------
    spill : a folder for what goes beyond the memory that a query may take; None: the query is stopped then.

    Raises
    ------
    MissingExtra, InvalidData : as ``query``.
    """
    with _asked(sql, tables, limit_s, spill) as relation:
        columns = list(relation.columns)
        if column in columns:
            named = relation.project(f'"{column}"').to_arrow_table()[0]
            return Answer(named, columns, len(named))
        if len(columns) == 1:
            found = relation.to_arrow_table()[0]
            return Answer(None, columns, len(found), found[0].as_py() if len(found) == 1 else None)
        return Answer(None, columns, int(relation.aggregate("count(*)").fetchall()[0][0]))


def columns_read(sql: str, tables: Mapping[str, pa.Table]) -> dict[str, set[str]]:
    """Return, by table, the columns whose values a query reads. Where DuckDB does not say it plainly, all.

    Parameters
    ----------
    tables : of these columns; rows are not looked at.
    """
    empty = {name: table.slice(0, 0) for name, table in tables.items()}
    everything = {name: set(table.column_names) for name, table in tables.items()}
    if len(tables) != 1:
        return everything
    with _asked(sql, empty, LIMIT_S, explain=True) as relation:
        plan = relation.fetchall()[0][1]
    try:
        read = set(_scanned(json.loads(plan)))
    except (ValueError, KeyError, TypeError):
        return everything
    (known,) = everything.values()
    return {name: read if read <= known else known for name in tables}


def _scanned(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for each in node:
            yield from _scanned(each)
        return
    if "ARROW_SCAN" in node["name"]:
        found = node["extra_info"]["Projections"]
        yield from [found] if isinstance(found, str) else found
        yield from ["?"] if "Filters" in node["extra_info"] else []  # a column that only filters is not among the projected ones
    yield from _scanned(node["children"])


@contextmanager
def _asked(sql: str, tables: Mapping[str, Any], limit_s: float, spill: Path | None = None, *, explain: bool = False) -> Iterator[Any]:
    """Open one SELECT, to be read within the body."""
    try:
        import duckdb
    except ImportError:
        raise MissingExtra("a query over tables needs DuckDB, which is not installed", remedy="pip install 'kaizenml[duckdb]'") from None
    # nothing but what is registered below can be read, and nothing in the query can change that
    locked: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false", "python_enable_replacements": "false", "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false", "memory_limit": MEMORY, "temp_directory": str(spill) if spill is not None else "",
    }  # fmt: skip
    with duckdb.connect(config=locked) as connection:
        for name, table in tables.items():
            connection.register(name, table)
        connection.execute("SET TimeZone = 'UTC'")
        if explain:
            connection.execute("SET disabled_optimizers = 'filter_pushdown'")
        connection.execute("SET lock_configuration = true")
        late = threading.Event()

        def stop() -> None:
            late.set()
            connection.interrupt()

        timer = threading.Timer(limit_s, stop)
        timer.daemon = True
        timer.start()
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise InvalidData("the query is not one SELECT", remedy="write one statement that only reads", values={"sql": sql[:200]})
            yield connection.sql(f"EXPLAIN (FORMAT json) {sql}" if explain else sql)
        except (duckdb.Error, OSError) as error:  # OSError: what Arrow makes of a mistake that shows while rows are read
            if late.is_set():
                raise InvalidData(f"the query ran longer than {limit_s:g} s", remedy="make it simpler", values={"sql": sql[:200]}) from None
            said = " ".join(str(error).split())[:300]
            raise InvalidData(f"the query cannot be run: {said}", remedy="mend the query", values={"sql": sql[:200], "reason": said}) from None
        finally:
            timer.cancel()
