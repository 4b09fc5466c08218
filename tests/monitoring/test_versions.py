"""Two versions of a dataset compared: exactly the rows that differ, and the columns that drifted."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.context import Context
from kaizenml.data import contract_file, operations
from kaizenml.data import diff as parts
from kaizenml.errors import UsageError
from kaizenml.monitoring import versions
from kaizenml.project import open_project


@pytest.fixture
def ctx(tmp_path: Path):
    (tmp_path / "kaizen.toml").write_text('[project]\nname = "shop"\n')
    ctx = open_project(tmp_path, actor="test")
    yield ctx
    ctx.online.close()
    ctx.catalog.close()


def orders(ids: list[int], prices: list[float | None]) -> pa.Table:
    return pa.table({"id": ids, "price": pa.array(prices, pa.float64()), "city": [f"c{n % 3}" for n in ids]})


def test_rows_are_matched_by_the_key_and_changes_are_shown(ctx: Context):
    operations.add(ctx, "o", table=orders([1, 2, 3, 4], [1.0, 2.0, None, -0.0]), key="id")
    operations.add(ctx, "o", table=orders([5, 4, 3, 1], [5.0, 0.0, 3.5, 1.0]), mode="replace")
    rows = versions.diff(ctx, "o").rows
    assert (rows.added, rows.gone, rows.changed, rows.same, rows.key) == (1, 1, 1, 2, ["id"])
    shown = {row["_change"]: row for row in rows.samples}
    assert (shown["added"]["id"], shown["gone"]["id"], shown["changed"]["id"]) == ("5", "2", "3")
    assert shown["changed"]["price"] == "None → 3.5"
    assert shown["changed"]["city"] is None  # it is the same


def test_without_a_key_rows_are_counted_as_often_as_they_occur(ctx: Context):
    operations.add(ctx, "o", table=pa.table({"x": ["a", "a", "b", None]}))
    operations.add(ctx, "o", table=pa.table({"x": ["a", "c", None, None]}), mode="replace")
    rows = versions.diff(ctx, "o@1", "o@2").rows
    assert (rows.added, rows.gone, rows.changed, rows.same) == (2, 2, None, 2)


def test_columns_and_promises_that_differ_are_told(ctx: Context):
    operations.add(ctx, "o", table=pa.table({"a": [1, 2], "b": ["x", "y"]}))
    path = contract_file.path_of(ctx.root, "o")
    path.write_text(path.read_text().replace('name = "a"\nkind = "integer"\n', 'name = "a"\nkind = "number"\nminimum = 0\n'))
    operations.add(ctx, "o", table=pa.table({"a": [0.5], "b": ["z"], "c": [True]}))
    found = versions.diff(ctx, "o")
    assert found.columns == parts.Columns(gone={}, added={"c": "boolean"}, changed={"a": ["integer", "number"]})
    assert found.contract == {"a: kind": ["integer", "number"], "a: minimum": [None, 0.0], "c: kind": [None, "boolean"]}
    assert (found.rows.added, found.rows.gone, found.rows.same) == (1, 0, 2)
    with pytest.raises(UsageError, match="of two datasets"):
        operations.add(ctx, "p", table=pa.table({"a": [1]}))
        versions.diff(ctx, "o@1", "p@1")
    with pytest.raises(UsageError, match="the only version"):
        versions.diff(ctx, "p")


def test_the_column_that_moved_is_named_and_drawn(ctx: Context):
    numbers = np.random.default_rng(5)

    def day(shift: float, rows: int = 3000) -> pa.Table:
        return pa.table({"x": numbers.normal(shift, 1, rows), "y": numbers.normal(0, 1, rows), "c": numbers.choice(["a", "b"], rows)})

    operations.add(ctx, "d", table=day(0))
    operations.add(ctx, "d", table=day(0.6))
    found = versions.diff(ctx, "d", picture=True)
    assert found.drifted == ["x"]
    assert found.compared == "the rows that d@2 has more, against those of d@1"
    assert next(one.column for one in found.drift) == "x"
    drawn = ET.fromstring(found.picture)
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"d@1 and d@2", "x", "y", "c"} <= set(texts)
    operations.add(ctx, "d", table=day(0))
    assert versions.diff(ctx, "d@1", "d@3").drift[0].distance < found.drift[0].distance


ROWS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["", "a", "b", "ab", "\x00", None])), max_size=40)


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS, st.sampled_from([1, 3]))
def test_the_comparison_of_hashes_is_that_of_the_rows(tmp_path_factory, before, now, buckets):
    folder = tmp_path_factory.mktemp("spill")
    spills = []
    for name, rows in (("old", before), ("new", now)):
        table = pa.table({"n": pa.array([n for n, _ in rows], pa.int64()), "t": pa.array([t for _, t in rows], pa.string())})
        spill = parts._Spill(folder / name, buckets)
        hashed = parts._hash(table, ["n", "t"])
        spill.add(hashed[:7], hashed[:7])
        spill.add(hashed[7:], hashed[7:])
        spills.append(spill)
    found = [parts._compare(spills[0].read(b), spills[1].read(b), keyed=False) for b in range(buckets)]
    was, is_ = Counter(before), Counter(now)
    assert sum(len(one["added"]) for one in found) == (is_ - was).total()
    assert sum(len(one["gone"]) for one in found) == (was - is_).total()
    assert sum(one["same"] for one in found) == (is_ & was).total()
