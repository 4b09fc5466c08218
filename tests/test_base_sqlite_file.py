"""SQLite files: opened by many at once, never half made, never a newer one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from kaizenml import sqlite_file
from kaizenml.errors import Corrupt

SCHEMA = sqlite_file.Schema(format=1, statements=("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, writer TEXT NOT NULL)",))
OTHERS = """
import sys, pathlib
from kaizenml import sqlite_file
schema = sqlite_file.Schema(1, ["CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, writer TEXT NOT NULL)"])
print("ready", flush=True)
for line in sys.stdin:
    connection = sqlite_file.connect(pathlib.Path(line.strip()), schema)
    with sqlite_file.transaction(connection):
        connection.execute("INSERT INTO notes (writer) VALUES ('process')")
    connection.close()
    print("done", flush=True)
"""


def write(path: Path, together: threading.Barrier, failed: list[Exception]) -> None:
    together.wait()
    try:
        with closing(sqlite_file.connect(path, SCHEMA)) as connection, sqlite_file.transaction(connection):
            connection.execute("INSERT INTO notes (writer) VALUES ('thread')")
    except sqlite3.Error as error:
        failed.append(error)


@pytest.mark.slow
def test_threads_and_processes_that_open_a_fresh_file_at_once_all_write(tmp_path):
    others = [subprocess.Popen([sys.executable, "-c", OTHERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    failed: list[Exception] = []
    try:
        assert [other.stdout.readline() for other in others] == ["ready\n"] * 2
        for turn in range(30):
            path = tmp_path / f"{turn}" / "notes.db"
            together = threading.Barrier(6)
            threads = [threading.Thread(target=write, args=(path, together, failed)) for _ in range(6)]
            for thread in threads:
                thread.start()
            for other in others:
                other.stdin.write(f"{path}\n")
                other.stdin.flush()
            for thread in threads:
                thread.join()
            assert [other.stdout.readline() for other in others] == ["done\n"] * 2
            with closing(sqlite_file.connect(path, readonly=True)) as connection:
                counted = dict(connection.execute("SELECT writer, COUNT(*) FROM notes GROUP BY writer"))
                assert (failed, counted) == ([], {"thread": 6, "process": 2})
                assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        for other in others:
            other.communicate()


def test_who_holds_a_file_for_too_long_is_not_waited_for(tmp_path):
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("CREATE TABLE other (x)")
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite_file.connect(path, SCHEMA, wait_s=0.05)
        holder.execute("ROLLBACK")
    with closing(sqlite_file.connect(path, SCHEMA)) as connection:
        assert connection.execute("SELECT * FROM notes").fetchall() == []


def test_an_older_file_is_brought_to_the_format_and_a_newer_one_refused(tmp_path):
    path = tmp_path / "notes.db"
    with closing(sqlite_file.connect(path, SCHEMA)) as connection, sqlite_file.transaction(connection):
        connection.execute("INSERT INTO notes (writer) VALUES ('old')")
    newer = sqlite_file.Schema(2, [*SCHEMA.statements, "CREATE TABLE IF NOT EXISTS more (id INTEGER PRIMARY KEY)"])
    with closing(sqlite_file.connect(path, newer)) as connection:
        assert connection.execute("SELECT writer FROM notes").fetchall() == [("old",)]
        assert connection.execute("SELECT * FROM more").fetchall() == []
    for readonly in (False, True):
        with pytest.raises(Corrupt, match="format 2; this kaizenml reads up to 1") as caught:
            sqlite_file.connect(path, SCHEMA, readonly=readonly)
        assert caught.value.remedy == "pip install --upgrade kaizenml"


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    with closing(sqlite_file.connect(tmp_path / "notes.db", SCHEMA)) as connection:
        with pytest.raises(ZeroDivisionError), sqlite_file.transaction(connection):
            connection.execute("INSERT INTO notes (writer) VALUES ('half')")
            1 / 0  # noqa: B018
        assert connection.execute("SELECT * FROM notes").fetchall() == []
