from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizenml.data.profile import QUANTILES, merge, profile

KINDS = {"x": "number", "n": "integer", "b": "boolean", "c": "category", "t": "timestamp"}


def table(numbers: list[float | None], words: list[str | None]) -> pa.Table:
    rows = len(numbers)
    return pa.table(
        {
            "x": pa.array(numbers, pa.float64()),
            "n": pa.array([None if value is None else int(value) for value in numbers], pa.int64()),
            "b": pa.array([None if value is None else value > 0 for value in numbers], pa.bool_()),
            "c": pa.array(words, pa.string()),
            "t": pa.array([dt.datetime(2020, 1, 1 + row % 28, tzinfo=dt.UTC) for row in range(rows)], pa.timestamp("us", "UTC")),
        }
    )


def test_a_profile_tells_what_is_there():
    found = profile(table([1.5, None, 2.5], ["b", "a", "b"]), KINDS, {"c": "as read"})
    assert found["x"] | {"quantiles": len(QUANTILES)} == {
        "kind": "number", "count": 2, "missing": 1, "distinct": 2, "mean": 2.0, "std": 0.5, "min": 1.5, "max": 2.5, "quantiles": 11,
    }  # fmt: skip
    assert found["c"] == {
        "kind": "category",
        "count": 3,
        "missing": 0,
        "distinct": 2,
        "top": [["b", 2], ["a", 1]],
        "shortest": 1,
        "longest": 1,
        "note": "as read",
    }
    assert found["b"] == {"kind": "boolean", "count": 2, "missing": 1, "distinct": 1, "true": 2}
    assert found["t"]["max"] == "2020-01-03T00:00:00+00:00"
    assert found["n"]["max"] == 2


def test_a_column_that_is_absent_counts_as_missing():
    assert profile(pa.table({"x": [1.0]}), {"x": "number", "y": "number"})["y"] == {"kind": "number", "count": 0, "missing": 1, "distinct": 0}


def test_top_values_of_very_many_are_the_most_frequent():
    words = [f"w{n}" for n in range(30_000)] + ["often"] * 5 + ["twice"]
    found = profile(pa.table({"c": words}), {"c": "text"})["c"]
    assert found["top"][0] == ["often", 5]
    assert len(found["top"]) == 20


number_lists = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6, allow_nan=False)), min_size=1, max_size=60)


@pytest.mark.slow
@given(number_lists, number_lists, st.data())
def test_profiles_of_parts_merge_to_the_profile_of_the_whole(first, second, data):
    words = st.lists(st.sampled_from(["a", "bb", "c", None]), min_size=len(first) + len(second), max_size=len(first) + len(second))
    drawn = data.draw(words)
    one, two = table(first, drawn[: len(first)]), table(second, drawn[len(first) :])
    whole = profile(pa.concat_tables([one, two]), KINDS)
    merged = merge(profile(one, KINDS), len(first), profile(two, KINDS), len(second))
    for name in KINDS:
        for fact in ("count", "missing", "min", "max", "true", "top", "shortest", "longest"):
            assert merged[name].get(fact) == whole[name].get(fact), (name, fact)
    for fact in ("mean", "std"):
        assert math.isclose(merged["x"].get(fact, 0.0), whole["x"].get(fact, 0.0), rel_tol=1e-6, abs_tol=1e-3)
    quantiles = merged["x"].get("quantiles", [])
    assert quantiles == sorted(quantiles)


def test_merged_quantiles_stay_near_the_truth():
    random = np.random.default_rng(0)
    one, two = random.normal(0, 1, 4000), random.normal(3, 0.5, 1000)
    merged = merge(profile(pa.table({"x": one}), {"x": "number"}), 4000, profile(pa.table({"x": two}), {"x": "number"}), 1000)
    truth = np.quantile(np.concatenate([one, two]), QUANTILES)
    assert np.abs(np.array(merged["x"]["quantiles"]) - truth)[1:-1].max() < 0.15
    assert merged["x"]["quantiles"][0] == truth[0]


def test_columns_of_one_side_only_are_missing_on_the_other():
    merged = merge({"a": {"kind": "number", "count": 1, "missing": 0}}, 1, {"b": {"kind": "number", "count": 2, "missing": 1}}, 3)
    assert merged["a"]["missing"] == 3
    assert merged["b"]["missing"] == 2


def test_numbers_too_large_to_sum_have_no_mean():
    found = profile(pa.table({"x": [1e308, 1e308, 1e308]}), {"x": "number"})["x"]
    assert found["mean"] is None
    assert found["max"] == pytest.approx(1e308)


def test_quantiles_of_the_largest_numbers_stay_numbers_when_profiles_merge():
    parts = [pa.table({"x": values}) for values in ([0.5, None], [None, None, 4.494232837155694e305], [1.7e308, -1.7e308])]
    found, rows = profile(parts[0], {"x": "number"}, {}), parts[0].num_rows
    for part in parts[1:]:
        found = merge(found, rows, profile(part, {"x": "number"}, {}), part.num_rows)
        rows += part.num_rows
    quantiles = found["x"]["quantiles"]
    assert all(math.isfinite(value) for value in quantiles)
    assert quantiles == sorted(quantiles)
