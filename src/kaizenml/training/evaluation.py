"""How good a prediction is, with an interval that is honest when rows cluster in time.

Every metric here is, to first order, a mean of one influence per row. Where there is a time, influences are summed by
day (or by stretch of time) before their variance is taken, so that a thousand flights in one storm count as one storm
(cluster-robust variance; Liang and Zeger 1986). The AUC's influences are DeLong's placements (1988).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from kaizenml.features.signature import TaskKind
from kaizenml.training.run import Estimate

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
LEVEL = 0.95
DAY_S = 86_400.0
_TINY = 1e-7


class _Measured(NamedTuple):
    value: float
    influences: Floats  # mean zero; the standard error is that of their mean


def blocks_of(times: Floats | None) -> Indices | None:
    """Return the block of each row: its day, or one of twenty stretches of time when there are fewer than ten days.

    None (rows are independent) when there is no time.
    """
    if times is None or len(times) < 2:
        return None
    known = np.where(np.isnan(times), np.nanmin(times) if not np.isnan(times).all() else 0.0, times)
    days = np.unique(np.floor(known / DAY_S), return_inverse=True)[1].astype(np.int64)
    if days.max() >= 9:
        return days
    stretches = min(20, max(2, len(times) // 5))
    place = np.empty(len(times), dtype=np.int64)
    place[np.argsort(known, kind="stable")] = np.arange(len(times)) * stretches // len(times)
    return place


def losses(kind: TaskKind, prediction: Floats, y: Floats) -> Floats:
    """Return the loss of each row: minus the log of the probability of what happened, or the squared error."""
    if kind == "regression":
        return np.asarray((prediction - y) ** 2, dtype=np.float64)
    chosen = prediction[np.arange(len(y)), y.astype(np.int64)]
    return np.asarray(-np.log(np.clip(chosen, _TINY, 1.0)), dtype=np.float64)


def metrics(kind: TaskKind, prediction: Floats, y: Floats, blocks: Indices | None = None) -> dict[str, Estimate]:
    """Measure predictions against the truth.

    Parameters
    ----------
    kind : the task's kind.
    prediction : rows x classes probabilities; rows for regression.
    y : class indices, or numbers; no NaN.
    blocks : from ``blocks_of``; None when rows are independent.

    Returns
    -------
    log_loss, auc (several classes: mean of one against the rest), accuracy, brier; or rmse, mae, r2. A metric that
    the rows cannot tell (AUC of one class) is absent.
    """
    if kind == "regression":
        return _regression(prediction, y, blocks)
    rows = len(y)
    hit = np.zeros_like(prediction)
    hit[np.arange(rows), y.astype(np.int64)] = 1.0
    found = {"log_loss": _estimate(_mean(losses(kind, prediction, y)), blocks, lower=0.0)}
    curve = _auc(prediction, y)
    if curve is not None:
        found["auc"] = _bounded(curve, blocks, int(min(np.bincount(y.astype(np.int64))[np.unique(y.astype(np.int64))])))
    found["accuracy"] = _share(prediction.argmax(axis=1) == y, blocks)
    brier = (prediction[:, 1] - y) ** 2 if prediction.shape[1] == 2 else ((prediction - hit) ** 2).sum(axis=1)
    found["brier"] = _estimate(_mean(brier), blocks, lower=0.0)
    return found


def difference(kind: TaskKind, ours: Floats, theirs: Floats, y: Floats, blocks: Indices | None = None) -> Estimate:
    """Return by how much ``ours`` loses less than ``theirs`` on the same rows (positive: ours is better).

    In log loss, or in squared error for regression; paired, so that what is hard for both cancels.
    """
    return _estimate(_mean(losses(kind, theirs, y) - losses(kind, ours, y)), blocks)


def auc(score: Floats, y: Floats) -> float:
    """Return the area under the ROC curve: the chance that a positive row scores above a negative one; ties count half.

    >>> import numpy as np
    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]))
    0.75
    """
    return _roc(score, y > 0.5).value


def _roc(score: Floats, positive: npt.NDArray[np.bool_]) -> _Measured:
    high, low = np.sort(score[positive]), np.sort(score[~positive])
    ones, zeros, rows = len(high), len(low), len(score)
    influences = np.empty(rows)
    above = _placement(low, score[positive])
    below = 1.0 - _placement(high, score[~positive])
    value = float(above.mean())
    influences[positive] = (above - value) * (rows / ones)
    influences[~positive] = (below - value) * (rows / zeros)
    return _Measured(value, influences)


def _placement(ordered: Floats, score: Floats) -> Floats:
    """Return the share of ``ordered`` below each score, ties counting half."""
    left, right = np.searchsorted(ordered, score, side="left"), np.searchsorted(ordered, score, side="right")
    return np.asarray((left + right) / (2.0 * len(ordered)), dtype=np.float64)


def _auc(prediction: Floats, y: Floats) -> _Measured | None:
    seen = np.unique(y.astype(np.int64))
    if len(seen) < 2:
        return None
    if prediction.shape[1] == 2:
        return _roc(prediction[:, 1], y == 1)
    parts = [_roc(prediction[:, place], y == place) for place in seen]
    influences = np.asarray(np.mean([part.influences for part in parts], axis=0), dtype=np.float64)
    return _Measured(float(np.mean([part.value for part in parts])), influences)


def _regression(prediction: Floats, y: Floats, blocks: Indices | None) -> dict[str, Estimate]:
    squared = (prediction - y) ** 2
    mse = _estimate(_mean(squared), blocks)
    found = {
        "rmse": Estimate(value=_root(mse.value), low=_root(mse.low), high=_root(mse.high), rows=mse.rows),
        "mae": _estimate(_mean(np.abs(prediction - y)), blocks, lower=0.0),
    }
    spread = (y - y.mean()) ** 2
    if spread.mean() > 0:
        ratio = squared.mean() / spread.mean()
        found["r2"] = _estimate(_Measured(float(1 - ratio), (ratio * spread - squared) / spread.mean()), blocks, upper=1.0)
    return found


def _root(square: float) -> float:
    return float(np.sqrt(max(square, 0.0)))


def _mean(values: Floats) -> _Measured:
    value = float(values.mean())
    return _Measured(value, values - value)


def _error(influences: Floats, blocks: Indices | None) -> tuple[float, float]:
    """Return the standard error and how many of them make half of a 95 % interval."""
    rows = len(influences)
    if blocks is None:
        return float(np.sqrt((influences**2).sum() / max(rows - 1, 1) / rows)), float(special.stdtrit(max(rows - 1, 1), 0.5 + LEVEL / 2))
    sums = np.bincount(blocks, weights=influences)
    count = len(sums)
    variance = (sums**2).sum() * count / max(count - 1, 1) / rows**2
    # never below what independent rows would give: a lucky handful of blocks is no evidence
    variance = max(variance, (influences**2).sum() / max(rows - 1, 1) / rows)
    return float(np.sqrt(variance)), float(special.stdtrit(max(count - 1, 1), 0.5 + LEVEL / 2))


def _estimate(measured: _Measured, blocks: Indices | None, upper: float = np.inf, lower: float = -np.inf) -> Estimate:
    """An interval on both sides of the value, within what the metric can be at all."""
    error, width = _error(measured.influences, blocks)
    value, rows = measured.value, len(measured.influences)
    return Estimate(value=value, low=float(max(value - width * error, lower)), high=float(min(value + width * error, upper)), rows=rows)


def _bounded(measured: _Measured, blocks: Indices | None, rarest: int) -> Estimate:
    """An AUC's interval, on the logit scale so that it stays within 0 and 1; rule of three where nothing was confused."""
    error, width = _error(measured.influences, blocks)
    value, rows = measured.value, len(measured.influences)
    slack = min(1.0, 3.0 / rarest)
    if value >= 1 - 1e-12 or value <= 1e-12:
        return Estimate(value=value, low=1.0 - slack if value > 0.5 else 0.0, high=1.0 if value > 0.5 else slack, rows=rows)
    spread = width * error / (value * (1 - value))
    middle = special.logit(value)
    return Estimate(value=value, low=float(special.expit(middle - spread)), high=float(special.expit(middle + spread)), rows=rows)


def _share(hits: npt.NDArray[np.bool_], blocks: Indices | None) -> Estimate:
    """A share's interval by Wilson's formula, with the number of rows that clustering leaves."""
    rows, value = len(hits), float(hits.mean())
    error, width = _error(np.asarray(hits - value, dtype=np.float64), blocks)
    effective = rows if error == 0 else min(float(rows), value * (1 - value) / error**2)
    square = width**2
    centre = (value + square / (2 * effective)) / (1 + square / effective)
    half = width * np.sqrt(value * (1 - value) / effective + square / (4 * effective**2)) / (1 + square / effective)
    return Estimate(value=value, low=float(max(0.0, centre - half)), high=float(min(1.0, centre + half)), rows=rows)
