"""The poison scan: does a source teach what the others do not? Label shift, pairs of values that come too often, and surprise.

A row of an untrusted source is judged by a model of the other sources only. Three statistics, each compared with what the other sources
(the trusted ones in blocks) and a shuffled source column give:

- *surprise*: the score test for a share of flipped labels (see ``flips``);
- *label shift*: residuals of the source against the rest's, over all rows and in slices of one and of two columns;
- *pairs*: cells of two columns within a label that hold more rows than the rest's would, had they the source's mix (see ``pairs``).

It is a pure function of a table: nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.dataset import Suspicion
from kaizenml.data.trust import coding, flips, mixes, pairs
from kaizenml.data.trust.coding import Coded
from kaizenml.data.trust.units import FEWEST, Floats, Ints, Seen, Unit, sampled, times, units

MOST_COLUMNS = 30
_CHANCE = 0.004  # of an honest addition to be told of for surprise; scores are skew, so that it is up to half as much again
_MARGIN = {"label": 1.5, "pairs": 1.3}  # how far beyond the largest of the others; pairs: how many times
_FLOOR = {"label": 5.5, "pairs": 30.0}
_FEW = 5  # with fewer to compare with, what is usual is known less well:
_FLOOR_OF_FEW = {"label": 7.0, "pairs": 80.0}


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan looked at and found."""

    sources: list[str]  # untrusted ones that were looked at
    compared: int  # other sources, or blocks of them
    rows: int
    columns: int
    skipped: str = ""  # why nothing was looked at
    findings: list[Suspicion] = []


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
    rows = sampled(sources, untrusted, rng)
    table, sources = table.take(rows), sources.take(rows)
    when = times(table, time)
    apart, of, together = units(sources, set(untrusted), when, rng, timed=time is not None)
    judged = [place for place, unit in enumerate(apart) if not unit.trusted]
    usable = [name for name in columns if name != target][:MOST_COLUMNS]
    empty = Scan(sources=[apart[place].source for place in judged], compared=len(apart) - 1, rows=table.num_rows, columns=len(usable))
    if not judged:
        return msgspec.structs.replace(empty, skipped=f"no source that is not internal has {FEWEST} rows")
    if len(apart) < 2:
        return msgspec.structs.replace(empty, skipped="there is no other source to compare with")
    values = {name: table[name] for name in usable}
    alike = together or time is None
    if alike:
        values["the time of the row"] = pa.chunked_array([when])
    coded = {name: cells for name, column in values.items() if len((cells := coding.coded(column))[1]) > 1}
    fine = [coding.finely(values[name]) for name in coded]
    labels, classes = coding.labels(table[target]) if target is not None else (np.zeros(table.num_rows, np.int64), ["all"])
    seen = Seen(of, apart, labels, len(classes), rng)
    found: list[Suspicion] = []
    if target is not None:
        inputs = [coding.numbers(table[name]) for name in usable]
        if time is not None and together:  # of times that the others have not seen a model could say nothing
            inputs.append(np.asarray(when.to_numpy(), np.float64))
        expected = flips.expected(np.column_stack(inputs or [np.zeros(len(of))]), of, apart, seen, rng)
        # of other times the rest has too few rows of the same mix: all of them tell more
        found += _surprised(expected, mixes.weights(seen, fine if alike else [], shared=0.5), seen, apart, judged)
        found += _beyond("label", *_shift(seen, coded, expected, target, classes), apart, judged)
    found += _beyond("pairs", *pairs.found(seen, coded, fine, target, classes), apart, judged)
    found.sort(key=lambda one: -one.value / one.limit)
    return msgspec.structs.replace(empty, findings=found)


def _surprised(expected: Floats, alike: list[Floats], seen: Seen, apart: Sequence[Unit], judged: Sequence[int]) -> list[Suspicion]:
    """Tell of sources whose labels are more surprising than chance and what the others differ by."""
    both = flips.parts(expected, alike, seen)
    largest = {place: max(abs(float(part.difference[place])) / float(part.variance[place]) ** 0.5 for part in both) for place in judged}
    limit = NormalDist().inv_cdf(1.0 - _CHANCE / len(judged))
    found: list[Suspicion] = []
    for place in judged:
        others = _others(apart, judged, place, largest)
        value, share = flips.surprise(both, place, others, [apart[other].tells for other in others])
        if value > limit:
            about = f"about {max(share, 0.0):.1%} of its labels are as if flipped"
            found.append(Suspicion(source=apart[place].source, kind="surprise", value=value, limit=limit, rows=apart[place].rows, about=about))
    return found


def _beyond(kind: str, values: Floats, told: Callable[[int], dict[str, Any]], apart: Sequence[Unit], judged: Sequence[int]) -> list[Suspicion]:
    """Tell of sources with a value, by (as they are or shuffled, unit), beyond the others'."""
    return [
        Suspicion(source=apart[place].source, kind=kind, value=float(values[0, place]), limit=limit, rows=apart[place].rows, **told(place))
        for place, limit in zip(judged, _limits(kind, values, apart, judged), strict=True)
        if values[0, place] > limit
    ]


def _others(apart: Sequence[Unit], judged: Sequence[int], place: int, values: Mapping[int, float]) -> list[int]:
    """Return the units that tell what is usual: trusted ones, where there is more than one, and other untrusted ones.

    Of these not the one with the largest value: it may be poisoned itself, and must not hide this one.
    """
    known = [other for other, unit in enumerate(apart) if unit.trusted and unit.source]
    trusted = known if len(known) > 1 else []  # one alone could only be compared with those it shall judge
    others = sorted((other for other in judged if other != place), key=lambda other: values[other])
    return [*trusted, *(others[:-1] if known or len(others) > 2 else others)]


def _shift(seen: Seen, coded: Coded, expected: Floats, target: str, classes: list[str]) -> tuple[Floats, Callable[[int], dict[str, Any]]]:
    """Compare residuals of each unit with the rest's, over all rows and in slices, there beside what holds for all of the unit's rows."""
    best = np.zeros((2, seen.units))
    where: list[tuple[list[tuple[str, int]], int, float, float]] = [([], 0, 0.0, 0.0)] * seen.units
    for label in range(1 if len(classes) == 2 else 0, min(len(classes), coding.CLASSES)):
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

    return best, told


def _limits(kind: str, values: Floats, apart: Sequence[Unit], judged: Sequence[int]) -> list[float]:
    """Return for each judged unit what it must exceed: the largest of the others and of the shuffled ones, with a margin.

    What a difference between sources makes of a statistic grows with the rows, so that of a smaller unit is scaled up.
    """
    limits = []
    floor = (_FLOOR if len(apart) > _FEW else _FLOOR_OF_FEW)[kind]
    for place in judged:
        more = {other: max(apart[place].rows / apart[other].rows, 1.0) for other in range(len(apart))}
        scaled = {other: float(values[0, other]) * (rows if kind == "pairs" else rows**0.5) for other, rows in more.items()}
        bar = max([*(scaled[other] for other in _others(apart, judged, place, scaled)), *values[1].tolist()])
        limits.append(max(floor, bar * _MARGIN[kind] if kind == "pairs" else bar + _MARGIN[kind]))
    return limits


def _slices(coded: Coded, rows: int) -> Iterator[tuple[list[str], Ints, int]]:
    """Yield all rows, each column's values, and each pair of columns' values, as cells."""
    yield [], np.zeros(rows, np.int64), 1
    for name, (codes, levels) in coded.items():
        yield [name], codes, len(levels)
    for first, second in combinations(coded, 2):
        (one, a), (two, b) = coded[first], coded[second]
        yield [first, second], one * len(b) + two, len(a) * len(b)


def _named(names: list[str], coded: Coded, cell: int) -> list[tuple[str, int]]:
    if len(names) < 2:
        return [(name, cell) for name in names]
    return [*zip(names, divmod(cell, len(coded[names[1]][1])), strict=True)]
