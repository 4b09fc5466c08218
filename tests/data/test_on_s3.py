"""Datasets whose tables lie on S3: what holds of those in a folder holds here, also after a kill and against a writer that lost its hold."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
from test_data_crash import Adders, batches_of, first_rows
from test_dataset_operations import (  # noqa: F401  (the same tests, over the fixture below)
    test_a_kind_changed_in_the_file_needs_replace_and_keeps_older_versions,
    test_a_token_adds_once,
    test_bad_rows_go_to_quarantine_with_reasons_and_good_rows_land,
    test_fractions_widen_a_column_and_older_versions_read_as_before,
    test_nothing_is_written_when_every_row_is_bad,
    test_odd_names_and_values_survive_storage,
    test_versions_stay_as_they_were_when_rows_are_appended_or_replaced,
)

from engines import S3
from kaizenml.context import Context
from kaizenml.data import operations, storage, tables
from kaizenml.errors import Conflict, Unavailable

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path, s3: S3) -> Path:
    folder = tmp_path / "a shop"
    folder.mkdir()
    (folder / "kaizen.toml").write_text(f'[project]\nname = "shop"\nobjects = "{s3.url}/a shop/"\n', encoding="utf-8")
    return folder


def test_no_row_is_written_to_this_machine(ctx: Context):
    first_rows(ctx)
    assert batches_of(ctx) == set()
    assert not list(ctx.root.rglob("*.parquet"))
    assert "_part=1" in storage.folders(tables.folder(ctx, "b"))


def test_what_a_writer_left_between_table_and_catalog_is_invisible_and_its_number_is_used_again(ctx: Context):
    first_rows(ctx)
    tables.append_part(tables.folder(ctx, "b"), pa.table({"batch": ["stray"], "row": [1], "x": [1.0]}), 2)
    assert batches_of(ctx) == set()
    version = operations.add(ctx, "b", table=pa.table({"batch": ["next"] * 49, "row": range(49), "x": ["1"] * 49}))
    assert version.parts == [1, 2]
    assert "stray" not in tables.read(ctx, "b")["batch"].to_pylist()
    tables.verify(ctx, "b")


def test_a_writer_that_lost_its_hold_adds_nothing(ctx: Context):
    first_rows(ctx)
    at, rows = tables.folder(ctx, "b"), pa.table({"batch": ["slow"], "row": [1], "x": [1.0], "_part": [2]})
    seen = storage.open_table(at)
    tables.append_part(at, rows.drop_columns("_part"), 2)
    with pytest.raises(Conflict, match="another writer"), tables.room():
        storage.write(at, seen, rows, by="_part", number=2, mode="append", schema_mode="merge")
    with pytest.raises(Conflict, match="another writer"):
        tables.append_part(at, rows.drop_columns("_part"), 2)


@pytest.mark.slow
def test_kill_9_in_a_write_leaves_whole_versions(ctx: Context):
    first_rows(ctx)
    adders = Adders(ctx.root)
    try:
        chance = random.Random(11)
        for round_ in range(3):
            child = adders.start(f"r{round_}", 1000)
            adders.wait_for(f"r{round_}-0")
            time.sleep(chance.uniform(0.0, 0.6))
            os.kill(child, signal.SIGKILL)
            while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.001)
            assert adders.confirmed <= batches_of(ctx), "what was confirmed is there"
        before = batches_of(ctx)
        operations.add(ctx, "b", table=pa.table({"batch": ["after"] * 50, "row": range(50), "x": ["1"] * 49 + ["bad"]}))
        assert batches_of(ctx) == before | {"after"}
    finally:
        adders.close()


def test_a_server_that_is_away_is_told_at_once_and_nothing_is_added(ctx: Context, monkeypatch: pytest.MonkeyPatch):
    first_rows(ctx)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(Unavailable, match="object store"):
            operations.add(ctx, "b", table=pa.table({"batch": ["next"], "row": [1], "x": ["1"]}))
        with pytest.raises(Unavailable, match="object store"):
            tables.read(ctx, "b")
    assert [version.number for version in operations.versions(ctx, "b")] == [1]
