"""Filling the online store: in pieces as at once, in bounded memory, and killed anywhere."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.errors import Corrupt, InvalidData
from kaizenml.features import join, operations
from kaizenml.features.offline import frame
from kaizenml.features.online import by_entity, filling, parity
from kaizenml.features.online.reading import read_at
from kaizenml.features.view import Aggregate, FeatureView
from kaizenml.features.windows import moments
from kaizenml.ports import OnlineRow
from kaizenml.scratch import FOLDER

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DAY = 86_400.0
AGGREGATES = [
    Aggregate(name="n", function="count", last_s=2 * DAY),
    Aggregate(name="total", function="sum", column="amount", last_s=5 * DAY),
    Aggregate(name="daily", function="std", column="amount", last_s=4 * DAY, every_s=DAY),
    Aggregate(name="kinds", function="distinct", column="kind", last_s=9 * DAY),
]
EVER = Aggregate(name="ever", function="sum", column="amount")
PLAIN = FeatureView(name="e", dataset="events", entity="who", columns=["amount", "kind"], at="at")
QUERY = 'SELECT e.who, e."at", e.amount * 2 AS amount, f.kind FROM events e JOIN events f ON f.row = e.row WHERE e.shop > 0 ORDER BY e.row'
VIEWS = {
    "newest values": PLAIN,
    "timeless": msgspec.structs.replace(PLAIN, at=None),
    "windows": msgspec.structs.replace(PLAIN, columns=["kind"], aggregates=AGGREGATES),
    "only counted": msgspec.structs.replace(PLAIN, columns=[], aggregates=AGGREGATES[:1]),
    "all time": msgspec.structs.replace(PLAIN, columns=[], aggregates=[*AGGREGATES, EVER]),
    "known later": msgspec.structs.replace(PLAIN, columns=["kind"], aggregates=AGGREGATES, created="told"),
    "an entity of two columns": msgspec.structs.replace(PLAIN, entity=["who", "shop"]),
    "windows of two columns": msgspec.structs.replace(PLAIN, entity=["who", "shop"], columns=[], aggregates=[*AGGREGATES, EVER]),
    "a query": msgspec.structs.replace(PLAIN, sql=QUERY),
    "windows over a query": msgspec.structs.replace(PLAIN, aggregates=AGGREGATES, sql=QUERY),
}

NAMES = [name if name in ("newest values", "windows") else pytest.param(name, marks=pytest.mark.slow) for name in VIEWS]


def moments_of(rng: np.random.Generator, count: int) -> list[dt.datetime | None]:
    return [None if rng.random() < 0.03 else START + dt.timedelta(minutes=int(minute)) for minute in rng.integers(0, 20 * 1440, count)]


def events(seed: int, count: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    at = moments_of(rng, count)
    # the half of all rows is one entity's
    return pa.table({
        "row": [f"r{seed}-{n}" for n in range(count)],
        "who": [None if rng.random() < 0.03 else f"w{n}" for n in np.where(rng.random(count) < 0.5, 0, rng.integers(0, 25, count))],
        "shop": rng.integers(0, 3, count),
        "at": at,
        "told": [None if each is None or rng.random() < 0.3 else each + dt.timedelta(hours=int(rng.integers(0, 50))) for each in at],
        "amount": np.where(rng.random(count) < 0.1, np.nan, rng.normal(size=count)),
        "kind": rng.choice(["a", "b", "c"], count),
    })  # fmt: skip


@pytest.fixture(params=["keyed", pytest.param("unkeyed", marks=pytest.mark.slow)])
def filled(request: pytest.FixtureRequest, ctx: Context, clock: SimulatedClock) -> Context:
    clock.set(START + dt.timedelta(days=25))
    table = events(3, 300)
    if request.param == "unkeyed":
        table = pa.concat_tables([table, table.slice(0, 40)])  # equal rows are one
    data.add(ctx, "events", table=table, time="at", key="row" if request.param == "keyed" else None)
    return ctx


def held(ctx: Context, view: FeatureView) -> dict[str, OnlineRow | None]:
    keys = sorted(ctx.online.keys(view.ref))
    rows = dict(zip(keys, ctx.online.read(view.ref, keys), strict=True))
    for row in rows.values() if view.created else ():
        assert row is not None
        row.values[""][5] = None  # from when on all rows are there: of two moments without a row in between either may be told
    return rows


def in_pieces(monkeypatch: pytest.MonkeyPatch, rows: int = 10, block: int = 17) -> list[int]:
    """Have no more rows in memory; return where the rows of each piece are noted."""
    pieces: list[int] = []
    original = by_entity.pieces

    def noted(*given: Any, **more: Any) -> Iterator[tuple[pa.Table, float]]:
        for piece, share in original(*given, **more):
            pieces.append(piece.num_rows)
            yield piece, share

    monkeypatch.setattr(by_entity, "ROWS", rows)
    monkeypatch.setattr(by_entity, "pieces", noted)
    monkeypatch.setattr(filling, "_BLOCK", block)
    monkeypatch.setattr(filling, "_BATCH", 4)
    monkeypatch.setattr(tables, "_BATCH_ROWS", 13)
    return pieces


@pytest.mark.parametrize("name", NAMES)
def test_a_store_that_is_filled_in_pieces_holds_what_one_that_is_filled_at_once_holds(
    filled: Context, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = VIEWS[name]
    if view.sql is not None:
        pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'kaizenml[duckdb]'")
    whole = filling.fill(filled, view, everything=True)
    expected = held(filled, view)
    assert expected
    added = pa.concat_tables([events(4, 100), events(5, 7)])
    for step in ("first", "added", "again"):
        if step == "added":
            data.add(filled, "events", table=added, mode="append")
            whole = filling.fill(filled, view, everything=True)
            expected = held(filled, view)
            filled.online.drop(view.ref)
            filled.online.drop(f"{view.ref}#")
        with monkeypatch.context() as patched:
            pieces = in_pieces(patched)
            if step == "again":
                filled.online.write(view.ref, [("gone", 1.0, {})])
                filled.online.delete("w3")
            made = filling.fill(filled, view, everything=step != "added")
        assert len(pieces) > 1
        assert made.entities == len(expected)
        assert msgspec.json.encode(held(filled, view)) == msgspec.json.encode(expected)
        assert parity.compare(filled, view, made.version.ref, entities=100).first == []
        assert view.created or made.kept == {"first": 0, "added": len(expected), "again": int("w3" in expected)}[step]
    assert whole.version == made.version
    assert "gone" not in held(filled, view)
    assert [*(filled.state / FOLDER).glob("fill-*")] == []
    assert [*(filled.state / FOLDER).glob("query-*")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, view in VIEWS.items() if view.sql is None])
def test_added_rows_are_taken_in_pieces_as_at_once(filled: Context, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view = VIEWS[name]
    with monkeypatch.context() as patched:
        in_pieces(patched)
        filling.fill(filled, view, everything=False)
        data.add(filled, "events", table=events(4, 150), mode="append")
        read: list[int] = []
        original = tables._stored
        patched.setattr(tables, "_stored", lambda place, parts, *more: read.extend(parts) or original(place, parts, *more))
        filling.fill(filled, view, everything=False)
        assert set(read) == {2}
    step_by_step = held(filled, view)
    filling.fill(filled, view, everything=True)
    moment = round((START + dt.timedelta(days=25)).timestamp() * 1e6)
    keys = sorted(held(filled, view))
    assert sorted(step_by_step) == keys

    def values(rows: dict[str, OnlineRow | None]) -> bytes:
        found = read_at(view.columns, view.aggregates, None, [rows[key] for key in keys], moment)
        return msgspec.json.encode([(read.values, read.at) for read in found])

    assert values(step_by_step) == values(held(filled, view))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["windows", "all time", "known later"])
def test_an_entity_with_more_rows_than_are_in_memory_is_loaded_part_by_part(filled: Context, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped = [
        Aggregate(name=f"{function}_3d", function=function, column="amount", last_s=3 * DAY, every_s=DAY)  # type: ignore[arg-type]
        for function in ("count", "sum", "mean", "std", "min", "max", "latest")
    ]
    view = msgspec.structs.replace(VIEWS[name], aggregates=[*stepped, *([EVER] if name == "all time" else [])])
    monkeypatch.setattr(moments, "MOST", 8)
    in_pieces(monkeypatch)
    parts: list[int] = []
    original = moments.History.load
    monkeypatch.setattr(moments.History, "load", lambda self, times, *more: parts.append(len(times)) or original(self, times, *more))
    done = filling.fill(filled, view, everything=True)
    assert max(parts) <= 17
    assert len(parts) > done.entities
    row = filled.online.read(view.ref, ["w0"])[0]
    assert row is not None
    assert len(moments.History.read(row.values).times) <= 16
    found = parity.compare(filled, view, done.version.ref, entities=100)
    assert found.first == []
    assert found.entities > 20


def test_progress_is_told_of_reading_and_of_writing(filled: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch)
    for view in (VIEWS["newest values"], VIEWS["windows"]):
        told: list[tuple[str, float]] = []
        filling.fill(filled, view, everything=True, progress=lambda what, part: told.append((what, part)))  # noqa: B023
        for what in ("read", "online"):
            parts = [part for name, part in told if name == what]
            assert len(parts) > 5
            assert parts == sorted(parts)
            assert parts[-1] == pytest.approx(1.0)


def many(ctx: Context, rows: int) -> None:
    rng = np.random.default_rng(rows)
    at = pa.array(np.sort(rng.integers(0, 20 * 86_400_000_000, rows)) + int(START.timestamp() * 1e6), pa.timestamp("us", "UTC"))
    table = pa.table({"who": rng.integers(0, 2000, rows), "at": at, "amount": rng.normal(size=rows), "kind": rng.integers(0, 9, rows)})
    data.add(ctx, "events", table=table, time="at", mode="append")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["newest values", "windows", "a query"])
def test_memory_does_not_grow_with_the_number_of_rows(ctx: Context, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view = VIEWS[name]
    if view.sql is not None:
        pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'kaizenml[duckdb]'")
        view = msgspec.structs.replace(view, sql='SELECT who, "at", amount * 2 AS amount, kind FROM events')
    monkeypatch.setattr(by_entity, "ROWS", 20_000)
    monkeypatch.setattr(filling, "_BLOCK", 5_000)
    peaks = []
    for rows, more in ((225_000, 3), (675_000, 6)):
        for _ in range(more):
            many(ctx, 75_000)
        pool = pa.proxy_memory_pool(pa.default_memory_pool())
        before = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        try:
            done = filling.fill(ctx, view, everything=True)
        finally:
            pa.set_memory_pool(before)
        assert (done.version.rows, done.entities) == (rows, 2000)
        peaks.append(pool.max_memory())
    assert peaks[1] < (1.6 if view.sql is None else 2.0) * peaks[0]  # how far is read ahead differs from run to run
    assert peaks[1] < 675_000 * 32  # the rows


CHILD = """
import sys
from pathlib import Path
from kaizenml.features import operations
from kaizenml.features.online import by_entity, filling
from kaizenml.project import open_project
by_entity.ROWS, filling._BLOCK, filling._BATCH = 60, 40, 2
ctx = open_project(Path(sys.argv[1]), actor="test")
def progress(what, part):
    print(what, part, flush=True)
    if what == "online":
        sys.stdin.readline()
operations.materialize(ctx, sys.argv[2], everything=True, progress=progress)
"""
TOML = """
[project]
name = "shop"
[features.newest]
dataset = "events"
entity = "who"
columns = ["amount", "kind"]
at = "at"
"""
WINDOWS = """
from kaizenml import count, features, sum_
@features(entity="who", source="events", at="at")
class Windows:
    n = count(last="2d")
    total = sum_("amount", last="5d")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["newest", "windows"])
def test_kill_9_in_the_middle_of_a_filling_is_mended_by_the_next(reopen: Callable[..., Context], clock: SimulatedClock, name: str) -> None:
    clock.set(START + dt.timedelta(days=25))
    ctx = reopen(TOML)
    (ctx.root / "features.py").write_text(WINDOWS, encoding="utf-8")
    data.add(ctx, "events", table=events(3, 400), time="at", key="row")
    view = frame.view_named(ctx, name)
    ctx.online.write(view.ref, [("gone", 1.0, {"amount": 1.0})])
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(ctx.root), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdin is not None
        for line in child.stdout:
            what, part = line.split()
            if what == "online" and float(part) > 0.4:
                break
            if what == "online":
                child.stdin.write("\n")
                child.stdin.flush()
        else:
            pytest.fail("it ended before it could be killed")
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        assert 0 < len(held(ctx, view)) < 25
        assert bool([*(ctx.state / FOLDER).glob("fill-*")]) == (name == "windows")  # its rows on their way
    mended = operations.materialize(ctx, name)  # not everything: nothing was marked as done
    assert mended.entities == len(held(ctx, view)) == 25
    assert "gone" not in held(ctx, view)
    assert parity.compare(ctx, view, mended.dataset, entities=100).first == []
    assert operations.materialize(ctx, name).entities == 0
    ctx.online.close()
    ctx.catalog.close()


@pytest.mark.slow
def test_a_query_that_fails_while_its_rows_are_read_says_why(filled: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'kaizenml[duckdb]'")
    monkeypatch.setattr(tables, "_BATCH_ROWS", 13)
    broken = msgspec.structs.replace(PLAIN, sql='SELECT who, "at", CAST(kind AS INTEGER) AS amount, kind FROM events')
    with pytest.raises(InvalidData, match=r"the query cannot be run: .*Could not convert string"):
        filling.fill(filled, broken, everything=True)
    original = tables._groups

    def gone(*given: Any) -> Iterator[pa.RecordBatch]:
        yield from list(original(*given))[:3]
        raise FileNotFoundError("part-7.parquet")

    monkeypatch.setattr(tables, "_groups", gone)
    with pytest.raises(Corrupt, match="a file of 'events' is gone"):
        filling.fill(filled, VIEWS["a query"], everything=True)
    assert list(filled.online.keys(VIEWS["a query"].ref)) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_newest_row_of_each_entity_is_found_in_any_order_of_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for ordered in (True, False):
        times = rng.integers(0, 60, 300)
        at = [None if rng.random() < 0.1 and not ordered else int(each) for each in (np.sort(times) if ordered else times)]
        who = [None if rng.random() < 0.1 else f"w{n}" for n in rng.integers(0, 20, 300)]
        expected: dict[str, tuple[int, int]] = {}
        for place, (key, moment) in enumerate(zip(who, at, strict=True)):
            if key is not None and moment is not None and moment >= expected.get(key, (-1, 0))[0]:
                expected[key] = moment, place
        found = join.newest(pa.table({"who": who, "at": pa.array(at, pa.timestamp("us")), "place": range(300)}), on=["who"], at="at")
        assert dict(zip(found["who"].to_pylist(), found["place"].to_pylist(), strict=True)) == {key: place for key, (_, place) in expected.items()}


def test_files_are_read_group_by_group(ctx: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    many(ctx, 1000)
    rows = tables.read(ctx, "events")
    monkeypatch.setattr(tables, "_BATCH_ROWS", 100)
    found = list(tables.batches(ctx, "events"))
    assert max(each.num_rows for each in found) <= 100
    assert pa.concat_tables(found).combine_chunks() == rows.combine_chunks()
    late = round((START + dt.timedelta(days=10)).timestamp() * 1e6)
    within = pa.concat_tables(tables.Scan(ctx, "events", ["at", "amount"], span=tables.Span("at", late, None)).batches(["amount"]))
    assert within["amount"].to_pylist() == [row["amount"] for row in rows.to_pylist()]  # one group, of which a part is in the span
