"""The poison scan: does a source teach what the others do not? Label shift, pairs of values that come too often, and surprise.

A row of an untrusted source is judged by a model of the other sources only. Three statistics, each compared with what the other sources
(the trusted ones in blocks) and a shuffled source column give:

- *surprise*: the score test for a share of flipped labels, sum of p(other)/p(label) - 1;
- *label shift*: residuals of the source against the rest's, over all rows and in slices of one and of two columns;
- *pairs*: cells of two columns within a label that hold more rows than the source's own margins and the rest's dependence explain.

It is a pure function of a table: nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.dataset import Suspicion

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FEWEST = 100
"""Rows of a source that are needed to say anything of it."""
MOST_ROWS, MOST_OF_ONE, MOST_COLUMNS = 30_000, 10_000, 30
_BINS, _BLOCKS, _FOLDS, _CLASSES = 10, 8, 4, 5
_MARGIN = {"surprise": 1.0, "label": 1.5, "pairs": 1.3}  # how far beyond the largest of the others; pairs: how many times
_FLOOR = {"surprise": 3.0, "label": 5.5, "pairs": 30.0}
_FEW = 5  # with fewer to compare with, what is usual is known less well:
_FLOOR_OF_FEW = {"surprise": 4.5, "label": 7.0, "pairs": 80.0}


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan looked at and found."""

    sources: list[str]  # untrusted ones that were looked at
    compared: int  # other sources, or blocks of them
    rows: int
    columns: int
    skipped: str = ""  # why nothing was looked at
    findings: list[Suspicion] = []


class _Unit(NamedTuple):
    """Rows that are judged together: an untrusted source, or a block of a trusted one."""

    source: str
    trusted: bool
    rows: int


def scan(
    table: pa.Table, sources: pa.ChunkedArray, untrusted: Sequence[str], *, target: str | None, columns: Sequence[str], time: str | None = None,
    seed: int = 0,
) -> Scan:  # fmt: skip
    """Look for untrusted sources that stand out from the others.

    Parameters
    ----------
    table : rows in their order; with the target where there is one (rows without it do not count then).
    sources : name of each row's source.
    untrusted : names of the sources to judge.
    target : the column to predict; None looks at pairs only.
    columns : columns to look at: not the key, not the time.
    time : column with the time of each row, so that like is compared with like; None: the rows' order stands for it.

    Returns
    -------
    The findings, those of the strongest source first; ``skipped`` says why when there is nothing to compare.
    """
    found = left = _scanned(table, sources, untrusted, target=target, columns=columns, time=time, seed=seed)
    told: list[Suspicion] = []
    while left.findings:
        worst = left.findings[0].source
        told += [one for one in left.findings if one.source == worst]
        others = [one for one in left.findings if one.source != worst]
        if not others:
            break
        # beside rows that are spoilt, sound ones look odd: the others are judged again without them
        keep = pc.not_equal(sources, worst)
        table, sources, untrusted = table.filter(keep), sources.filter(keep), [name for name in untrusted if name != worst]
        left = _scanned(table, sources, untrusted, target=target, columns=columns, time=time, seed=seed)
        if left.skipped:  # nothing is left to compare them with
            told += others
    return msgspec.structs.replace(found, findings=told)


def _scanned(
    table: pa.Table, sources: pa.ChunkedArray, untrusted: Sequence[str], *, target: str | None, columns: Sequence[str], time: str | None, seed: int
) -> Scan:
    """Scan once, every source that is not trusted beside all others."""
    rng = np.random.default_rng(seed)
    if target is not None and table[target].null_count:
        known = pc.is_valid(table[target])
        table, sources = table.filter(known), sources.filter(known)
    rows = _sampled(sources, untrusted, rng)
    table, sources = table.take(rows), sources.take(rows)
    when = _times(table, time)
    units, of = _units(sources, set(untrusted), when, rng)
    judged = [place for place, unit in enumerate(units) if not unit.trusted]
    names = [units[place].source for place in judged]
    usable = [name for name in columns if name != target][:MOST_COLUMNS]
    empty = Scan(sources=names, compared=len(units) - 1, rows=table.num_rows, columns=len(usable))
    if not judged:
        return msgspec.structs.replace(empty, skipped=f"no source that is not internal has {FEWEST} rows")
    if len(units) < 2:
        return msgspec.structs.replace(empty, skipped="there is no other source to compare with")
    coded = {name: _coded(table[name]) for name in usable} | {"the time of the row": _coded(pa.chunked_array([when]))}
    coded = {name: found for name, found in coded.items() if len(found[1]) > 1}
    labels, classes = _labels(table[target]) if target is not None else (np.zeros(table.num_rows, np.int64), ["all"])
    seen = _Seen(of, np.array([unit.trusted for unit in units]), labels, len(classes), rng)
    found: list[Suspicion] = []
    for kind, values, told in _statistics(seen, coded, table, target, classes):
        limits = _limits(kind, values, units, judged)
        found += [
            Suspicion(source=units[place].source, kind=kind, value=float(values[0, place]), limit=limit, rows=int((of == place).sum()), **told(place))
            for place, limit in zip(judged, limits, strict=True)
            if values[0, place] > limit
        ]
    found.sort(key=lambda one: -one.value / one.limit)
    return msgspec.structs.replace(empty, findings=found)


class _Seen:
    """The rows by unit, once as they are and once shuffled: what is found in a shuffled column is chance."""

    def __init__(self, of: Ints, trusted: Bools, labels: Ints, classes: int, rng: np.random.Generator) -> None:
        self.units, self.trusted, self.labels, self.classes = len(trusted), trusted, labels, classes
        self.by = [of, rng.permutation(of)]

    def rest(self, sums: Floats) -> Floats:
        """Return for sums by (as they are or shuffled, unit, ...) those of the rest; a trusted unit's rest is the other trusted ones."""
        found: Floats = sums.sum(1, keepdims=True) - sums
        if self.trusted.sum() > 1:
            found[0, self.trusted] = sums[0, self.trusted].sum(0, keepdims=True) - sums[0, self.trusted]
        return found

    def counted(self, cells: Ints, size: int, weights: Floats | None = None) -> Floats:
        """Return sums by (as they are or shuffled, unit, cell)."""
        return np.stack(
            [np.bincount(by * size + cells, weights, self.units * size).reshape(self.units, size).astype(np.float64) for by in self.by]
        )


def _statistics(
    seen: _Seen, coded: dict[str, tuple[Ints, list[str]]], table: pa.Table, target: str | None, classes: list[str]
) -> Iterator[tuple[str, Floats, Any]]:
    """Yield each statistic by (as they are or shuffled, unit), with a function that tells a unit's in words."""
    if target is not None:
        expected = _expected(table, coded, seen)
        surprise = _surprise(expected, seen)
        values, share = surprise
        yield "surprise", values, lambda place: {"about": f"about {max(share[place], 0.0):.1%} of its labels are as if flipped"}
        yield from _shift(seen, coded, expected, target, classes)
    yield from _pairs(seen, coded, target, classes)


def _surprise(expected: Floats, seen: _Seen) -> tuple[Floats, Floats]:
    """Return the score for flipped labels of each unit against the rest, in standard errors, and the share of flips it amounts to."""
    own = np.clip(expected[np.arange(len(expected)), seen.labels], 0.02, 1.0)
    score = (1.0 - own) / (max(seen.classes - 1, 1) * own) - 1.0
    zero = np.zeros(len(score), np.int64)
    rows, total, square = (seen.counted(zero, 1, weights)[..., 0] for weights in (np.ones(len(score)), score, score**2))
    others = seen.rest(rows)
    mean, rest = total / rows, seen.rest(total) / others
    spread = np.maximum(seen.rest(square) / others - rest**2, 1e-9)
    return (mean - rest) / np.sqrt(spread * (1 / rows + 1 / others)), (mean - rest)[0] / spread[0]


def _shift(
    seen: _Seen, coded: dict[str, tuple[Ints, list[str]]], expected: Floats, target: str, classes: list[str]
) -> Iterator[tuple[str, Floats, Any]]:
    """Compare residuals of each unit with the rest's, over all rows and in slices, there beside what holds for all of the unit's rows."""
    best = np.zeros((2, seen.units))
    where: list[tuple[list[tuple[str, int]], int, float, float]] = [([], 0, 0.0, 0.0)] * seen.units
    for label in range(1 if len(classes) == 2 else 0, min(len(classes), _CLASSES)):
        p = expected[:, label]
        residual, variance = (seen.labels == label) - p, np.maximum(p * (1.0 - p), 1e-4)
        offset = np.zeros((2, seen.units, 1))
        for names, cells, size in _slices(coded, len(p)):
            r, v = seen.counted(cells, size, residual), seen.counted(cells, size, variance)
            rest_r, rest_v = seen.rest(r), seen.rest(v)
            shift = r / np.maximum(v, 1e-9) - rest_r / np.maximum(rest_v, 1e-9)
            z = np.abs(shift - offset) / np.sqrt(1 / np.maximum(v, 1e-9) + 1 / np.maximum(rest_v, 1e-9))
            z[(v < 3.0) | (rest_v < 3.0)] = 0.0
            if not names:
                offset = shift  # of all rows
            top = z.argmax(2)
            value = np.take_along_axis(z, top[..., None], 2)[..., 0]
            for place in np.flatnonzero(value[0] > best[0]):
                cell = int(top[0, place])
                where[place] = (_named(names, coded, cell), label, float(r[0, place, cell] / v[0, place, cell]), float(v[0, place, cell]))
            best = np.maximum(best, value)

    def told(place: int) -> dict[str, Any]:
        slices, label, shift, _ = where[place]
        at = {name: coded[name][1][code] for name, code in slices}
        words = " and ".join(f"{name} {value}" for name, value in at.items())
        way = "more" if shift > 0 else "less"
        return {"about": f"{target} is {classes[label]!r} far {way} often than the others teach{f', where {words}' if words else ''}", "slice": at}

    yield "label", best, told


def _pairs(seen: _Seen, coded: dict[str, tuple[Ints, list[str]]], target: str | None, classes: list[str]) -> Iterator[tuple[str, Floats, Any]]:
    """Find cells of two columns within a label that hold too many rows: G of the count against margins and the rest's dependence."""
    best = np.zeros((2, seen.units))
    where: list[tuple[list[tuple[str, int]], int, float, float]] = [([], 0, 0.0, 0.0)] * seen.units
    for first, second in combinations(coded, 2):
        a, b = len(coded[first][1]), len(coded[second][1])
        cells = (coded[first][0] * b + coded[second][0]) * seen.classes + seen.labels
        n = seen.counted(cells, a * b * seen.classes).reshape(2, seen.units, a, b, seen.classes)
        rest = seen.rest(n)
        rows, others = n.sum((2, 3), keepdims=True), rest.sum((2, 3), keepdims=True)
        in_a, in_b = n.sum(3, keepdims=True), n.sum(2, keepdims=True)
        rest_a, rest_b = rest.sum(3, keepdims=True), rest.sum(2, keepdims=True)
        # the rest's dependence of the two, at its upper end: what is rare there is not known well
        lift = (rest + np.sqrt(rest) + 1.0) * others / np.maximum(rest_a * rest_b, 1.0)
        lift = np.where((rest_a < 1.0) | (rest_b < 1.0), 1.0, lift)
        expected = np.maximum(in_a * in_b / np.maximum(rows, 1.0) * lift, 0.5)
        g = np.where(n > expected, 2.0 * (n * np.log(np.maximum(n, 1.0) / expected) - (n - expected)), 0.0)
        flat = g.reshape(2, seen.units, -1)
        top = flat.argmax(2)
        value = np.take_along_axis(flat, top[..., None], 2)[..., 0]
        for place in np.flatnonzero(value[0] > best[0]):
            cell, label = divmod(int(top[0, place]), seen.classes)
            one, two = divmod(cell, b)
            spot = (0, place, one, two, label)
            where[place] = ([(first, one), (second, two)], label, float(n[spot]), float(expected[spot]))
        best = np.maximum(best, value)

    def told(place: int) -> dict[str, Any]:
        slices, label, found, expected = where[place]
        at = {name: coded[name][1][code] for name, code in slices}
        words = " and ".join(f"{name} {value}" for name, value in at.items())
        same = f", all with {target} {classes[label]!r}" if target is not None else ""
        return {"about": f"{found:.0f} rows with {words}{same}, where about {expected:.0f} would be usual", "slice": at}

    yield "pairs", best, told


def _limits(kind: str, values: Floats, units: Sequence[_Unit], judged: Sequence[int]) -> list[float]:
    """Return for each judged unit what it must exceed: the largest of the trusted units and the shuffled ones, with a margin.

    Other untrusted sources count but for the largest of them: one that is poisoned itself must not hide this one. What a difference
    between sources makes of a statistic grows with the rows, so that of a smaller unit is scaled up.
    """
    limits = []
    floor = (_FLOOR if len(units) > _FEW else _FLOOR_OF_FEW)[kind]
    for place in judged:

        def scaled(other: int, mine: int = units[place].rows) -> float:
            more = max(mine / units[other].rows, 1.0)
            return float(values[0, other]) * (more if kind == "pairs" else more**0.5)

        known = [other for other, unit in enumerate(units) if unit.trusted and unit.source]
        trusted = [scaled(other) for other in known] if len(known) > 1 else []  # one alone could only be compared with those it shall judge
        others = sorted(scaled(other) for other in judged if other != place)
        bar = max([*trusted, *(others[:-1] if known or len(others) > 2 else others), *values[1].tolist()])
        limits.append(max(floor, bar * _MARGIN[kind] if kind == "pairs" else bar + _MARGIN[kind]))
    return limits


def _expected(table: pa.Table, coded: dict[str, tuple[Ints, list[str]]], seen: _Seen) -> Floats:
    """Return the probability of each label for each row, by a model that has seen no row of the row's unit."""
    import lightgbm

    x = np.column_stack([codes for codes, _ in coded.values()]).astype(np.float32) if coded else np.zeros((table.num_rows, 1), np.float32)
    fold_of_unit = np.zeros(seen.units, np.int64)
    order = np.argsort(-np.bincount(seen.by[0], minlength=seen.units), kind="stable")
    fold_of_unit[order] = np.arange(seen.units) % min(_FOLDS, seen.units)
    folds = fold_of_unit[seen.by[0]]
    found = np.zeros((table.num_rows, seen.classes))
    teach = seen.trusted[seen.by[0]]
    if teach.mean() < 0.3:  # too few to learn from them alone
        teach = np.ones(len(folds), bool)
    fewest = int(np.clip(teach.sum() // 20, 3, 30))
    parameters = {
        "objective": "multiclass" if seen.classes > 2 else "binary", "num_leaves": 15, "learning_rate": 0.15, "min_data_in_leaf": fewest,
        "verbosity": -1, "num_threads": 1, "max_bin": 15, "deterministic": True, "force_row_wise": True, "seed": 0,
    } | ({"num_class": seen.classes} if seen.classes > 2 else {})  # fmt: skip
    for fold in np.unique(folds):
        test = folds == fold
        known = teach & ~test
        y = seen.labels[known]
        if len(np.unique(y)) < 2:
            found[test] = np.bincount(seen.labels, minlength=seen.classes) / len(seen.labels)
            continue
        fitted = lightgbm.train(parameters, lightgbm.Dataset(x[known], y, free_raw_data=True), num_boost_round=50)
        answer = np.asarray(fitted.predict(x[test]))
        found[test] = answer if seen.classes > 2 else np.column_stack([1.0 - answer, answer])
    return np.clip(found, 1e-4, 1.0)


def _slices(coded: dict[str, tuple[Ints, list[str]]], rows: int) -> Iterator[tuple[list[str], Ints, int]]:
    """Yield all rows, each column's values, and each pair of columns' values, as cells."""
    yield [], np.zeros(rows, np.int64), 1
    for name, (codes, levels) in coded.items():
        yield [name], codes, len(levels)
    for first, second in combinations(coded, 2):
        (one, a), (two, b) = coded[first], coded[second]
        yield [first, second], one * len(b) + two, len(a) * len(b)


def _named(names: list[str], coded: dict[str, tuple[Ints, list[str]]], cell: int) -> list[tuple[str, int]]:
    if len(names) < 2:
        return [(name, cell) for name in names]
    return [*zip(names, divmod(cell, len(coded[names[1]][1])), strict=True)]


def _sampled(sources: pa.ChunkedArray, untrusted: Sequence[str], rng: np.random.Generator) -> pa.Array:
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


def _times(table: pa.Table, time: str | None) -> pa.Array:
    """Return a time for each row, in any unit; rows without one go by their place."""
    if time is None or time not in table.column_names or table[time].null_count:
        return pa.array(np.arange(table.num_rows, dtype=np.int64))
    return pa.array(np.asarray(table[time].cast(pa.int64()).to_numpy(), np.int64))


def _units(sources: pa.ChunkedArray, untrusted: set[str], when: pa.Array, rng: np.random.Generator) -> tuple[list[_Unit], Ints]:
    """Part the rows: an untrusted source is one unit, a trusted one is cut into blocks. Small ones join the last.

    Blocks lie in time as the untrusted rows do: mixed within their span where trusted rows are there too, one after the other elsewhere.
    """
    names = np.array(sources.to_pylist(), dtype=object)
    times = np.asarray(when.to_numpy(), np.int64)
    of = np.full(len(names), -1, np.int64)
    units: list[_Unit] = []
    counts = {name: int((names == name).sum()) for name in dict.fromkeys(names) if name is not None}
    known = [name for name, rows in counts.items() if rows >= FEWEST]
    judged = [name for name in known if name in untrusted]
    size = max([2 * FEWEST, *(counts[name] for name in judged)])
    trusted = [name for name in known if name not in untrusted]
    apart = 4 if len(trusted) == 1 else 1  # blocks that make enough to compare with
    low, high = np.quantile(times[np.isin(names, judged)], [0.05, 0.95]) if judged else (0, 0)
    for name in judged:
        of[names == name] = len(units)
        units.append(_Unit(name, False, counts[name]))
    for name in trusted:
        rows = np.flatnonzero(names == name)
        rows = rows[np.argsort(times[rows], kind="stable")]
        within = rows[(times[rows] >= low) & (times[rows] <= high)]
        if len(within) >= max(len(rows) // 4, 2 * FEWEST):
            rows = rng.permutation(within)
        blocks = int(np.clip(max(len(rows) // size, min(apart, len(rows) // (FEWEST // 2))), 1, _BLOCKS))
        for block in np.array_split(rows, blocks):
            of[block] = len(units)
            units.append(_Unit(name, True, len(block)))
    left = int((of < 0).sum())  # too few, or of other times: not to be compared with, yet they teach
    of[of < 0] = len(units)
    return ([*units, _Unit("", True, left)] if left else units), of


def _labels(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """Return the target as small numbers: its classes, or below and above the middle for a number of many values."""
    if pa.types.is_floating(column.type) or (pa.types.is_integer(column.type) and pc.count_distinct(column).as_py() > 20):
        values = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
        middle = float(np.median(values))
        return (values > middle).astype(np.int64), [f"at most {middle:.4g}", f"above {middle:.4g}"]
    return _levels(column, _CLASSES)


def _coded(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """Return a column as small numbers with a name for each: levels of a category, ranges of numbers."""
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_timestamp(column.type)
    if not numeric or pc.count_distinct(column).as_py() <= _BINS:
        return _levels(column, _BINS)
    plain = column.cast(pa.int64()).cast(pa.float64(), safe=False) if pa.types.is_timestamp(column.type) else column.cast(pa.float64(), safe=False)
    values = np.array(plain.to_numpy(), np.float64)
    known = values[np.isfinite(values)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else np.zeros(0)
    codes = np.searchsorted(edges, values, side="left")
    codes[~np.isfinite(values)] = len(edges) + 1
    bounds = [f"{edge:.4g}" for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(bounds)]
    names = [f"up to {bounds[0]}", *between, f"over {bounds[-1]}"] if bounds else ["any"]
    return codes.astype(np.int64), [*names, "missing"]


def _levels(column: pa.ChunkedArray, most: int) -> tuple[Ints, list[str]]:
    text = column.cast(pa.string()) if not pa.types.is_string(column.type) else column
    counts = pc.value_counts(pc.fill_null(text, "missing"))
    order = np.argsort(-counts.field("counts").to_numpy(), kind="stable")
    names = counts.field("values").take(pa.array(order)).to_pylist()
    kept = names[:most]
    codes = pc.index_in(pc.fill_null(text, "missing"), value_set=pa.array(kept, pa.string()))
    codes = np.asarray(pc.fill_null(codes, len(kept)).to_numpy(), np.int64)
    return codes, [*kept, "any other"] if len(names) > most else kept
