"""What little time leaves of the boosted trees on small tables: rough ones that have arrived, not fine ones cut short."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import datasets

from kaizenml.training import learners, split
from kaizenml.training.learners import Rows
from kaizenml.training.task import Task

CANCER = datasets.load_breast_cancer()
TASK = Task(kind="binary", target="target", classes=[0, 1])


def _fitted(allowed_s: float):
    rows = Rows(CANCER.data.astype(np.float32), CANCER.target.astype(float), [], {})
    places = split.folds(np.arange(len(rows.y)), rows.y, "random", stratify=True, seed=0)
    pairs = [(rows.take(fit), rows.take(validation)) for fit, validation in places]
    boosted = next(plan for plan in learners.portfolio(len(rows.y), TASK) if plan.name == "boosted")
    made, answers, plan = learners.fit_folds(boosted, pairs, TASK, seed=0, threads=2, allowed_s=allowed_s)
    y = np.concatenate([validation.y for _, validation in pairs]).astype(int)
    chosen = np.concatenate(answers)[np.arange(len(y)), y]
    return made, plan, float(-np.log(chosen).mean())


@pytest.mark.slow
def test_a_budget_that_ends_early_costs_fineness_and_not_the_answer():
    # some fifty rounds of trees on this table take as long as this on a slow machine; the naive answer loses 0.66
    _made, plan, loss = _fitted(0.1)
    assert loss < 0.3
    _made, hasty, loss = _fitted(0.0)  # as when the machine stood still meanwhile
    assert loss < 0.3
    assert hasty.parameters["learning_rate"] == learners.QUICKEST
    _made, calm, best = _fitted(30.0)
    assert best < 0.15
    assert calm.parameters["learning_rate"] <= plan.parameters["learning_rate"]


@pytest.mark.slow
def test_with_time_enough_the_search_ends_by_itself_and_the_same_each_time():
    first, plan, loss = _fitted(30.0)
    again, same, other = _fitted(60.0)
    assert (first[0].rounds, loss, plan) == (again[0].rounds, other, same)
    assert first[0].rounds < learners.MAX_ROUNDS


@pytest.mark.parametrize("losses", [[0.6], [0.6, 0.5], list(np.linspace(0.66, 0.5, 12))])
def test_steep_losses_ask_for_longer_steps(losses):
    plan = learners.portfolio(500, TASK)[1]
    quicker = learners._quicker(plan, losses)
    assert quicker is not None
    assert plan.parameters["learning_rate"] < quicker.parameters["learning_rate"] <= learners.QUICKEST


def test_flat_losses_are_left_alone():
    plan = learners.portfolio(500, TASK)[1]
    assert learners._quicker(plan, [*np.linspace(0.66, 0.1, 40), *[0.1] * 60]) is None
