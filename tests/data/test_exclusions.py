"""Exclusions keep rows from learning and features; data, versions and hashes stay."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa

from kaizenml.context import Context
from kaizenml.data import exclusions, operations, tables
from kaizenml.data.exclusions import Exclusion


def day(number: int) -> dt.datetime:
    return dt.datetime(2026, 11, number, tzinfo=dt.UTC)


def orders(*days: int | None) -> pa.Table:
    rows = [{"id": f"{number}", "at": None if number is None else day(number), "price": 1.0} for number in days]
    return pa.Table.from_pylist(rows, schema=pa.schema([("id", pa.string()), ("at", pa.timestamp("us", "UTC")), ("price", pa.float64())]))


def excluded(ctx: Context, time: str | None = "at", **what: Any) -> Exclusion:
    with ctx.catalog.write() as connection:
        made = Exclusion(id=exclusions.next_id(connection), dataset="orders", time=time, by="test", at=ctx.clock.timestamp(), **what)
        exclusions.save(connection, made)
    return made


def allowed(ctx: Context, ref: str = "orders") -> list[str]:
    ids: list[str] = tables.read_allowed(ctx, ref, ["id"])["id"].to_pylist()
    return ids


def test_excluded_rows_are_left_out_until_the_exclusion_is_lifted_and_the_version_stays_as_it_was(ctx: Context):
    made = operations.add(ctx, "orders", table=orders(1, 2, 3, 4), time="at")
    one = excluded(ctx, since=day(2).timestamp(), until=day(4).timestamp())
    assert allowed(ctx) == ["1", "4"]
    assert tables.read(ctx, "orders")["id"].to_pylist() == ["1", "2", "3", "4"]
    assert tables.version(ctx, "orders") == made
    tables.verify(ctx, "orders")
    with ctx.catalog.write() as connection:
        exclusions.save(connection, Exclusion(**{f: getattr(one, f) for f in one.__struct_fields__} | {"lifted_at": 1.0}))
        assert exclusions.active(connection, ["orders"]) == []
        assert [each.active for each in exclusions.every(connection)] == [False]
    assert allowed(ctx) == ["1", "2", "3", "4"]


def test_rows_that_come_later_are_covered_too(ctx: Context):
    operations.add(ctx, "orders", table=orders(1, 2), time="at")
    excluded(ctx, since=day(2).timestamp())
    operations.add(ctx, "orders", table=orders(3))
    assert (allowed(ctx), allowed(ctx, "orders@1")) == (["1"], ["1"])


def test_a_row_without_a_time_counts_as_of_when_it_was_added(ctx: Context):
    operations.add(ctx, "orders", table=orders(1, None), time="at")
    excluded(ctx, since=ctx.clock.timestamp() - 3600, until=ctx.clock.timestamp() + 3600)
    assert allowed(ctx) == ["1"]


def test_a_dataset_without_a_time_is_cut_by_when_rows_were_added(ctx: Context):
    operations.add(ctx, "orders", table=pa.table({"id": ["1", "2"]}))
    second = operations.add(ctx, "orders", table=pa.table({"id": ["3"]}))
    excluded(ctx, time=None, since=second.created_at)
    assert allowed(ctx) == ["1", "2"]


def test_only_the_rows_of_the_source_are_covered(ctx: Context):
    operations.add(ctx, "orders", table=orders(1, 2), time="at", source_name="shop")
    operations.add(ctx, "orders", table=orders(3, 4), source_name="feed7")
    excluded(ctx, source="feed7", since=day(4).timestamp())
    assert allowed(ctx) == ["1", "2", "3"]
    excluded(ctx, source="shop")
    assert allowed(ctx) == ["3"]
    excluded(ctx, source="feed8")
    assert allowed(ctx) == ["3"]
