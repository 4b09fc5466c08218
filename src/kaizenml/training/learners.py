"""The learners: gradient-boosted trees (LightGBM) and a linear model. All train on the very float32 vectors that are served."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightgbm
import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from kaizenml.errors import Conflict
from kaizenml.training.linear import Linear
from kaizenml.training.task import Task

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
MAX_ROUNDS = 2000
LARGE = 30_000  # rows
PATIENCE = 40
FEW_CELLS = 200_000
"""Numbers in a table below which threads cost more in meeting each other than they save."""
QUICKEST = 0.3  # learning rate beyond which trees overshoot
FEWEST = 10  # rounds at the quickest steps without which an answer hardly differs from the naive one
ENOUGH = 10.0  # learning rate times rounds by which a loss has mostly fallen
_ONE_THREAD = threading.Lock()  # the limit is the process's own: of two that set it, the second would put the first one's back for good
BULK = (0.01, 0.99)  # quantiles between which the linear model follows a number


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One learner with its settings. ``rounds`` 0: to be found by early stopping."""

    name: str
    kind: Literal["lightgbm", "linear"]
    parameters: dict[str, Any]
    rounds: int = 0


class Rows(NamedTuple):
    """Vectors with their targets, and what the encoder says of the columns."""

    vectors: Vectors
    y: Floats
    categorical: list[int]
    onehot: dict[int, int]

    def take(self, places: npt.NDArray[np.int64]) -> Rows:
        return self._replace(vectors=self.vectors[places], y=self.y[places])


class Fitted(NamedTuple):
    """A learner that has learnt. ``text`` is its native file."""

    plan: Plan
    rounds: int
    seconds: float
    text: str
    predict: Callable[[Vectors], Floats]  # probabilities (rows x classes), or rows for regression
    trees: int = 0


def portfolio(rows: int, task: Task) -> list[Plan]:
    """Return the learners to try, cheapest first.

    Large tables get wide trees with well-filled leaves and quick steps, small ones shallow trees and slow steps. Below a
    thousand rows slow steps bring nothing that a validation of so few rows could see.
    """
    small, slow = rows < 5000, 1000 <= rows < 5000
    boosted = {
        "learning_rate": 0.05 if slow else 0.1,
        "num_leaves": 8 if small else 31,
        "min_data_in_leaf": int(np.clip(rows // 100, 3, 500)),
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0 if small else 20.0,
        "cat_smooth": 20.0,
        "cat_l2": 20.0,
        "max_cat_threshold": 16,
        "max_bin": 127,
    }
    extra = {**boosted, "extra_trees": True, "num_leaves": 16 if small else 63, "learning_rate": 0.08 if slow else 0.15, "feature_fraction": 0.8}
    plans = [
        Plan(name="linear", kind="linear", parameters={"strength": float(np.clip(200 / rows, 0.005, 1.0))}),
        Plan(name="boosted", kind="lightgbm", parameters=boosted),
    ]
    # on large tables a second kind of trees doubles the time of every retraining, for a gain below the noise
    return plans if rows > LARGE else [*plans, Plan(name="extra", kind="lightgbm", parameters=extra)]


def fit(plan: Plan, rows: Rows, task: Task, *, seed: int, threads: int) -> Fitted:
    """Fit one learner, boosted ones with exactly ``plan.rounds`` rounds.

    LightGBM gives the same trees for the same seed whatever the number of threads.
    """
    started = time.perf_counter()
    if plan.kind == "linear":
        return _linear(plan, rows, task, started)
    booster, data = _booster(plan, rows, task, seed=seed, threads=threads)
    for _ in range(plan.rounds):
        if booster.update():  # True: no split is worth it any more
            break
    del data
    return _boosted(plan, booster, max(1, booster.current_iteration()), task, threads=threads, started=started)


def fit_folds(
    plan: Plan, pairs: list[tuple[Rows, Rows]], task: Task, *, seed: int, threads: int, allowed_s: float
) -> tuple[list[Fitted], list[Floats], Plan]:
    """Fit one learner on each (fit, validation) pair, and answer each validation part.

    Boosted learners grow in lockstep, so that the number of rounds is the one that is best over all validation parts
    together: any single stretch of time is too particular to say when to stop. Where the time would end long before the
    loss has fallen, they begin again with longer steps: rough trees that have arrived beat fine ones cut short, whose
    answers hardly differ from the naive one.

    Parameters
    ----------
    allowed_s : seconds after which the fitting ends where it is, but for the few rounds that make an answer.

    Returns
    -------
    The fits, their answers, and the plan as it was carried out.
    """
    started = time.perf_counter()
    if plan.kind == "linear":
        made = [_linear(plan, fit_rows, task, time.perf_counter()) for fit_rows, _ in pairs]
        return made, [one.predict(validation.vectors) for one, (_, validation) in zip(made, pairs, strict=True)], plan
    boosters, losses = _grow(plan, pairs, task, seed=seed, threads=threads, until=started + 0.3 * allowed_s)
    quicker = _quicker(plan, losses)
    if quicker is not None:
        plan = quicker
        boosters, losses = _grow(plan, pairs, task, seed=seed, threads=threads, until=started + allowed_s, fewest=FEWEST)
    elif not _ended(losses):
        losses = _grow_on(boosters, pairs, losses, until=started + allowed_s)
    best = _best(losses) + 1
    made = [_boosted(plan, booster, best, task, threads=threads, started=started) for booster in boosters]
    return made, [one.predict(validation.vectors) for one, (_, validation) in zip(made, pairs, strict=True)], plan


def _grow(
    plan: Plan, pairs: list[tuple[Rows, Rows]], task: Task, *, seed: int, threads: int, until: float, fewest: int = 1
) -> tuple[list[lightgbm.Booster], list[float]]:
    boosters = [_booster(plan, fit_rows, task, seed=seed, threads=threads, validation=validation)[0] for fit_rows, validation in pairs]
    return boosters, _grow_on(boosters, pairs, [], until=until, fewest=fewest)


def _grow_on(
    boosters: list[lightgbm.Booster], pairs: list[tuple[Rows, Rows]], losses: list[float], *, until: float, fewest: int = 1
) -> list[float]:
    """Add a round to every booster until none gains any more, or the time is over and there are ``fewest``; return the losses of all rounds."""
    counts = np.array([len(validation.y) for _, validation in pairs], dtype=np.float64)
    losses, best = [*losses], _best(losses)
    while len(losses) < MAX_ROUNDS and len(losses) - 1 - best < PATIENCE:
        ended = [booster.update() for booster in boosters]
        losses.append(float(np.average([booster.eval_valid()[0][2] for booster in boosters], weights=counts)))
        best = len(losses) - 1 if _betters(losses[-1], losses[best]) else best
        if all(ended) or (time.perf_counter() > until and len(losses) >= fewest):
            break
    return losses


def _ended(losses: list[float]) -> bool:
    return len(losses) >= MAX_ROUNDS or (bool(losses) and len(losses) - 1 - _best(losses) >= PATIENCE)


def _best(losses: list[float]) -> int:
    """Return the first round that no later one betters by anything worth a tree."""
    best = 0
    for place, loss in enumerate(losses):
        if _betters(loss, losses[best]):
            best = place
    return best


def _betters(loss: float, best: float) -> bool:
    return loss < best - 1e-7


def _quicker(plan: Plan, losses: list[float]) -> Plan | None:
    """Return the plan with longer steps when its first third of the time shows that it would not arrive; else None."""
    rate = float(plan.parameters["learning_rate"])
    gains = losses[0] - losses[-1], losses[len(losses) * 2 // 3] - losses[-1]
    steep = len(losses) < 6 or (gains[0] > 0 and gains[1] > 0.1 * gains[0])
    needed = min(QUICKEST, ENOUGH / max(len(losses) * 0.7 / 0.3, 1.0))
    if not steep or _ended(losses) or needed < 1.5 * rate:
        return None
    return msgspec.structs.replace(plan, parameters={**plan.parameters, "learning_rate": round(needed, 3)})


def boosted_predict(booster: lightgbm.Booster, vectors: Vectors, task: Task, *, rounds: int | None = None, threads: int = 0) -> Floats:
    """Return LightGBM's answer as probabilities (rows x classes), or as rows for regression."""
    if not len(vectors):
        return np.empty((0, len(task.classes))) if task.classes else np.empty(0)
    raw = np.asarray(booster.predict(vectors, num_iteration=rounds, num_threads=threads), dtype=np.float64)
    return np.column_stack([1.0 - raw, raw]) if task.kind == "binary" else raw


def link(task: Task, raw: Floats) -> Floats:
    """Turn raw scores (rows x outputs) into probabilities (rows x classes), or rows for regression."""
    if task.kind == "regression":
        return raw[:, 0]
    if task.kind == "binary":
        positive = 1.0 / (1.0 + np.exp(-np.clip(raw[:, 0], -500, 500)))
        return np.column_stack([1.0 - positive, positive])
    powered = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(powered / powered.sum(axis=1, keepdims=True), dtype=np.float64)


def load(kind: str, path: Path, task: Task, threads: int = 0) -> Callable[[Vectors], Floats]:
    """Read a member's native file and return its predict."""
    if kind == "linear":
        ready = Linear(msgspec.json.decode(path.read_bytes()))
        return lambda vectors: link(task, ready.scores(vectors))
    if kind != "lightgbm":
        what = f"a model of the kind {kind} was made elsewhere; training has no reference for its answers"
        raise Conflict(what, remedy="compare it on live traffic: kaizen challenge", values={"kind": kind})
    booster = lightgbm.Booster(model_str=path.read_text())
    return lambda vectors: boosted_predict(booster, vectors, task, threads=threads)


def _booster(
    plan: Plan, rows: Rows, task: Task, *, seed: int, threads: int, validation: Rows | None = None
) -> tuple[lightgbm.Booster, lightgbm.Dataset]:
    threads = threads if rows.vectors.size >= FEW_CELLS else 1
    how = {"seed": seed, "num_threads": threads, "deterministic": True, "force_row_wise": True, "verbosity": -1}
    parameters = {**_objective(task), **plan.parameters, **how}
    data = lightgbm.Dataset(rows.vectors, rows.y, categorical_feature=rows.categorical, params=parameters)
    booster = lightgbm.Booster(parameters, data)
    if validation is not None:
        booster.add_valid(lightgbm.Dataset(validation.vectors, validation.y, reference=data, params=parameters), "validation")
    return booster, data


def _boosted(plan: Plan, booster: lightgbm.Booster, rounds: int, task: Task, *, threads: int, started: float) -> Fitted:
    booster.free_dataset()

    def predict(vectors: Vectors) -> Floats:
        return boosted_predict(booster, vectors, task, rounds=rounds, threads=threads)

    seconds = time.perf_counter() - started
    return Fitted(plan, rounds, seconds, booster.model_to_string(num_iteration=rounds), predict, rounds * booster.num_model_per_iteration())


def _linear(plan: Plan, rows: Rows, task: Task, started: float) -> Fitted:
    # one thread: matrices are small, and sums in the same order give the same model on every machine
    with _ONE_THREAD, threadpool_limits(limits=1):
        document = _fit_linear(plan, rows, task)
    ready = Linear(document)
    text = msgspec.json.encode(document).decode()
    return Fitted(plan, 0, time.perf_counter() - started, text, lambda vectors: link(task, ready.scores(vectors)))


def _objective(task: Task) -> dict[str, Any]:
    if task.kind == "multiclass":
        return {"objective": "multiclass", "metric": "multi_logloss", "num_class": len(task.classes)}
    return {"objective": "binary", "metric": "binary_logloss"} if task.kind == "binary" else {"objective": "regression", "metric": "l2"}


def _fit_linear(plan: Plan, rows: Rows, task: Task) -> dict[str, Any]:
    width = rows.vectors.shape[1] + sum(rows.onehot.values())
    step = -(-len(rows.y) * width // int(plan.parameters.get("cells", len(rows.y) * width)))
    rows = rows.take(np.arange((len(rows.y) - 1) % step, len(rows.y), step))  # evenly through time; the newest row is among them
    document, design = _design(rows)
    y = rows.y
    if task.kind == "regression":
        middle, spread = float(y.mean()), float(y.std()) or 1.0
        alphas = np.logspace(-1, 4, 11)
        model = RidgeCV(alphas=alphas) if design.shape[0] * design.shape[1] < 3_000_000 else Ridge(alpha=10.0)
        model.fit(design, (y - middle) / spread)
        coefficients, intercept = model.coef_[None, :] * spread, np.array([model.intercept_ * spread + middle])
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a few steps short of the optimum is good enough for a member
            model = LogisticRegression(C=plan.parameters["strength"], max_iter=100, tol=1e-3).fit(design, y.astype(np.int64))
        coefficients, intercept = model.coef_, model.intercept_
        if task.kind == "multiclass":
            coefficients, intercept = _all_classes(task, model)
    return {**document, "coefficients": coefficients.tolist(), "intercept": intercept.tolist()}


def _all_classes(task: Task, model: LogisticRegression) -> tuple[Floats, Floats]:
    """Give classes that the rows did not hold a row of zeros and an intercept that makes them all but impossible."""
    seen = model.classes_
    coefficients = np.zeros((len(task.classes), model.coef_.shape[1]))
    intercept = np.full(len(task.classes), float(model.intercept_.min()) - 20.0)
    if len(seen) == 2:
        coefficients[seen[1]], intercept[seen[1]], intercept[seen[0]] = model.coef_[0], model.intercept_[0], 0.0
    else:
        coefficients[seen], intercept[seen] = model.coef_, model.intercept_
    return coefficients, intercept


def _design(rows: Rows) -> tuple[dict[str, Any], Floats]:
    """Return the document of ``linear`` without its weights, and the matrix that the weights are learnt on."""
    vectors = rows.vectors
    numeric = [place for place in range(vectors.shape[1]) if place not in rows.onehot]
    missing = [place for place in numeric if 0 < (absent := int(np.isnan(vectors[:, place]).sum())) < len(vectors) and absent >= 5]
    fill, mean, scale, lows, highs, parts = [], [], [], [], [], []
    for place in numeric:
        x = vectors[:, place].astype(np.float64)
        known = np.isfinite(x)
        seen = x[known] if known.any() else np.zeros(1)
        middle = float(np.median(seen))
        low, high = np.quantile(seen, BULK)
        trimmed = np.clip(seen, low, high)  # a few wild values must not set the scale of all others
        fill.append(middle)
        mean.append(float(trimmed.mean()))
        scale.append(float(trimmed.std()) or float(seen.std()) or 1.0)
        # at least a little room on both sides, for columns whose bulk is one value
        lows.append(float(min((low - mean[-1]) / scale[-1], -1.0)))
        highs.append(float(max((high - mean[-1]) / scale[-1], 1.0)))
        parts.append(np.clip((np.where(known, x, middle) - mean[-1]) / scale[-1], lows[-1], highs[-1]))
    parts += [np.isnan(vectors[:, place]).astype(np.float64) for place in missing]
    for place, levels in rows.onehot.items():
        parts += [(vectors[:, place] == level).astype(np.float64) for level in range(levels)]
    document = {
        "width": vectors.shape[1], "numeric": numeric, "fill": fill, "mean": mean, "scale": scale, "low": lows, "high": highs, "missing": missing,
        "onehot": [{"column": place, "levels": levels} for place, levels in rows.onehot.items()],
    }  # fmt: skip
    return document, np.column_stack(parts) if parts else np.zeros((len(vectors), 1))
