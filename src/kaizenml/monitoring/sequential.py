"""Statistics that stay valid however often one looks.

* ``interval``: an asymptotic confidence sequence for a mean of clustered differences (Robbins' normal mixture, in the
  form of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic
  confidence sequences", 2024). Rows are summed within a block before the variance is taken, so rows of one hour or one
  day may depend on each other.
* ``Detector``: a Shiryaev-Roberts e-detector for a mean that rises at an unknown time (Shin, Ramdas and Rinaldo,
  "E-detectors: a nonparametric framework for sequential change detection", 2023): the mean number of looks until a
  false alarm is at least the threshold.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MINIMUM_BLOCKS = 12
MINIMUM_GROUPS = 5  # days, where blocks are hours: what moves together for a day cannot be told from one that does not in less
MINIMUM_ROWS = 100
TUNED_FOR_BLOCKS = 150  # about a week of hours: where the interval is narrowest for its level


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A mean with an interval that holds at every look at once, with probability ``1 - level``."""

    mean: float
    low: float
    high: float
    rows: int
    blocks: int
    variance: float  # of the sum, between blocks
    level: float


def interval(sums: Floats, rows: Floats, *, level: float, groups: npt.NDArray[np.int64] | None = None) -> Interval:
    """Return the mean of all rows with its always-valid interval.

    Parameters
    ----------
    sums : sum of the values in each block, in order of time.
    rows : number of rows in each block; empty blocks are left out.
    level : chance that the interval ever misses the mean, over all looks, 0..1.
    groups : a coarser block (a day) for each block (an hour). The larger of the two variances counts, so that
        values that move together for a whole day do not pass for many independent ones.

    Returns
    -------
    Interval ; its bounds are infinite while there are fewer than 12 blocks, 5 groups or 100 rows.
    """
    kept = rows > 0
    sums, rows = sums[kept], rows[kept]
    total, count = float(rows.sum()), len(rows)
    if count == 0:
        return Interval(mean=0.0, low=-math.inf, high=math.inf, rows=0, blocks=0, variance=0.0, level=level)
    mean = float(sums.sum()) / total
    variance = _variance(sums - mean * rows)
    enough = count >= MINIMUM_BLOCKS and total >= MINIMUM_ROWS
    if groups is not None:
        _, inverse = np.unique(groups[kept], return_inverse=True)
        together = np.asarray(np.bincount(inverse, weights=sums - mean * rows), np.float64)
        enough = enough and len(together) >= MINIMUM_GROUPS
        variance = max(variance, _variance(together) * _few(len(together))) if len(together) >= MINIMUM_GROUPS else variance
    if not enough:
        return Interval(mean=mean, low=-math.inf, high=math.inf, rows=int(total), blocks=count, variance=variance, level=level)
    half = radius(variance, count, level) / total
    return Interval(mean=mean, low=mean - half, high=mean + half, rows=int(total), blocks=count, variance=variance, level=level)


def radius(variance: float, blocks: float, level: float) -> float:
    """Return half the width of the interval of a *sum* whose variance is ``variance`` after ``blocks`` blocks."""
    if variance <= 0.0:
        return 0.0
    tuning = variance / blocks * TUNED_FOR_BLOCKS / (-2 * math.log(level) + math.log(-2 * math.log(level)) + 1)
    return math.sqrt((variance + tuning) * math.log((variance + tuning) / (tuning * level**2)))


def needed_rows(seen: Interval) -> int | None:
    """Estimate how many rows in all decide, should the difference stay what it is; None when it is too small to tell."""
    if seen.rows == 0 or seen.variance <= 0.0 or seen.mean == 0.0:
        return None
    rows = max(float(seen.rows), MINIMUM_ROWS)
    for _ in range(400):  # 10 % steps: up to 1e16 times as many
        factor = rows / seen.rows
        if radius(seen.variance * factor, seen.blocks * factor, seen.level) / rows <= abs(seen.mean) and seen.blocks * factor >= MINIMUM_BLOCKS:
            return int(rows)
        rows *= 1.1
        if rows > 1e10:
            return None
    return None


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """What the detector says after its last look."""

    raised: bool
    evidence: float  # the e-detector's value; compare with the threshold
    threshold: float
    since: int  # index of the look from which on the mean was most likely up; -1 when nothing is


RATES = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
"""Bets of the mixture: the mean rise, in standard errors of one look, that each is best for."""


def detect(scores: Floats, *, threshold: float) -> Alarm:
    """Look for a rise of the mean above zero at an unknown time.

    Parameters
    ----------
    scores : one standardised value for each look, mean <= 0 and variance about 1 while all is well; values above 4 count
        as 4, so that a single wild day is not enough.
    threshold : the mean number of looks between two false alarms is at least this.
    """
    values = np.minimum(scores, 4.0)
    evidence, start = np.zeros(len(RATES)), np.full(len(RATES), -1)
    for index, value in enumerate(values):
        start = np.where(evidence < 1.0, index, start)  # whatever came before weighs less than a start today
        evidence = (evidence + 1.0) * np.exp(RATES * value - RATES**2 / 2)
    mixed = float(evidence.mean()) if len(values) else 0.0
    best = int(np.argmax(evidence)) if len(values) else 0
    raised = mixed >= threshold
    return Alarm(raised=raised, evidence=mixed, threshold=threshold, since=int(start[best]) if raised else -1)


def standardise(sums: Floats, rows: Floats, squares: Floats, *, allowed: float) -> Floats:
    """Turn blocks into scores for ``detect``: (mean of the block - allowed) over its standard error.

    The standard error has a part within the block and a part between blocks; the latter is learnt only from blocks
    *before* the one that is scored (so the score is a fair bet), starting from a cautious guess that weighs as much as
    five blocks.
    """
    means = sums / np.maximum(rows, 1.0)
    within = float(np.maximum(squares.sum() / max(rows.sum(), 1.0) - (sums.sum() / max(rows.sum(), 1.0)) ** 2, 1e-12))
    between, weight, center = within * 0.01, 5.0, 0.0
    scores = np.zeros(len(means))
    for index, mean in enumerate(means):
        noise = within / max(rows[index], 1.0)
        scores[index] = (mean - allowed) / math.sqrt(between + noise)
        if index == 0:
            center = float(mean)
            continue
        # winsorised, so that the change which is looked for does not hide itself by widening the yardstick
        step = (mean - center) / math.sqrt(2.0)
        limit = 2.0 * math.sqrt(between + noise)
        gained = max(min(step, limit) ** 2 if step > 0 else max(step, -limit) ** 2, 0.0) - noise
        between = max((between * weight + max(gained, 0.0)) / (weight + 1.0), within * 0.001)
        weight, center = weight + 1.0, float(mean)
    return scores


def _variance(residuals: Floats) -> float:
    count = len(residuals)
    return float(np.square(residuals).sum()) * count / max(count - 1, 1)


def _few(groups: int) -> float:
    """How much wider a variance from few groups must be taken: Student's quantile over the normal one, squared, at 1 %."""
    z, free = 2.3263, groups - 1
    student = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return (student / z) ** 2
