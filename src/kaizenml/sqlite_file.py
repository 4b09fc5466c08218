"""How a SQLite file of the project is opened, whichever room it belongs to. Hot path: imports only the standard library."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kaizenml.errors import Corrupt

WAIT_S = 15.0
_inherited: list[sqlite3.Connection] = []


class Schema(NamedTuple):
    """What a file holds."""

    format: int
    """Kept in the file as ``PRAGMA user_version``; grows with every change of the statements."""
    statements: Sequence[str]
    """Make the tables, and harm none that are there: a file of an older format is given the same."""


def connect(
    path: Path, schema: Schema | None = None, *, readonly: bool = False, durable: bool = False, wait_s: float = WAIT_S
) -> sqlite3.Connection:
    """Open a file; the caller says BEGIN, and may hand the connection from thread to thread.

    Parameters
    ----------
    path : made with its folder and a write-ahead log where there is none, unless ``readonly``.
    schema : what it has to hold. None: the file is there, and is taken as it is.
    readonly : never write, also not the schema.
    durable : a commit waits for the disk itself. Without it a killed process loses nothing all the same; a power cut may lose the last moments.
    wait_s : how long to wait for others who write, here and later.

    Raises
    ------
    Corrupt : a newer kaizenml has written the file.
    sqlite3.Error : the file cannot be opened.
    """
    if not readonly:
        path.parent.mkdir(parents=True, exist_ok=True)
    address = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
    connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=wait_s, check_same_thread=False)
    try:
        if schema is not None:
            _prepare(connection, path, schema, readonly=readonly, durable=durable, wait_s=wait_s)
    except BaseException:
        connection.close()
        raise
    return connection


def use_log(connection: sqlite3.Connection, wait_s: float = WAIT_S) -> None:
    """Give a file its write-ahead log. Who comes first holds it for a moment; SQLite tells the others at once instead of letting them wait."""
    deadline, pause = time.perf_counter() + wait_s, 0.001
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.perf_counter() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Write all of it, or nothing. Writers wait for each other at the beginning."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def abandon(connection: sqlite3.Connection) -> None:
    """Neither use nor close a connection that a parent process opened: a forked process would harm its file by either."""
    _inherited.append(connection)


def _prepare(connection: sqlite3.Connection, path: Path, schema: Schema, *, readonly: bool, durable: bool, wait_s: float) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > schema.format:
        raise Corrupt(f"{path} has format {found}; this kaizenml reads up to {schema.format}", remedy="pip install --upgrade kaizenml")
    if readonly:
        return
    use_log(connection, wait_s)
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    if found < schema.format:
        with transaction(connection):
            for statement in schema.statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {schema.format}")
