"""Honest sources have different mixes of everything: the rest's rows are weighted until they have the mix of the unit beside them.

Raking (Deming and Stephan 1940): the weights of each value's rows are multiplied until they sum to the unit's, column by column, again and again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kaizenml.data.trust.units import Bools, Floats, Ints, Seen

Cells = Sequence[tuple[Ints, int]]
"""By column: the cell of each row, and how many cells there are."""
_ROUNDS = 6


def weights(seen: Seen, cells: Cells, which: int = 0, *, shared: float = 0.0) -> list[Floats]:
    """Return by unit weights of all rows that give the unit's rest the unit's share of each cell; zero for rows not of the rest.

    Parameters
    ----------
    which : 0 for the units as they are, 1 for shuffled ones.
    shared : share of a unit's rows, in [0, 1], that must lie in cells of the rest; else the column is left out. Where each source has a name or
        place of its own in a column, a stray row of another's would give nearly all weight to that one's rows.
    """
    by = seen.by[which]
    return [_raked(cells, by == place, seen.rest_of(which, place), shared) for place in range(seen.units)]


def _raked(cells: Cells, mine: Bools, rest: Bools, shared: float) -> Floats:
    found = np.zeros(len(mine))
    weights = np.full(int(rest.sum()), mine.sum() / max(rest.sum(), 1))
    parts = []
    for codes, size in cells:
        wanted = np.append(np.bincount(codes[mine], minlength=size), 0)
        there = np.bincount(codes[rest], minlength=size) > 0
        if wanted[:-1][there].sum() >= shared * mine.sum():
            parts.append((np.where(wanted[:-1] > 0, np.arange(size), size)[codes[rest]], wanted))  # what the unit has not is one cell
    for _ in range(_ROUNDS):
        for codes, wanted in parts:
            weights *= ((wanted + 1.0) / (np.bincount(codes, weights, len(wanted)) + 1.0))[codes]
    found[rest] = weights
    return found
