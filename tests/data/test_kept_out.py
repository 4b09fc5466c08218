"""Rows in quarantine are released or dropped by a person, each exactly once, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from kaizenml import events
from kaizenml.context import Context
from kaizenml.data import contract_file, operations, tables
from kaizenml.errors import NotFound, UsageError

RELEASER = """
import os, signal, sys
from pathlib import Path
from kaizenml.data import kept_out, operations, tables
from kaizenml.project import open_project

ctx = open_project(Path(sys.argv[1]), actor="ann")
def die(*_arguments, **_more):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before the catalog":
    write = tables.append_part
    def written(*arguments, **more):
        write(*arguments, **more)
        die()
    tables.append_part = written
else:
    kept_out.sweep = lambda _ctx, _name, decided: die() if decided else None
operations.release(ctx, "d", why="seen")
"""


@pytest.fixture
def kept(ctx: Context) -> Context:
    """A dataset with a limit, and six rows in quarantine of two additions."""
    when = [datetime(2026, 1, day, 12, 30, 0, 123456, tzinfo=UTC) for day in (1, 2, 3)]
    operations.add(ctx, "d", table=pa.table({"id": [1, 2, 3], "x": [0.1, 0.2, 0.3], "ok": [True, False, True], "at": when}), key="id")
    path = contract_file.path_of(ctx.root, "d")
    path.write_text(path.read_text().replace('name = "x"\nkind = "number"\n', 'name = "x"\nkind = "number"\nmaximum = 1\n'))
    late = [str(moment) for moment in when]
    operations.add(ctx, "d", table=pa.table({"id": [4, 5, 6], "x": ["1e300", "wide", "0.5"], "ok": ["true"] * 3, "at": late}))
    operations.add(ctx, "d", table=pa.table({"id": [7, 2, 8, 9], "x": [1 / 3 + 1, 0.5, 7.0, 0.4], "ok": [False] * 4, "at": [*when, when[0]]}))
    return ctx


def ids(ctx: Context, ref: str = "d") -> list[int]:
    return tables.read(ctx, ref, ["id"])["id"].to_pylist()


def test_rows_are_released_as_a_new_version_with_who_and_why(kept: Context):
    assert operations.show(kept, "d").quarantined == 5
    done = operations.release(kept, "d", rule="x is above 1", why="measured twice")
    assert (done.rows, done.stayed, done.version) == (3, 0, "d@4")
    assert ids(kept) == [1, 2, 3, 6, 9, 4, 7, 8]
    assert tables.read(kept, "d", ["x"])["x"].to_pylist()[-3:] == [1e300, 1 / 3 + 1, 7.0]
    version = tables.version(kept, "d")
    assert version.source == "quarantine of d@2, d@3"
    assert ids(kept, "d@3") == [1, 2, 3, 6, 9]
    with kept.catalog.read() as connection:
        event = events.read(connection, kind="data.released")[0]
    assert (event.actor, event.why, event.data["of"]) == ("test", "measured twice", {"2": 1, "3": 2})
    assert operations.show(kept, "d").quarantined == 2
    tables.verify(kept, "d")


def test_what_cannot_be_typed_or_is_there_already_stays_and_is_told_why(kept: Context):
    done = operations.release(kept, "d", why="all of them")
    assert (done.rows, done.stayed) == (3, 2)
    assert done.reasons == {"x is not a number": 1, "id is in d@3 already": 1}
    left = operations.quarantine(kept, "d")
    assert left.reasons == {"x is not a number": 1, "id is in d@2 already": 1}  # as it was told when they came
    again = operations.release(kept, "d", why="once more")
    assert (again.rows, again.stayed, again.version) == (0, 2, None)
    assert tables.version(kept, "d").number == 4


def test_rows_are_meant_by_their_numbers_of_one_addition(kept: Context):
    with pytest.raises(UsageError, match="may be of the addition 2 or 3"):
        operations.release(kept, "d", rows=[1], why="which?")
    assert operations.release(kept, "d", rows=[1], version=3, why="that one").rows == 1
    with pytest.raises(NotFound, match="row 1 of d is not waiting"):
        operations.release(kept, "d", rows=[1], version=3, why="again")
    with pytest.raises(NotFound, match="x is above 1"):
        operations.release(kept, "d", rule="x is below 1", why="no such rule")
    with pytest.raises(UsageError, match="needs a reason"):
        operations.drop(kept, "d", why=" ")


def test_dropped_rows_are_gone_and_cannot_be_released(kept: Context):
    assert operations.drop(kept, "d", version=2, why="a broken meter").rows == 2
    assert operations.quarantine(kept, "d").rows == operations.show(kept, "d").quarantined == 3
    assert tables.read_quarantine(tables.quarantine_folder(kept, "d"), {2, 3})["_version"].to_pylist() == [3, 3, 3]
    with pytest.raises(NotFound):
        operations.release(kept, "d", version=2, why="too late")
    assert tables.version(kept, "d").number == 3


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the catalog", "after the catalog"])
def test_a_release_that_was_killed_takes_each_row_exactly_once(kept: Context, moment):
    done = subprocess.run([sys.executable, "-c", RELEASER, str(kept.root), moment], check=False, timeout=60, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    killed = tables.version(kept, "d").number
    assert killed == (3 if moment == "before the catalog" else 4)
    again = operations.release(kept, "d", why="repeated")
    assert again.rows == (3 if killed == 3 else 0)
    assert sorted(ids(kept)) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert operations.show(kept, "d").quarantined == operations.quarantine(kept, "d").rows == 2
    tables.verify(kept, "d")
