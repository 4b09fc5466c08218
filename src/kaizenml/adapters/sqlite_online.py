"""The online store on SQLite: one packed row per entity and view, in one file that any process of the machine may open.

Format 1 (``PRAGMA user_version``). Write-ahead log with ``synchronous=NORMAL``: a killed process loses nothing
and leaves no half row; a power cut may lose the last moments, which the datasets give again (``materialize``).
Hot path: imports only the standard library and msgspec.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kaizenml import sqlite_file
from kaizenml.errors import Corrupt, StorageFull, Unavailable
from kaizenml.ports import Change, OnlineRow, Values

_TABLE = """CREATE TABLE IF NOT EXISTS online (
  key TEXT NOT NULL, view TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL, PRIMARY KEY (key, view)
) WITHOUT ROWID"""
_SCHEMA = sqlite_file.Schema(format=1, statements=(_TABLE,))
_WRITE = """INSERT INTO online (key, view, at, body) VALUES (?, ?, ?, ?)
ON CONFLICT (key, view) DO UPDATE SET at = excluded.at, body = excluded.body WHERE excluded.at >= online.at"""
_OVER = """INSERT INTO online (key, view, at, body) VALUES (?, ?, ?, ?)
ON CONFLICT (key, view) DO UPDATE SET at = excluded.at, body = excluded.body WHERE excluded.at <> online.at OR excluded.body <> online.body"""
_REPLACE = "INSERT OR REPLACE INTO online (key, view, at, body) VALUES (?, ?, ?, ?)"
_READ_ONE = "SELECT at, body FROM online WHERE key = ? AND view = ?"
_MOST_KEYS = 4096  # in one query
_PAGE = 10_000
_KEYS = f"SELECT key FROM online WHERE key >= ?1 AND (?2 OR key > ?1) AND view = ?3 ORDER BY key LIMIT {_PAGE}"  # noqa: S608

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


class SqliteOnlineStore:
    """Newest feature values by entity, in a SQLite file. Opened lazily, once per thread and process.

    Parameters
    ----------
    path : the file. It may be absent: reads then find nothing, the first write creates it.
    readonly : never write, also not the schema (for serving processes).
    """

    def __init__(self, path: str | os.PathLike[str], *, readonly: bool = False) -> None:
        self.path = Path(path)
        self.readonly = readonly
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def write(self, view: str, rows: Iterable[tuple[str, float, Values]], *, keep_s: float | None = None, over: bool = False) -> int:
        packed = [(key, view, at, _encode(values)) for key, at, values in rows]
        with self._transaction() as connection:
            before = connection.total_changes
            connection.executemany(_OVER if over else _WRITE, packed)
            return connection.total_changes - before

    def update(self, view: str, keys: Iterable[str], change: Change, *, keep_s: float | None = None) -> int:
        wanted = list(dict.fromkeys(keys))
        changed = 0
        with self._transaction() as connection:
            for start in range(0, len(wanted), _MOST_KEYS):
                chunk = wanted[start : start + _MOST_KEYS]
                try:
                    found = dict(_read_many(connection, view, chunk))
                except msgspec.DecodeError as error:
                    raise self._corrupt(str(error)) from error
                made = [(key, found.get(key), change(key, found.get(key))) for key in chunk]
                gone = [(key, view) for key, old, row in made if row is None and old is not None]
                kept = [(key, view, row.at, _encode(row.values)) for key, old, row in made if row is not None and row is not old]
                connection.executemany("DELETE FROM online WHERE key = ? AND view = ?", gone)
                connection.executemany(_REPLACE, kept)
                changed += len(gone) + len(kept)
        return changed

    def read(self, view: str, keys: Sequence[str]) -> list[OnlineRow | None]:
        connection = self._connection()
        if connection is None:
            return [None] * len(keys)
        try:
            if len(keys) == 1:
                row = connection.execute(_READ_ONE, (keys[0], view)).fetchone()
                return [None if row is None else OnlineRow(row[0], _decode(row[1]))]
            found: dict[str, OnlineRow] = {}
            for start in range(0, len(keys), _MOST_KEYS):
                found.update(_read_many(connection, view, list(dict.fromkeys(keys[start : start + _MOST_KEYS]))))
            return [found.get(key) for key in keys]
        except sqlite3.Error as error:
            if "no such table" in str(error):  # another process is creating the file
                return [None] * len(keys)
            raise self._translated(error) from error
        except msgspec.DecodeError as error:
            raise self._corrupt(str(error)) from error

    def read_many(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[OnlineRow | None]]:
        return [self.read(view, keys) for view, keys in asked]

    def keys(self, view: str) -> Iterator[str]:
        connection = self._connection()
        after: str | None = None
        while connection is not None:
            # page by page: a long read would keep the log from being brought into the file
            try:
                page = [key for (key,) in connection.execute(_KEYS, (after or "", after is None, view))]
            except sqlite3.Error as error:
                if "no such table" in str(error):
                    return
                raise self._translated(error) from error
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1]

    def delete(self, key: str) -> int:
        with self._transaction() as connection:
            return connection.execute("DELETE FROM online WHERE key = ?", (key,)).rowcount

    def drop(self, view: str) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM online WHERE view = ?", (view,))

    def close(self) -> None:
        with self._lock:
            connections, self._open = self._open, []
            self._local = threading.local()
        for connection in connections if self._pid == os.getpid() else ():
            connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self.readonly:
            raise Unavailable(f"{self.path} was opened for reading only", remedy="write with `kaizen features push`", values={"file": str(self.path)})
        try:
            connection = self._connection(create=True)
            assert connection is not None
            with sqlite_file.transaction(connection):
                yield connection
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _connection(self, create: bool = False) -> sqlite3.Connection | None:
        local = self._local
        if self._pid == os.getpid():
            connection: sqlite3.Connection | None = getattr(local, "connection", None)
            if connection is not None:
                return connection
        else:  # forked: a SQLite connection must not cross a fork
            for inherited in self._open:
                sqlite_file.abandon(inherited)
            self._open, self._local, self._lock, self._pid = [], threading.local(), threading.Lock(), os.getpid()
        try:
            connection = self._connect(create)
        except sqlite3.Error as error:
            raise self._translated(error) from error
        if connection is not None:
            self._local.connection = connection
            with self._lock:
                self._open.append(connection)
        return connection

    def _connect(self, create: bool) -> sqlite3.Connection | None:
        if not create and not self.path.exists():
            return None
        # threads have their own connection; only close() reaches over
        connection = sqlite_file.connect(self.path, _SCHEMA, readonly=self.readonly)
        connection.execute("PRAGMA mmap_size = 268435456")
        return connection

    def _translated(self, error: sqlite3.Error) -> Exception:
        text, values = str(error), {"file": str(self.path)}
        if "disk is full" in text or "disk I/O error" in text:
            what = "the disk that holds the online store is full; nothing was half-written"
            return StorageFull(what, remedy="free some space and repeat", values=values)
        if "not a database" in text or "malformed" in text:
            return self._corrupt(text)
        return Unavailable(f"the online store does not answer: {text}", remedy="repeat; if it stays so, look at what holds the file", values=values)

    def _corrupt(self, text: str) -> Corrupt:
        remedy = f"remove {self.path.name} and run `kaizen features materialize`"
        return Corrupt(f"{self.path} is damaged: {text}", remedy=remedy, values={"file": str(self.path)})


def _read_many(connection: sqlite3.Connection, view: str, keys: list[str]) -> Iterator[tuple[str, OnlineRow]]:
    size = 1 << max(len(keys) - 1, 0).bit_length()  # few distinct statements, so that the connection keeps them prepared
    marks = ",".join("?" * size)
    padded = keys + keys[-1:] * (size - len(keys))
    for key, at, body in connection.execute(f"SELECT key, at, body FROM online WHERE key IN ({marks}) AND view = ?", (*padded, view)):  # noqa: S608
        yield key, OnlineRow(at, _decode(body))
