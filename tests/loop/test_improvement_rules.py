"""The loop's decisions, as rules over facts."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pytest

from kaizenml.loop.improvement import MARGIN, Facts, Hold, Start, judge, should_start
from kaizenml.monitoring import pairs
from kaizenml.monitoring.pairs import Verdict

CALM = Facts(
    now=1_000_000.0, killed=False, challengers=0, diagnosis="healthy", action="none", cause="as expected", new_labelled=5000, min_new_rows=500,
    trained_at=900_000.0, ended_at=0.0, cooldown_s=3600.0, retrain_after_s=None, asked=None,
)  # fmt: skip


def facts(**changes: object) -> Facts:
    return msgspec.structs.replace(CALM, **changes)


def test_a_healthy_model_is_left_alone() -> None:
    assert isinstance(should_start(CALM), Hold)


def test_a_model_that_got_worse_is_retrained() -> None:
    decision = should_start(facts(diagnosis="concept", action="retrain", cause="losses rose"))
    assert decision == Start(trigger="accuracy", why="losses rose")


@pytest.mark.parametrize("asked", [None, "please"])
def test_an_upstream_failure_holds_retraining_even_when_a_person_asks(asked: str | None) -> None:
    decision = should_start(facts(diagnosis="upstream", action="hold", cause="the feed is null", asked=asked, retrain_after_s=1.0))
    assert decision == Hold(why="the feed is null")


def test_a_killed_endpoint_is_not_retrained() -> None:
    assert isinstance(should_start(facts(killed=True, action="retrain", asked="please")), Hold)


def test_only_one_trial_at_a_time() -> None:
    assert isinstance(should_start(facts(challengers=1, action="retrain", asked="please")), Hold)


def test_the_schedule_needs_new_labelled_rows() -> None:
    assert isinstance(should_start(facts(retrain_after_s=10.0)), Start)
    assert isinstance(should_start(facts(retrain_after_s=10.0, new_labelled=499)), Hold)
    assert isinstance(should_start(facts(retrain_after_s=200_000.0)), Hold)


def test_a_person_does_not_wait_for_the_cooldown_but_the_alarm_does() -> None:
    assert isinstance(should_start(facts(ended_at=999_999.0, asked="now")), Start)
    assert isinstance(should_start(facts(ended_at=999_999.0, action="retrain")), Hold)


def verdict(decision: str, *, difference: float = 0.0, low: float | None = -0.1, loss: float = 0.5, days: int = 30) -> Verdict:
    return Verdict(
        challenger="shop@2", against="shop@1", decision=decision, difference=difference, low=low, high=None if low is None else 0.1, loss=loss,
        rows=1000, blocks=100, days=days, level=0.02, needed_rows=None, why="",
    )  # fmt: skip


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize(
    ("decision", "age_s", "expected"),
    [("better", 1, "promote"), ("worse", 1, "withdraw"), ("undecided", 1, "wait"), ("undecided", 100, "withdraw"), ("better", 100, "promote")],
)
def test_a_challenger_must_earn_its_place(decision: str, age_s: float, expected: str, refit: bool) -> None:
    assert judge(verdict(decision), refit=refit, age_s=age_s, max_age_s=100)[0] == expected


def test_a_refit_of_the_champion_is_promoted_when_it_is_shown_not_worse() -> None:
    equal = {"difference": 0.001, "low": -0.02, "days": 7}
    assert judge(verdict("undecided", **equal), refit=True, age_s=1, max_age_s=100)[0] == "promote"
    assert judge(verdict("undecided", **equal), refit=False, age_s=1, max_age_s=100)[0] == "wait"


@pytest.mark.parametrize("changed", [{"difference": -0.001}, {"low": -0.026}, {"low": None}, {"days": 6}, {"loss": 0.39}])
def test_a_refit_that_may_be_worse_is_not_promoted(changed: dict[str, float | None]) -> None:
    found = verdict("undecided", **{"difference": 0.001, "low": -0.02, "days": 7, **changed})
    assert judge(found, refit=True, age_s=1, max_age_s=100)[0] == "wait"
    assert judge(found, refit=True, age_s=100, max_age_s=100)[0] == "withdraw"


LEVEL = 0.02
LOSS = 0.5
TRIALS = 300


def fates(*, effect: float, day_sd: float, refit: bool, seed: int) -> Counter[str]:
    """Try challengers whose loss is lower by ``effect`` on average, with a look every day for 28 days."""
    rng = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    for _ in range(TRIALS):
        means = effect + rng.normal(0, day_sd, 28)
        days: dict[str, pairs.PairState] = {}
        for day, mean in enumerate(means):
            noise = rng.normal(0, 0.12 / np.sqrt(45), 18)
            state = np.zeros((24, 3))
            state[4:22, 0] = 45
            state[4:22, 1] = (mean + noise) * 45
            days[f"2026-01-{day + 1:02d}"] = state
            seen = pairs.judge("shop@2", "shop@1", days, sign=1.0, loss=LOSS, level=LEVEL)
            action, _ = judge(seen, refit=refit, age_s=day + 1, max_age_s=28)
            if action != "wait":
                found[action] += 1
                break
    return found


@pytest.mark.parametrize("day_sd", [0.0, pytest.param(0.01, marks=pytest.mark.slow), 0.03])
def test_a_refit_that_is_worse_by_more_than_the_margin_is_hardly_ever_promoted(day_sd: float) -> None:
    found = fates(effect=-MARGIN * LOSS, day_sd=day_sd, refit=True, seed=21)
    print(f"days vary by {day_sd}: {found}")
    assert found["promote"] <= LEVEL * TRIALS
    assert found.total() == TRIALS


@pytest.mark.slow
@pytest.mark.parametrize("day_sd", [0.0, 0.01])
def test_what_is_as_good_as_the_champion_is_promoted_if_it_is_a_refit_and_else_hardly_ever(day_sd: float) -> None:
    assert fates(effect=0.0, day_sd=day_sd, refit=True, seed=22)["promote"] >= TRIALS / 2
    assert fates(effect=0.0, day_sd=day_sd, refit=False, seed=22)["promote"] <= LEVEL * TRIALS
