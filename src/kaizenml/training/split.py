"""Which rows teach, which choose, and which judge. By time wherever there is a time: the newest rows are the judge."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

HOLDOUT = 0.2
LARGE = 5000
"""Rows from which one validation slice is steadier than it is worth to fit several times."""


class Split(NamedTuple):
    """Row numbers; ``train`` is in order of time when ``by`` is ``time``."""

    by: Literal["time", "random"]
    train: Indices
    holdout: Indices


def holdout(y: Floats, times: Floats | None, *, stratify: bool, seed: int, share: float = HOLDOUT) -> Split:
    """Hold out the newest ``share`` of the rows, or a random one when there is no time.

    Rows of one instant never fall on both sides, unless a single instant holds nearly everything.

    Parameters
    ----------
    y : target of the labelled rows, without NaN.
    times : seconds, NaN where unknown (those rows count as oldest); None when the table has no time.
    stratify : keep the classes' shares on both sides (random split only).
    seed : of the random split.
    share : part of the rows to hold out, 0 to 0.5.

    >>> import numpy as np
    >>> holdout(np.zeros(10), np.arange(10.0)[::-1], stratify=False, seed=0).holdout.tolist()
    [1, 0]
    """
    if times is None:
        train, held = _random(y, stratify=stratify, seed=seed, share=share)
        return Split("random", train, held)
    known = np.where(np.isnan(times), -np.inf, times)
    order = np.argsort(known, kind="stable").astype(np.int64)
    cut = _cut(known[order], share)
    return Split("time", order[:cut], order[cut:])


def folds(train: Indices, y: Floats, by: Literal["time", "random"], *, stratify: bool, seed: int) -> list[tuple[Indices, Indices]]:
    """Return (fit, validation) pairs within the training rows, for early stopping, weights and calibration.

    Over time: three forward-chained pairs, each validated on the fifth that follows what it learns from; one stretch
    alone is too particular to choose by. Without time: one random fifth of 5,000 rows or more, else five folds.
    """
    rows = len(train)
    if by == "time":
        edges = [int(rows * part) for part in (0.4, 0.6, 0.8, 1.0)]
        return [(train[:start], train[start:stop]) for start, stop in pairwise(edges)]
    place = _deal(y[train], 5, stratify=stratify, seed=seed + 1)
    return [(train[place != fold], train[place == fold]) for fold in range(1 if rows >= LARGE else 5)]


def rows_at(table: pa.Table, places: Indices) -> pa.Table:
    """Return rows by their places; those that lie side by side, as the rows of a stretch of time do, without a copy."""
    first = int(places[0]) if len(places) else 0
    if np.array_equal(places, np.arange(first, first + len(places))):
        return table.slice(first, len(places))
    return table.take(pa.array(places))


def _cut(ordered: Floats, share: float) -> int:
    """Return where the hold-out starts, moved to a border between two instants."""
    rows = len(ordered)
    wanted = max(1, min(rows - 1, round(rows * (1 - share))))
    before = int(np.searchsorted(ordered, ordered[wanted], side="left"))
    after = int(np.searchsorted(ordered, ordered[wanted], side="right"))
    best = min((before, after), key=lambda cut: abs(cut - wanted))
    return best if rows * 0.5 <= best <= rows - rows * share * 0.25 else wanted


def _random(y: Floats, *, stratify: bool, seed: int, share: float) -> tuple[Indices, Indices]:
    parts = max(2, round(1 / share))
    place = _deal(y, parts, stratify=stratify, seed=seed)
    return np.flatnonzero(place != 0), np.flatnonzero(place == 0)


def _deal(y: Floats, parts: int, *, stratify: bool, seed: int) -> Indices:
    """Deal the rows out like cards, class by class (or in order of the target), so that every part gets its share."""
    shuffled = np.random.default_rng(seed).permutation(len(y))
    order = shuffled[np.argsort(y[shuffled], kind="stable")] if stratify else shuffled
    place = np.empty(len(y), dtype=np.int64)
    # the last part is dealt first: a class of one or two rows goes to training rather than to part 0, the judge
    place[order] = parts - 1 - np.arange(len(y)) % parts
    return place
