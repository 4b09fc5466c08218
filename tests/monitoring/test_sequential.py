"""Looking at every step promotes a release that is not better at most as often as promised; and finds one that is."""

from __future__ import annotations

import numpy as np
import pytest

from kaizenml.monitoring import pairs, sequential

HOURS = 18


def differences(rng: np.random.Generator, *, effect: float, day_sd: float, days: int, rows: int = 45) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of loss differences by hour; rows vary by 0.12 (heavy tails), whole days by ``day_sd``."""
    noise = rng.standard_t(4, (days, HOURS)) / np.sqrt(2) * 0.12 / np.sqrt(rows)
    means = effect + noise + rng.normal(0, day_sd, (days, 1))
    return (means * rows).ravel(), np.full(days * HOURS, float(rows)), np.repeat(np.arange(days), HOURS)


def decided(rng: np.random.Generator, effect: float, day_sd: float, *, days: int = 30) -> tuple[str | None, int]:
    sums, rows, groups = differences(rng, effect=effect, day_sd=day_sd, days=days)
    for day in range(1, days + 1):
        seen = sequential.interval(sums[: day * HOURS], rows[: day * HOURS], level=0.02, groups=groups[: day * HOURS])
        if seen.low > 0:
            return "better", day
        if seen.high < 0:
            return "worse", day
    return None, days


@pytest.mark.slow
@pytest.mark.parametrize("day_sd", [0.0, 0.003, 0.01, 0.03])
def test_equal_releases_are_promoted_at_most_in_two_of_a_hundred_trials_with_a_look_every_day(day_sd: float) -> None:
    rng = np.random.default_rng(11)
    results = [decided(rng, 0.0, day_sd)[0] for _ in range(400)]
    wrong = results.count("better") / len(results)
    print(f"days vary by {day_sd}: promoted {wrong:.2%}, withdrawn {results.count('worse') / len(results):.2%} of equal releases")
    assert wrong <= 0.02


def test_a_release_that_is_better_by_a_hundredth_is_found_within_ten_days() -> None:
    rng = np.random.default_rng(12)
    results = [decided(rng, 0.01, 0.004) for _ in range(100)]
    assert sum(result == "better" for result, _ in results) >= 98
    assert np.median([day for _, day in results]) <= 10


def test_a_bad_release_is_called_worse_on_the_first_day_allowed() -> None:
    rng = np.random.default_rng(13)
    results = [decided(rng, -0.2, 0.02) for _ in range(50)]
    assert {result for result, _ in results} == {"worse"}
    assert max(day for _, day in results) == sequential.MINIMUM_GROUPS


def test_too_few_rows_hours_or_days_decide_nothing() -> None:
    rng = np.random.default_rng(14)
    sums, rows, groups = differences(rng, effect=1.0, day_sd=0.0, days=4)
    assert sequential.interval(sums, rows, level=0.02, groups=groups).low == -np.inf
    assert sequential.interval(sums[:8], rows[:8], level=0.02).low == -np.inf
    assert sequential.interval(sums[:0], rows[:0], level=0.02).rows == 0
    assert sequential.interval(sums, rows / 45, level=0.02).low == -np.inf


def test_the_estimate_of_rows_needed_is_of_the_right_size() -> None:
    rng = np.random.default_rng(15)
    sums, rows, groups = differences(rng, effect=0.004, day_sd=0.001, days=6)
    seen = sequential.interval(sums, rows, level=0.02, groups=groups)
    needed = sequential.needed_rows(seen)
    assert needed is not None
    assert seen.rows < needed < 40 * seen.rows
    assert sequential.needed_rows(sequential.interval(sums * 0, rows, level=0.02)) is None


def test_a_verdict_speaks_for_the_challenger_whichever_name_comes_first() -> None:
    rng = np.random.default_rng(16)
    days = {}
    for day in range(8):
        difference = rng.normal(0.05, 0.1, 900)  # loss of a@1 - loss of b@1: b is better
        days[f"2026-01-{day + 1:02d}"] = pairs.fold(difference, rng.integers(0, 24, 900))
    better = pairs.judge("b@1", "a@1", days, sign=1.0, loss=0.5, level=0.02)
    worse = pairs.judge("a@1", "b@1", days, sign=-1.0, loss=0.5, level=0.02)
    assert (better.decision, worse.decision) == ("better", "worse")
    assert better.difference == pytest.approx(-worse.difference)
    assert better.low is not None
    assert better.low > 0
    assert "lower" in better.why
    assert pairs.judge("b@1", "a@1", {}, sign=1.0, loss=0.5, level=0.02).decision == "undecided"


def test_the_detector_is_quiet_while_all_is_well_and_quick_when_it_is_not() -> None:
    rng = np.random.default_rng(17)
    false = sum(sequential.detect(rng.normal(0, 1, 60), threshold=200).raised for _ in range(300))
    print(f"false alarms in 300 times 60 looks: {false}")
    assert false <= 300 * 60 / 200
    found = [sequential.detect(np.concatenate([rng.normal(0, 1, 20), rng.normal(2, 1, 10)]), threshold=200) for _ in range(100)]
    assert sum(alarm.raised for alarm in found) >= 97
    assert np.median([alarm.since for alarm in found if alarm.raised]) == pytest.approx(20, abs=2)


def test_one_wild_day_is_not_enough() -> None:
    assert not sequential.detect(np.array([0.0] * 20 + [1000.0]), threshold=200).raised


@pytest.mark.parametrize("day_sd", [0.0, 0.05, 0.2])
def test_days_that_differ_among_themselves_raise_no_more_alarms_than_promised(day_sd: float) -> None:
    rng = np.random.default_rng(18)
    false = 0
    for _ in range(200):
        rows = np.full(60, 900.0)
        means = rng.normal(0, day_sd, 60) + rng.normal(0, 0.5 / 30, 60)
        scores = sequential.standardise(means * rows, rows, rows * (0.25 + means**2), allowed=0.005)
        false += sequential.detect(scores, threshold=200).raised
    print(f"days vary by {day_sd}: {false} of 200 runs of 60 days with a false alarm")
    assert false <= 200 * 60 / 200
