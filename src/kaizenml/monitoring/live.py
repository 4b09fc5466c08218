"""Live accuracy: sums over labelled answers that merge by addition, one state for a day of one release in one role.

A state keeps sums by hour of the day (so that intervals can take rows of one hour, or one day, as one), and the scores
of each class in 256 bins of the log odds (for AUC with DeLong's interval).

``own`` is the loss that the model itself expects from its probabilities (their entropy). The mean of ``loss - own`` is
zero for a calibrated model whatever the inputs are: harder rows raise both, a changed world raises only the first.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kaizenml.errors import Corrupt
from kaizenml.features.signature import TaskKind
from kaizenml.training.run import Estimate

Floats = npt.NDArray[np.float64]

FORMAT = 1
CLIP = 1e-6
HOURS = 24
SCORES = 256
SPAN = 12.0  # log odds beyond +-12 share the outermost bins
FIELDS = (
    "answered",  # rows answered, labelled or not
    "rows",  # labelled
    "loss",  # log loss, or squared error
    "loss2",
    "own",  # loss the model expects of itself; 0 for regression
    "excess2",  # (loss - own) squared
    "second",  # Brier score, or absolute error
    "correct",
    "naive",  # loss of the naive answer on the same rows
    "gap_rows",  # labelled rows with a hole in an input that hardly ever has one
    "gap_loss",
    "gap_own",
    "gap_excess2",
    "truth",  # sum of the truth: positives, or the target itself
    "truth2",
    "answered_own",  # own expectation over all answered rows
)
AT = {name: position for position, name in enumerate(FIELDS)}


class Scored(NamedTuple):
    """Labelled answers of one release, row by row."""

    loss: Floats
    own: Floats
    second: Floats
    correct: Floats
    naive: Floats
    truth: Floats  # 0/1 for binary, class index for multiclass, value for regression
    score: Floats  # P(classes[1]), or the highest probability


class DayState(NamedTuple):
    """Sums of one day: ``hours`` is (24, fields); ``scores`` is (2, 256): negatives, positives."""

    hours: Floats
    scores: npt.NDArray[np.int64]

    def __add__(self, other: Any) -> DayState:
        return DayState(self.hours + other.hours, self.scores + other.scores)

    def sum(self, field: str) -> float:
        return float(self.hours[:, AT[field]].sum())

    def column(self, field: str) -> Floats:
        return self.hours[:, AT[field]]


def empty() -> DayState:
    """Return the state of no rows."""
    return DayState(np.zeros((HOURS, len(FIELDS))), np.zeros((2, SCORES), np.int64))


def total(states: Iterable[DayState]) -> DayState:
    """Add states up."""
    result = empty()
    for state in states:
        result = result + state
    return result


def score(task: TaskKind, probabilities: Floats | None, values: Floats, truth: Floats, naive: Floats | None) -> Scored:
    """Compare answers with the truth.

    Parameters
    ----------
    task : binary, multiclass or regression.
    probabilities : (rows, classes) in the order of the signature's classes; None for regression.
    values : the answer for regression; not used else.
    truth : class index, or the value.
    naive : class shares of training, or one number: its mean; None when not known (its loss is NaN-free 0).
    """
    rows = len(truth)
    if task == "regression" or probabilities is None:
        error = np.square(values - truth)
        plain = np.square(truth - float(naive[0])) if naive is not None and len(naive) else np.zeros(rows)
        return Scored(error, np.zeros(rows), np.abs(values - truth), np.zeros(rows), plain, truth, values)
    chosen = truth.astype(np.int64)
    every = np.arange(rows)
    loss = -np.log(np.clip(probabilities[every, chosen], CLIP, 1 - CLIP))
    brier = np.square(probabilities).sum(axis=1) - 2 * probabilities[every, chosen] + 1
    correct = (probabilities.argmax(axis=1) == chosen).astype(np.float64)
    plain = -np.log(np.clip(naive[chosen], CLIP, 1 - CLIP)) if naive is not None and len(naive) else np.zeros(rows)
    shown = probabilities[:, 1] if task == "binary" else probabilities.max(axis=1)
    return Scored(loss, expected(probabilities), brier / 2 if task == "binary" else brier, correct, plain, truth, shown)


def expected(probabilities: Floats) -> Floats:
    """Return the loss that a model with these probabilities expects of itself (their entropy, nats)."""
    clipped = np.clip(probabilities, CLIP, 1 - CLIP)
    return np.asarray(-(probabilities * np.log(clipped)).sum(axis=1))


def fold(task: TaskKind, scored: Scored, hours: npt.NDArray[np.int64], gaps: npt.NDArray[np.bool_]) -> DayState:
    """Sum labelled rows of one day into a state; ``hours`` 0..23 and ``gaps`` per row."""
    state = empty()
    excess = scored.loss - scored.own
    hole = gaps.astype(np.float64)
    values = {
        "rows": np.ones(len(scored.loss)), "loss": scored.loss, "loss2": np.square(scored.loss), "own": scored.own, "excess2": np.square(excess),
        "second": scored.second, "correct": scored.correct, "naive": scored.naive, "gap_rows": hole, "gap_loss": hole * scored.loss,
        "gap_own": hole * scored.own, "gap_excess2": hole * np.square(excess), "truth": scored.truth, "truth2": np.square(scored.truth),
    }  # fmt: skip
    for name, column in values.items():
        state.hours[:, AT[name]] = np.bincount(hours, weights=column, minlength=HOURS)[:HOURS]
    if task == "binary":
        slot = _slots(scored.score)
        for kind in (0, 1):
            state.scores[kind] = np.bincount(slot[scored.truth == kind], minlength=SCORES)
    return state


def answered(hours: npt.NDArray[np.int64], own: Floats) -> DayState:
    """Count answers of one day, labelled or not."""
    state = empty()
    state.hours[:, AT["answered"]] = np.bincount(hours, minlength=HOURS)[:HOURS]
    state.hours[:, AT["answered_own"]] = np.bincount(hours, weights=own, minlength=HOURS)[:HOURS]
    return state


def metrics(task: TaskKind, days: Sequence[DayState]) -> dict[str, Estimate]:
    """Return the metrics of some days with 95 % intervals.

    Rows of one day count as one when there are at least five days, else rows of one hour; so bad weather that delays
    a whole day does not pass for 900 independent bad answers.
    """
    state = total(days)
    rows = state.sum("rows")
    if rows == 0:
        return {}
    blocks = np.array([day.hours.sum(axis=0) for day in days]) if len(days) >= 5 else np.concatenate([day.hours for day in days])
    loss = _ratio(blocks, "loss")
    second = _ratio(blocks, "second")
    if task == "regression":
        spread = state.sum("truth2") / rows - (state.sum("truth") / rows) ** 2
        found = {"rmse": _root(loss), "mae": second}
        if spread > 0:
            found["r2"] = Estimate(value=1 - loss.value / spread, low=1 - loss.high / spread, high=1 - loss.low / spread, rows=int(rows))
        return found
    found = {"log_loss": loss, "brier": second, "accuracy": _ratio(blocks, "correct")}
    if task == "binary" and (auc := area(state.scores)):
        found["auc"] = auc
    return found


def naive_metric(task: TaskKind, days: Sequence[DayState]) -> Estimate | None:
    """Return the loss (log loss or RMSE) of the naive answer on the same rows."""
    state = total(days)
    if state.sum("rows") == 0 or state.sum("naive") == 0:
        return None
    blocks = np.array([day.hours.sum(axis=0) for day in days]) if len(days) >= 5 else np.concatenate([day.hours for day in days])
    loss = _ratio(blocks, "naive")
    return _root(loss) if task == "regression" else loss


def area(scores: npt.NDArray[np.int64]) -> Estimate | None:
    """Return the AUC from binned scores with DeLong's 95 % interval; ties within a bin count half."""
    negatives, positives = scores[0].astype(np.float64), scores[1].astype(np.float64)
    n, p = negatives.sum(), positives.sum()
    if n == 0 or p == 0:
        return None
    below = (np.cumsum(negatives) - negatives / 2) / n  # for a positive in the bin: share of negatives it beats
    above = 1 - (np.cumsum(positives) - positives / 2) / p
    value = float((positives * below).sum() / p)
    spread = float(
        (positives * np.square(below - value)).sum() / max(p - 1, 1) / p + (negatives * np.square(above - value)).sum() / max(n - 1, 1) / n
    )
    half = 1.96 * math.sqrt(spread)
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half), rows=int(n + p))


def calibration(state: DayState, parts: int = 10) -> list[dict[str, float]]:
    """Return up to ``parts`` groups of equal size by score: rows, mean score, share of positives."""
    both = state.scores.sum(axis=0)
    rows = both.sum()
    if rows == 0:
        return []
    centers = 1 / (1 + np.exp(-((np.arange(SCORES) + 0.5) / SCORES * 2 * SPAN - SPAN)))
    group = np.minimum(((np.cumsum(both) - both / 2) / rows * parts).astype(int), parts - 1)
    found = []
    for part in range(parts):
        size = both[group == part].sum()
        if size:
            inside = group == part
            found.append(
                {"rows": int(size), "score": float((both * centers)[inside].sum() / size), "positives": float(state.scores[1][inside].sum() / size)}
            )
    return found


def encode(state: DayState) -> bytes:
    """Write a state as bytes (some 1-3 kB)."""
    return zlib.compress(msgspec.msgpack.encode([FORMAT, state.hours.tobytes(), state.scores.tobytes()]), 1)


@lru_cache(maxsize=2048)  # most days do not change between two looks
def decode(raw: bytes) -> DayState:
    """Read what ``encode`` wrote."""
    try:
        form, hours, scores = msgspec.msgpack.decode(zlib.decompress(raw))
    except (zlib.error, msgspec.DecodeError, ValueError) as error:
        raise Corrupt(f"a stored accuracy state is damaged: {error}", remedy="restore the catalog from its backup") from None
    if form != FORMAT:
        raise Corrupt(f"a stored accuracy state has format {form}; this kaizenml reads {FORMAT}", remedy="pip install --upgrade kaizenml")
    return DayState(np.frombuffer(hours, np.float64).reshape(HOURS, -1), np.frombuffer(scores, np.int64).reshape(2, SCORES))


def _slots(probability: Floats) -> npt.NDArray[np.int64]:
    clipped = np.clip(probability, CLIP, 1 - CLIP)
    odds = np.log(clipped / (1 - clipped))
    return np.clip((odds + SPAN) / (2 * SPAN) * SCORES, 0, SCORES - 1).astype(np.int64)


def _ratio(blocks: Floats, field: str) -> Estimate:
    """Mean over rows with the interval of a ratio of block sums."""
    rows, sums = blocks[:, AT["rows"]], blocks[:, AT[field]]
    kept = rows > 0
    rows, sums = rows[kept], sums[kept]
    count, whole = len(rows), float(rows.sum())
    value = float(sums.sum()) / whole
    variance = float(np.square(sums - value * rows).sum()) * count / max(count - 1, 1)
    half = 1.96 * math.sqrt(variance) / whole if count > 1 else math.inf
    if not math.isfinite(half):  # a single hour: all that can be said is that rows vary
        half = 1.96 * math.sqrt(max(float(blocks[kept][:, AT["loss2"]].sum()) / whole - value**2, 0.0) / whole) if field == "loss" else 0.0
    return Estimate(value=value, low=value - half, high=value + half, rows=int(whole))


def _root(squared: Estimate) -> Estimate:
    return Estimate(
        value=math.sqrt(max(squared.value, 0.0)), low=math.sqrt(max(squared.low, 0.0)), high=math.sqrt(max(squared.high, 0.0)), rows=squared.rows
    )
