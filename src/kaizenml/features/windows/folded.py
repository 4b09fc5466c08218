"""Rows that are no longer kept one by one, as exact sums: whatever was folded when, the totals are those of all rows. Pure, hot path."""

from __future__ import annotations

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
        both = max(shift, self.shift)
        self.total = (self.total << (both - self.shift)) + (total << (both - shift))
        self.squares = (self.squares << 2 * (both - self.shift)) + (squares << 2 * (both - shift))
        self.shift = both
        self.fractional = self.fractional or any(type(value) is float for value in numbers)

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
        for name, values in (("", times), *columns.items()):
            self.columns[name].add(values, times)

    def value(self, function: str, name: str | None, values: list[Any]) -> Any:
        """Return an aggregate of a column, or of the rows, over what is folded and the ``values`` after that. Of distinct values nothing is known."""
        column = self.columns[name or ""]
        count = column.count + len(values)
        if function == "count":
            return count
        if function in ("sum", "mean", "std"):
            count, total, squares, shift, fractional = column.with_(values)
            if function == "std":
                return rules.deviation(count, total, squares, shift)
            summed = _rounded(total, shift, fractional=fractional)
            return summed if function == "sum" else rules.mean(summed, count) if count else None
        if not count or function == "distinct":
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


def extreme(function: str, values: Sequence[Any]) -> Any:
    """Return the least or the greatest of some numbers or truth values; never -0.0."""
    best = min(values) if function == "min" else max(values)
    return int(best) if type(best) is bool else best + 0


def _rounded(total: int, shift: int, *, fractional: bool) -> Any:
    """Return an exact sum, rounded once: a float where one value was; None where it cannot be held."""
    if fractional:
        return rules._divided(total, 1 << shift)
    return total if -(2**63) <= total < 2**63 else None
