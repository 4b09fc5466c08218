from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from online_store_contract import VIEW, OnlineStoreContract

from kaizenml.adapters.sqlite_online import SqliteOnlineStore
from kaizenml.errors import Corrupt, StorageFull, Unavailable
from kaizenml.ports import OnlineRow, OnlineStore

STORM = """
    import itertools, sys
    from kaizenml.adapters.sqlite_online import SqliteOnlineStore
    store = SqliteOnlineStore(sys.argv[1])
    print("ready", flush=True)
    for i in itertools.count(int(sys.argv[2])):
        # every value of a row repeats its time, so that a torn row shows; a, b and c are one transaction
        store.write("v.1", [(key, float(i), {f"x{n}": float(i) for n in range(10)}) for key in ("a", "b", "c")])
        print(i, flush=True)
"""


class TestSqlite(OnlineStoreContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], OnlineStore]:
        return lambda: SqliteOnlineStore(tmp_path / "online.db")


def storm(path: Path, first: int) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(STORM), str(path), str(first)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_reading_does_not_create_the_file(tmp_path: Path) -> None:
    for readonly in (False, True):
        store = SqliteOnlineStore(tmp_path / "online.db", readonly=readonly)
        assert store.read(VIEW, ["JFK"]) == [None]
    assert not (tmp_path / "online.db").exists()


def test_a_reader_that_started_before_the_file_existed_finds_it_later(tmp_path: Path) -> None:
    reader = SqliteOnlineStore(tmp_path / "state" / "online.db", readonly=True)
    assert reader.read(VIEW, ["JFK"]) == [None]
    writer = SqliteOnlineStore(tmp_path / "state" / "online.db")
    writer.write(VIEW, [("JFK", 1.0, {"temp": 1.0})])
    assert reader.read(VIEW, ["JFK"]) == [OnlineRow(1.0, {"temp": 1.0})]
    writer.close()
    writer.write(VIEW, [("JFK", 2.0, {"temp": 2.0})])
    assert reader.read(VIEW, ["JFK"]) == [OnlineRow(2.0, {"temp": 2.0})]
    reader.close()
    writer.close()


def test_a_reader_does_not_write(tmp_path: Path) -> None:
    writer = SqliteOnlineStore(tmp_path / "online.db")
    writer.write(VIEW, [("JFK", 1.0, {"temp": 1.0})])
    reader = SqliteOnlineStore(tmp_path / "online.db", readonly=True)
    with pytest.raises(Unavailable, match="reading only"):
        reader.write(VIEW, [("JFK", 2.0, {})])
    writer.close()
    assert reader.read(VIEW, ["JFK"]) == [OnlineRow(1.0, {"temp": 1.0})]  # also after the last writer has gone
    reader.close()


@pytest.mark.slow
def test_a_reader_of_another_process_sees_whole_transactions_only(tmp_path: Path) -> None:
    writer = storm(tmp_path / "online.db", 1)
    reader = SqliteOnlineStore(tmp_path / "online.db", readonly=True)
    seen = set()
    end = time.perf_counter() + 0.7
    while time.perf_counter() < end:
        rows = reader.read("v.1", ["a", "b", "c"])
        if rows[0] is not None:
            assert {value for row in rows if row is not None for value in (row.at, *row.values.values())} == {rows[0].at}
            seen.add(rows[0].at)
    writer.kill()
    writer.communicate()
    reader.close()
    assert len(seen) > 10


@pytest.mark.slow
def test_kill_9_in_a_storm_of_writes_leaves_whole_rows_and_loses_none_that_was_answered(tmp_path: Path) -> None:
    path, answered = tmp_path / "online.db", 0
    for round_ in range(5):
        writer = storm(path, answered + 1)
        assert writer.stdout is not None
        answered = int(writer.stdout.readline())
        time.sleep(0.02 * round_)
        os.kill(writer.pid, signal.SIGKILL)
        text, _ = writer.communicate()
        whole = [line for line in text.split("\n")[:-1] if line]
        answered = int(whole[-1]) if whole else answered
        store = SqliteOnlineStore(path)
        rows = [row for row in store.read("v.1", ["a", "b", "c"]) if row is not None]
        assert len(rows) == 3
        assert len({value for row in rows for value in (row.at, *row.values.values())}) == 1
        assert rows[0].at >= answered
        store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_forked_child_opens_its_own_connection(tmp_path: Path) -> None:
    code = """
        import os, sys
        from kaizenml.adapters.sqlite_online import SqliteOnlineStore
        store = SqliteOnlineStore(sys.argv[1])
        store.write("v.1", [("a", 1.0, {"x": 1})])
        child = os.fork()
        if child == 0:
            store.write("v.1", [("a", 2.0, {"x": 2})])
            ok = store.read("v.1", ["a"])[0].at == 2.0
            store.close()
            os._exit(0 if ok else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0
        store.write("v.1", [("b", 3.0, {"x": 3})])
        assert [row.at for row in store.read("v.1", ["a", "b"])] == [2.0, 3.0]
        store.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "online.db")], check=True)


def test_two_processes_may_create_the_file_at_once(tmp_path: Path) -> None:
    writers = [storm(tmp_path / "online.db", 1) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "1\n"
    for writer in writers:
        writer.kill()
        writer.communicate()


def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "online.db").write_bytes(b"this is no database, " * 100)
    store = SqliteOnlineStore(tmp_path / "online.db")
    with pytest.raises(Corrupt, match=r"online\.db is damaged") as caught:
        store.read(VIEW, ["JFK"])
    assert "materialize" in caught.value.remedy


def test_a_file_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "online.db")
    store.write(VIEW, [("JFK", 1.0, {})])
    store.close()
    connection = sqlite3.connect(tmp_path / "online.db")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(Corrupt, match="format 2"):
        store.read(VIEW, ["JFK"])


def test_a_full_disk_is_said_and_leaves_the_old_rows(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "online.db")
    store.write(VIEW, [("JFK", 1.0, {"temp": 1.0})])
    connection = store._connection()
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 4}")  # the same answer from SQLite as a full disk
    with pytest.raises(StorageFull, match="nothing was half-written"):
        store.write(VIEW, [(f"k{i}", 1.0, {"temp": "x" * 1000}) for i in range(100)])
    assert store.read(VIEW, ["JFK", "k0"]) == [OnlineRow(1.0, {"temp": 1.0}), None]
    store.close()
