"""Profiles merge by addition, drift alarms are right about as often as they promise, and a day is compared with days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.errors import Corrupt
from kaizenml.features.signature import Field
from kaizenml.monitoring import drift, profile

FIELDS = [
    Field(name="price", kind="number", view="v"),
    Field(name="count", kind="integer"),
    Field(name="colour", kind="category", view="v"),
    Field(name="gift", kind="boolean"),
    Field(name="at", kind="timestamp"),
]
ENTITIES = {"v": "shop"}

row = st.fixed_dictionaries(
    {
        "price": st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32),
        "count": st.none() | st.integers(-5, 50),
        "colour": st.none() | st.sampled_from(["red", "green", "blue", "ünïcödé", ""]),
        "gift": st.none() | st.booleans(),
        "at": st.none() | st.datetimes(datetime(1960, 1, 1), datetime(2040, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
        "shop": st.sampled_from(["a", "b"]),
    }
)
SCHEMA = pa.schema(
    [
        ("price", pa.float64()), ("count", pa.int64()), ("colour", pa.string()), ("gift", pa.bool_()), ("at", pa.timestamp("us", tz="UTC")),
        ("shop", pa.string()),
    ]
)  # fmt: skip


def table(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def same(one: profile.Profile, other: profile.Profile) -> bool:
    return (
        one.rows == other.rows
        and one.gapped == other.gapped
        and one.states == other.states
        and one.keys == other.keys
        and np.array_equal(one.missing, other.missing)
        and np.array_equal(one.counts, other.counts)
        and np.allclose(one.sums, other.sums, rtol=1e-9, equal_nan=True)
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(row, max_size=30), st.lists(row, max_size=30), st.integers(0, 30))
def test_counts_of_parts_add_up_to_the_counts_of_the_whole(reference: list[dict[str, object]], rows: list[dict[str, object]], cut: int) -> None:
    bins = profile.learn(table(reference), FIELDS, entities=ENTITIES)
    solid = np.array([True, False, True, False, True])
    whole = profile.count(bins, table(rows), solid=solid)
    parts = [profile.count(bins, table(part), solid=solid) for part in (rows[:cut], rows[cut:])]
    assert same(parts[0] + parts[1], whole)
    assert same(parts[1] + parts[0], whole)
    assert (whole.counts.sum(axis=1) + whole.missing == len(rows)).all()  # no value is lost
    assert same(profile.decode(profile.encode(whole)), whole)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(row, max_size=30), st.lists(st.lists(row, max_size=12), min_size=1, max_size=5))
def test_blocks_counted_in_one_pass_are_what_each_gives_by_itself(reference: list[dict[str, object]], blocks: list[list[dict[str, object]]]) -> None:
    bins = profile.learn(table(reference), FIELDS, entities=ENTITIES)
    solid = np.array([True, False, True, False, True])
    bounds = np.cumsum([0, *map(len, blocks)])
    together = profile.count_blocks(bins, table([one for block in blocks for one in block]), bounds, solid=solid)
    assert all(same(counted, profile.count(bins, table(block), solid=solid)) for counted, block in zip(together, blocks, strict=True))


def test_every_value_falls_into_its_slot() -> None:
    bins = profile.Bins(
        columns=[profile.Column(name="x", kind="number", edges=[1.0, 2.0, 5.0]), profile.Column(name="c", kind="category", levels=["a", "b"])]
    )
    rows = pa.table({"x": [0.5, 1.0, 1.9, 2.0, 4.9, 5.0, 6.0, None], "c": ["a", "b", "b", "z", None, "a", "a", "q"]})
    counted = profile.count(bins, rows)
    assert counted.counts[0, :5].tolist() == [1, 2, 2, 1, 1]
    assert counted.counts[1, :3].tolist() == [3, 2, 2]
    assert counted.missing.tolist() == [1, 1]


def test_a_column_that_is_absent_is_missing_in_every_row() -> None:
    bins = profile.learn(pa.table({"x": [1.0, 2.0]}), [Field(name="x", kind="number")])
    assert profile.count(bins, pa.table({"y": [1, 2, 3]})).missing.tolist() == [3]


def test_a_damaged_profile_says_so() -> None:
    with pytest.raises(Corrupt, match="damaged"):
        profile.decode(b"nonsense")


def mixed(rng: np.random.Generator, rows: int, *, shift: float = 0.0) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for number in range(12):
        values = [rng.normal(size=rows), rng.lognormal(0, 1, rows), rng.poisson(4, rows).astype(float)][number % 3] + (shift if number == 0 else 0)
        if number % 4 == 0:
            values[rng.random(rows) < 0.05] = np.nan
        columns[f"n{number}"] = pa.array(values, from_pandas=True)
    for number, levels in enumerate((2, 5, 20, 100, 400)):
        weights = 1 / np.arange(1, levels + 1)
        columns[f"c{number}"] = pa.array([f"v{level}" for level in rng.choice(levels, rows, p=weights / weights.sum())])
    return pa.table(columns)


def fields(rows: pa.Table) -> list[Field]:
    return [Field(name=name, kind="number" if name[0] == "n" else "category") for name in rows.column_names]


@pytest.mark.parametrize(
    ("rows", "draws"),
    [
        pytest.param(200, 60, marks=pytest.mark.slow),
        (1_000, 40),
        pytest.param(10_000, 12, marks=pytest.mark.slow),
        pytest.param(50_000, 3, marks=pytest.mark.slow),
    ],
)
def test_equal_samples_flag_at_most_one_column_in_a_hundred(rows: int, draws: int) -> None:
    rng = np.random.default_rng(rows)
    flagged = columns = 0
    for draw in range(draws):
        if draw % 10 == 0:  # several references, so that one lucky one does not decide
            reference = mixed(rng, 10_000)
            bins = profile.learn(reference, fields(reference))
            whole = profile.count(bins, reference)
        found = drift.compare(bins, whole, profile.count(bins, mixed(rng, rows)), alpha=0.01)
        flagged += sum(column.drifted for column in found)
        columns += len(found)
    rate = flagged / columns
    print(f"{rows} rows: {flagged} of {columns} columns flagged, {rate:.2%}")
    assert rate <= 0.01


def test_a_shift_of_a_third_of_a_deviation_is_flagged_by_name_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    reference = mixed(rng, 20_000)
    bins = profile.learn(reference, fields(reference))
    found = drift.compare(bins, profile.count(bins, reference), profile.count(bins, mixed(rng, 5_000, shift=0.35)), alpha=0.01)
    assert [column.column for column in found if column.drifted] == ["n0"]


def test_missing_unseen_and_outside_values_are_told_apart() -> None:
    rng = np.random.default_rng(4)
    reference = mixed(rng, 10_000)
    bins = profile.learn(reference, fields(reference))
    window = mixed(rng, 2_000)
    hit = rng.random(2_000) < 0.3
    for name, values in {
        "n1": np.where(hit, np.nan, window["n1"].to_numpy()),
        "n2": np.where(hit, 1e6, window["n2"].to_numpy()),
    }.items():
        window = window.set_column(window.column_names.index(name), name, pa.array(values, from_pandas=True))
    colours = ["new" if new else value for new, value in zip(hit, window["c1"].to_pylist(), strict=True)]
    window = window.set_column(window.column_names.index("c1"), "c1", pa.array(colours))
    found = {
        column.column: column
        for column in drift.compare(bins, profile.count(bins, reference), profile.count(bins, window), alpha=0.01)
        if column.drifted
    }
    assert set(found) == {"n1", "n2", "c1"}
    assert found["n1"].flooded
    assert found["n1"].reason.startswith("missing")
    assert "never seen" in found["c1"].reason
    assert "out of the range" in found["n2"].reason


def test_a_day_of_ordinary_weather_is_not_drift_though_no_day_is_like_the_year() -> None:
    rng = np.random.default_rng(5)
    days = [pa.table({"temp": rng.normal(rng.normal(50, 12), 3, 300)}) for _ in range(70)]
    reference = pa.concat_tables(days[:60])
    bins = profile.learn(reference, [Field(name="temp", kind="number")])
    whole, counted = profile.count(bins, reference), [profile.count(bins, day) for day in days]
    limits = drift.usual(bins, whole, counted[:60])
    without = [drift.compare(bins, whole, day, alpha=0.01)[0].drifted for day in counted[60:]]
    within = [drift.compare(bins, whole, day, alpha=0.01, limits=limits)[0].drifted for day in counted[60:]]
    assert all(without)
    assert sum(within) <= 1


def test_steps_of_all_days_equal_the_steps_of_each() -> None:
    rng = np.random.default_rng(6)
    reference = mixed(rng, 2_000)
    bins = profile.learn(reference, fields(reference))
    days = [profile.count(bins, mixed(rng, 100)) for _ in range(7)]
    at_once = drift.steps(bins, days)
    for number in range(3, 7):
        before = profile.total(bins, days[number - 3 : number])
        assert at_once[number - 3] == pytest.approx(drift.distances(bins, before, days[number])[0])


def test_a_profile_of_fifty_columns_stays_small() -> None:
    rng = np.random.default_rng(7)
    reference = pa.table({f"n{number}": rng.normal(size=20_000) for number in range(50)})
    bins = profile.learn(reference, [Field(name=name, kind="number") for name in reference.column_names])
    day = profile.count(bins, reference.slice(0, 900))
    assert len(profile.encode(day)) < 64_000


def test_hours_and_not_dates_are_compared() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    old = pa.table({"at": pa.array([start + timedelta(minutes=number) for number in range(5_000)], pa.timestamp("us", tz="UTC"))})
    new = pa.table({"at": pa.array([start + timedelta(days=300, minutes=number) for number in range(5_000)], pa.timestamp("us", tz="UTC"))})
    bins = profile.learn(old, [Field(name="at", kind="timestamp")])
    assert not drift.compare(bins, profile.count(bins, old), profile.count(bins, new), alpha=0.01)[0].drifted
