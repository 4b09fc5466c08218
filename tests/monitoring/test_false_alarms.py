"""What nature does by itself is not called a failure; what breaks still is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from kaizenml.features.signature import Field
from kaizenml.monitoring import diagnosis, drift, live, profile, reference, upstream
from kaizenml.monitoring.profile import Bins, Profile
from kaizenml.training.run import Estimate

SCORES = 64


def area(value: float, rows: int = 900) -> Estimate:
    half = 1.96 * 0.5 / np.sqrt(rows)
    return Estimate(value=value, low=value - half, high=value + half, rows=rows)


def usual_days(number: int, *, seed: int) -> dict[str, Estimate | None]:
    """Days of a middling model: an AUC of .66, and .07 between days, as of a year of flights."""
    values = np.random.default_rng(seed).normal(0.66, 0.07, number)
    return {f"2026-03-{day + 1:02d}": area(float(value)) for day, value in enumerate(values)}


def test_a_month_of_ups_and_downs_is_not_called_wrong_outcomes() -> None:
    alarms = [seed for seed in range(400) if diagnosis._turned(usual_days(28, seed=seed))]
    assert len(alarms) <= 2


def test_one_dreadful_day_with_few_outcomes_is_chance() -> None:
    assert diagnosis._turned({**usual_days(14, seed=1), "2026-03-20": area(0.36, 110)}) == set()


@pytest.mark.parametrize("seed", range(5))
def test_outcomes_with_their_sign_turned_are_told_within_three_days(seed: int) -> None:
    days = usual_days(14, seed=seed)
    later = [found for found in usual_days(3, seed=seed + 50).values() if found]
    turned = {f"2026-03-{day}": area(1 - found.value) for day, found in zip((20, 21, 22), later, strict=True)}
    assert diagnosis._turned({**days, **turned}) == set(turned)


def test_a_good_model_tells_turned_outcomes_on_the_first_day() -> None:
    days: dict[str, Estimate | None] = {f"2026-03-{day:02d}": area(0.85 + 0.01 * (day % 3)) for day in range(1, 12)}
    assert diagnosis._turned({**days, "2026-03-12": area(0.15)}) == {"2026-03-12"}


def test_without_a_model_that_tells_the_classes_apart_nothing_is_said() -> None:
    days: dict[str, Estimate | None] = {f"2026-03-{day:02d}": area(0.5 + 0.02 * (day % 3 - 1)) for day in range(1, 12)}
    assert diagnosis._turned({**days, "2026-03-12": area(0.3)}) == set()


def test_the_area_of_turned_scores_is_one_minus_the_area() -> None:
    scores = np.random.default_rng(0).integers(0, 9, (2, live.SCORES)).astype(np.int64)
    found, turned = live.area(scores), live.area(scores[::-1])
    assert found
    assert turned
    assert found.value == pytest.approx(1 - turned.value)


def windy(rng: np.random.Generator, level: float, rows: int = 300) -> pa.Table:
    """A day of wind: its level sets its spread, too."""
    return pa.table({"wind": level * rng.weibull(2.0, rows), "temp": rng.normal(60, 8, rows)})


def known(rng: np.random.Generator, levels: list[float]) -> tuple[reference.Reference, Bins]:
    tables = [windy(rng, level) for level in levels]
    whole = pa.concat_tables(tables)
    bins = profile.learn(whole, [Field(name="wind", kind="number"), Field(name="temp", kind="number")])
    days = [profile.count(bins, table) for table in tables]
    counted = profile.count(bins, whole)
    made = reference.Reference(
        release="r@1", dataset="d@1", rows=whole.num_rows, days=len(days), bins=bins, counts=profile.encode(counted), solid=[True, True],
        daily=drift.usual(bins, counted, days), step=reference.usual_step(bins, days), swing=reference.usual_swing(bins, days),
    )  # fmt: skip
    return made, bins


def failures(levels: list[float], later: list[float]) -> list[upstream.Failure]:
    rng = np.random.default_rng(5)
    made, bins = known(rng, levels)
    windows: dict[str, Profile] = {f"2026-04-{day + 1:02d}": profile.count(bins, windy(rng, level)) for day, level in enumerate(later)}
    return upstream.failures(made, windows, today="2026-04-30", alpha=0.01)


def test_wind_that_calms_down_as_it_did_before_is_weather() -> None:
    weather = [10, 11, 9, 18, 17, 8, 9, 20, 10, 9, 11, 19, 9, 10, 18, 8, 9, 10, 17, 9]
    assert failures(weather, [15, 16, 15, 14, 7, 7, 7]) == []


def test_a_steady_input_that_comes_at_half_its_size_is_another_unit() -> None:
    found = failures([10, 10.5, 9.5] * 7, [10, 10, 10, 10, 5, 5, 5])
    assert [(failure.kind, failure.columns, failure.since) for failure in found] == [("units", ["wind"], "2026-04-05")]


def rainy(rng: np.random.Generator, wet: int, rows: int = 300) -> pa.Table:
    return pa.table({"rain": rng.gamma(0.5, 0.2, rows) * wet, "temp": rng.normal(60, 8, rows)})


@pytest.mark.parametrize(("dry_before", "dry", "stuck"), [(3, 5, False), (3, 9, True), (0, 2, True)])
def test_a_dry_spell_is_weather_and_a_gauge_that_says_nothing_for_far_longer_is_stuck(dry_before: int, dry: int, stuck: bool) -> None:
    rng = np.random.default_rng(2)
    tables = [rainy(rng, wet) for wet in ([1] * 7 + [0] * dry_before + [1] * 7) * 2]
    bins = profile.learn(pa.concat_tables(tables), [Field(name="rain", kind="number"), Field(name="temp", kind="number")])
    days = [profile.count(bins, table) for table in tables]
    whole = profile.total(bins, days)
    made = reference.Reference(
        release="r@1", dataset="d@1", rows=whole.rows, days=len(days), bins=bins, counts=profile.encode(whole), solid=[True, True],
        daily=drift.usual(bins, whole, days), still=reference.usual_stillness(bins, days),
    )  # fmt: skip
    windows = {f"2026-04-{day + 1:02d}": profile.count(bins, rainy(rng, wet)) for day, wet in enumerate([1] * 4 + [0] * dry)}
    found = upstream.failures(made, windows, today="2026-04-30", alpha=0.01)
    assert made.still == [dry_before, 0]
    assert [failure.said for failure in found] == (["rain is stuck at 0"] if stuck else [])


def lately(rng: np.random.Generator, day: int, hours: range, gone: range) -> pa.Table:
    """Rows of some hours of a day; the mean of the last hours is not there in those that are gone."""
    hour = np.sort(rng.choice(np.array(hours), 20 * len(hours)))
    at = pa.array([datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=day, hours=int(h)) for h in hour], pa.timestamp("us", "UTC"))
    return pa.table({"at": at, "delay_2h": np.where(np.isin(hour, gone), np.nan, rng.normal(10, 5, len(hour)))})


def test_a_window_that_is_empty_every_morning_is_no_flood_and_a_flood_goes_on_over_the_morning() -> None:
    rng, day, night = np.random.default_rng(3), range(5, 24), range(7)
    table = pa.concat_tables([lately(rng, number, day, night) for number in range(30)])
    bins = profile.learn(table, [Field(name="delay_2h", kind="number", view="origin")])
    whole = profile.count(bins, table)
    days, early = reference.usual_days(bins, table, "at")
    made = reference.Reference(
        release="r@1", dataset="d@1", rows=table.num_rows, days=len(days), bins=bins, counts=profile.encode(whole), solid=[False],
        daily=drift.usual(bins, whole, days), early=early,
    )  # fmt: skip
    usual, flooded = profile.count(bins, lately(rng, 30, day, night)), profile.count(bins, lately(rng, 30, day, range(16)))
    morning = profile.count(bins, lately(rng, 31, range(5, 8), night))

    def said(*profiles: Profile) -> list[tuple[str, bool]]:
        windows = {f"2026-03-{place + 20}": one for place, one in enumerate(profiles)}
        return [(failure.since, failure.current) for failure in upstream.failures(made, windows, today=max(windows), alpha=0.01)]

    assert early == [1.0]
    assert len(reference.usual_days(bins, table, "at", 10 * 3600.0)[0]) == 31  # asked so long before, the first rows are of the day before
    assert said(usual, usual, morning) == []
    assert said(usual, flooded, morning) == [("2026-03-21", True)]
    assert said(usual, flooded, profile.count(bins, lately(rng, 31, range(5, 20), night))) == [("2026-03-21", False)]
    assert said(usual, flooded, usual, morning) == [("2026-03-21", False)]
