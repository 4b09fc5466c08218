"""Pushed rows on their way into the datasets: a durable queue in one SQLite file, emptied in batches.

Writing a dataset version for each push would make thousands of tiny versions; so pushes wait here. A batch is
*sealed* before it is handed on, and its name is the token under which the dataset takes it: whoever crashes
in between, the next flush hands on the very same rows under the same token, and the dataset takes them once.
What was taken from a stream is noted in the same transaction, so that it is never taken twice.
Format 2 (``PRAGMA user_version``); 1 had no such notes. A killed process loses nothing; see ``adapters/sqlite_online.py`` for the log.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kaizenml import sqlite_file
from kaizenml.errors import Conflict, Corrupt, StorageFull, Unavailable

FILE = "pushed.db"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS pushed (seq INTEGER PRIMARY KEY AUTOINCREMENT, view TEXT NOT NULL, rows INTEGER NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS pushed_by_view ON pushed (view, seq)",
    "CREATE TABLE IF NOT EXISTS sealed (view TEXT PRIMARY KEY, last INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS taken (stream TEXT NOT NULL, entry TEXT NOT NULL, PRIMARY KEY (stream, entry)) WITHOUT ROWID",
)  # AUTOINCREMENT: numbers are never used again, so a token names its rows for ever
_SCHEMA = sqlite_file.Schema(format=2, statements=_TABLES)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[dict[str, Any]]).decode


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that go into the dataset together."""

    view: str
    last: int
    rows: list[dict[str, Any]]
    left: bool = False  # an earlier flush sealed it and went no further: more may have come since

    @property
    def token(self) -> str:
        """The name under which the dataset takes the batch exactly once."""
        return f"push:{self.view}:{self.last}"


class Origin(NamedTuple):
    """Where in a stream rows come from."""

    stream: str
    entries: Sequence[str]


class PushBuffer:
    """The queue of one project. One connection, opened at the first use; threads take turns, as SQLite's writers do anyway."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()

    def put(self, view: str, rows: list[dict[str, Any]], origin: Origin | None = None) -> None:
        """Take one push, or raise Conflict where an entry of ``origin`` was taken before: then nothing is."""
        with self._transaction() as connection:
            if origin is not None:
                try:
                    connection.executemany("INSERT INTO taken (stream, entry) VALUES (?, ?)", [(origin.stream, entry) for entry in origin.entries])
                except sqlite3.IntegrityError:
                    raise Conflict(f"entries of the stream {origin.stream!r} were taken before", remedy="take the others") from None
            connection.execute("INSERT INTO pushed (view, rows, body) VALUES (?, ?, ?)", (view, len(rows), _encode(rows)))

    def taken(self, stream: str, entries: Sequence[str]) -> set[str]:
        """Return which entries of a stream were taken."""
        with self._transaction() as connection:
            query = "SELECT 1 FROM taken WHERE stream = ? AND entry = ?"
            return {entry for entry in entries if connection.execute(query, (stream, entry)).fetchone()}

    def forget(self, stream: str, entries: Sequence[str]) -> None:
        """Forget that entries were taken, once the stream will not give them again."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM taken WHERE stream = ? AND entry = ?", [(stream, entry) for entry in entries])

    def seal(self, view: str) -> Batch | None:
        """Return the batch to hand on, or None when nothing waits. The same one again until it is ``done``."""
        if not self.path.exists():
            return None
        with self._transaction() as connection:
            kept = connection.execute("SELECT last FROM sealed WHERE view = ?", (view,)).fetchone()
            if kept is None:
                last = connection.execute("SELECT max(seq) FROM pushed WHERE view = ?", (view,)).fetchone()[0]
                if last is None:
                    return None
                connection.execute("INSERT INTO sealed (view, last) VALUES (?, ?)", (view, last))
            else:
                last = kept[0]
            bodies = connection.execute("SELECT body FROM pushed WHERE view = ? AND seq <= ? ORDER BY seq", (view, last)).fetchall()
        return Batch(view=view, last=last, rows=[row for (body,) in bodies for row in _decode(body)], left=kept is not None)

    def done(self, batch: Batch) -> None:
        """Forget a batch that the dataset has taken. Harmless when somebody else was quicker."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM pushed WHERE view = ? AND seq <= ?", (batch.view, batch.last))
            connection.execute("DELETE FROM sealed WHERE view = ? AND last = ?", (batch.view, batch.last))

    def waiting_rows(self, view: str) -> list[list[dict[str, Any]]]:
        """Return the rows that wait, push by push."""
        if not self.path.exists():
            return []
        with self._transaction() as connection:
            bodies = connection.execute("SELECT body FROM pushed WHERE view = ? ORDER BY seq", (view,)).fetchall()
        return [_decode(body) for (body,) in bodies]

    def waiting(self, view: str) -> int:
        """Return how many rows wait."""
        if not self.path.exists():
            return 0
        with self._transaction() as connection:
            return int(connection.execute("SELECT coalesce(sum(rows), 0) FROM pushed WHERE view = ?", (view,)).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        values = {"file": str(self.path)}
        try:
            with self._open() as connection, sqlite_file.transaction(connection):
                yield connection
        except sqlite3.Error as error:
            text = str(error)
            if "disk is full" in text or "disk I/O error" in text:
                what = "the disk that holds pushed features is full; nothing was half-written"
                raise StorageFull(what, remedy="free some space and push again", values=values) from error
            if "not a database" in text or "malformed" in text:
                raise Corrupt(f"{self.path} is damaged: {text}", remedy=f"move {self.path.name} aside and push again", values=values) from error
            raise Unavailable(f"the buffer of pushed features does not answer: {text}", remedy="push again", values=values) from error

    def close(self) -> None:
        """Give back the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if self._pid != os.getpid():  # forked: a SQLite connection must not cross a fork
            if self._connection is not None:
                sqlite_file.abandon(self._connection)
            self._connection, self._lock, self._pid = None, threading.Lock(), os.getpid()
        with self._lock:
            if self._connection is None:
                self._connection = sqlite_file.connect(self.path, _SCHEMA)
            yield self._connection


def buffer_of(state: Path) -> PushBuffer:
    """Return the project's buffer. The ones used last stay open, so that a push does not wait for files."""
    path = (state / FILE).absolute()
    with _buffers_lock:
        buffer = _buffers.pop(path, None) or PushBuffer(path)
        _buffers[path] = buffer
        idle = [_buffers.pop(next(iter(_buffers))) for _ in range(len(_buffers) - _MOST_OPEN)]
    for old in idle:
        old.close()
    return buffer


_MOST_OPEN = 4
_buffers: dict[Path, PushBuffer] = {}
_buffers_lock = threading.Lock()
