"""Who is compared with whom in the poison scan: rows by source, a trusted source in blocks, and what each is beside the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FEWEST = 100
"""Rows of a source that are needed to say anything of it."""
MOST_ROWS, MOST_OF_ONE = 30_000, 10_000
_BLOCKS = 8


class Unit(NamedTuple):
    """Rows that are judged together: an untrusted source, or a block of a trusted one."""

    source: str
    trusted: bool
    rows: int
    tells: float = 1.0  # how much it says of how sources differ: blocks of one source, mixed, say nothing of it
    beside: bool = True  # whether others are compared with it


class Seen:
    """The rows by unit, once as they are and once shuffled: what is found in a shuffled column is chance."""

    def __init__(self, of: Ints, units: Sequence[Unit], labels: Ints, classes: int, rng: np.random.Generator) -> None:
        self.units, self.labels, self.classes = len(units), labels, classes
        self.trusted = np.array([unit.trusted for unit in units])
        self.beside = np.array([unit.beside for unit in units])
        self.by = [of, rng.permutation(of)]

    def rest(self, sums: Floats) -> Floats:
        """Return for sums by (as they are or shuffled, unit, ...) those of the rest; a trusted unit's rest is the other trusted ones."""
        among = self.trusted & self.beside
        found: Floats = sums[:, self.beside].sum(1, keepdims=True) - sums * self.beside.reshape(-1, *[1] * (sums.ndim - 2))
        if among.sum() > 1:
            found[0, among] = sums[0, among].sum(0, keepdims=True) - sums[0, among]
        return found

    def rest_of(self, which: int, place: int) -> Bools:
        """Tell which rows are the rest of a unit, as they are (0) or shuffled (1)."""
        among = self.trusted & self.beside
        found: Bools = (among if which == 0 and among[place] and among.sum() > 1 else self.beside)[self.by[which]] & (self.by[which] != place)
        return found

    def counted(self, cells: Ints, size: int, weights: Floats | None = None) -> Floats:
        """Return sums by (as they are or shuffled, unit, cell)."""
        return np.stack([np.bincount(by * size + cells, weights, self.units * size).reshape(self.units, size).astype(np.float64) for by in self.by])


def sampled(sources: pa.ChunkedArray, untrusted: Sequence[str], rng: np.random.Generator) -> pa.Array:
    """Choose rows: the newest of each untrusted source, and of the others a sample; in their order."""
    encoded = sources.combine_chunks().dictionary_encode()
    codes, names = np.asarray(encoded.indices.to_numpy(), np.int64), encoded.dictionary.to_pylist()
    mine = [place for place, name in enumerate(names) if name in set(untrusted)]
    each = min(MOST_OF_ONE, MOST_ROWS // (2 * max(len(mine), 1)))
    chosen = [np.flatnonzero(codes == place)[-each:] for place in mine]
    others = np.flatnonzero(~np.isin(codes, mine))
    room = MOST_ROWS - sum(map(len, chosen))
    chosen.append(np.sort(rng.choice(others, room, replace=False)) if len(others) > room else others)
    return pa.array(np.sort(np.concatenate(chosen)))


def times(table: pa.Table, time: str | None) -> pa.Array:
    """Return a time for each row, in any unit; rows without one go by their place."""
    if time is None or time not in table.column_names or table[time].null_count:
        return pa.array(np.arange(table.num_rows, dtype=np.int64))
    return pa.array(np.asarray(table[time].cast(pa.int64()).to_numpy(), np.int64))


def units(sources: pa.ChunkedArray, untrusted: set[str], when: pa.Array, rng: np.random.Generator, *, timed: bool) -> tuple[list[Unit], Ints, bool]:
    """Part the rows: an untrusted source is one unit, a trusted one is cut into blocks. Small ones join the last.

    Blocks lie in time as the untrusted rows do: mixed within their span where trusted rows are there too, one after the other elsewhere.

    Parameters
    ----------
    when : time of each row, or its place where ``timed`` is false.

    Returns
    -------
    The units, the unit of each row, and whether trusted and untrusted rows are of the same times.
    """
    names = np.array(sources.to_pylist(), dtype=object)
    at = np.asarray(when.to_numpy(), np.int64)
    counts = {name: int((names == name).sum()) for name in dict.fromkeys(names) if name is not None}
    known = [name for name, rows in counts.items() if rows >= FEWEST]
    judged = [name for name in known if name in untrusted]
    trusted = [name for name in known if name not in untrusted]
    low, high = _span(at[np.isin(names, judged)]) if judged else (0, 0)
    beside = (at >= low) & (at <= high)
    within = {name: int((beside & (names == name)).sum()) for name in trusted}
    enough = timed and sum(within.values()) >= max(2 * FEWEST, *(counts[name] for name in judged), 0)
    mixed = {name for name, rows in within.items() if rows >= (FEWEST if enough else max(counts[name] // 4, 2 * FEWEST))}
    if timed and len(trusted) > 1 and not mixed:  # what differs is the time and not who sends: they are one, cut in time
        names[np.isin(names, trusted)] = trusted[0]
        trusted = trusted[:1]
    size = max([2 * FEWEST, *(counts[name] for name in judged)])
    apart = 4 if len(trusted) == 1 else 1  # blocks that make enough to compare with
    of = np.full(len(names), -1, np.int64)
    found: list[Unit] = []
    for name in judged:
        of[names == name] = len(found)
        found.append(Unit(name, False, counts[name]))
    for name in [name for name in trusted if name in mixed or not enough]:
        rows = np.flatnonzero((names == name) & beside if name in mixed else names == name)
        rows = rng.permutation(rows) if name in mixed else rows[np.argsort(at[rows], kind="stable")]
        blocks = int(np.clip(max(len(rows) // size, min(apart, len(rows) // (FEWEST // 2))), 1, _BLOCKS))
        tells = 1.0 if timed and name not in mixed else 0.0 if len(trusted) == 1 else 1.0 / blocks
        for block in np.array_split(rows, blocks):
            of[block] = len(found)
            found.append(Unit(name, True, len(block), tells))
    left = int((of < 0).sum())  # too few, or of other times: not to be compared with, yet they teach
    of[of < 0] = len(found)
    return ([*found, Unit("", True, left, beside=not mixed)] if left else found), of, bool(mixed)


def _span(at: Ints) -> tuple[int, int]:
    """Return the first and the last time, but for those further from most than most span: dates gone wrong.

    Thin ends count in full: were rows there judged beside a few of others, what came on other days would seem to be planted.
    """
    low, high = np.quantile(at, [0.05, 0.95])
    sound = at[(at >= low - (high - low)) & (at <= high + (high - low))]
    return int(sound.min()), int(sound.max())
