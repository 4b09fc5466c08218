from __future__ import annotations

import datetime as dt
import random
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.features import join as joins
from kaizenml.features.join import MISSING, join, newest, positions_at

ENTITIES = st.none() | st.sampled_from(["a", "b", "c", "ü"])
MOMENTS = st.integers(-20, 20)
FAR = st.sampled_from([0, 1, -(10**17), 10**17, 2**62, -(2**62), 2**63 - 1, -(2**63) + 1])


def naive(rows: list[tuple[Any, int | None]], view: list[tuple[Any, int | None, int]], ttl: int | None) -> list[int | None]:
    """What the join promises, read off its docstring: O(rows x view)."""
    found = []
    for entity, known_at in rows:
        best: tuple[int, int] | None = None
        for place, (key, at, _) in enumerate(view):
            if entity is None or known_at is None or key != entity or at is None or at > known_at:
                continue
            if ttl is not None and known_at - at > ttl:
                continue
            if best is None or (at, place) >= best:
                best = (at, place)
        found.append(None if best is None else view[best[1]][2])
    return found


def joined(rows: list[tuple[Any, int | None]], view: list[tuple[Any, int | None, int]], ttl: int | None) -> list[int | None]:
    entities = pa.table({"place": pa.array([row[0] for row in rows], pa.string())})
    features = pa.table(
        {
            "place": pa.array([row[0] for row in view], pa.string()),
            "at": pa.array([row[1] for row in view], pa.timestamp("us")),
            "value": pa.array([row[2] for row in view], pa.int64()),
        }
    )
    known_at = np.array([MISSING if row[1] is None else row[1] for row in rows], np.int64)
    table = join(entities, features, on=["place"], columns=["value"], at="at", known_at=known_at, ttl_us=ttl)
    return table["value"].to_pylist()  # type: ignore[no-any-return]


@pytest.mark.slow
@given(
    rows=st.lists(st.tuples(ENTITIES, st.none() | MOMENTS), max_size=20),
    view=st.lists(st.tuples(ENTITIES, st.none() | MOMENTS), max_size=30),
    ttl=st.none() | st.integers(0, 15),
)
@settings(max_examples=200, deadline=None)
def test_every_row_gets_the_newest_known_value_whatever_the_order_of_arrival(
    rows: list[tuple[Any, int | None]], view: list[tuple[Any, int | None]], ttl: int | None
) -> None:
    numbered = [(key, at, place) for place, (key, at) in enumerate(view)]
    assert joined(rows, numbered, ttl) == naive(rows, numbered, ttl)


@given(
    rows=st.lists(st.tuples(ENTITIES, FAR), max_size=8),
    view=st.lists(st.tuples(ENTITIES, FAR), max_size=12),
    ttl=st.none() | st.integers(0, 2**63 - 1),
)
@settings(max_examples=80, deadline=None)
def test_times_at_the_ends_of_the_world_do_not_overflow(rows: list[tuple[Any, int]], view: list[tuple[Any, int]], ttl: int | None) -> None:
    numbered = [(key, at, place) for place, (key, at) in enumerate(view)]
    assert joined(rows, numbered, ttl) == naive(rows, numbered, ttl)


def test_late_and_shuffled_data_join_as_if_they_had_come_in_order() -> None:
    rng = random.Random(7)
    rows = [(rng.choice("abcdefgh"), rng.randrange(100_000)) for _ in range(2_000)]
    view = [(rng.choice("abcdefg"), at, at) for at in rng.sample(range(100_000), 5_000)]
    expected = joined(rows, sorted(view, key=lambda row: row[1]), 700)
    assert joined(rows, view, 700) == expected
    assert sum(value is None for value in expected) > 100


def test_of_two_rows_with_the_same_entity_and_time_the_last_added_wins() -> None:
    assert joined([("a", 5)], [("a", 3, 1), ("b", 3, 9), ("a", 3, 2)], None) == [2]


def test_a_value_is_known_at_its_very_moment_and_as_old_as_the_ttl() -> None:
    view = [("a", 10, 1)]
    assert joined([("a", 9), ("a", 10), ("a", 15), ("a", 16)], view, 5) == [None, 1, 1, None]


def test_a_timeless_view_gives_the_last_row_of_an_entity() -> None:
    rows = pa.table({"plane": ["N1", None, "N3", "N2"]})
    view = pa.table({"plane": ["N1", "N2", "N1", None], "seats": [100, 200, 101, 5]})
    table = join(rows, view, on=["plane"], columns=["seats"], at=None, known_at=np.zeros(4, np.int64), ttl_us=None)
    assert table["seats"].to_pylist() == [101, None, None, 200]


def test_without_a_time_of_asking_the_newest_values_are_taken() -> None:
    rows = pa.table({"place": ["a", "b"]})
    view = pa.table({"place": ["a", "a"], "at": pa.array([7, 3], pa.timestamp("us")), "x": [1, 2]})
    assert join(rows, view, on=["place"], columns=["x"], at="at", known_at=None, ttl_us=1)["x"].to_pylist() == [1, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_zones_and_units_of_the_view_do_not_matter(unit: str) -> None:
    rows = pa.table({"place": ["a", "a"]})
    asked = (dt.datetime(2013, 3, 10, 6, 59, tzinfo=dt.UTC), dt.datetime(2013, 3, 10, 7, tzinfo=dt.UTC))
    known_at = np.array([int(moment.timestamp()) * 1_000_000 for moment in asked], np.int64)
    at = pa.array([dt.datetime(2013, 3, 10, 7)], pa.timestamp(unit)).cast(pa.timestamp(unit, "UTC")).cast(pa.timestamp(unit, "America/New_York"))
    view = pa.table({"place": ["a"], "at": at, "x": [1]})  # 07:00 UTC is when New York's clocks jump
    assert join(rows, view, on=["place"], columns=["x"], at="at", known_at=known_at, ttl_us=None)["x"].to_pylist() == [None, 1]


@pytest.mark.parametrize(
    ("row_keys", "view_keys"),
    [
        (pa.array([7, 8, None]), pa.array(["7", "9"])),
        (pa.array([7.0, 8.0, None]), pa.array([7, 9])),
        (pa.array([7, 8, None], pa.int32()), pa.array([7, 9], pa.int64())),
        (pa.array(["7", "8", None]).dictionary_encode(), pa.array([7.0, 9.0])),
        (pa.array(["7", "8", None], pa.large_string()), pa.array(["7", "9"])),
        (pa.array([True, False, None]), pa.array(["true", "x"])),
    ],
)
def test_entities_meet_across_types(row_keys: pa.Array, view_keys: pa.Array) -> None:
    rows, view = pa.table({"k": row_keys}), pa.table({"k": view_keys, "x": [1, 2]})
    assert join(rows, view, on=["k"], columns=["x"], at=None, known_at=None, ttl_us=None)["x"].to_pylist() == [1, None, None]


def test_an_empty_side_is_no_error() -> None:
    rows, nothing = pa.table({"k": ["a"]}), pa.table({"k": pa.array([], pa.string()), "x": pa.array([], pa.string())})
    assert join(rows, nothing, on=["k"], columns=["x"], at=None, known_at=None, ttl_us=None).to_pydict() == {"x": [None]}
    assert join(rows.slice(1), nothing, on=["k"], columns=["x"], at=None, known_at=None, ttl_us=None).num_rows == 0
    unknown = pa.table({"k": pa.nulls(1)})
    assert join(unknown, nothing, on=["k"], columns=["x"], at=None, known_at=None, ttl_us=None).to_pydict() == {"x": [None]}


@pytest.mark.slow
def test_very_many_entities_over_a_long_time_still_join_exactly() -> None:
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.arange(300_000))
    times = rng.integers(0, 10**18, 300_000)  # entities and moments together: too much for one int64
    assert (positions_at(codes, times, codes, times, 0) == np.arange(300_000)).all()
    assert (positions_at(codes, times - 1, codes, times, None) == -1).all()


def test_newest_gives_one_row_for_each_entity() -> None:
    view = pa.table({"k": ["a", "b", None, "a", "b", "c"], "at": pa.array([2, 5, 9, 1, 5, None], pa.timestamp("us")), "x": [1, 2, 3, 4, 5, 6]})
    assert newest(view, on=["k"], at="at").select(["k", "x"]).to_pylist() == [{"k": "a", "x": 1}, {"k": "b", "x": 5}]
    assert newest(view, on=["k"], at=None).select(["k", "x"]).to_pylist() == [{"k": "a", "x": 4}, {"k": "b", "x": 5}, {"k": "c", "x": 6}]


def test_a_key_of_several_columns_is_found_by_all_of_them() -> None:
    view = pa.table({"place": ["a", "a", "b", None], "line": [1, 2, 1, 1], "x": [1, 2, 3, 4]})
    rows = pa.table({"place": ["a", "b", "b", "a", None, "a"], "line": [2, 1, 2, 1, 1, None]})
    found = join(rows, view, on=["place", "line"], columns=["x"], at=None, known_at=None, ttl_us=None)
    assert found["x"].to_pylist() == [2, 3, None, 1, None, None]


@pytest.mark.parametrize("entities", [50, 70_000])
@pytest.mark.parametrize("in_order", [True, False])
def test_keys_close_together_and_keys_far_apart_join_alike(entities: int, in_order: bool) -> None:
    rng = np.random.default_rng(entities)
    times = rng.integers(0, 1000, 150_000)
    times = np.sort(times) if in_order else times
    keys, asked_keys = rng.integers(0, entities, len(times)) - entities // 2, rng.integers(0, entities + 10, 5000) - entities // 2
    moments = rng.integers(-10, 1010, 5000)

    def found(apart: int) -> list[Any]:
        """Join by keys so far apart; a table of all between them is made only where they are close."""
        mask = np.arange(len(keys)) % 97 == 0
        view = pa.table({"k": pa.array(keys * apart, mask=mask), "at": pa.array(times, pa.timestamp("us")), "v": np.arange(len(times))})
        asked = pa.table({"k": pa.array(asked_keys * apart, mask=np.arange(5000) % 89 == 0)})
        return join(asked, view, on=["k"], columns=["v"], at="at", known_at=moments, ttl_us=500)["v"].to_pylist()

    close, far = found(1), found(10**9)
    assert close == far
    assert 100 < sum(value is None for value in close) < 4900
    newest_of = {}
    for place, (key, at) in enumerate(zip(keys.tolist(), times.tolist(), strict=True)):
        if place % 97 and key == asked_keys[1] and at <= moments[1]:
            newest_of[at] = place
    last = max(newest_of, default=None)
    assert close[1] == (newest_of[last] if last is not None and last >= moments[1] - 500 else None)


def test_a_key_beyond_all_of_the_view_is_not_found() -> None:
    view = pa.table({"k": pa.array([5, 6, 7]), "v": [1, 2, 3]})
    asked = pa.table({"k": pa.array([4, 5, 8, -(2**63), 2**63 - 1, None], pa.int64())})
    assert join(asked, view, on=["k"], columns=["v"], at=None, known_at=None, ttl_us=None)["v"].to_pylist() == [None, 1, None, None, None, None]


@pytest.mark.parametrize(("apart", "most"), [(1, 28), (4, 40)], ids=["close together", "as far apart as a table takes"])
def test_numbering_keys_takes_few_bytes_a_row(apart: int, most: int) -> None:
    keys = np.random.default_rng(5).permutation(50_000) * apart
    view, rows = pa.chunked_array([pa.array(keys)]), pa.chunked_array([pa.array(keys[:1000] + 1)])
    tracemalloc.start()
    try:
        of_rows, of_view = joins._codes(rows, view)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert of_view.tolist() == (keys // apart).tolist()
    assert (of_rows >= 0).sum() == (0 if apart > 1 else np.isin(keys[:1000] + 1, keys).sum())
    assert peak / len(keys) < most
