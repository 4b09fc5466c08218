"""Boosted trees for many rows at once, as tables of bits: what a batch of rows costs falls to a half or a third.

Walking a tree is a chain of jumps that a processor cannot foresee, and for rows it has not seen that is nearly all it does. Here
nothing jumps. Each tree has a word with a bit for each leaf, from left to right. A split that sends a row to the right strikes out
the leaves on its left; the first leaf that is left when all splits were looked at is where the row ends (Lucchese et al., "QuickScorer",
SIGIR 2015). All splits on one input that a value fails are struck out at once: for each place between the sorted thresholds of
an input a table holds what is left of every tree. So a batch costs one gather and one AND for each input, and a search for all of them.

Leaf values are added in the order of the trees, as LightGBM adds them, so that scores are its own to the bit.
Hot path: imports only the standard library and numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_BYTES = 8_000_000  # of tables for one model: larger ones fall out of the processor's caches, and five releases share a small machine
BLOCK = 128  # rows taken together, for the same reason
MOST_LEAVES = 64
WIDEST = 5  # inputs for each level of the trees, in words of 4 bytes: beyond it walking is quicker (measured with 200 trees)
_CATEGORICAL, _DEFAULT_LEFT, _MISSING, _MISSING_ZERO, _MISSING_NAN = 1, 2, 12, 4, 8  # bits of decision_type
_ZERO = float(np.float32(1e-35))  # what is not farther from 0 is 0 to LightGBM
_IDENTITIES = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")


class Unsuited(Exception):
    """The model is one for which there are no tables."""


class TreeTables:
    """A LightGBM model's trees as tables.

    Parameters
    ----------
    text : the model in LightGBM's text format.

    Raises
    ------
    Unsuited : the model is too large, or holds what is not dealt with here (linear leaves, random forests, rare objectives).
    """

    def __init__(self, text: str) -> None:
        head, *trees = text.partition("\nend of trees")[0].split("\nTree=")
        settings = _settings(head)
        self._classes = int(settings.get("num_tree_per_iteration", "1"))
        self._link = _link(settings, self._classes)
        if "\naverage_output" in head or not trees or len(trees) % self._classes:
            raise Unsuited("not a sum of trees")
        splits = _Splits(trees)
        self._tables = splits.tables()
        numbers = [table for table in self._tables if not table.codes]
        self._numbers = np.array([table.place for table in numbers], np.intp)
        self._places = _Places([table.edges for table in numbers])
        self._word = splits.word
        self._leaves = splits.leaves.ravel()
        # the exponent of a float is the place of its only bit
        self._first = np.arange(len(trees), dtype=np.int32) * splits.leaves.shape[1] - 127
        self._mask = np.empty((BLOCK, len(trees)), splits.word)
        self._part = np.empty_like(self._mask)

    def scores(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return (rows, outputs) as ``Booster.predict`` gives them. Not for several threads at once."""
        raw = np.empty((len(vectors), self._classes))
        for begin in range(0, len(vectors), BLOCK):
            raw[begin : begin + BLOCK] = self._sums(vectors[begin : begin + BLOCK])
        return self._link(raw)

    def probes(self, width: int, count: int) -> NDArray[np.float32]:
        """Return rows that lie on, before and behind thresholds, on codes of categories, far out, and nowhere (NaN)."""
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(count, width)).astype(np.float32)
        far = np.array([0.0, np.nan, 1e30, -1e30], np.float32)
        for table in self._tables:
            edges = table.edges.astype(np.float32)
            near = [np.nextafter(edges, np.float32(side)) for side in (np.inf, -np.inf)]
            rows[:, table.place] = rng.choice(np.concatenate([edges, *near, far]), count)
        return rows

    def _sums(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        rows = len(vectors)
        columns = vectors.T.astype(np.float64)
        columns[np.abs(columns) <= _ZERO] = 0.0
        mask, part = self._mask[:rows], self._part[:rows]
        mask.fill(np.iinfo(self._word).max)
        found = iter(self._places.find(columns[self._numbers]))
        for table in self._tables:
            places = _codes_of(columns[table.place], table.codes) if table.codes else next(found)
            table.bits.take(places, axis=0, out=part, mode="clip")
            np.bitwise_and(mask, part, out=mask)
        lowest = mask & (~mask + self._word(1))
        leaves = lowest.astype(np.float32).view(np.int32) >> 23
        leaves += self._first
        values = self._leaves.take(leaves.T).reshape(-1, self._classes, rows)
        sums: NDArray[np.float64] = np.add.reduce(values, axis=0)  # along the first axis: one tree after the other
        return sums.T


class _Places:
    """Where values lie among sorted edges, for all inputs at once.

    A search that halves and halves is a chain of jumps again. So each input's range is cut into cells of one width, and what is left to
    be looked for are the edges within a cell: seldom more than a few, and the steps are the same for all values.
    """

    def __init__(self, edges: list[NDArray[np.float64]]) -> None:
        most = max(map(len, edges), default=1)
        count = min(2 ** math.ceil(math.log2(2 * most + 2)), 1024)
        finite = [one[np.isfinite(one)] if np.isfinite(one).any() else np.zeros(1) for one in edges]
        self._low = np.array([one[0] for one in finite]).reshape(-1, 1)
        self._high = np.array([one[-1] for one in finite]).reshape(-1, 1)
        width = self._high - self._low
        self._steepness = np.divide(count - 1, width, out=np.zeros_like(width), where=width > 0)
        self._begin = np.arange(len(edges)).reshape(-1, 1) * count  # of each input's cells
        padded = np.full((len(edges), 2 * most + 1), np.inf)
        for row, one in zip(padded, edges, strict=True):
            row[: len(one)] = one
        self._row = np.arange(len(edges)).reshape(-1, 1) * padded.shape[1]
        held = np.zeros((len(edges), count), np.intp)
        inner = self._cells(padded[:, :most])
        for number, one in enumerate(edges):
            np.add.at(held.reshape(-1), inner[number, : len(one)], 1)
        self._first = (np.cumsum(held, axis=1) - held + self._row).ravel()  # the place of each cell's first edge
        self._steps = [1 << step for step in reversed(range(int(held.max(initial=0)).bit_length()))]
        self._edges = padded.ravel()
        self._missing = np.array([len(one) + 1 for one in edges], np.intp).reshape(-1, 1)

    def find(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return for each value (inputs, rows) how many edges are below it; for NaN one more than there could be."""
        places = self._first.take(self._cells(values))
        for step in self._steps:
            places += np.multiply(self._edges.take(places + (step - 1)) < values, step, dtype=np.intp)
        places -= self._row
        nowhere = np.isnan(values)
        return np.where(nowhere, self._missing, places) if nowhere.any() else places

    def _cells(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        within = np.fmin(np.fmax(values, self._low), self._high)  # NaN lies somewhere too
        within -= self._low
        within *= self._steepness
        cells: NDArray[np.intp] = within.astype(np.intp)
        cells += self._begin
        return cells


class _Table:
    """The splits on one input: for each place of a value, what is left of every tree."""

    def __init__(self, place: int, edges: NDArray[np.float64], bits: NDArray[Any], codes: int = 0) -> None:
        self.place = place
        self.edges = edges
        self.bits = bits
        self.codes = codes  # of a category; 0: a number


class _Splits:
    """All splits of all trees, and the leaves in their order from left to right."""

    def __init__(self, trees: list[str]) -> None:
        fields = [_settings(tree) for tree in trees]
        most = max(int(tree["num_leaves"]) for tree in fields)
        if most > MOST_LEAVES or any(tree.get("is_linear", "0") != "0" for tree in fields):
            raise Unsuited("leaves that do not fit")
        self.word: type[np.uint32] | type[np.uint64] = np.uint32 if most <= 32 else np.uint64
        self.leaves = np.zeros((len(trees), most))
        places: list[int] = []
        thresholds: list[float] = []
        decisions: list[int] = []
        of_tree: list[int] = []
        struck: list[int] = []
        self.codes: dict[int, NDArray[np.bool_]] = {}  # of a categorical split: which codes go left
        for number, tree in enumerate(fields):
            values = np.array(tree["leaf_value"].split(), np.float64)
            order, spans = _order(tree)
            self.leaves[number, : len(values)] = values[order]
            if len(values) == 1:
                continue
            kinds = list(map(int, tree["decision_type"].split()))
            bounds = [float(text) for text in tree["threshold"].split()]
            for split, kind in enumerate(kinds):
                if kind & _CATEGORICAL:
                    self.codes[len(places) + split] = _codes(tree, int(bounds[split]))
            places += map(int, tree["split_feature"].split())
            thresholds += bounds
            decisions += kinds
            of_tree += [number] * len(kinds)
            struck += [~(((1 << size) - 1) << begin) & ((1 << 8 * self.word(0).nbytes) - 1) for begin, size in spans]
        self.place = np.array(places, np.intp)
        self.threshold = np.array(thresholds)
        self.decision = np.array(decisions, np.intp)
        self.tree = np.array(of_tree, np.intp)
        self.struck = np.array(struck, self.word)
        if (self.decision & _MISSING == _MISSING_ZERO).any():
            raise Unsuited("zeros that mean missing")
        words = self.word(0).nbytes // 4
        if len(set(places)) * words > WIDEST * np.log2(max(most, 2)) * 2.5:
            raise Unsuited("so many inputs that walking is quicker")

    def tables(self) -> list[_Table]:
        """Return a table for each input that a tree looks at."""
        size, made = 0, []
        for place in np.unique(self.place).tolist():
            mine = np.flatnonzero(self.place == place)
            categorical = self.decision[mine] & _CATEGORICAL != 0
            if categorical.any() and not categorical.all():
                raise Unsuited("an input that is a number here and a category there")
            made.append(self._of_categories(place, mine) if categorical.any() else self._of_numbers(place, mine))
            size += made[-1].bits.nbytes
            if size > LARGEST_BYTES:
                raise Unsuited("too large")
        return made

    def _of_numbers(self, place: int, mine: NDArray[np.intp]) -> _Table:
        edges = np.unique(self.threshold[mine])
        bits = self._blank(len(edges) + 2)
        where = np.searchsorted(edges, self.threshold[mine])
        np.bitwise_and.at(bits, (where + 1, self.tree[mine]), self.struck[mine])
        np.bitwise_and.accumulate(bits[:-1], axis=0, out=bits[:-1])
        kinds = self.decision[mine]
        right = np.where(kinds & _MISSING == _MISSING_NAN, kinds & _DEFAULT_LEFT == 0, self.threshold[mine] < 0.0)  # else NaN is 0
        np.bitwise_and.at(bits, (np.full(right.sum(), len(edges) + 1), self.tree[mine[right]]), self.struck[mine[right]])
        return _Table(place, edges, bits)

    def _of_categories(self, place: int, mine: NDArray[np.intp]) -> _Table:
        count = max(len(self.codes[split]) for split in mine.tolist())
        bits = self._blank(count + 1)
        for split in mine.tolist():
            left = self.codes[split]
            right = np.append(~left, np.ones(count + 1 - len(left), np.bool_))
            bits[right, self.tree[split]] &= self.struck[split]
        return _Table(place, np.arange(-1.0, count + 1), bits, count)

    def _blank(self, rows: int) -> NDArray[Any]:
        return np.full((rows, len(self.leaves)), np.iinfo(self.word).max, self.word)


def _codes_of(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    return np.where((values > -1) & (values < count), values, count).astype(np.intp)


def _settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.split("\n") if "=" in line)


def _order(tree: dict[str, str]) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the leaves from left to right, and for each split where the leaves on its left begin and how many they are."""
    if tree["num_leaves"] == "1":
        return [0], []
    left, right = (list(map(int, tree[side].split())) for side in ("left_child", "right_child"))
    sizes = [0] * len(left)

    def size(child: int) -> int:
        return sizes[child] if child >= 0 else 1

    for split in reversed(range(len(left))):  # a split is numbered before those below it
        sizes[split] = size(left[split]) + size(right[split])
    begins = [0] * len(left)
    order = [0] * (len(left) + 1)
    for split, children in enumerate(zip(left, right, strict=True)):
        begin = begins[split]
        for child in children:
            if child >= 0:
                begins[child] = begin
            else:
                order[begin] = ~child
            begin += size(child)
    return order, [(begins[split], size(left[split])) for split in range(len(left))]


def _codes(tree: dict[str, str], which: int) -> NDArray[np.bool_]:
    begin, end = list(map(int, tree["cat_boundaries"].split()))[which : which + 2]
    words = np.array(tree["cat_threshold"].split()[begin:end], np.uint32)
    return np.unpackbits(words.view(np.uint8), bitorder="little").astype(np.bool_)


def _link(settings: dict[str, str], classes: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    kind, *how = settings.get("objective", "").split()
    if kind == "binary" and classes == 1:
        steepness = float(dict(part.split(":") for part in how)["sigmoid"])
        return lambda raw: _sigmoid(steepness * raw)
    if kind == "multiclass":
        return _softmax
    if kind in _IDENTITIES and "sqrt" not in how:
        return lambda raw: raw
    raise Unsuited(f"the objective {kind!r}")


def _sigmoid(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + _exp(-raw))


def _softmax(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = _exp(raw - raw.max(axis=1, keepdims=True))
    total = np.add.reduce(np.ascontiguousarray(powers.T), axis=0)  # one class after the other
    shares: NDArray[np.float64] = powers / total[:, None]
    return shares


def _exp(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """The C library's, as LightGBM takes it: numpy's own differs in the last digit."""
    try:
        powers = np.fromiter(map(math.exp, raw.ravel().tolist()), np.float64, raw.size)
    except OverflowError:
        with np.errstate(over="ignore"):  # infinite
            powers = np.exp(raw)
    return powers.reshape(raw.shape)
