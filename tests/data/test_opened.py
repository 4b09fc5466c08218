"""Tables that stay open: whatever another process does to one is seen by the next look."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from kaizenml.data import opened, storage, tables
from kaizenml.data.kinds import PART
from kaizenml.errors import Conflict

OTHER = """
import shutil, sys
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

def add(where, number, value):
    write_deltalake(where, pa.table({"x": [value], "_part": [int(number)]}), mode="append", partition_by=["_part"])

def delete(where, number):
    DeltaTable(where).delete(f"_part = {number}")

def remove(where):
    shutil.rmtree(where)

def widen(where):
    write_deltalake(where, pa.table({"x": ["a"], "y": [1], "_part": [9]}), mode="append", schema_mode="merge", partition_by=["_part"])

for line in sys.stdin:
    name, *given = line.strip().split("\\t")
    globals()[name](*given)
    print("done", flush=True)
"""


class Other:
    """Another process, which knows nothing of what is open here."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, name: str, where: Path, *given: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join([name, str(where), *map(str, given)]) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def other() -> Iterator[Other]:
    process = Other()
    yield process
    process.close()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    tables.append_part(tmp_path / "t", pa.table({"x": ["first"]}), 1)
    return tmp_path / "t"


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is opened by reading its whole log from here on."""
    found: list[Path] = []
    real = storage.open_table

    def counted(at: Path) -> DeltaTable | None:
        found.append(at)
        return real(at)

    monkeypatch.setattr(storage, "open_table", counted)
    return found


def values(table: Path) -> list[str]:
    there = tables.part_files(table)
    return [value for number in sorted(there) for value in tables.read_parts(table, [number], {"x": "text"})["x"].to_pylist()]


def test_a_table_is_opened_once_however_often_it_is_read_and_added_to(table: Path, opens: list[Path]):
    assert values(table) == ["first"]
    opens.clear()
    for number in (2, 3, 4):
        tables.append_part(table, pa.table({"x": [f"row {number}"]}), number)
        assert values(table) == ["first", *(f"row {each}" for each in range(2, number + 1))]
        assert tables.clean(table, set(range(1, number + 1))) == []
    assert opens == []


def test_what_another_process_commits_is_seen_at_once_without_opening_anew(table: Path, other: Other, opens: list[Path]):
    assert values(table) == ["first"]
    opens.clear()
    for number in (2, 3):
        other.do("add", table, number, f"theirs {number}")
        assert values(table)[-1] == f"theirs {number}"
    other.do("delete", table, 2)
    assert values(table) == ["first", "theirs 3"]
    assert opens == []


def test_two_processes_that_write_in_turns_see_each_other(table: Path, other: Other):
    for number in range(2, 8):
        if number % 2:
            tables.append_part(table, pa.table({"x": [str(number)]}), number)
        else:
            other.do("add", table, number, number)
    assert values(table) == ["first", *map(str, range(2, 8))]


def test_columns_that_another_process_adds_are_seen(table: Path, other: Other):
    assert tables.stored_types(table, ["x", "y"]).keys() == {"x"}
    other.do("widen", table)
    assert tables.stored_types(table, ["x", "y"])["y"] == pa.int64()


def test_a_table_that_is_gone_is_gone(table: Path, other: Other):
    assert values(table) == ["first"]
    other.do("remove", table)
    assert opened.look(table) is None
    assert tables.part_files(table) == {}


@pytest.mark.parametrize("commits", [1, 2, 3])
def test_a_table_made_anew_under_the_same_path_is_the_new_one(table: Path, other: Other, commits: int):
    """With fewer, as many, and more entries in its log than the one that was open."""
    other.do("add", table, 2, "old")
    assert values(table) == ["first", "old"]
    other.do("remove", table)
    for number in range(1, commits + 1):
        other.do("add", table, number, f"new {number}")
    assert values(table) == [f"new {number}" for number in range(1, commits + 1)]


def test_a_log_whose_entries_were_removed_reads_as_before_and_goes_on(table: Path, other: Other):
    tables.append_part(table, pa.table({"x": ["second"]}), 2)
    assert values(table) == ["first", "second"]
    other.do("add", table, 3, "third")
    DeltaTable(table).create_checkpoint()
    for number in (0, 1):
        (table / "_delta_log" / f"{number:020d}.json").unlink()
    assert values(table) == ["first", "second", "third"]
    tables.append_part(table, pa.table({"x": ["fourth"]}), 4)
    assert values(table) == ["first", "second", "third", "fourth"]


def test_a_copy_put_in_the_place_of_a_table_is_the_copy(table: Path, tmp_path: Path):
    """As a backup that is restored: the log has an entry of the same number, of the same size and time."""
    backup = tmp_path / "backup"
    shutil.copytree(table, backup)
    tables.append_part(table, pa.table({"x": ["after the backup"]}), 2)
    assert values(table) == ["first", "after the backup"]
    shutil.rmtree(table)
    shutil.copytree(backup, table)
    assert values(table) == ["first"]


def test_a_writer_whose_table_another_one_changed_meanwhile_is_refused(table: Path, other: Other):
    with pytest.raises(Conflict), tables.room(), opened.changing(table) as held:
        assert held is not None
        tables.append_part(table, pa.table({"x": ["quicker"]}), 2)
        storage.write(table, held.table, pa.table({"x": ["late"], PART: [2]}), by=PART, number=2, mode="append", schema_mode="merge")
    assert values(table) == ["first", "quicker"]


def test_an_error_in_a_change_leaves_no_table_that_nobody_knows(table: Path):
    assert values(table) == ["first"]
    with pytest.raises(RuntimeError), opened.changing(table) as held:
        assert held is not None
        write_deltalake(held.table, pa.table({"x": ["there"], PART: [2]}), mode="append", partition_by=[PART])
        raise RuntimeError
    assert values(table) == ["first", "there"]


def test_threads_that_read_beside_a_writer_see_whole_states_that_only_grow(table: Path):
    seen: list[list[int]] = [[] for _ in range(4)]
    done = threading.Event()

    def read(mine: list[int]) -> None:
        while not done.wait(0.001):
            state = opened.look(table)
            assert state is not None
            assert state.files.num_rows == state.version + 1
            mine.append(state.version)

    readers = [threading.Thread(target=read, args=(mine,)) for mine in seen]
    for reader in readers:
        reader.start()
    for number in range(2, 12):
        tables.append_part(table, pa.table({"x": [str(number)]}), number)
        state = opened.look(table)
        assert state is not None
        assert state.version == number - 1
    done.set()
    for reader in readers:
        reader.join()
    assert all(mine == sorted(mine) and mine for mine in seen)


def test_only_so_many_tables_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(opened, "_MOST_KEPT", 2)
    monkeypatch.setattr(opened, "_kept", {})
    for name in "abcd":
        tables.append_part(tmp_path / name, pa.table({"x": [name]}), 1)
    assert [values(tmp_path / name) for name in "abcd"] == [["a"], ["b"], ["c"], ["d"]]
    assert len(opened._kept) == 2
