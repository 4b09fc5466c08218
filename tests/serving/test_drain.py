"""Draining: every record once, whoever is killed when; readers by cursor see each row once, also across tidying."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import serving_bundles as bundles
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from kaizenml.errors import InvalidInput, NotFound
from kaizenml.serving import operations
from kaizenml.serving.client import Client
from kaizenml.serving.ids import Ids, project_key
from kaizenml.serving.journaling import drain as draining
from kaizenml.serving.journaling import journal, predictions
from kaizenml.serving.journaling.drain import drain, tidy
from kaizenml.serving.journaling.journal import Journal
from kaizenml.serving.journaling.records import Answer, PredictionRecord, ShadowRecord

AT = datetime(2026, 3, 1, 23, 59, 59, 400_000, tzinfo=UTC).timestamp()
_encode = msgspec.msgpack.Encoder().encode


class Writer:
    """Writes the records that a serving process writes."""

    def __init__(self, state, **options):
        self.ids = Ids(project_key(state))
        self.journal = Journal(state / "journal", **options)
        self.written: list[str] = []

    def write(self, *, endpoint="shop", at=AT, rows=None, release="shop@1", features=None, shadow=True):
        rows = rows or [bundles.GOOD]
        made = self.ids.make(at, len(rows))
        answers = [Answer(i, True, [0.25, 0.75], "model", None) for i in made]
        body = msgspec.json.encode({"inputs": rows})
        self.journal.append(_encode(PredictionRecord(at, endpoint, release, "champion", "u", body, answers, features)))
        if shadow:
            self.journal.append(_encode(ShadowRecord(at, endpoint, "shop@2", "shadow", answers)))
        self.written += made
        return made


def _ids(ctx, endpoint="shop", role="live"):
    return predictions.read(ctx, endpoint, columns=["id"], role=role)["id"].to_pylist()


def test_rows_have_their_columns_and_types(ctx):
    bundles.write_bundle(ctx.state, view=True)
    writer = Writer(ctx.state)
    rows = [{**bundles.GOOD, "order": "o-1"}, {"price": 2, "size": None, "count": 2, "gift": 0, "ordered": 0, "place": "JFK", "weather_temp": 9}]
    writer.write(rows=rows, features=[{"weather_temp": 1.5}, {}])
    done = drain(ctx)
    assert (done.records, done.rows, done.skipped) == (2, 4, 0)
    table = predictions.read(ctx, "shop")
    types = {
        "x_price": pa.float64(),
        "x_count": pa.float64(),
        "x_size": pa.string(),
        "x_gift": pa.bool_(),
        "x_order": pa.string(),
        "score": pa.float64(),
    }
    assert {name: table.schema.field(name).type for name in types} == types
    assert table.schema.field("x_ordered").type == table.schema.field("at").type == pa.timestamp("us", tz="UTC")
    first, second, *shadows = table.to_pylist()
    assert (first["role"], first["release"], first["arm"], first["unit"], first["decided_by"]) == ("live", "shop@1", "champion", "u", "model")
    assert (first["value"], first["score"], first["probabilities"], first["day"]) == ("true", 0.75, [0.25, 0.75], "2026-03-01")
    assert first["at"].timestamp() == AT
    assert [first["x_weather_temp"], second["x_weather_temp"]] == [1.5, 9.0]
    assert (second["x_size"], second["x_gift"], second["x_ordered"].timestamp()) == (None, False, 0.0)
    assert [row["role"] for row in shadows] == ["shadow", "shadow"]
    assert all(row["x_price"] is None and row["unit"] is None for row in shadows)
    assert [row["id"] for row in shadows] == [first["id"], second["id"]]


def test_new_inputs_become_columns_and_odd_values_null(ctx):
    writer = Writer(ctx.state)  # no bundle: types follow from the values
    writer.write(rows=[{"a": 1}])
    drain(ctx)
    writer.write(rows=[{"a": "2", "b": "x"}, {"a": "odd", "b": 5}, {"a": 10**30, "b": True}], shadow=False)
    drain(ctx)
    table = predictions.read(ctx, "shop", role="live")
    assert table["x_a"].to_pylist() == [1.0, 2.0, None, 1e30]
    assert table["x_b"].to_pylist() == [None, "x", "5", "true"]
    assert predictions.read(ctx, "shop", columns=["id", "never_seen"]).column("never_seen").null_count == 5


def test_a_release_with_fewer_inputs_leaves_the_others_null(ctx):
    writer = Writer(ctx.state)
    writer.write(rows=[{"a": 1, "b": "x"}], shadow=False)
    drain(ctx)
    writer.write(rows=[{"a": 2}], release="shop@2", shadow=False)
    drain(ctx)
    writer.write(rows=[{"a": 3, "c": 0.5}], release="shop@3", shadow=False)
    drain(ctx)
    table = predictions.read(ctx, "shop", role="live")
    assert table.select(["release", "x_a", "x_b", "x_c"]).to_pylist() == [
        {"release": "shop@1", "x_a": 1.0, "x_b": "x", "x_c": None},
        {"release": "shop@2", "x_a": 2.0, "x_b": None, "x_c": None},
        {"release": "shop@3", "x_a": 3.0, "x_b": None, "x_c": 0.5},
    ]


def test_what_is_drained_is_not_drained_again_and_finished_segments_go(ctx):
    writer = Writer(ctx.state, segment_bytes=2000)
    for _ in range(20):
        writer.write()
    first = drain(ctx)
    assert first.rows == 40
    assert first.removed >= 2
    assert len(journal.segments(ctx.state / "journal")) == 1  # the one that is still written to
    assert drain(ctx).records == 0
    writer.write()
    assert drain(ctx).rows == 2
    writer.journal.close()
    assert drain(ctx).removed == 1
    assert sorted(_ids(ctx)) == sorted(writer.written)


def test_a_lost_hint_repeats_nothing(ctx):
    writer = Writer(ctx.state)
    for _ in range(10):
        writer.write()
        writer.write(endpoint="other")
    drain(ctx)
    (ctx.state / "journal" / draining.DONE).unlink()
    writer.write()
    done = drain(ctx)
    assert (done.rows, done.skipped) == (2, 40)
    assert len(_ids(ctx)) == 11
    assert len(_ids(ctx, "other")) == 10


def test_large_backlogs_are_drained_in_parts(ctx, monkeypatch):
    monkeypatch.setattr(draining, "CHUNK_ROWS", 25)
    writer = Writer(ctx.state, segment_bytes=5000)
    for n in range(100):
        writer.write(endpoint=("shop", "other")[n % 2])
    writer.journal.close()
    assert drain(ctx).rows == 200
    assert len(set(_ids(ctx))) == len(_ids(ctx)) == len(_ids(ctx, "other")) == 50


def test_a_rotted_record_is_left_out_and_its_segment_kept(ctx):
    writer = Writer(ctx.state)
    for _ in range(3):
        writer.write(shadow=False)
    writer.journal.close()
    (segment,) = journal.segments(ctx.state / "journal")
    raw = bytearray(segment.path.read_bytes())
    raw[len(raw) // 2] ^= 1
    segment.path.write_bytes(raw)
    done = drain(ctx)
    assert (done.rows, done.damaged) == (2, 1)
    assert len(list((ctx.state / "journal").glob("*.damaged"))) == 1
    assert drain(ctx).records == 0


@pytest.mark.slow
def test_cursors_give_each_row_once_also_across_compaction_and_vacuum(ctx):
    writer = Writer(ctx.state)
    seen: list[str] = []
    cursor = 0
    for n in range(30):
        writer.write(at=AT + n * 40_000)
        drain(ctx)
        if n % 3 == 0:
            table, cursor = predictions.added_since(ctx, "shop", cursor)
            seen += table.filter(pc.equal(table["role"], "live"))["id"].to_pylist()
        if n % 10 == 9:
            for _ in range(9):
                writer.write(at=AT)  # late ones into a day that is over: many small files
                drain(ctx)
            tidy(ctx.state, "shop")
            table = predictions.open_table(ctx.state, "shop")
            table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    table, cursor = predictions.added_since(ctx, "shop", cursor)
    seen += table.filter(pc.equal(table["role"], "live"))["id"].to_pylist()
    assert sorted(seen) == sorted(writer.written)
    assert predictions.added_since(ctx, "shop", cursor)[0].num_rows == 0
    everything, _ = predictions.added_since(ctx, "shop", 0)
    assert sorted(everything.filter(pc.equal(everything["role"], "live"))["id"].to_pylist()) == sorted(writer.written)
    day = predictions.read(ctx, "shop", days=["2026-03-01"], columns=["id"], role="live")
    assert day.num_rows == 1 + 27


def test_a_table_that_was_made_anew_in_a_folder_of_the_same_number_is_read_anew(ctx):
    writer = Writer(ctx.state)
    for _ in range(4):
        writer.write()
        drain(ctx)
    assert len(_ids(ctx)) == 4  # the table is open from here on
    log = predictions.folder(ctx.state, "shop") / "_delta_log"
    number = log.stat().st_ino
    one = DeltaTable(log.parent).to_pyarrow_table(filters=[("role", "=", "live")]).slice(0, 1)
    fresh = ctx.state / "fresh"
    batch = CommitProperties(app_transactions=[Transaction(predictions.BATCHES, 4)])
    write_deltalake(fresh, one, partition_by=["day"], commit_properties=batch)
    for entry in log.iterdir():  # a folder that goes gives its number to the next one, on most file systems
        entry.unlink()
    shutil.copytree(fresh, log.parent, dirs_exist_ok=True)
    assert log.stat().st_ino == number
    assert len(_ids(ctx)) == 1
    assert predictions.added_since(ctx, "shop", 4)[0].num_rows == 0


def test_nothing_yet_is_an_empty_table(ctx):
    assert drain(ctx).rows == 0
    assert predictions.read(ctx, "shop").column_names[:2] == ["id", "at"]
    table, cursor = predictions.added_since(ctx, "shop", 0)
    assert (table.num_rows, cursor) == (0, 0)


def test_counts_and_a_trace_say_where_an_answer_came_from(ctx):
    bundles.write_bundle(ctx.state)
    made = Writer(ctx.state).write()[0]
    counted = operations.counts(ctx, "shop")
    assert (counted["rows"], counted["shadow_rows"], counted["without_lineage"]) == (1, 1, 0)
    found = operations.trace(ctx, made)
    assert (found["release"], found["model"], found["data"], found["code"], found["hash"]) == (
        "shop@1",
        "shop@1",
        ["orders@1"],
        "abc123",
        "hash-of-shop@1",
    )
    assert found["inputs"]["price"] == 3.0
    assert found["shadows"] == {"shop@2": 0.75}
    assert msgspec.json.encode(found)
    with pytest.raises(NotFound):
        operations.trace(ctx, "0" * 32)
    with pytest.raises(InvalidInput):
        operations.trace(ctx, "shop")


STORM = """
import os, signal, sys, time
import pyarrow as pa, pyarrow.dataset
from kaizenml.project import open_project
from kaizenml.serving.journaling.drain import drain
pa.array([1])  # what it loads on first use is loaded here, so that the children die in their work
ctx = open_project(sys.argv[1], actor="test")
ctx.catalog.close()
for number in range(12):
    child = os.fork()  # before any drain of this process, so that no engine's thread is lost in it
    if child == 0:
        while True:
            drain(ctx)
    time.sleep(0.08 + 0.043 * number)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_a_storm_of_killed_drains_leaves_every_record_exactly_once(ctx):
    """A writer writes on while drains are killed at moments that walk through their whole course."""
    writer = Writer(ctx.state, segment_bytes=20_000)
    storm = subprocess.Popen([sys.executable, "-c", STORM, str(ctx.root)])
    while storm.poll() is None:
        writer.write(endpoint="shop")
        writer.write(endpoint="other")
        time.sleep(0.004)
    assert storm.returncode == 0
    writer.journal.close()
    assert predictions.open_table(ctx.state, "shop").version() > 3  # the killed ones had got somewhere
    drain(ctx)
    assert journal.segments(ctx.state / "journal") == []
    for role in ("live", "shadow"):
        found = _ids(ctx, "shop", role) + _ids(ctx, "other", role)
        assert sorted(found) == sorted(writer.written)


def test_drains_at_once_take_turns(ctx):
    writer = Writer(ctx.state)
    for _ in range(200):
        writer.write()
    rows: list[int] = []
    threads = [threading.Thread(target=lambda: rows.append(drain(ctx).rows)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rows) == [0, 0, 400]


@pytest.mark.slow
def test_serving_goes_on_while_it_is_drained(ctx):
    state = ctx.state
    bundles.route(state, bundles.write_bundle(state))
    answered = []
    with bundles.served("--state", str(state), log=state / "log") as (_, url), Client(url) as client:
        for _ in range(10):
            answered += [client.predict("shop", [bundles.GOOD])["predictions"][0]["id"] for _ in range(20)]
            drain(ctx)
            assert sorted(_ids(ctx)) == sorted(answered)
