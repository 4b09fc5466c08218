"""The loop's decisions, as rules over facts."""

from __future__ import annotations

import msgspec
import pytest

from kaizenml.loop.improvement import Facts, Hold, Start, judge, should_start

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


@pytest.mark.parametrize(
    ("decision", "age_s", "expected"),
    [("better", 1, "promote"), ("worse", 1, "withdraw"), ("undecided", 1, "wait"), ("undecided", 100, "withdraw"), ("better", 100, "promote")],
)
def test_a_challenger_must_earn_its_place(decision: str, age_s: float, expected: str) -> None:
    assert judge(decision, age_s=age_s, max_age_s=100)[0] == expected
