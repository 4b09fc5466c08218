"""Killed at any moment, a decision on personal columns leaves every version with its old values or the new ones, and the next call ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import every_byte
import numpy as np
import pyarrow as pa
import pytest

from forked import forked
from kaizenml import audit
from kaizenml.context import Context
from kaizenml.data import contract_file, keys, tables
from kaizenml.data import operations as data
from kaizenml.governance import operations as governance
from kaizenml.governance.forgetting import datasets
from kaizenml.project import open_project

WHO = [481516231, 481516232, 481516233, 481516234, 481516235]
SPENT = [1.5, 2.0, None, 4.0, 5.0]
IMPORTS = """
import sys
import pyarrow.dataset, pyarrow.parquet
from kaizenml.governance import operations as governance
from kaizenml.project import open_project
"""
WORK = """
governance.protect(open_project(sys.argv[1], actor="ada"), "people")
"""
KILLED = """
import os, signal, sys
from kaizenml.governance import operations as governance, protecting
from kaizenml.governance.forgetting import datasets, rewriting
from kaizenml.project import open_project
_, root, step, after = sys.argv
room, name = step.split(".")
room = {"protecting": protecting, "datasets": datasets, "rewriting": rewriting}[room]
run = getattr(room, name)
def killed(*given, **named):
    if after:
        run(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(room, name, killed)
governance.protect(open_project(root, actor="ada"), "people")
"""
KILLS = 14


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    """Two versions, and a contract that says by now that numbers become pseudonyms."""
    (tmp_path / "kaizen.toml").write_text('[project]\nname = "shop"\n', encoding="utf-8")
    ctx = open_project(tmp_path, actor="ada")
    for low, high in ((0, 2), (2, 5)):
        data.add(ctx, "people", table=pa.table({"customer_id": WHO[low:high], "spent": pa.array(SPENT[low:high], pa.float64())}), key="customer_id")
    path = contract_file.path_of(tmp_path, "people")
    text = path.read_text(encoding="utf-8")
    for name, kind in (("customer_id", "integer"), ("spent", "number")):
        before = f'name = "{name}"\nkind = "{kind}"\n'
        assert before in text
        text = text.replace(before, before + 'personal = {kind = "id", decision = "pseudonym"}\n')
    path.write_text(text, encoding="utf-8")
    yield ctx
    ctx.online.close()
    ctx.catalog.close()


def forms(ctx: Context, ref: str) -> tuple[list[list[object]], list[list[object]]]:
    """The old and the new values of a version, column by column."""
    rows, pseudonym = (2 if ref == "people@1" else 5), keys.open_keys(ctx.state).pseudonym_of
    old: list[list[object]] = [WHO[:rows], SPENT[:rows]]
    return old, [[pseudonym(value) for value in column] for column in old]


def read(ctx: Context, ref: str) -> list[list[object]]:
    """The values of a version; what it says of its columns is what they are."""
    rows, kinds = tables.read(ctx, ref), tables.version(ctx, ref).columns
    pieces = pa.concat_tables(tables.batches(ctx, ref))
    assert pieces.equals(rows)
    for name, kind in {"customer_id": "integer", "spent": "number"}.items():
        assert kinds[name] == ("text" if rows[name].type == pa.string() else kind)
    return [rows[name].to_pylist() for name in ("customer_id", "spent")]


def ended(ctx: Context) -> None:
    governance.protect(ctx, "people")
    for ref in ("people@1", "people@2"):
        assert read(ctx, ref) == forms(ctx, ref)[1]
        assert tables.version(ctx, ref).becoming == {}
        assert data.verify(ctx, ref).said == f"{ref} is whole; personal columns hidden since"
    assert every_byte.found(ctx.root, numbers=tuple(WHO)) == []
    assert len(audit.list(ctx, kind="data.protected")) == 1
    audit.verify(ctx)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["rewriting.change", "datasets.renew", "protecting._settle", "rewriting.scrub"])
@pytest.mark.parametrize("after", ["", "after"])
def test_between_any_two_steps_versions_hold_old_values_or_new_ones(ctx: Context, step: str, after: str):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(ctx.root), step, after], check=False)
    assert killed.returncode == -signal.SIGKILL
    for ref in ("people@1", "people@2"):
        assert read(ctx, ref) in forms(ctx, ref)
    ended(ctx)


def test_who_is_forgotten_in_between_takes_nobody_along(ctx: Context, monkeypatch: pytest.MonkeyPatch):
    def broken(*_given, **_named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(datasets, "renew", broken)
        with pytest.raises(KeyboardInterrupt):
            governance.protect(ctx, "people")
    governance.forget(ctx, subject=[f"customer_id={WHO[0]}"])
    assert read(ctx, "people@2") == [column[1:] for column in forms(ctx, "people@2")[1]]
    governance.protect(ctx, "people")
    assert read(ctx, "people@2") == [column[1:] for column in forms(ctx, "people@2")[1]]
    data.verify(ctx, "people@2")


@pytest.mark.slow
def test_whoever_is_killed_at_any_moment_is_followed_by_one_that_ends_it(ctx: Context):
    killed = 0
    with forked(IMPORTS, WORK, str(ctx.root)) as worker:
        for pause in np.linspace(0.01, 0.5, KILLS):  # the work takes less than the longest
            worker.start()
            if worker.wait(float(pause)) is not None:
                break
            worker.kill()
            killed += 1
            for ref in ("people@1", "people@2"):
                assert read(ctx, ref) in forms(ctx, ref)
    assert killed
    ended(ctx)
