"""The leak scan: columns that know the answer because they are filled in after it. Always on, before training.

A column is refused when one of these holds:

- *availability*: it is empty where the target is empty and filled where the target is filled, while most other
  columns are filled in both: it arrives together with the answer, so it cannot be there when the question is asked;
- *copy*: it says the same as the target in other words;
- *alone*: by itself, in a tree of depth four, it tells the target (almost) perfectly on rows the tree has not seen, and no
  other column comes near. A strong but honest predictor among others of its strength stays;
- *kin*: it repeats a refused column, or is nearly determined by one and tells far more than all that are not, or is the
  part of a pair whose difference gives a refused column back (departure minus schedule is the delay).

Suspicion that does not reach these bars becomes a warning, never a refusal. ``task.known`` in kaizen.toml overrides.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from kaizenml.features.signature import Field
from kaizenml.training.columns import numbers
from kaizenml.training.evaluation import metrics
from kaizenml.training.run import Estimate, Leak
from kaizenml.training.task import Task

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SAMPLE = 8000
MINIMUM_UNLABELLED = 20
PRESENT = 0.98  # share of labelled rows that have the column ...
ABSENT = 0.5  # ... and of unlabelled rows that have it at most, for 'availability'
PERFECT = {"auc": (0.998, 0.98, 0.97), "r2": (0.995, 0.98, 0.9)}  # value, lower end of its interval, next best column at most
STRONG = {"auc": (0.85, 0.1), "r2": (0.6, 0.2)}  # value, and lead over the next, for 'kin' and for warnings


class Scan(NamedTuple):
    """What the scan found."""

    leaks: list[Leak]
    warnings: list[str]


class _Sample(NamedTuple):
    columns: dict[str, Floats]
    categories: set[str]
    y: Floats
    task: Task
    teach: Mask

    @property
    def measure(self) -> str:
        return "r2" if self.task.kind == "regression" else "auc"


def scan(table: pa.Table, fields: list[Field], task: Task, y: Floats, *, seed: int = 0, known: list[str] | None = None) -> Scan:
    """Find the columns that know the answer.

    Parameters
    ----------
    table : all rows, those without a target too: they tell what is known before the answer.
    fields : the columns to look at.
    task, y : the question, and the target of each row (NaN: missing).
    seed : of the sample of at most 8,000 rows that scores columns alone.
    known : columns the user says are known when the question is asked; never refused.
    """
    safe = set(known or ())
    leaks = {leak.column: leak for leak in _availability(table, fields, y) if leak.column not in safe}
    sample = _sample(table, fields, task, y, seed)
    alone = {name: _alone(sample, name) for name in sample.columns}
    for leak in (*_copies(sample), *_perfect(sample.measure, alone, set(leaks))):
        if leak.column not in safe:
            leaks.setdefault(leak.column, leak)
    if leaks:
        _add_kin(sample, alone, leaks, safe)
    return Scan(list(leaks.values()), _warnings(sample.measure, alone, set(leaks) | safe))


def _availability(table: pa.Table, fields: list[Field], y: Floats) -> list[Leak]:
    without = np.isnan(y)
    count = int(without.sum())
    if count < MINIMUM_UNLABELLED or count == len(y) or len(fields) < 2:
        return []
    suspects, full = [], 0
    for field in fields:
        present = ~np.asarray(table.column(field.name).combine_chunks().is_null(nan_is_null=True).to_numpy(zero_copy_only=False), dtype=bool)
        with_target, without_target = float(present[~without].mean()), float(present[without].mean())
        if with_target >= PRESENT and without_target <= ABSENT:
            suspects.append((field.name, with_target, without_target))
        full += without_target >= 0.9 * with_target
    if full < len(fields) / 2:  # such rows are empty altogether, which tells nothing about single columns
        return []
    return [
        Leak(
            column=name,
            reason="it is filled in together with the answer: "
            f"{has:.1%} of the rows with a target have it, {lacks:.1%} of the {count} rows without one",
        )
        for name, has, lacks in suspects
    ]


def _sample(table: pa.Table, fields: list[Field], task: Task, y: Floats, seed: int) -> _Sample:
    labelled = np.flatnonzero(~np.isnan(y))
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(labelled, size=min(SAMPLE, len(labelled)), replace=False))
    part = table.select([field.name for field in fields]).take(pa.array(rows))
    columns = {field.name: numbers(part.column(field.name), field.kind) for field in fields}
    teach = np.zeros(len(rows), dtype=bool)
    teach[random.permutation(len(rows))[: len(rows) // 2]] = True
    return _Sample(columns, {field.name for field in fields if field.kind == "category"}, y[rows], task, teach)


def _alone(sample: _Sample, name: str) -> tuple[float, float]:
    """Return (AUC or R2, lower end of its interval) of one column alone, on the half of the sample it has not learnt from."""
    x, teach = sample.columns[name], sample.teach
    if name in sample.categories:
        x = _by_target(x, sample.y, teach)
    return _score(x, sample.y, sample.task, teach)


def _score(x: Floats, y: Floats, task: Task, teach: Mask) -> tuple[float, float]:
    leaf = max(3, int(teach.sum()) // 200)
    column = x[:, None]
    if task.kind == "regression":
        found = [_tree_r2(x, y, teach)]
        both = np.isfinite(x)
        if both.all() and np.std(x) > 0:  # a straight line says in one term what a tree needs many leaves for
            slope, shift = np.polyfit((x[teach] - x.mean()) / x.std(), y[teach], 1)
            found.append(metrics("regression", slope * (x[~teach] - x.mean()) / x.std() + shift, y[~teach]).get("r2", found[0]))
        best = max(found, key=lambda estimate: estimate.value)
        return best.value, best.low
    if len(np.unique(y[teach])) < 2:
        return 0.5, 0.0
    tree = DecisionTreeClassifier(max_depth=4, min_samples_leaf=leaf, random_state=0).fit(column[teach], y[teach].astype(np.int64))
    probabilities = np.zeros((int((~teach).sum()), len(task.classes)))
    probabilities[:, tree.classes_] = tree.predict_proba(column[~teach])
    curve = metrics(task.kind, probabilities, y[~teach]).get("auc")
    return (curve.value, curve.low) if curve else (0.5, 0.0)


def _tree_r2(x: Floats, y: Floats, teach: Mask) -> Estimate:
    tree = DecisionTreeRegressor(max_depth=8, min_samples_leaf=5, random_state=0).fit(x[teach, None], y[teach])
    found = metrics("regression", tree.predict(x[~teach, None]), y[~teach])
    return found.get("r2", Estimate(value=0.0, low=0.0, high=0.0, rows=0))


def _by_target(x: Floats, y: Floats, teach: Mask) -> Floats:
    """Order a category's codes by the mean target where they are taught; codes not taught there become the mean."""
    codes = np.where(np.isnan(x), -1, x).astype(np.int64) + 1
    count = np.bincount(codes[teach], minlength=codes.max() + 1)
    total = np.bincount(codes[teach], weights=y[teach], minlength=codes.max() + 1)
    mean = np.where(count > 0, total / np.maximum(count, 1), y[teach].mean())
    return np.asarray(mean[codes], dtype=np.float64)


def _copies(sample: _Sample) -> list[Leak]:
    """Columns with one value for each class and one class for each value."""
    if sample.task.kind == "regression":
        return []
    found = []
    for name, x in sample.columns.items():
        values = np.unique(x)
        pairs = np.unique(np.column_stack([x, sample.y]), axis=0)
        if not np.isnan(x).any() and len(values) == len(sample.task.classes) == len(pairs):
            found.append(Leak(column=name, reason="it says the same as the target in other words: one value for each class", score=1.0))
    return found


def _perfect(measure: str, alone: dict[str, tuple[float, float]], refused: set[str]) -> list[Leak]:
    value, low, next_best = PERFECT[measure]
    suspects = [name for name, (score, bound) in alone.items() if score >= value and bound >= low]
    others = max((score for name, (score, _) in alone.items() if name not in suspects and name not in refused), default=0.0)
    if others > next_best:
        return []
    label = "AUC" if measure == "auc" else "R2"
    reason = "alone it tells the target almost perfectly ({} {:.3f}); the next best column reaches {:.2f}"
    return [Leak(column=name, reason=reason.format(label, alone[name][0], others), score=alone[name][0]) for name in suspects]


def _add_kin(sample: _Sample, alone: dict[str, tuple[float, float]], leaks: dict[str, Leak], safe: set[str]) -> None:
    """Add the columns that give a refused one back; twice, since kin of kin (a pair for a found delay) exist too."""
    strong, lead = STRONG[sample.measure]
    for _ in range(2):
        rest = [name for name in sample.columns if name not in leaks and name not in safe and name not in sample.categories]
        refused = [name for name in leaks if name in sample.columns and name not in sample.categories]
        # only what tells the target itself makes its relatives suspect: a schedule is no leak for being near to the actual time
        telling = [name for name in refused if alone[name][0] >= strong]
        kinship = {name: _nearest(sample, name, telling) if alone[name][0] >= strong else (0.0, "") for name in rest}
        honest = max((score for name, (score, _) in alone.items() if name not in leaks and kinship.get(name, (0.0, ""))[0] < 0.6), default=0.0)
        for name in rest:
            tie, of = kinship[name]
            score = alone[name][0]
            twin = next((other for other in refused if _rank_correlation(sample.columns[name], sample.columns[other]) >= 0.9999), None)
            if twin:
                leaks[name] = Leak(column=name, reason=f"it repeats {twin!r}, which was refused", score=score)
            elif tie >= 0.6 and score >= honest + lead:
                reason = f"it is nearly determined by {of!r}, which was refused, and tells far more than any other ({score:.2f} against {honest:.2f})"
                leaks[name] = Leak(column=name, reason=reason, score=score)
        _add_pairs(sample, alone, leaks, safe, telling)


def _nearest(sample: _Sample, name: str, refused: list[str]) -> tuple[float, str]:
    """Return how well (R2) a refused column determines ``name``, and which one does it best."""
    ties = [(0.0, "")]
    y = sample.columns[name]
    for other in refused:
        x = sample.columns[other]
        both = np.isfinite(x) & np.isfinite(y)
        teach = sample.teach[both]
        if teach.sum() >= 25 and (~teach).sum() >= 25 and np.std(x[both]) > 0 and np.std(y[both]) > 0:
            line = float(np.corrcoef(x[both], y[both])[0, 1] ** 2)
            ties.append((max(line, _tree_r2(x[both], y[both], teach).value), other))
    return max(ties)


def _add_pairs(sample: _Sample, alone: dict[str, tuple[float, float]], leaks: dict[str, Leak], safe: set[str], telling: list[str]) -> None:
    """Refuse the part of a pair whose difference ranks like a refused column when neither part does so alone: the part nearer to it."""
    rest = [name for name in sample.columns if name not in leaks and name not in sample.categories and np.isfinite(sample.columns[name]).mean() > 0.9]
    for a, b in itertools.combinations(rest[:40] if telling else [], 2):
        x, z = sample.columns[a], sample.columns[b]
        both = np.isfinite(x) & np.isfinite(z)
        if both.sum() < 50 or np.std(x[both]) == 0 or np.std(z[both]) == 0 or abs(np.corrcoef(x[both], z[both])[0, 1]) < 0.7:
            continue
        for name in telling:
            r = sample.columns[name]
            with_a, with_b = abs(_rank_correlation(x, r)), abs(_rank_correlation(z, r))
            if max(with_a, with_b) < 0.5 and abs(_rank_correlation(x - z, r)) >= 0.8:
                guilty, other = (a, b) if with_a >= with_b else (b, a)
                if guilty not in safe:
                    reason = f"its difference to {other!r} gives {name!r} back, which was refused"
                    leaks.setdefault(guilty, Leak(column=guilty, reason=reason, score=alone[guilty][0]))


def _rank_correlation(a: Floats, b: Floats) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 50:
        return 0.0
    x, y = ranks(a[both]), ranks(b[both])
    return float(np.corrcoef(x, y)[0, 1]) if np.std(x) > 0 and np.std(y) > 0 else 0.0


def ranks(values: Floats) -> Floats:
    """Return ranks from 0, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2.0)[inverse], dtype=np.float64)


def _warnings(measure: str, alone: dict[str, tuple[float, float]], settled: set[str]) -> list[str]:
    strong, lead = STRONG[measure]
    order = sorted(((score, name) for name, (score, _) in alone.items() if name not in settled), reverse=True)
    if len(order) < 2 or order[0][0] < strong or order[0][0] < order[1][0] + lead:
        return []
    label = "AUC" if measure == "auc" else "R2"
    return [
        f"{order[0][1]!r} alone reaches {label} {order[0][0]:.2f}, the next column {order[1][0]:.2f}: make sure that it is known "
        f'when the question is asked, or add it to ignore = ["{order[0][1]}"] under [task]'
    ]
