"""Views that are too large for memory: cut by entity, and every value is that of one join over everything."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from kaizenml.context import Context
from kaizenml.data import exclusions, tables
from kaizenml.data import operations as data
from kaizenml.features.offline import frame, splitting
from kaizenml.features.view import Aggregate, FeatureView

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DAY = 86_400.0
AGGREGATES = [
    Aggregate(name="n", function="count", last_s=2 * DAY),
    Aggregate(name="total", function="sum", column="amount", last_s=5 * DAY),
    Aggregate(name="daily", function="std", column="amount", last_s=4 * DAY, every_s=DAY),
    Aggregate(name="what", function="latest", column="kind", last_s=9 * DAY),
    Aggregate(name="kinds", function="distinct", column="kind"),
    Aggregate(name="share", function="ratio", of=["total", "n"]),
]
PLAIN = FeatureView(name="e", dataset="events", entity="who", columns=["amount", "kind"], at="at")
VIEWS = {
    "newest values": PLAIN,
    "with a ttl": msgspec.structs.replace(PLAIN, ttl_s=2 * DAY),
    "timeless": msgspec.structs.replace(PLAIN, at=None),
    "windows": msgspec.structs.replace(PLAIN, columns=["kind"], aggregates=AGGREGATES),
    "windows with a ttl": msgspec.structs.replace(PLAIN, columns=[], aggregates=AGGREGATES[:4], ttl_s=3 * DAY),
    "known later": msgspec.structs.replace(PLAIN, columns=[], aggregates=AGGREGATES, created="told"),
    "an entity of two columns": msgspec.structs.replace(PLAIN, entity=["who", "shop"], aggregates=AGGREGATES[:2]),
}


def moments(rng: np.random.Generator, count: int) -> list[dt.datetime | None]:
    return [None if rng.random() < 0.03 else START + dt.timedelta(minutes=int(minute)) for minute in rng.integers(0, 20 * 1440, count)]


@pytest.fixture
def filled(ctx: Context) -> Context:
    rng = np.random.default_rng(3)
    count = 600
    at = moments(rng, count)
    rows: dict[str, Any] = {
        "who": [None if rng.random() < 0.03 else f"w{n}" for n in rng.integers(0, 25, count)],
        "shop": rng.integers(0, 3, count),
        "at": at,
        "told": [None if each is None or rng.random() < 0.3 else each + dt.timedelta(hours=int(rng.integers(0, 50))) for each in at],
        "amount": np.where(rng.random(count) < 0.1, np.nan, rng.normal(size=count)),
        "kind": rng.choice(["a", "b", "c"], count),
    }
    table = pa.table(rows)
    table = pa.concat_tables([table, table.slice(0, 40)])  # without a key, equal rows are one
    data.add(ctx, "events", table=table.slice(0, 300), time="at")
    data.add(ctx, "events", table=table.slice(300), time="at")
    return ctx


@pytest.mark.parametrize("asked", ["moments", "newest"])
def test_a_view_that_is_cut_by_entity_gives_the_values_of_one_that_is_not(filled: Context, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    rows = pa.table({"who": [None, "nobody", *(f"w{n}" for n in rng.integers(0, 20, 150))], "shop": rng.integers(0, 4, 152)})
    us = np.array([int(START.timestamp() * 1e6) + int(minute) * 60_000_000 for minute in rng.integers(0, 18 * 1440, 152)])
    known_at = us if asked == "moments" else None
    for view in VIEWS.values():
        monkeypatch.undo()
        whole = frame.with_features(filled, rows, [view], [], known_at=known_at, told="rows")
        cut: list[int] = []
        original = frame.known_of
        monkeypatch.setattr(splitting, "_CHUNK", 70)
        monkeypatch.setattr(frame, "known_of", lambda some, behind, *more: cut.append(behind.num_rows) or original(some, behind, *more))  # noqa: B023
        for most in (50, 599):  # through files, and not: some rows go while they are read
            monkeypatch.setattr(splitting, "ROWS", most)
            cut.clear()
            parts = frame.with_features(filled, rows, [view], [], known_at=known_at, told="rows")
            assert parts.schema == whole.schema
            assert repr(parts.to_pylist()) == repr(whole.to_pylist())  # which knows NaN and -0.0
            assert (len(cut) == 13) == (most == 50 and bool(view.aggregates))  # plain columns need no files
            assert not [*(filled.state / "tmp").glob("view-*")]


def test_rows_that_are_cut_off_are_in_no_piece(filled: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.table({"who": [f"w{n}" for n in range(25)]})
    before = frame.with_features(filled, rows, [VIEWS["windows"]], [], known_at=None, told="rows")
    since = (START + dt.timedelta(days=12)).timestamp()
    with filled.catalog.write() as connection:
        exclusions.save(connection, exclusions.Exclusion(id=1, dataset="events", since=since, time="at", by="test", at=0.0))
    whole = frame.with_features(filled, rows, [VIEWS["windows"]], [], known_at=None, told="rows")
    monkeypatch.setattr(splitting, "ROWS", 50)
    assert frame.with_features(filled, rows, [VIEWS["windows"]], [], known_at=None, told="rows").equals(whole)
    assert not whole.equals(before)


@pytest.mark.parametrize("excluded", [False, True])
def test_rows_of_times_that_nobody_can_see_are_not_read_and_not_missed(filled: Context, excluded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if excluded:
        with filled.catalog.write() as connection:
            since = (START + dt.timedelta(days=11)).timestamp()
            exclusions.save(connection, exclusions.Exclusion(id=1, dataset="events", since=since, time="at", by="test", at=0.0))
    rng = np.random.default_rng(5)
    rows = pa.table({"who": [f"w{n}" for n in rng.integers(0, 25, 200)], "shop": rng.integers(0, 3, 200)})
    known_at = np.array([int(START.timestamp() * 1e6) + int(minute) * 60_000_000 for minute in rng.integers(10 * 1440, 12 * 1440, 200)])
    read: dict[str, int] = {}
    original = frame.known_of
    monkeypatch.setattr(frame, "known_of", lambda some, behind, *more: read.update({name: behind.num_rows}) or original(some, behind, *more))
    for name, view in VIEWS.items():
        whole = original(rows, frame.view_rows(filled, view), view, known_at)
        found = frame.with_features(filled, rows, [view], [], known_at=known_at, told="rows")
        assert [found[feature].to_pylist() for feature in view.features] == [column.to_pylist() for column in whole], name
    if not excluded:  # what plain views read is tested below: groups of rows
        assert read["windows with a ttl"] < read["windows"] < 640


def test_a_scan_reads_groups_of_rows_that_reach_into_the_span_and_the_same_rows_again_whatever_is_added(ctx: Context) -> None:
    us = [int(START.timestamp() * 1e6) + day * 86_400_000_000 for day in range(30)]
    for days in (range(10), range(10, 20)):
        data.add(ctx, "events", table=pa.table({"day": list(days), "at": pa.array([us[day] for day in days], pa.timestamp("us", "UTC"))}), time="at")

    def days(scan: tables.Scan) -> list[int]:
        return [day for batch in scan.batches(["day"]) for day in batch["day"].to_pylist()]

    late = tables.Scan(ctx, "events", ["day", "at"], span=tables.Span("at", us[12], None))
    assert days(late) == [*range(10, 20)]
    assert days(tables.Scan(ctx, "events", ["day", "at"], span=tables.Span("at", us[3], us[10]))) == [*range(20)]
    assert days(tables.Scan(ctx, "events", ["day", "at"], span=tables.Span("at", us[25], us[29]))) == []
    data.add(ctx, "events", table=pa.table({"day": [25], "at": pa.array([us[25]], pa.timestamp("us", "UTC"))}), time="at")
    assert days(late) == [*range(10, 20)]
    with ctx.catalog.write() as connection:
        exclusions.save(connection, exclusions.Exclusion(id=1, dataset="events", since=us[15] / 1e6, time="at", by="test", at=0.0))
    cut = tables.Scan(ctx, "events", ["day", "at"], span=tables.Span("at", us[12], None))
    assert days(cut)[-5:] == [*range(10, 15)]
    assert 15 not in days(cut)


def test_values_of_few_rows_are_taken_out_of_many_files_batch_by_batch(filled: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BATCH_ROWS", 37)
    monkeypatch.setattr(splitting, "ROWS", 100)
    rng = np.random.default_rng(6)
    rows = pa.table({"who": [None, *(f"w{n}" for n in rng.integers(0, 25, 60))]})
    known_at = np.array([int(START.timestamp() * 1e6) + int(minute) * 60_000_000 for minute in rng.integers(0, 20 * 1440, 61)])
    for moments_asked in (known_at, None):
        whole = frame.known_of(rows, frame.view_rows(filled, PLAIN), PLAIN, moments_asked)
        found = frame.with_features(filled, rows, [PLAIN], [], known_at=moments_asked, told="rows")
        assert repr([found[feature].to_pylist() for feature in PLAIN.features]) == repr([column.to_pylist() for column in whole])
