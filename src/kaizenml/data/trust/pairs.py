"""Pairs of values that come together too often in a source, with one label: what a planted trigger looks like.

A source may have another mix of everything. So the rest's rows are weighted until they have the source's share of each value of each column
within each label; what then differs in two columns together is more than another mix. Values are told apart finely there: one of a hundred
that a source has more of, where two columns are as good as decided by it, would seem to be a pair of those two.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np

from kaizenml.data.trust import mixes
from kaizenml.data.trust.coding import Coded
from kaizenml.data.trust.mixes import Cells
from kaizenml.data.trust.units import Floats, Seen

_KNOWN = 10.0  # rows of a value that the rest must have to tell what it comes with ...
_SHARE = 0.1  # ... and of those that the unit has: a feed of the winter is not told apart by the few cold days of the others


def found(seen: Seen, coded: Coded, fine: Cells, target: str | None, classes: list[str]) -> tuple[Floats, Callable[[int], dict[str, Any]]]:
    """Return for each (as they are or shuffled, unit) how far the most crowded cell is beyond what is usual, and a function that tells of it.

    The value is G of the count: twice its log likelihood over that of the usual one.

    Parameters
    ----------
    coded : the columns whose pairs are looked at.
    fine : the columns, finely, of which the rest shall have the unit's mix.
    """
    within = [(codes * seen.classes + seen.labels, size * seen.classes) for codes, size in fine]
    weights = [mixes.weights(seen, within, which) for which in (0, 1)]
    each = np.array([(each**2).sum() / max(each.sum(), 1e-9) for row in weights for each in row]).reshape(2, seen.units, 1)
    best = np.zeros((2, seen.units))
    where: list[tuple[dict[str, int], int, float, float]] = [({}, 0, 0.0, 0.0)] * seen.units
    for first, second in combinations(coded, 2):
        a, b, labels = len(coded[first][1]), len(coded[second][1]), seen.classes
        cells, size = (coded[first][0] * b + coded[second][0]) * labels + seen.labels, a * b * labels
        n = seen.counted(cells, size)
        alike = np.stack([[np.bincount(cells, mine, size) for mine in row] for row in weights])
        usual = alike + np.sqrt(alike * each) + each  # at its upper end: what is rare is not known well
        expected = np.maximum(np.maximum(usual, _by_margins(n, seen.rest(n), (a, b, labels))), 0.5)
        g = np.where(n > expected, 2.0 * (n * np.log(np.maximum(n, 1.0) / expected) - (n - expected)), 0.0)
        value = g.max(2)
        for place in np.flatnonzero(value[0] > best[0]):
            top = int(g[0, place].argmax())
            cell, label = divmod(top, labels)
            one, two = divmod(cell, b)
            where[place] = ({first: one, second: two}, label, float(n[0, place, top]), float(expected[0, place, top]))
        best = np.maximum(best, value)

    def told(place: int) -> dict[str, Any]:
        slices, label, rows, usual = where[place]
        at = {name: coded[name][1][code] for name, code in slices.items()}
        words = " and ".join(f"{name} {value}" for name, value in at.items())
        same = f", all with {target} {classes[label]!r}" if target is not None else ""
        return {"about": f"{rows:.0f} rows with {words}{same}, where about {usual:.0f} would be usual", "slice": at}

    return best, told


def _by_margins(n: Floats, rest: Floats, shape: tuple[int, int, int]) -> Floats:
    """Return what independence makes of a unit's own shares, where the rest knows a value too little; zero elsewhere."""
    mine, others = n.reshape(2, -1, *shape), rest.reshape(2, -1, *shape)
    one, two = mine.sum(3, keepdims=True), mine.sum(2, keepdims=True)
    unknown = (others.sum(3, keepdims=True) < np.maximum(_KNOWN, _SHARE * one)) | (others.sum(2, keepdims=True) < np.maximum(_KNOWN, _SHARE * two))
    independent = one * two / np.maximum(mine.sum((2, 3), keepdims=True), 1.0)
    return np.where(unknown, independent, 0.0).reshape(n.shape)
