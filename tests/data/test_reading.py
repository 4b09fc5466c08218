"""Any version in the form that one's own tools take."""

from __future__ import annotations

import pyarrow as pa
import pytest

from kaizenml.context import Context
from kaizenml.data import operations, reading
from kaizenml.errors import UsageError

ROWS = pa.table({"id": [1, 2], "x": [0.5, None]})


def test_a_version_is_read_as_arrow_batches_or_a_select_for_spark(ctx: Context):
    operations.add(ctx, "t", table=ROWS)
    operations.add(ctx, "t", table=pa.table({"id": [3], "x": [1.5]}))
    assert reading.read(ctx, "t@1").equals(ROWS)
    assert reading.read(ctx, "t", as_="batches").read_all().num_rows == 3
    assert reading.read(ctx, "t@1", ["_source"], as_="batches").read_all().to_pylist() == [{"_source": "main"}] * 2
    select = reading.read(ctx, "t@1", ["x"], as_="spark")
    assert select.startswith("SELECT `x` FROM delta.`file://")
    assert select.endswith("/t` WHERE _part IN (1)")
    with pytest.raises(UsageError, match="none of arrow"):
        reading.read(ctx, "t", as_="excel")  # type: ignore[arg-type]


def test_a_version_is_read_as_a_duckdb_relation(ctx: Context):
    pytest.importorskip("duckdb", reason="pip install 'kaizenml[duckdb]'")
    operations.add(ctx, "t", table=ROWS)
    assert reading.read(ctx, "t", as_="duckdb").aggregate("sum(id)").fetchall() == [(3,)]


@pytest.mark.parametrize("form", ["pandas", "polars"])
def test_a_version_is_read_as_a_frame(ctx: Context, form: str):
    pytest.importorskip(form, reason=f"pip install {form}")
    operations.add(ctx, "t", table=ROWS)
    assert reading.read(ctx, "t", as_=form)["id"].sum() == 3
