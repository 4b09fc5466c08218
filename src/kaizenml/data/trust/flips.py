"""The score test for flipped labels: are those of a source more surprising than chance and honest differences between sources explain?

A model that has seen no row of a source says how likely each of its labels is. Flipping a share of the labels at random moves the mean of
``p(other) / p(label) - 1`` more surely than any other mean. It has two parts: one that a source with another base rate moves too, and one
that only contradicts the model. Each is compared with that of other sources' rows of which the model is as sure, and what honest sources
differ by is learnt from the others (DerSimonian and Laird's random effects, with the spread integrated out), so that where sources do
differ the second part decides, and where they do not both do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from kaizenml.data.trust.units import Bools, Floats, Ints, Seen, Unit

_FOLDS, _TREES, _SURE = 5, 80, 10
_FEWEST_TAUGHT = 0.3  # share of the rows that trusted sources must have to teach alone
_CLEAREST = 0.05  # a label less likely than this counts as if it were this likely: a few rows of which a model is too sure must not decide
_USUAL = 0.1  # by how much the log odds of honest sources may differ, where others do not tell
_ALIKE = 0.5  # how likely it is that they do not differ at all
_SPREADS = np.array([0.0, *np.geomspace(0.08, 3.0, 14)])  # in usual ones


class Part(NamedTuple):
    """A mean over each unit's rows beside the rest's, as far as the model is as sure of them."""

    difference: Floats
    variance: Floats
    flipped: Floats  # how much larger it would be were all labels flipped
    usual: float  # standard deviation between honest sources that would not surprise


def expected(x: Floats, of: Ints, units: Sequence[Unit], seen: Seen, rng: np.random.Generator) -> Floats:
    """Return the probability of each label for each row, by a model that has seen no row of the row's unit.

    Rows that teach nothing are spread over the models at random: all rows are judged by models of as many others.
    """
    import lightgbm

    teach = _teaching(seen)
    taught = np.bincount(of[teach], minlength=seen.units)
    apart = [place for place in np.argsort(-taught, kind="stable") if taught[place] and units[place].source]
    folds = rng.integers(0, max(min(_FOLDS, len(apart)), 2), len(of))
    if len(apart) > 1:
        for turn, place in enumerate(apart):
            folds[of == place] = turn % _FOLDS
    found = np.zeros((len(of), seen.classes))
    parameters = {
        "objective": "multiclass" if seen.classes > 2 else "binary", "num_leaves": 15, "learning_rate": 0.1, "verbosity": -1, "num_threads": 1,
        "min_data_in_leaf": int(np.clip(teach.sum() // 20, 3, 30)), "deterministic": True, "force_row_wise": True, "seed": 0,
    } | ({"num_class": seen.classes} if seen.classes > 2 else {})  # fmt: skip
    for fold in np.unique(folds):
        test = folds == fold
        known = teach & ~test
        y = seen.labels[known]
        if len(np.unique(y)) < 2:
            found[test] = np.bincount(seen.labels, minlength=seen.classes) / len(seen.labels)
            continue
        fitted = lightgbm.train(parameters, lightgbm.Dataset(x[known], y, free_raw_data=True), num_boost_round=_TREES)
        answer = np.asarray(fitted.predict(x[test]))
        found[test] = answer if seen.classes > 2 else np.column_stack([1.0 - answer, answer])
    return np.clip(found, 1e-4, 1.0)


def _teaching(seen: Seen) -> Bools:
    """Tell which rows models learn from: trusted ones, where they are enough."""
    found: Bools = seen.trusted[seen.by[0]]
    return found if found.mean() >= _FEWEST_TAUGHT else np.ones(len(found), bool)


def parts(probable: Floats, alike: Sequence[Floats], seen: Seen) -> tuple[Part, Part]:
    """Return the two parts of each unit's score: what another base rate moves as well, and what only contradicts the model.

    Parameters
    ----------
    probable : probability of each label for each row.
    alike : by unit weights of the rest's rows that give them the unit's mix. Where a model errs, a source with more such rows would err too.
    """
    rows, classes = probable.shape
    own = np.arange(rows), seen.labels
    score = _scores(probable)
    residual = np.eye(classes)[None] - probable[:, None, :]  # by row, label that it could have, class
    known = _teaching(seen)
    rates, mine = residual[own][known, 1:], score[own][known]
    tilt = np.linalg.lstsq(rates - rates.mean(0), mine - mine.mean(), rcond=None)[0]
    by_rate = residual[..., 1:] @ tilt
    sure = probable.max(1)
    bounds = np.quantile(sure, np.linspace(0, 1, _SURE + 1)[1:-1])
    cells = probable.argmax(1) * _SURE + np.searchsorted(bounds, sure)
    usual = _USUAL * float(np.mean(probable[own] * (1 - probable[own]))) ** 0.5
    # a unit that teaches pulls the models of all others towards it, and so seems to be further from them than it is
    taught = np.bincount(seen.by[0][known], minlength=seen.units) / known.sum()
    first, second = (
        part._replace(difference=(1.0 - taught) * part.difference, usual=usual * part.usual)
        for part in (_beside(values, cells, classes * _SURE, alike, seen) for values in (by_rate, score - by_rate))
    )
    return first, second


def _scores(probable: Floats) -> Floats:
    """Return for each row and label the score for flips: by how much the label's likelihood grows with the share of flipped ones."""
    likely = np.clip(probable, _CLEAREST, 1.0)
    found: Floats = (1.0 - likely) / (max(probable.shape[1] - 1, 1) * likely) - 1.0
    return found


def _beside(values: Floats, cells: Ints, size: int, alike: Sequence[Floats], seen: Seen) -> Part:
    """Compare the mean of a score (by row and label) with the weighted rest's in the same cells."""
    own = values[np.arange(len(values)), seen.labels]
    flips = (values.sum(1) - own) / max(seen.classes - 1, 1) - own
    spread = float(own.var())
    n = seen.counted(cells, size)[0]
    weight, square_weight = (np.stack([np.bincount(cells, each**power, size) for each in alike]) for power in (1, 2))
    mean, square, flipped = (
        np.stack([np.bincount(cells, each * score, size) for each in alike]) / np.maximum(weight, 1e-9) for score in (own, own**2, flips)
    )
    others = weight**2 / np.maximum(square_weight, 1e-9)  # as many rows of equal weight would tell as much
    varies = (others * np.maximum(square - mean**2, 0.0) + spread) / (others + 1.0)  # as if of one row more: few rows seem to vary little
    total = np.maximum(n.sum(1), 1.0)
    difference = (seen.counted(cells, size, own)[0] - n * mean).sum(1) / total
    variance = (varies * n**2 * (1 / np.maximum(n, 1.0) + 1 / np.maximum(others, 1.0))).sum(1) / total**2
    return Part(difference, np.maximum(variance, 1e-12), np.maximum((n * flipped).sum(1) / total, 1e-9), spread**0.5)


def surprise(both: tuple[Part, Part], place: int, others: Sequence[int], weights: Sequence[float]) -> tuple[float, float]:
    """Return how surprising a unit's labels are, in standard errors, and the share of flipped labels it amounts to.

    Parameters
    ----------
    place : of the unit.
    others : places of those that tell how honest sources differ.
    weights : how much each of them tells.
    """
    known, chance = [], []
    for part in both:
        spreads = _SPREADS * part.usual
        known.append(part.variance[place] + spreads**2)
        chance.append(_plausible(part, spreads, others, weights))
    first, second = np.meshgrid(*known, indexing="ij")
    moved = [part.flipped[place] for part in both]
    seen = [part.difference[place] for part in both]
    precision = moved[0] ** 2 / first + moved[1] ** 2 / second
    share = (moved[0] * seen[0] / first + moved[1] * seen[1] / second) / precision
    tail = np.array([math.erfc(z / 2**0.5) / 2 for z in (share * precision**0.5).ravel()])
    whole = float(np.outer(*chance).ravel() @ tail)
    return -NormalDist().inv_cdf(float(np.clip(whole, 1e-300, 1 - 1e-12))), float(share[0, 0])


def _plausible(part: Part, spreads: Floats, others: Sequence[int], weights: Sequence[float]) -> Floats:
    """Return how plausible each spread between honest sources is after the others were seen."""
    before = np.exp(-((_SPREADS) ** 2) / 2) * np.gradient(_SPREADS)
    before[0] = 0.0
    before *= (1.0 - _ALIKE) / before.sum()
    before[0] = _ALIKE
    places = list(others)
    varies = part.variance[places][:, None] + spreads**2
    fits = -0.5 * (np.asarray(weights)[:, None] * (np.log(varies) + part.difference[places][:, None] ** 2 / varies)).sum(0)
    after = before * np.exp(fits - fits.max())
    found: Floats = after / after.sum()
    return found
