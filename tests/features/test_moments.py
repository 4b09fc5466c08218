"""The rows that the online store keeps of an entity, against all rows in plain Python: same values to the bit, in any order, however often."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.errors import Corrupt
from kaizenml.features.view import Aggregate
from kaizenml.features.windows.aggregates import SECOND_US, Event, ordered, values_at
from kaizenml.features.windows.moments import MOST, History, Reading, Row, Steps, reach_us, steps

HOUR = 3600.0
FUNCTIONS = ("count", "sum", "mean", "min", "max", "std", "distinct", "first", "latest", "since")
WINDOWED = [
    Aggregate(name=f"{function}{n}", function=function, column=column, last_s=last, every_s=every, n=newest)  # type: ignore[arg-type]
    for n, (function, column, last, every, newest) in enumerate(
        [
            *((function, "x", 2 * HOUR, None, None) for function in FUNCTIONS),
            *((function, "x", 2 * HOUR, HOUR, None) for function in FUNCTIONS),
            *((function, "x", 3 * HOUR, None, 2) for function in FUNCTIONS),
            ("count", None, 2 * HOUR, None, None), ("since", None, HOUR, HOUR, None), ("count", None, HOUR, HOUR, 3),
            ("latest", "who", 3 * HOUR, None, None), ("distinct", "who", 3 * HOUR, None, None), ("first", "who", HOUR, None, None),
        ]
    )
]  # fmt: skip
RATIOS = [Aggregate(name="share", function="ratio", of=["count30", "sum1"]), Aggregate(name="nothing", function="ratio", of=["sum1", "count30"])]
ENDLESS = [Aggregate(name=f"all_{function}", function=function, column="x") for function in FUNCTIONS]
ENDLESS += [Aggregate(name="all_rows", function="count"), Aggregate(name="since_any", function="since")]
ENDLESS += [Aggregate(name="all_who", function="latest", column="who")]
ENDLESS += [Aggregate(name="last_3", function="mean", column="x", n=3), Aggregate(name="stepped", function="sum", column="x", every_s=HOUR)]
VIEWS = {"windows": [*WINDOWED, *RATIOS], "all time": [*WINDOWED, *RATIOS, *ENDLESS]}

moments = st.integers(0, 40).map(lambda n: n * 900 * SECOND_US)  # quarters of an hour: many rows of one moment, on the edges of windows
numbers = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.1, 0.2, 0.3, -0.0, 1e16, -1e16]))
rows = st.lists(st.tuples(moments, st.one_of(st.none(), moments), numbers, st.sampled_from(["ann", "bob", None])), max_size=25)


def through_storage(history: History) -> History:
    return History.read(msgspec.msgpack.decode(msgspec.msgpack.encode(history.packed())))


def bits(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, f"{type(value).__name__} {value!r}") for name, value in sorted(values.items())]


def distinct(found: list[Row]) -> list[Row]:
    seen: dict[Any, Row] = {}
    for row in found:
        seen.setdefault(row.identity if row.identity is not None else repr(row), row)
    return list(seen.values())


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(rows, st.sampled_from(sorted(VIEWS)), st.booleans(), st.booleans(), st.randoms(use_true_random=False), st.integers(0, 12))
def test_any_order_and_repetition_gives_the_values_of_all_rows_at_every_moment_from_the_newest_on(
    given_rows: list[Any], view: str, timed: bool, keyed: bool, rng: random.Random, ahead: int
) -> None:
    aggregates = VIEWS[view]
    made = [
        Row(at, max(at, known) if timed and known is not None else at, f"k{n}" if keyed else None, (x, who))
        for n, (at, known, x, who) in enumerate(given_rows)
    ]
    history = History(["x", "who"], timed=timed, keyed=keyed)
    arrived = made + rng.choices(made, k=len(made) // 2) if made else []
    rng.shuffle(arrived)
    for start in range(0, len(arrived), 4):
        history.put(arrived[start : start + 4])
        history.prune(reach_us(aggregates))
        history = through_storage(history)
    before = history.packed()
    history.put(made)
    assert history.packed() == before
    kept = distinct(arrived)
    newest = max((row.at for row in kept), default=0)
    t = newest + ahead * 900 * SECOND_US + rng.choice([0, 1])
    for ttl in (None, 3600 * SECOND_US):
        found, _ = Reading([], aggregates, ttl).values(history, t)
        events = ordered(Event(row.at, row.known, {"x": row.values[0], "who": row.values[1]}) for row in kept)
        assert bits(found) == bits(values_at(aggregates, events, t, ttl=ttl))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(moments, numbers), min_size=1, max_size=40), st.integers(2, 8), st.randoms(use_true_random=False))
def test_what_is_folded_is_not_missed_by_windows_over_all_time(given_rows: list[Any], most: int, rng: random.Random) -> None:
    history = History(["x", "who"], timed=False, keyed=False)
    made = [Row(at, at, None, (x, f"n{n}")) for n, (at, x) in enumerate(sorted(given_rows, key=lambda row: row[0]))]
    for row in made:
        history.put([row])
        history.prune(None, most=most)
        history = through_storage(history)
    t = made[-1].at + rng.randrange(2) * 900 * SECOND_US
    aggregates = [each for each in ENDLESS if each.n is None]
    found, newest = Reading(["who"], aggregates, None).values(history, t)
    expected = values_at(aggregates, [Event(row.at, row.at, {"x": row.values[0], "who": row.values[1]}) for row in made], t)
    assert newest == made[-1].at
    assert found.pop("who") == made[-1].values[1]
    if history.folded is not None:  # which values there were cannot be known from sums: said as missing, never wrong
        if "all_distinct" not in found:
            assert history.folded.columns["x"].count
            expected.pop("all_distinct")
        if history.since is not None and t // (3600 * SECOND_US) * 3600 * SECOND_US < history.since:  # nor what they were at an hour before
            assert "stepped" not in found
            expected.pop("stepped")
    assert bits(found) == bits(expected)


STEPPED = [
    Aggregate(name=f"{function}{n}", function=function, column=column, last_s=last, every_s=every)  # type: ignore[arg-type]
    for n, (function, column, last, every) in enumerate(
        [
            *((function, "x", 2 * HOUR, HOUR) for function in FUNCTIONS),
            *((function, "x", 2.5 * HOUR, HOUR) for function in FUNCTIONS if function != "distinct"),
            ("count", None, 6 * HOUR, 2 * HOUR), ("since", None, 3 * HOUR, HOUR), ("latest", "who", 4 * HOUR, HOUR), ("first", "who", 4 * HOUR, HOUR),
        ]
    )
]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(moments, numbers), min_size=1, max_size=60), st.integers(2, 8), st.booleans(), st.randoms(use_true_random=False))
def test_of_any_number_of_rows_windows_that_move_by_steps_are_exact(given_rows: list[Any], most: int, endless: bool, rng: random.Random) -> None:
    aggregates = [*STEPPED, Aggregate(name="share", function="ratio", of=["sum1", "count0"])]
    whole = [*aggregates, Aggregate(name="ever", function="sum", column="x")] if endless else aggregates
    history = History(["x", "who"], timed=False, keyed=False)
    made = [Row(at, at, None, (x, f"n{n}")) for n, (at, x) in enumerate(sorted(given_rows, key=lambda row: row[0]))]
    for stop in range(1, len(made) + 1, 2):
        history.put(made[:stop])
        history.prune(reach_us(whole), steps(whole), most=most)
        history = through_storage(history)
        events = [Event(row.at, row.at, {"x": row.values[0], "who": row.values[1]}) for row in made[:stop]]
        t = events[-1].at + rng.choice([0, 1, 900 * SECOND_US, 4000 * SECOND_US, 50_000 * SECOND_US])
        found, expected = Reading([], whole, None).values(history, t)[0], values_at(whole, events, t)
        if "distinct6" not in found:  # sums do not know which values there were
            expected.pop("distinct6")
        assert bits(found) == bits(expected)
        assert len(history.times) <= most or len(set(history.times)) == 1 or len({at for at in history.times if at < history.times[-1]}) <= most


def test_sums_by_step_are_few_and_only_where_a_window_asks_for_them() -> None:
    def windows(*given_: tuple[float, float]) -> list[Aggregate]:
        return [Aggregate(name=f"n{n}", function="count", last_s=last, every_s=every) for n, (last, every) in enumerate(given_)]

    assert steps(windows((24 * HOUR, HOUR), (7 * HOUR, 0.5 * HOUR))) == Steps(1800 * SECOND_US, 25 * 3600 * SECOND_US)
    assert steps(windows((720 * HOUR, HOUR), (60.0, 1.0))) == Steps(3600 * SECOND_US, 721 * 3600 * SECOND_US)  # a second is too fine for a month
    assert steps([Aggregate(name="n", function="count", last_s=HOUR), *ENDLESS]) is None
    aggregates = windows((24 * HOUR, HOUR))
    history = History(["x"], timed=False, keyed=False)
    for minute in range(0, 100 * 60, 5):
        history.put([Row(minute * 60 * SECOND_US, minute * 60 * SECOND_US, None, (0.1,))])
        history.prune(reach_us(aggregates), steps(aggregates), most=10)
    assert history.panes is not None
    assert len(history.panes.panes) <= 26
    assert len(msgspec.msgpack.encode(history.packed())) < 4000


def test_above_the_bound_a_window_that_reaches_beyond_what_is_kept_is_missing_and_never_wrong() -> None:
    short, long = (Aggregate(name=name, function="count", last_s=last) for name, last in (("short", 100.0), ("long", 1e6)))
    history = History([], timed=False, keyed=False)
    history.put(Row(second * SECOND_US, second * SECOND_US, None, ()) for second in range(MOST + 1))
    history.prune(reach_us([short, long]))
    assert len(history.times) <= MOST // 2 + 1
    assert Reading([], [short, long], None).values(history, MOST * SECOND_US)[0] == {"short": 100}


def test_the_dataset_decides_between_two_rows_with_one_key() -> None:
    history = History(["x"], timed=False, keyed=True)
    assert history.put([Row(1, 1, "a", (1.0,)), Row(2, 2, "a", (2.0,))]) == (1, 0)
    assert (history.times, history.columns) == ([1], {"x": [1.0]})
    assert history.put([Row(2, 2, "a", (2.0,))], over=True) == (1, 0)
    assert (history.times, history.columns, history.identities) == ([2], {"x": [2.0]}, ["a"])


def test_rows_of_a_newer_format_and_damaged_ones_are_named() -> None:
    with pytest.raises(Corrupt, match="format 3"):
        History.read({"": [3, [], None, None, {}, None, None, None]})
    assert History.read({"": [1, [5], None, ["a"], {"x": [1.0]}, 4, None]}).packed() == {"": [1, [5], None, ["a"], {"x": [1.0]}, 4, None]}
    with pytest.raises(Corrupt, match="damaged"):
        History.read({"x": 1})
