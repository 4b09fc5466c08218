"""What more rows than the search had make of a recipe: more trees in the first training, in a refit of a large table larger ones as well."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest

from kaizenml.training import evaluation, learners, split
from kaizenml.training.fitting import Effort, grown, make
from kaizenml.training.learners import Plan, Rows
from kaizenml.training.model_file import Calibration
from kaizenml.training.recipe import Recipe
from kaizenml.training.task import Task

BOOSTED = Plan(name="boosted", kind="lightgbm", parameters={"num_leaves": 31}, rounds=80)
LARGE = split.LARGE


@pytest.mark.parametrize(
    ("found_on", "rows", "refit", "rounds", "leaves"),
    [
        (LARGE, 2 * LARGE, False, 113, 31),
        (LARGE, 2 * LARGE, True, 95, 37),
        (LARGE, 100 * LARGE, False, 160, 31),
        (LARGE, 100 * LARGE, True, 113, 44),
        (LARGE, LARGE // 2, True, 57, 31),  # fewer rows: fewer trees
        (LARGE - 1, 2 * LARGE, True, 113, 31),  # found on a small table
    ],
)
def test_more_rows_bear_more_trees_and_in_a_refit_larger_ones(found_on: int, rows: int, refit: bool, rounds: int, leaves: int) -> None:
    found = grown(BOOSTED, found_on, rows, refit=refit)
    assert (found.rounds, found.parameters["num_leaves"]) == (rounds, leaves)


def test_a_linear_model_stays_what_it_is() -> None:
    plan = Plan(name="linear", kind="linear", parameters={"strength": 0.1})
    assert grown(plan, LARGE, 4 * LARGE, refit=True) == plan


@pytest.mark.slow
def test_fewer_and_larger_trees_are_as_good() -> None:
    draw = np.random.default_rng(6)
    features = draw.normal(size=(36_000, 15)).astype(np.float32)
    odds = features[:, 0] * 0.6 + features[:, 1] * features[:, 2] * 0.5 + np.sin(2 * features[:, 3]) - 0.8
    everything = Rows(features, (draw.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(float), [], {})
    first, rows, judges = (everything.take(np.arange(*part)) for part in ((0, 9_000), (0, 30_000), (30_000, 36_000)))
    task = Task(kind="binary", target="y", classes=[0, 1])
    pairs = split.folds(np.arange(len(first.y)), first.y, "random", stratify=True, seed=0)
    proposed = next(plan for plan in learners.portfolio(len(first.y), task) if plan.name == "boosted")
    found, _, plan = learners.fit_folds(proposed, pairs_of(first, pairs), task, seed=0, threads=1, allowed_s=60.0)
    plan = msgspec.structs.replace(plan, rounds=found[0].rounds)
    recipe = Recipe(kind="binary", fields=[], plans=[plan], weights=[1.0], calibration=Calibration(), rows=len(pairs[0][0]))
    effort = Effort(0, 1, time.perf_counter() + 60, lambda what, part: None)
    [more], [larger] = (make(recipe, rows, task, effort, refit=refit) for refit in (False, True))
    assert larger.trees < 0.75 * more.trees
    losses = [evaluation.losses("binary", fitted.predict(judges.vectors), judges.y).mean() for fitted in (more, larger)]
    assert losses[1] <= 1.003 * losses[0]


def pairs_of(rows: Rows, pairs: list[tuple[split.Indices, split.Indices]]) -> list[tuple[Rows, Rows]]:
    return [(rows.take(fit), rows.take(validation)) for fit, validation in pairs]
