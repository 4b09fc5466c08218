"""Has an input moved? Significant *and* large enough, for as many columns as there are, in days that are alike within themselves.

The distance is Kolmogorov-Smirnov's for numbers and total variation for categories, both on binned counts. It must exceed
what chance gives for the number of rows (Dvoretzky-Kiefer-Wolfowitz; McDiarmid around the expected variation), *plus*
what the reference's own days or weeks differ from the whole (weather of one day is never the weather of a winter), and
a floor below which nobody cares. Missing values, values never seen and values out of range are tested by themselves:
distances that drop them are blind to a flood of nulls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kaizenml.monitoring.profile import Bins, Floats, Profile

FLOOR = 0.1  # distance; a shift of a normal column by a quarter of its standard deviation
MISSING_FLOOR = 0.05
OTHER_FLOOR = 0.02
OUTSIDE_FLOOR = 0.05
TESTS = 4  # per column
BLOCKS = 8  # days of the reference that say what a usual day is; with fewer, the worst of them counts half as much again


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How far the reference's own blocks (days, weeks) lie from the whole, per column. Empty: not known."""

    distance: list[float] = []
    missing: list[float] = []
    other: list[float] = []
    outside: list[float] = []


class ColumnDrift(msgspec.Struct, frozen=True, kw_only=True):
    """How one input compares with the reference of the release that answers."""

    column: str
    view: str | None
    drifted: bool
    reason: str  # one phrase; "" when nothing is the matter
    distance: float  # 0..1
    limit: float  # what the distance must exceed
    js: float  # Jensen-Shannon distance, base 2, 0..1
    psi: float  # population stability index over tenths of the reference
    missing: float  # share of rows
    missing_before: float
    flooded: bool  # the missing share jumped
    other: float  # share of values never seen in the reference
    outside: float  # share of numbers out of the reference's range
    rows: int


def compare(bins: Bins, reference: Profile, window: Profile, *, alpha: float, limits: Limits | None = None) -> list[ColumnDrift]:
    """Compare a window with the reference, column by column.

    Parameters
    ----------
    bins, reference, window : profiles over the same bins.
    alpha : chance that any of the columns is called drifted when none is, 0..1.
    limits : what blocks as long as the window differ from the whole within the reference.
    """
    if not bins.columns or window.rows == 0:
        return []
    each = alpha / (len(bins.columns) * TESTS)
    limits = limits or Limits()
    distance, present = distances(bins, reference, window)
    here, before = _present(window), _present(reference)
    limit = np.maximum(chance(bins, reference, window, each) + _or_zero(limits.distance, distance), FLOOR)
    missing, missing_before = window.missing / max(window.rows, 1), reference.missing / max(reference.rows, 1)
    flooded = missing - missing_before > np.maximum(
        MISSING_FLOOR, _or_zero(limits.missing, missing) + share_noise(missing_before, window.rows, reference.rows, each)
    )
    other, outside = escaped(bins, window)
    pooled, outside_before = escaped(bins, reference)  # beyond 200 levels the last slot holds known levels, too: the distance sees those
    other = np.where(pooled > 0, 0.0, other)
    # Good and Turing: what the reference has once, it may as well have missed
    other_before = (reference.counts == 1).sum(axis=1) / np.maximum(before, 1)
    unseen = other - other_before > np.maximum(OTHER_FLOOR, _or_zero(limits.other, other) + share_noise(other_before, here, before, each))
    escapes = outside - outside_before > np.maximum(
        OUTSIDE_FLOOR, _or_zero(limits.outside, outside) + share_noise(outside_before, here, before, each)
    )
    moved = (distance > limit) & present
    js, psi = _divergences(bins, reference, window)
    return [
        ColumnDrift(
            column=column.name,
            view=column.view,
            drifted=bool(moved[i] or flooded[i] or unseen[i] or escapes[i]),
            reason=(
                f"missing in {missing[i]:.1%} of rows, {missing_before[i]:.1%} before" if flooded[i]
                else f"{other[i]:.1%} of values were never seen in training" if unseen[i]
                else f"{outside[i]:.1%} of values are out of the range seen in training" if escapes[i]
                else f"distribution moved by {distance[i]:.2f}, more than the usual {limit[i]:.2f}" if moved[i]
                else ""
            ),
            distance=round(float(distance[i]), 6), limit=round(float(min(limit[i], 1.0)), 6), js=round(float(js[i]), 6), psi=round(float(psi[i]), 6),
            missing=round(float(missing[i]), 6), missing_before=round(float(missing_before[i]), 6), flooded=bool(flooded[i]),
            other=round(float(other[i]), 6), outside=round(float(outside[i]), 6), rows=window.rows,
        )
        for i, column in enumerate(bins.columns)
    ]  # fmt: skip


def distances(bins: Bins, reference: Profile, window: Profile) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return each column's distance between two profiles, and whether both have values at all."""
    here, before = _present(window), _present(reference)
    gap = window.counts / np.maximum(here, 1)[:, None] - reference.counts / np.maximum(before, 1)[:, None]
    numeric = np.array([column.kind != "category" for column in bins.columns])
    distance = np.where(numeric, np.abs(np.cumsum(gap, axis=1)).max(axis=1), np.abs(gap).sum(axis=1) / 2)
    present = (here > 0) & (before > 0)
    return np.where(present, distance, 0.0), present


def steps(bins: Bins, days: Sequence[Profile]) -> Floats:
    """Return how far each day from the fourth on lies from the three before it: (days - 3, columns)."""
    counts = np.array([day.counts for day in days])
    summed = np.cumsum(counts, axis=0)
    before = summed[2:-1] - np.concatenate([np.zeros_like(summed[:1]), summed[:-4]])
    window = counts[3:]
    here, there = window.sum(axis=2), before.sum(axis=2)
    gap = window / np.maximum(here, 1)[..., None] - before / np.maximum(there, 1)[..., None]
    numeric = np.array([column.kind != "category" for column in bins.columns])
    distance = np.where(numeric, np.abs(np.cumsum(gap, axis=2)).max(axis=2), np.abs(gap).sum(axis=2) / 2)
    return np.asarray(np.where((here > 0) & (there > 0), distance, 0.0))


def escaped(bins: Bins, window: Profile) -> tuple[Floats, Floats]:
    """Return for each column the share of unknown levels, and of numbers out of the reference's range."""
    here = np.maximum(_present(window), 1)
    last = np.array([column.slots - 1 for column in bins.columns])
    category = np.array([column.kind == "category" for column in bins.columns])
    top = window.counts[np.arange(len(last)), last]
    return np.where(category, top / here, 0.0), np.where(category, 0.0, (window.counts[:, 0] + top) / here)


def usual(bins: Bins, whole: Profile, blocks: Sequence[Profile]) -> Limits:
    """Learn from the reference's own blocks (its days, or its weeks) how far an ordinary block lies from the whole."""
    if len(blocks) < 3:
        return Limits()
    away = np.array([distances(bins, whole, block)[0] for block in blocks])
    share = whole.missing / max(whole.rows, 1)
    missing = np.array([block.missing / max(block.rows, 1) - share for block in blocks])
    escapes = [escaped(bins, block) for block in blocks]
    base = escaped(bins, whole)
    other, outside = (np.array([pair[k] - base[k] for pair in escapes]) for k in (0, 1))
    return Limits(distance=_high(away), missing=_high(missing), other=_high(other), outside=_high(outside))


def _high(values: Floats) -> list[float]:
    top = values.max(axis=0)
    high = np.maximum(top, values.mean(axis=0) + 3 * values.std(axis=0)) if len(values) >= BLOCKS else top * 1.5
    return [float(value) for value in np.maximum(high, 0.0)]


def _present(profile: Profile) -> npt.NDArray[np.int64]:
    return np.asarray(profile.counts.sum(axis=1))


def chance(bins: Bins, reference: Profile, window: Profile, alpha: float) -> Floats:
    """Return the distance that two samples of one distribution exceed with probability below ``alpha``, per column."""
    here, before = _present(window), _present(reference)
    noise = 1 / np.maximum(here, 1) + 1 / np.maximum(before, 1)
    numbers = np.sqrt(math.log(2 / alpha) / 2 * noise)
    shares = reference.counts / np.maximum(before, 1)[:, None]
    expected = np.sqrt(2 / math.pi * shares * (1 - shares) * noise[:, None]).sum(axis=1) / 2
    categories = expected + np.sqrt(math.log(1 / alpha) / 2 * noise)
    return np.where([column.kind == "category" for column in bins.columns], categories, numbers)


def share_noise(share: Floats, here: npt.NDArray[Any] | int, before: npt.NDArray[Any] | int, alpha: float) -> Floats:
    """Return how far a share strays by chance (normal, with Bernstein's correction for rare things)."""
    z = NormalDist().inv_cdf(1 - alpha)
    here_, before_ = np.maximum(here, 1), np.maximum(before, 1)
    return np.asarray(z * np.sqrt(share * (1 - share) * (1 / here_ + 1 / before_)) + z * z / 3 / here_)


def _divergences(bins: Bins, reference: Profile, window: Profile) -> tuple[Floats, Floats]:
    """Jensen-Shannon distance and PSI, over tenths of the reference (numbers) or levels."""
    p, q = np.zeros((len(bins.columns), 202)), np.zeros((len(bins.columns), 202))
    for index, column in enumerate(bins.columns):
        old, new = reference.counts[index].astype(float), window.counts[index].astype(float)
        if column.kind != "category":
            tenth = np.minimum((np.cumsum(old) / max(old.sum(), 1) * 10).astype(int), 10)
            old, new = np.bincount(tenth, weights=old, minlength=11), np.bincount(tenth, weights=new, minlength=11)
        p[index, : len(old)], q[index, : len(new)] = old, new
    used = (p + q) > 0
    p = np.where(used, p + 0.5, 0) / np.maximum(np.where(used, p + 0.5, 0).sum(axis=1), 1)[:, None]
    q = np.where(used, q + 0.5, 0) / np.maximum(np.where(used, q + 0.5, 0).sum(axis=1), 1)[:, None]
    p_, q_ = np.where(used, p, 1.0), np.where(used, q, 1.0)
    middle = (p_ + q_) / 2
    js = np.where(used, p_ * np.log2(p_ / middle) + q_ * np.log2(q_ / middle), 0).sum(axis=1) / 2
    psi = np.where(used, (p_ - q_) * np.log(p_ / q_), 0).sum(axis=1)
    return np.sqrt(np.clip(js, 0, 1)), psi


def _or_zero(limit: list[float], like: Floats) -> Floats:
    return np.asarray(limit) if len(limit) == len(like) else np.zeros_like(like)
