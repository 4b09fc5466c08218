"""What a kill, a rival or a full disk leaves behind, tried with real processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kaizenml.context import Context
from kaizenml.data import operations, store, tables
from kaizenml.data.kinds import VERSION
from kaizenml.errors import StorageFull

ADDERS = """
import os, sys
from pathlib import Path
import pyarrow as pa
from kaizenml.data import operations
from kaizenml.project import open_project
import pyarrow.dataset
pa.array([1])  # what it loads on first use is loaded before any fork, so that the children die in their work

def add_all(who, times):
    ctx = open_project(Path(sys.argv[1]), actor="adder")
    for turn in range(times):
        batch = f"{who}-{turn}"
        rows = [{"batch": batch, "row": row, "x": "bad" if row == 7 else str(row / 2)} for row in range(50)]
        operations.add(ctx, "b", table=pa.Table.from_pylist(rows), once=batch)
        os.write(1, f"{batch}\\n".encode())

# one slow start for many processes: each line asks for a new one, forked before anything is opened
for line in sys.stdin:
    who, times = line.split()
    child = os.fork()
    if child == 0:
        try:
            add_all(who, int(times))
            os._exit(0)
        except BaseException as error:
            os.write(1, f"failed {error!r}\\n".encode())
            os._exit(1)
    os.write(1, f"pid {child}\\n".encode())
"""

FULL = """
import resource, sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from kaizenml.data import operations
from kaizenml.errors import StorageFull
from kaizenml.project import open_project

ctx = open_project(Path(sys.argv[1]), actor="adder")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    operations.add(ctx, sys.argv[2], table=pa.table({"x": np.random.default_rng(0).random(50_000)}))
except StorageFull as error:
    print(error)
    sys.exit(9)
"""


class Adders:
    """Processes that add batches to dataset b of one project."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", ADDERS, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._news = self._process.stdin, self._process.stdout
        self.confirmed: set[str] = set()

    def start(self, who: str, times: int) -> int:
        self._orders.write(f"{who} {times}\n")
        self._orders.flush()
        while True:
            word = self._news.readline().split()
            if word[0] == "pid":
                return int(word[1])
            self.confirmed.add(word[0])

    def wait_for(self, batch: str) -> None:
        while batch not in self.confirmed:
            line = self._news.readline().strip()
            assert line, "the adders died"
            assert not line.startswith("failed"), line
            self.confirmed.add(line)

    def close(self) -> None:
        self._orders.close()
        self._news.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture
def adders(ctx: Context) -> Iterator[Adders]:
    found = Adders(ctx.root)
    yield found
    found.close()


def first_rows(ctx: Context) -> None:
    operations.add(ctx, "b", table=pa.table({"batch": ["first", "first"], "row": [0, 1], "x": [0.5, 1.5]}))


def batches_of(ctx: Context) -> set[str]:
    """Check everything that must hold of dataset b, and return the batches in its newest version."""
    versions = operations.versions(ctx, "b")
    assert [version.number for version in versions] == list(range(len(versions), 0, -1))
    newest = tables.read(ctx, "b")
    assert newest.num_rows == versions[0].rows
    counts = {entry["values"]: entry["counts"] for entry in newest["batch"].value_counts().to_pylist()}
    assert counts.pop("first") == 2
    assert set(counts.values()) <= {49}, "a batch is there whole and once, or not at all"
    assert len(counts) == len(versions) - 1
    tables.verify(ctx, "b")
    kept_out = operations.quarantine(ctx, "b")
    assert kept_out.rows == len(counts) == operations.show(ctx, "b").quarantined
    with ctx.catalog.read() as connection:
        assert set(store.parts(connection, "b")) == set(range(1, len(versions) + 1))
    return set(counts)


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_whole_versions_and_the_next_addition_works(ctx: Context, adders: Adders):
    first_rows(ctx)
    chance = random.Random(7)
    for round_ in range(6):
        child = adders.start(f"r{round_}", 1000)
        adders.wait_for(f"r{round_}-0")
        time.sleep(chance.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.001)
        there = batches_of(ctx)
        assert adders.confirmed <= there, "what was confirmed is there"
        # the one that was under way is told from its token
        rows = {"batch": [f"after-{round_}"] * 50, "row": range(50), "x": ["1"] * 49 + ["bad"]}
        operations.add(ctx, "b", table=pa.table(rows))
        assert batches_of(ctx) == there | {f"after-{round_}"}


def test_what_a_writer_left_between_table_and_catalog_is_invisible_and_its_number_is_used_again(ctx: Context):
    first_rows(ctx)
    folder, quarantine = tables.folder(ctx, "b"), tables.quarantine_folder(ctx, "b")
    stray = pa.table({"batch": ["stray"], "row": [1], "x": [1.0]})
    tables.append_part(folder, stray, 2)
    tables.append_part(quarantine, pa.table({"batch": ["stray"], "_row": [1], "_rule": ["r"], "_reason": ["r"]}), 2, by=VERSION)
    (folder / "_part=2" / "part-00000-half-written.parquet").write_bytes(b"PAR1 half")
    assert batches_of(ctx) == set()
    version = operations.add(ctx, "b", table=pa.table({"batch": ["next"] * 49, "row": range(49), "x": ["1"] * 49}))
    assert version.parts == [1, 2]
    assert "stray" not in tables.read(ctx, "b")["batch"].to_pylist()
    assert operations.quarantine(ctx, "b").rows == 0
    tables.verify(ctx, "b")


@pytest.mark.slow
def test_two_processes_that_add_at_once_both_land_one_after_the_other(ctx: Context, adders: Adders):
    first_rows(ctx)
    for who in "pq":
        adders.start(who, 6)
    for who in "pq":
        adders.wait_for(f"{who}-5")
    assert batches_of(ctx) == {f"{who}-{turn}" for who in "pq" for turn in range(6)}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.parquet*")} if folder.exists() else set()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["new", "b"])
def test_a_full_disk_is_told_and_leaves_nothing(ctx: Context, name: str):
    operations.add(ctx, "b", table=pa.table({"x": [0.5, 1.5]}))
    before = files_in(ctx.state / "data")
    done = subprocess.run([sys.executable, "-c", FULL, str(ctx.root), name], capture_output=True, text=True, timeout=100, check=False)
    said = done.stdout
    assert done.returncode == 9, done
    assert "nothing was added" in said
    assert "try: free some space" in said
    assert files_in(ctx.state / "data") == before
    assert [dataset.name for dataset in operations.list(ctx)] == ["b"]
    assert not (ctx.root / "contracts" / "new.toml").exists()
    assert operations.add(ctx, name, table=pa.table({"x": np.arange(3.0)})).number == (1 if name == "new" else 2)


def test_a_full_disk_under_the_contract_file_adds_nothing(ctx: Context, monkeypatch):
    import errno

    def full(self: Path, *arguments: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(StorageFull, match="nothing was added"):
            operations.add(ctx, "b", table=pa.table({"x": [0.5]}))
    assert operations.list(ctx) == []
    assert operations.add(ctx, "b", table=pa.table({"x": [0.5]})).parts == [1]
    assert tables.read(ctx, "b").to_pylist() == [{"x": 0.5}]
