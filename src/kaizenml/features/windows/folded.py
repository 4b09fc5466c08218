"""Rows that are no longer kept one by one, as exact sums: whatever was folded when, the totals are those of all rows. Pure, hot path."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kaizenml.features.windows import aggregates as rules

_SUMMED = (float, int, bool)


class Column:
    """What is known of the folded values of one column. Sums are whole numbers in units of ``2**-shift``, of any length."""

    __slots__ = ("best", "count", "first", "fractional", "latest", "latest_at", "least", "shift", "squares", "total")

    def __init__(self) -> None:
        self.count = self.total = self.squares = self.shift = 0
        self.fractional = False
        self.least: Any = None
        self.best: Any = None
        self.first: Any = None
        self.latest: Any = None
        self.latest_at: int | None = None

    def add(self, values: Sequence[Any], times: Sequence[int]) -> None:
        """Take values that are all newer than those folded before."""
        kept = [(value, at) for value, at in zip(values, times, strict=True) if value is not None]
        if not kept:
            return
        plain = [value for value, _ in kept]
        if self.count == 0:
            self.first = plain[0]
        self.latest, self.latest_at = plain[-1], kept[-1][1]
        self.least = min(plain) if self.count == 0 else min(self.least, *plain)
        self.best = max(plain) if self.count == 0 else max(self.best, *plain)
        self._sum(plain)
        self.count += len(plain)

    def merge(self, newer: Column) -> None:
        """Take what is known of values that are all newer than those folded before."""
        if not newer.count:
            return
        if not self.count:
            self.first, self.least, self.best = newer.first, newer.least, newer.best
        self.latest, self.latest_at = newer.latest, newer.latest_at
        self.least, self.best = min(self.least, newer.least), max(self.best, newer.best)
        self._take(newer.total, newer.squares, newer.shift)
        self.fractional = self.fractional or newer.fractional
        self.count += newer.count

    def sum_with(self, values: Sequence[Any]) -> Any:
        """Return the sum over what is folded and these values, rounded once."""
        if self.fractional or (values and type(values[0]) is float):
            try:
                return math.fsum([*_doubles(self.total, self.shift), *values]) + 0.0  # in C: as exact, and quick over many values
            except OverflowError:
                pass
        _, total, _, shift, fractional = self.with_(values)
        return _rounded(total, shift, fractional=fractional)

    def with_(self, values: Sequence[Any]) -> tuple[int, int, int, int, bool]:
        """Return count, sum, sum of squares, shift and whether any was a fraction's type, over what is folded and these values."""
        other = Column()
        other.count, other.total, other.squares, other.shift, other.fractional = self.count, self.total, self.squares, self.shift, self.fractional
        other._sum(values)
        return self.count + len(values), other.total, other.squares, other.shift, other.fractional

    def _sum(self, values: Sequence[Any]) -> None:
        numbers = [value for value in values if type(value) in _SUMMED]
        if not numbers:
            return
        _, total, squares, shift = rules._exact(numbers)
        self._take(total, squares, shift)
        self.fractional = self.fractional or any(type(value) is float for value in numbers)

    def _take(self, total: int, squares: int, shift: int) -> None:
        both = max(shift, self.shift)
        self.total = (self.total << (both - self.shift)) + (total << (both - shift))
        self.squares = (self.squares << 2 * (both - self.shift)) + (squares << 2 * (both - shift))
        self.shift = both

    def packed(self) -> list[Any]:
        return [
            self.count, f"{self.total:x}", f"{self.squares:x}", self.shift, self.fractional, self.least, self.best, self.first, self.latest,
            self.latest_at,
        ]  # fmt: skip

    @classmethod
    def read(cls, packed: Sequence[Any]) -> Column:
        self = cls()
        self.count, total, squares, self.shift, self.fractional, self.least, self.best, self.first, self.latest, self.latest_at = packed
        self.total, self.squares = int(total, 16), int(squares, 16)
        return self


class Folded:
    """All columns of the folded rows, and the rows themselves under the name ``""``."""

    def __init__(self, columns: Iterable[str]) -> None:
        self.columns = {name: Column() for name in ("", *columns)}

    def add(self, columns: Mapping[str, Sequence[Any]], times: Sequence[int]) -> None:
        """Take rows that are all newer than those folded before."""
        self.columns[""].add([False] * len(times), times)  # of a row itself, nothing is asked but how many and when
        for name, values in columns.items():
            self.columns[name].add(values, times)

    def value(self, function: str, name: str | None, values: list[Any]) -> Any:
        """Return an aggregate of a column, or of the rows, over what is folded and the ``values`` after that.

        Raises LookupError for distinct values: sums do not know them.
        """
        column = self.columns[name or ""]
        count = column.count + len(values)
        if function == "count":
            return count
        if function == "distinct":
            if column.count:
                raise LookupError(name)
            return len(set(values))
        if function == "std":
            return rules.deviation(*column.with_(values)[:4])
        if function in ("sum", "mean"):
            summed = column.sum_with(values)
            return summed if function == "sum" else rules.mean(summed, count) if count else None
        if not count:
            return None
        if function == "first":
            return column.first if column.count else values[0]
        if function == "latest":
            return values[-1] if values else column.latest
        edge = [column.least if function == "min" else column.best] if column.count else []
        return extreme(function, [*edge, *values])

    def newest(self, name: str | None) -> int | None:
        """Return the time of the newest folded value of a column."""
        return self.columns[name or ""].latest_at

    def packed(self) -> dict[str, Any]:
        return {name: column.packed() for name, column in self.columns.items()}

    @classmethod
    def read(cls, packed: Mapping[str, Any]) -> Folded:
        self = cls(())
        self.columns = {name: Column.read(column) for name, column in packed.items()}
        return self


class Panes:
    """Folded rows by steps of time: for windows that begin and end at such steps, however many rows are in them.

    Parameters
    ----------
    step : the length of a pane in microseconds. Its begin, a multiple of that, is not included, its end is: as with windows.
    since : rows at or before this moment are in no pane; None: all that ever came may be.
    """

    __slots__ = ("panes", "since", "step")

    def __init__(self, step: int, since: int | None) -> None:
        self.step, self.since = step, since
        self.panes: dict[int, dict[str, Any]] = {}  # by number, oldest first, as they are stored: a read needs a few columns of a few

    def add(self, columns: Mapping[str, Sequence[Any]], times: Sequence[int]) -> None:
        """Take rows that are all newer than those folded before."""
        start = 0
        while start < len(times):
            pane = (times[start] - 1) // self.step
            stop = bisect_right(times, (pane + 1) * self.step, start)
            held = self.panes.get(pane)
            folded = Folded(columns) if held is None else Folded.read(held)
            folded.add({name: column[start:stop] for name, column in columns.items()}, times[start:stop])
            self.panes[pane] = folded.packed()
            start = stop

    def drop(self, since: int) -> None:
        """Let go of panes that end at or before a moment."""
        self.since = since if self.since is None else max(self.since, since)
        while self.panes and ((oldest := next(iter(self.panes))) + 1) * self.step <= since:
            del self.panes[oldest]

    def between(self, begin: int, end: int, name: str | None) -> Folded | None:
        """Return what is folded of a column after ``begin`` and up to ``end``; None where panes cannot tell."""
        if begin % self.step or end % self.step or (self.since is not None and begin < self.since):
            return None
        found = Folded(())
        column = found.columns[name or ""] = Column()
        for pane, held in self.panes.items():
            if begin <= pane * self.step < end:
                column.merge(Column.read(held[name or ""]))
        return found

    def packed(self) -> list[Any]:
        return [self.step, self.since, [*self.panes.items()]]

    @classmethod
    def read(cls, packed: Sequence[Any]) -> Panes:
        step, since, panes = packed
        self = cls(step, since)
        self.panes = dict(panes)
        return self


def _doubles(total: int, shift: int) -> list[float]:
    """Return numbers that add up to ``total * 2**-shift`` exactly; raises OverflowError where one of them would be beyond all doubles."""
    found = []
    while total:
        dropped = max(total.bit_length() - 53, 0)
        head = total >> dropped
        found.append(math.ldexp(head, dropped - shift))
        total -= head << dropped
    return found


def extreme(function: str, values: Sequence[Any]) -> Any:
    """Return the least or the greatest of some numbers or truth values; never -0.0."""
    best = min(values) if function == "min" else max(values)
    return int(best) if type(best) is bool else best + 0


def _rounded(total: int, shift: int, *, fractional: bool) -> Any:
    """Return an exact sum, rounded once: a float where one value was; None where it cannot be held."""
    if fractional:
        return rules._divided(total, 1 << shift)
    return total if -(2**63) <= total < 2**63 else None
