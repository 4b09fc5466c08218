"""Queries that people write, run by DuckDB over tables in memory: one SELECT, no file, no network, a bounded time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from kaizenml.errors import InvalidData, MissingExtra

MEMORY = "2GB"
LIMIT_S = 120.0


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
    try:
        import duckdb
    except ImportError:
        raise MissingExtra("a query over tables needs DuckDB, which is not installed", remedy="pip install 'kaizenml[duckdb]'") from None
    # nothing but what is registered below can be read, and nothing in the query can change that
    locked: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false", "python_enable_replacements": "false", "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false", "memory_limit": MEMORY,
    }  # fmt: skip
    with duckdb.connect(config=locked) as connection:
        for name, table in tables.items():
            connection.register(name, table)
        connection.execute("SET TimeZone = 'UTC'")
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
            found: pa.Table = connection.sql(sql).to_arrow_table()
            return found
        except duckdb.Error as error:
            if late.is_set():
                raise InvalidData(f"the query ran longer than {limit_s:g} s", remedy="make it simpler", values={"sql": sql[:200]}) from None
            said = " ".join(str(error).split())[:300]
            raise InvalidData(f"the query cannot be run: {said}", remedy="mend the query", values={"sql": sql[:200], "reason": said}) from None
        finally:
            timer.cancel()
