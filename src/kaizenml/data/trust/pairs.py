"""Pairs of values that come together too often in a source, with one label: what a planted trigger looks like.

A source may have another mix of everything. So the rest's rows are weighted until they have the source's share of each value of each column
within each label (raking, Deming and Stephan 1940); what then differs in two columns together is more than another mix.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np

from kaizenml.data.trust.coding import Coded
from kaizenml.data.trust.units import Bools, Floats, Ints, Seen

_ROUNDS = 6
_KNOWN = 10.0  # rows of a value that the rest must have to tell what it comes with ...
_SHARE = 0.1  # ... and of those that the unit has: a feed of the winter is not told apart by the few cold days of the others


def found(seen: Seen, coded: Coded, target: str | None, classes: list[str]) -> tuple[Floats, Callable[[int], dict[str, Any]]]:
    """Return for each (as they are or shuffled, unit) how far the most crowded cell is beyond what is usual, and a function that tells of it.

    The value is G of the count: twice its log likelihood over that of the usual one.
    """
    weights = _weights(seen, coded)
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


def _weights(seen: Seen, coded: Coded) -> list[list[Floats]]:
    """Return by (as they are or shuffled, unit) weights of all rows that give the unit's rest the unit's mix."""
    cells = [(codes * seen.classes + seen.labels, len(levels) * seen.classes) for codes, levels in coded.values()]
    return [[_raked(cells, by == place, seen.rest_of(which, place)) for place in range(seen.units)] for which, by in enumerate(seen.by)]


def _raked(cells: list[tuple[Ints, int]], mine: Bools, rest: Bools) -> Floats:
    found = np.zeros(len(mine))
    weights = np.full(int(rest.sum()), mine.sum() / max(rest.sum(), 1))
    parts = [(codes[rest], np.bincount(codes[mine], minlength=size), size) for codes, size in cells]
    for _ in range(_ROUNDS):
        for codes, wanted, size in parts:
            weights *= ((wanted + 1.0) / (np.bincount(codes, weights, size) + 1.0))[codes]
    found[rest] = weights
    return found
