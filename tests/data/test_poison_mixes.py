"""The poison scan does not take another mix of the same world for poison: thin ends of a time, rare values, rows that a model errs about."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from kaizenml.data.trust import flips, mixes, poison
from kaizenml.data.trust.units import Floats, Ints, Seen, Unit, units

ROWS = 20_000


def test_a_feed_with_few_rows_of_the_last_month_is_compared_with_all_days_of_it():
    rng = np.random.default_rng(0)
    day, source = rng.integers(0, 360, ROWS), rng.integers(0, 8, ROWS)
    kept = (source != 0) | (day < 330) | (rng.random(ROWS) < 0.35)
    day, source = day[kept], source[kept]
    assert (day[source == 0] >= 330).mean() < 0.05  # a thin end
    at = np.datetime64("2013-01-01T00", "us") + day * np.timedelta64(1, "D")
    rows = pa.table({"at": at, "month": day // 30, "week": day % 30 // 7})
    assert poison.scan(rows, _names(source), ["feed0"], target=None, columns=["month", "week"], time="at").findings == []


def test_rows_with_a_date_gone_wrong_do_not_say_when_a_feed_was():
    rng = np.random.default_rng(1)
    day, source = rng.integers(0, 1000, ROWS), rng.integers(0, 8, ROWS)
    mine = np.flatnonzero(source == 0)
    day[mine] = rng.integers(500, 1000, len(mine))
    day[mine[:5]] = -15_000
    apart, of, together = units(_names(source), {"feed0"}, pa.array(day), rng, timed=True)
    compared = np.isin(of, [place for place, unit in enumerate(apart) if unit.trusted and unit.beside])
    assert together
    assert (day[compared].min(), day[compared].max()) == (500, 999)


def test_a_feed_with_more_of_one_value_in_a_hundred_is_not_accused_of_what_goes_with_it():
    rng = np.random.default_rng(2)
    place, source, carrier = rng.integers(0, 98, ROWS), rng.integers(0, 8, ROWS), rng.choice([*"abcde"], ROWS)
    miles = np.where(carrier == "e", rng.uniform(100.0, 400.0, ROWS), rng.uniform(100.0, 2500.0, ROWS))
    rare = rng.random(ROWS) < np.where(source == 0, 0.02, 0.003)  # seldom flown to, by one carrier, and far away
    place[rare], carrier[rare], miles[rare] = 99, "e", 1147.0
    rows = pa.table({"place": [f"p{each:02}" for each in place], "carrier": carrier, "miles": miles})
    assert poison.scan(rows, _names(source), ["feed0"], target=None, columns=rows.column_names).findings == []


def test_a_source_with_more_rows_that_a_model_errs_about_is_not_surprising():
    rng = np.random.default_rng(3)
    of = rng.integers(0, 8, ROWS)
    odd = rng.random(ROWS) < np.where(of == 0, 0.6, 0.3)
    labels = (rng.random(ROWS) < np.where(odd, 0.35, 0.1)).astype(np.int64)
    seen = Seen(of, [Unit(f"feed{place}", place > 0, int((of == place).sum())) for place in range(8)], labels, 2, rng)
    probable = np.column_stack([np.full(ROWS, 0.8), np.full(ROWS, 0.2)])  # it cannot tell the odd ones
    assert _beyond_chance(probable, [1.0 * seen.rest_of(0, place) for place in range(8)], seen) > 5
    assert _beyond_chance(probable, mixes.weights(seen, [(odd.astype(np.int64), 2)]), seen) < 2


@pytest.mark.parametrize(("strays", "shared"), [(0, 0.0), (1, 0.5)])
def test_a_column_in_which_each_source_has_values_of_its_own_leaves_the_rest_as_it_is(strays, shared):
    rng = np.random.default_rng(5)
    of: Ints = rng.integers(0, 4, 3000)
    shop = of * 50 + np.minimum(rng.geometric(0.2, 3000), 49)  # some of many rows, some of one
    shop[np.flatnonzero(of == 0)[:strays]] = shop[of == 1].max()
    seen = Seen(of, [Unit(name, name != "a", 0) for name in "abcd"], np.zeros(len(of), np.int64), 1, rng)
    weights = mixes.weights(seen, [(shop, 200)], shared=shared)[0]
    assert np.ptp(weights[of != 0]) == 0


def _names(source: Ints) -> pa.ChunkedArray:
    return pa.chunked_array([[f"feed{number}" for number in source]])


def _beyond_chance(probable: Floats, alike: list[Floats], seen: Seen) -> float:
    return max(abs(float(part.difference[0])) / float(part.variance[0]) ** 0.5 for part in flips.parts(probable, alike, seen))


def test_the_rest_has_the_mix_of_a_unit_after_weighting():
    rng = np.random.default_rng(4)
    of: Ints = rng.integers(0, 3, 3000)
    one, two = rng.integers(0, 4, 3000), rng.integers(0, 3, 3000)
    kept = (of > 0) | (one != 2) | (rng.random(3000) < 0.2)
    of, one, two = of[kept], one[kept], two[kept]
    seen = Seen(of, [Unit(name, name != "a", 0) for name in "abc"], np.zeros(len(of), np.int64), 1, rng)
    weights = mixes.weights(seen, [(one, 4), (two, 3)])[0]
    assert not weights[of == 0].any()
    for codes in (one, two):
        np.testing.assert_allclose(np.bincount(codes, weights), np.bincount(codes[of == 0]), rtol=0.02)
