"""Laws of the aggregates: both forms against a reference that is written in plain Python from what is promised."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.features.join import MISSING
from kaizenml.features.view import Aggregate
from kaizenml.features.windows import vectorised as windows
from kaizenml.features.windows.aggregates import Event, ordered, values_at

SECOND = 1_000_000


class Row(NamedTuple):
    who: str | None
    at: int | None
    created: int | None
    x: float | None
    whole: int | None
    text: str | None


def reference(each: Aggregate, rows: list[Row], who: str | None, t: int | None, ttl: int | None, created: bool) -> Any:
    """What is promised, row by row, in fractions."""
    known = []
    for place, row in enumerate(rows):
        if who is None or t is None or row.who != who or row.at is None:
            continue
        since = row.at if not created or row.created is None else max(row.at, row.created)
        if row.at <= t and since <= t:
            known.append((row.at, since, place, row))
    known.sort(key=lambda item: item[:3])
    if not known or (ttl is not None and t - known[-1][0] > ttl):
        return None
    end = t if each.every_s is None else math.floor(Fraction(t, int(each.every_s) * SECOND)) * int(each.every_s) * SECOND
    begin = -math.inf if each.last_s is None else end - int(each.last_s) * SECOND
    chosen = [(at, row) for at, _, _, row in known if begin < at <= end]
    if each.column is not None:
        chosen = [(at, row) for at, row in chosen if counts(getattr(row, each.column))]
    if each.n is not None:
        chosen = chosen[-each.n :]
    values = [getattr(row, each.column) if each.column else None for _, row in chosen]
    if each.function in ("count", "distinct"):
        return len(values) if each.function == "count" else len(set(values))
    exact = [Fraction(v) for v in values] if each.column in ("x", "whole") else []
    if each.function == "sum":
        return as_held(sum(exact), each.column)
    if not values:
        return None
    if each.function == "since":
        return (t - chosen[-1][0]) / 1e6
    if each.function == "mean":
        total = as_held(sum(exact), each.column)
        return None if total is None else float(total) / len(values)
    if each.function == "std":
        mean = sum(exact) / len(exact)
        if len(exact) < 2:
            return None
        try:
            return math.sqrt(float(sum((v - mean) ** 2 for v in exact) / (len(exact) - 1)))
        except OverflowError:
            return None
    return {"min": min, "max": max, "first": lambda v: v[0], "latest": lambda v: v[-1]}[each.function](values)


def counts(value: Any) -> bool:
    return value is not None and (not isinstance(value, float) or math.isfinite(value))


def as_held(total: Fraction | int, column: str | None) -> Any:
    if column == "whole":
        return int(total) if -(2**63) <= total < 2**63 else None
    try:
        return float(total)
    except OverflowError:
        return None


Asked = list[tuple[str | None, int | None]]


def offline(each: list[Aggregate], rows: list[Row], asked: Asked, ttl: int | None, created: bool, block: int) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [[]] * 6
    us = pa.timestamp("us", "UTC")
    types = [pa.string(), us, us, pa.float64(), pa.int64(), pa.string()]
    view = pa.table({name: pa.array(column, kind) for name, column, kind in zip(Row._fields, columns, types, strict=True)})
    frame = pa.table({"who": pa.array([who for who, _ in asked], pa.string())})
    moments = np.array([MISSING if t is None else t for _, t in asked], np.int64)
    return windows.aggregate(
        frame, view, on=["who"], aggregates=each, at="at", created="created" if created else None, known_at=moments, ttl_us=ttl, block=block
    )


NUMBERS = (
    st.none() | st.sampled_from([0.1, 0.2, 0.3, -0.0, 1e16, 1.0, -1e16, math.nan, math.inf, 1e300, 5e-324, 1e308, 1.5e308, -2.5])
    | st.floats(allow_nan=True, allow_infinity=True)
)  # fmt: skip
WHOLE = st.none() | st.integers(-5, 5) | st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1, 2**62])
WHO = st.none() | st.sampled_from("abc")
MOMENT = st.integers(-12, 12).map(lambda s: s * SECOND) | st.integers(-12 * SECOND, 12 * SECOND)
TEXT = st.none() | st.sampled_from(["u", "v", "w"])
ROWS = st.lists(st.builds(Row, WHO, st.none() | MOMENT, st.none() | MOMENT, NUMBERS, WHOLE, TEXT), max_size=25)
ASKED = st.lists(st.tuples(WHO, st.none() | MOMENT), min_size=1, max_size=10)
SECONDS = st.none() | st.sampled_from([1.0, 2.0, 5.0, 20.0])


@st.composite
def an_aggregate(draw: st.DrawFn) -> Aggregate:
    function = draw(st.sampled_from(["count", "sum", "mean", "min", "max", "std", "distinct", "first", "latest", "since"]))
    columns = {"count": [None, "x", "text"], "since": [None, "x"], "distinct": ["x", "whole", "text"]}
    texts = ["text"] if function in ("first", "latest") else []
    column = draw(st.sampled_from(columns.get(function, ["x", "whole", *texts])))
    n = draw(st.none() | st.integers(1, 4))
    return Aggregate(name="it", function=function, column=column, last_s=draw(SECONDS), every_s=draw(SECONDS), n=n)


CASES = given(
    each=an_aggregate(), rows=ROWS, asked=ASKED, ttl=st.none() | st.integers(0, 15 * SECOND), created=st.booleans(), block=st.sampled_from([2, 1000])
)


@pytest.mark.slow
@CASES
@settings(max_examples=100, deadline=None)
def test_both_forms_give_what_was_known_at_the_moment_of_asking(
    each: Aggregate, rows: list[Row], asked: Asked, ttl: int | None, created: bool, block: int
) -> None:
    compare(each, rows, asked, ttl, created, block)


@pytest.mark.slow
@CASES
@settings(max_examples=1000, deadline=None)
def test_both_forms_give_what_was_known_in_many_more_cases(
    each: Aggregate, rows: list[Row], asked: Asked, ttl: int | None, created: bool, block: int
) -> None:
    compare(each, rows, asked, ttl, created, block)


def compare(each: Aggregate, rows: list[Row], asked: Asked, ttl: int | None, created: bool, block: int) -> None:
    expected = [reference(each, rows, who, t, ttl, created) for who, t in asked]
    found = offline([each], rows, asked, ttl, created, block)["it"].to_pylist()
    assert found == expected
    if each.column != "text" and any(isinstance(value, float) for value in found):
        assert not any(math.copysign(1.0, value) < 0 for value in found if value == 0 and each.function not in ("first", "latest"))
    for (who, t), value in zip(asked, expected, strict=True):
        if t is not None:
            events = [
                Event(row.at, row.at if not created or row.created is None else max(row.at, row.created), row._asdict())
                for row in rows
                if row.who == who and who is not None and row.at is not None
            ]
            assert values_at([each], ordered(events), t, ttl=ttl)["it"] == value


ALL = [
    Aggregate(name="n", function="count"),
    Aggregate(name="total", function="sum", column="x", last_s=700.0),
    Aggregate(name="spread", function="std", column="x", last_s=900.0),
    Aggregate(name="least", function="min", column="x", last_s=400.0),
    Aggregate(name="kinds", function="distinct", column="text", last_s=800.0),
    Aggregate(name="newest", function="latest", column="whole"),
    Aggregate(name="oldest", function="first", column="text", n=3),
    Aggregate(name="steps", function="mean", column="x", last_s=300.0, every_s=60.0),
    Aggregate(name="share", function="ratio", of=["total", "n"]),
    Aggregate(name="idle", function="since"),
]


def made(count: int, rng: random.Random) -> list[Row]:
    rows = []
    for _ in range(count):
        at = rng.randrange(3000) * SECOND
        late = 0 if rng.random() < 0.7 else rng.randrange(900) * SECOND
        rows.append(Row(rng.choice("abcd"), at, at + late, round(rng.lognormvariate(3, 2), 2), rng.randrange(9), rng.choice("uvwxyz")))
    return rows


def test_nothing_of_the_future_gets_in_however_the_rows_are_shuffled_late_or_corrected() -> None:
    rng = random.Random(7)
    rows = made(1500, rng)
    asked = [(rng.choice("abcde"), rng.randrange(3200) * SECOND) for _ in range(300)]
    before = offline(ALL, rows, asked, None, True, 400)
    for place in (0, 150, 299):  # rows that are later, or known later, change nothing
        who, t = asked[place]
        future = [Row(who, t + 1, t + 1, 1e9, 99, "!"), Row(who, t - 5 * SECOND, t + 1, -1e9, 98, "?")]
        assert offline(ALL, [*future, *rows], [(who, t)], None, True, 400).to_pylist() == [before.to_pylist()[place]]
    order = sorted(range(len(rows)), key=lambda place: (rows[place].at, rows[place].created))
    shuffled = [rows[place] for place in order]  # equal times keep their order of addition
    assert offline(ALL, shuffled, asked, None, True, 10_000).equals(before)
    correction = Row("a", 1000 * SECOND, 2000 * SECOND, 0.0, 1000, "u")
    earlier, later = offline(ALL, [*rows, correction], [("a", 1999 * SECOND), ("a", 2001 * SECOND)], None, True, 400).to_pylist()
    without = offline(ALL, rows, [("a", 1999 * SECOND), ("a", 2001 * SECOND)], None, True, 400).to_pylist()
    assert earlier == without[0]
    assert later["n"] == without[1]["n"] + 1


def test_sums_cancel_nothing_however_long_and_large_the_history_was() -> None:
    rows = [Row("a", second * SECOND, None, 1e15 + 0.5 if second < 5000 else 0.1, None, None) for second in range(5010)]
    each = [Aggregate(name="sum", function="sum", column="x", last_s=10.0), Aggregate(name="std", function="std", column="x", last_s=10.0)]
    found = offline(each, rows, [("a", 5009 * SECOND)], None, False, 10_000).to_pylist()
    assert found == [{"sum": 1.0, "std": 0.0}]


def test_every_question_is_answered_in_its_place_also_those_that_nothing_is_known_of() -> None:
    asked = [("z", 5), ("a", None), (None, 5), ("a", -1), ("a", 5)]
    rows = [Row("a", 0, None, 2.5, 7, "u")]
    found = offline(ALL, rows, asked, None, False, 10).to_pylist()
    assert found[:4] == [dict.fromkeys([each.name for each in ALL])] * 4
    assert (found[4]["n"], found[4]["total"], found[4]["newest"], found[4]["idle"]) == (1, 2.5, 7, 5e-06)
    assert offline(ALL, [], asked, None, True, 10).num_rows == 5


@pytest.mark.parametrize("far", [2**62, -(2**62), 2**63 - 1, -(2**63) + 1])
def test_moments_at_the_ends_of_the_world_do_not_overflow(far: int) -> None:
    rows = [Row("a", 0, None, 1.0, 1, "u"), Row("a", far, None, 2.0, 2, "v"), Row("b", 5, None, 3.0, 3, "w")]
    each = [each for each in ALL if each.every_s is None]
    asked = [("a", far), ("a", 0), ("b", far), ("b", 5)]
    view_rows = [row._replace(created=None) for row in rows]
    columns = {"who": [row.who for row in view_rows], "x": [row.x for row in view_rows], "whole": [row.whole for row in view_rows]}
    view = pa.table({**columns, "text": [row.text for row in view_rows], "at": pa.array([row.at for row in view_rows], pa.timestamp("us"))})
    frame = pa.table({"who": [who for who, _ in asked]})
    moments = np.array([t for _, t in asked])
    found = windows.aggregate(frame, view, on=["who"], aggregates=each, at="at", created=None, known_at=moments, ttl_us=None)
    assert found["n"].to_pylist() == [reference(ALL[0], rows, who, t, None, False) for who, t in asked]
    assert found["newest"].to_pylist() == [reference(ALL[5], rows, who, t, None, False) for who, t in asked]
