"""Search, judge, ship: find a recipe on the older rows, judge it on the newest, then make it again from all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kaizenml.training import calibration, ensemble, learners, split
from kaizenml.training.learners import Fitted, Plan, Rows, Vectors
from kaizenml.training.model_file import Calibration
from kaizenml.training.recipe import Recipe
from kaizenml.training.task import Task

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
SHARES = {"linear": 0.3, "boosted": 0.85}  # of the time that is left when it is a learner's turn
LINEAR_CELLS = 2_500_000  # numbers in the linear model's matrix; beyond this more rows teach it nothing


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


def search(rows: Rows, pairs: list[tuple[Indices, Indices]], task: Task, fields: list[str], *, effort: Effort, total_rows: int) -> Found:
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
    owed = 0.0
    fitted: dict[str, Fitted] = {}
    notes: dict[str, str] = {}
    predictions: dict[str, Floats] = {}
    parts = [(rows.take(fit), rows.take(validation)) for fit, validation in pairs]
    plans = learners.portfolio(len(rows.y), task)
    for place, proposed in enumerate(plans):
        allowed = (effort.left - owed) * SHARES.get(proposed.name, 1.0) / (1 + again)
        if fitted and allowed < 0.1:
            notes[proposed.name] = "not tried: the budget was spent"
            continue
        effort.progress(f"training {proposed.name}", 0.1 + 0.6 * place / len(plans))
        started = time.perf_counter()
        plan = _sized(proposed, rows, allowed)
        made, answers, plan = learners.fit_folds(plan, parts, task, seed=effort.seed, threads=effort.threads, allowed_s=allowed)
        seconds = time.perf_counter() - started
        owed += seconds * again
        fitted[plan.name] = made[-1]._replace(plan=_with_rounds(plan, made[-1].rounds), seconds=seconds)
        predictions[plan.name] = np.concatenate(answers)
    y = np.concatenate([rows.y[validation] for _, validation in pairs])
    weights = ensemble.choose(predictions, y)
    blend = sum_of(predictions, weights)
    found = Calibration() if task.kind == "regression" else calibration.fit(blend, y)
    recipe = Recipe(
        kind=task.kind,
        fields=fields,
        plans=[fitted[name].plan for name in weights],
        weights=list(weights.values()),
        calibration=found,
        rows=fit_rows // len(pairs),
    )
    return Found(recipe, fitted, notes)


def judge(recipe: Recipe, rows: Rows, holdout: Vectors, task: Task, effort: Effort, *, refit: bool = False) -> Judged:
    """Fit the recipe on the training rows and answer the hold-out."""
    made = make(recipe, rows, task, effort, refit=refit)
    members = {fitted.plan.name: fitted.predict(holdout) for fitted in made}
    return Judged(members, blended(recipe, members), {fitted.plan.name: fitted.seconds for fitted in made})


def judge_and_make(
    recipe: Recipe, rows: Rows, holdout: Vectors, everything: Rows, *, task: Task, effort: Effort, refit: bool
) -> tuple[Judged, list[Fitted]]:
    """Judge the recipe on the hold-out, and make it from all rows.

    Both at once where there are two threads or more: two fits with half of the threads each end sooner than one after the
    other with all of them, and trees are the same for any number of threads.
    """
    if effort.threads < 2:
        return judge(recipe, rows, holdout, task, effort, refit=refit), make(recipe, everything, task, effort, refit=refit)
    half = effort._replace(threads=effort.threads // 2)
    with ThreadPoolExecutor(1, thread_name_prefix="shipped") as beside:
        shipped = beside.submit(make, recipe, everything, task, half, refit=refit)
        return judge(recipe, rows, holdout, task, half, refit=refit), shipped.result()


def make(recipe: Recipe, rows: Rows, task: Task, effort: Effort, *, refit: bool = False) -> list[Fitted]:
    """Fit every member of the recipe on ``rows``; ``refit``: on newer rows than those of the search that found it."""
    plans = [grown(plan, recipe.rows, len(rows.y), refit=refit) for plan in recipe.plans]
    return [learners.fit(plan, rows, task, seed=effort.seed, threads=effort.threads) for plan in plans]


def blended(recipe: Recipe, members: dict[str, Floats]) -> Floats:
    """Return the ensemble's calibrated answer from its members'."""
    blend = sum_of(members, {plan.name: weight for plan, weight in zip(recipe.plans, recipe.weights, strict=True)})
    return blend if recipe.kind == "regression" else calibration.apply(recipe.calibration, blend)


def grown(plan: Plan, found_on: int, rows: int, *, refit: bool) -> Plan:
    """Return the plan for more rows than its rounds were found on, with the square root of their ratio, at most twofold.

    A search's own rows, of which its folds hold the half, get more trees. In a refit of a large table half of the growth goes into
    the size of the trees: one of more leaves takes hardly longer to grow, while twice the trees take twice as long. What was found on
    a small table are slow steps of shallow trees, which want to be many.
    """
    if not plan.rounds:
        return plan
    growth = float(np.clip(np.sqrt(rows / max(found_on, 1)), 0.5, 2.0))
    if refit and growth > 1.0 and found_on >= split.LARGE:
        growth **= 0.5
        plan = msgspec.structs.replace(plan, parameters={**plan.parameters, "num_leaves": round(plan.parameters["num_leaves"] * growth)})
    return _with_rounds(plan, max(1, round(plan.rounds * growth)))


def sum_of(predictions: dict[str, Floats], weights: dict[str, float]) -> Floats:
    """Return the weighted sum of some members' answers."""
    total = np.zeros_like(next(iter(predictions.values())))
    for name, weight in weights.items():
        total += weight * predictions[name]
    return total


def _sized(plan: Plan, rows: Rows, allowed: float) -> Plan:
    """Give the linear model as many cells as the time bears (about two million a second)."""
    if plan.kind != "linear":
        return plan
    cells = int(np.clip(allowed * 2_000_000, 50_000, LINEAR_CELLS))
    return Plan(name=plan.name, kind=plan.kind, parameters={**plan.parameters, "cells": cells})


def _with_rounds(plan: Plan, rounds: int) -> Plan:
    return Plan(name=plan.name, kind=plan.kind, parameters=plan.parameters, rounds=rounds)
