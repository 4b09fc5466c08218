"""Search, judge, ship: find a recipe on the older rows, judge it on the newest, then make it again from all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kaizenml.training import calibration, ensemble, learners
from kaizenml.training.learners import Fitted, Plan, Rows, Vectors
from kaizenml.training.recipe import Recipe
from kaizenml.training.task import Task

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
SHARES = {"linear": 0.3, "boosted": 0.65}  # of the time that is left when it is a learner's turn
LINEAR_CELLS = 4_000_000  # numbers in the linear model's matrix; beyond this more rows teach it nothing


class Effort(NamedTuple):
    """How the fitting is to go about."""

    seed: int
    threads: int
    deadline: float  # perf_counter
    progress: Callable[[str, float], None]

    @property
    def left(self) -> float:
        return self.deadline - time.perf_counter()


class Found(NamedTuple):
    """What the search brought: the recipe, its members' and the others' fits on the older rows, seconds of each."""

    recipe: Recipe
    fitted: dict[str, Fitted]
    notes: dict[str, str]


class Judged(NamedTuple):
    """Answers to the hold-out rows."""

    members: dict[str, Floats]
    ensemble: Floats
    seconds: dict[str, float]


def search(rows: Rows, pairs: list[tuple[Indices, Indices]], task: Task, fields: list[str], effort: Effort, total_rows: int) -> Found:
    """Try the portfolio on (fit, validation) pairs and put the ensemble together.

    Of the time left, each learner gets what allows to fit it again on the training rows and on all of them. There is a
    model whatever the budget: the linear one comes first, on as few rows as the time demands.

    Parameters
    ----------
    rows : training rows, without the hold-out.
    pairs : row numbers within ``rows``.
    total_rows : with the hold-out: what the shipped model learns from.
    """
    fit_rows = sum(len(fit) for fit, _ in pairs)
    again = (len(rows.y) + total_rows) / fit_rows  # cost of judging and shipping, in units of the search's cost
    owed, fitted, notes, predictions = 0.0, {}, {}, {}
    plans = learners.portfolio(len(rows.y), task)
    for place, plan in enumerate(plans):
        allowed = (effort.left - owed) * SHARES.get(plan.name, 1.0) / (1 + again)
        if fitted and allowed < 0.02 * len(pairs):
            notes[plan.name] = "not tried: the budget was spent"
            continue
        effort.progress(f"training {plan.name}", 0.1 + 0.6 * place / len(plans))
        plan = _sized(plan, rows, allowed)
        started = time.perf_counter()
        parts = [_fit_one(plan, rows, pair, task, effort, allowed / len(pairs)) for pair in pairs]
        seconds = time.perf_counter() - started
        owed += seconds * again
        rounds = round(float(np.mean([part.rounds for part, _ in parts])))
        fitted[plan.name] = parts[-1][0]._replace(plan=_with_rounds(plan, rounds), seconds=seconds)
        predictions[plan.name] = np.concatenate([answer for _, answer in parts])
    y = np.concatenate([rows.y[validation] for _, validation in pairs])
    weights = ensemble.choose(predictions, y)
    blend = sum_of(predictions, weights)
    found = calibration.Calibration() if task.kind == "regression" else calibration.fit(blend, y)
    recipe = Recipe(
        kind=task.kind,
        fields=fields,
        plans=[fitted[name].plan for name in weights],
        weights=list(weights.values()),
        calibration=found,
        rows=fit_rows // len(pairs),
    )
    return Found(recipe, fitted, notes)


def judge(recipe: Recipe, rows: Rows, holdout: Vectors, task: Task, effort: Effort) -> Judged:
    """Fit the recipe on the training rows and answer the hold-out."""
    made = make(recipe, rows, task, effort)
    members = {fitted.plan.name: fitted.predict(holdout) for fitted in made}
    return Judged(members, blended(recipe, members), {fitted.plan.name: fitted.seconds for fitted in made})


def make(recipe: Recipe, rows: Rows, task: Task, effort: Effort) -> list[Fitted]:
    """Fit every member of the recipe on ``rows``."""
    return [learners.fit(_with_rounds(plan, rounds_for(plan, recipe.rows, len(rows.y))), rows, task, seed=effort.seed, threads=effort.threads) for plan in recipe.plans]


def blended(recipe: Recipe, members: dict[str, Floats]) -> Floats:
    """Return the ensemble's calibrated answer from its members'."""
    blend = sum_of(members, {plan.name: weight for plan, weight in zip(recipe.plans, recipe.weights, strict=True)})
    return blend if recipe.kind == "regression" else calibration.apply(recipe.calibration, blend)


def rounds_for(plan: Plan, found_on: int, rows: int) -> int:
    """More rows bear more trees: the rounds grow with the square root of the rows, at most threefold."""
    return max(1, round(plan.rounds * float(np.clip(np.sqrt(rows / max(found_on, 1)), 0.5, 3.0)))) if plan.rounds else 0


def sum_of(predictions: dict[str, Floats], weights: dict[str, float]) -> Floats:
    """Return the weighted sum of some members' answers."""
    total = np.zeros_like(next(iter(predictions.values())))
    for name, weight in weights.items():
        total += weight * predictions[name]
    return total


def _fit_one(plan: Plan, rows: Rows, pair: tuple[Indices, Indices], task: Task, effort: Effort, allowed: float) -> tuple[Fitted, Floats]:
    fit, validation = rows.take(pair[0]), rows.take(pair[1])
    made = learners.fit(
        plan, fit, task, seed=effort.seed, threads=effort.threads, validation=validation, stop=lambda spent: spent > allowed
    )
    return made, made.predict(validation.vectors)


def _sized(plan: Plan, rows: Rows, allowed: float) -> Plan:
    """Give the linear model as many cells as the time bears (about two million a second)."""
    if plan.kind != "linear":
        return plan
    cells = int(np.clip(allowed * 2_000_000, 50_000, LINEAR_CELLS))
    return Plan(name=plan.name, kind=plan.kind, parameters={**plan.parameters, "cells": cells})


def _with_rounds(plan: Plan, rounds: int) -> Plan:
    return Plan(name=plan.name, kind=plan.kind, parameters=plan.parameters, rounds=rounds)
