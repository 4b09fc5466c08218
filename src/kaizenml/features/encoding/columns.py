"""Rows that came as columns: whole columns for the encoder and the journal, single rows for whoever needs them. Hot path."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Column = list[Any] | NDArray[Any]
"""Plain values, None where there is none; or an array of numbers or truth values."""

_FEW = 64  # rows; so few are made plain quicker value by value than by a call into numpy for each column


class Columns(Sequence[dict[str, Any]]):
    """A sequence of rows that is kept as columns. A row is made when it is asked for, with plain values.

    Parameters
    ----------
    columns : name -> column; all of one length.

    >>> rows = Columns({"price": np.array([3.5, np.nan]), "size": ["L", None]})
    >>> len(rows), rows[0], list(rows)[1]
    (2, {'price': 3.5, 'size': 'L'}, {'price': None, 'size': None})
    """

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.columns = columns
        self._length = len(next(iter(columns.values()), ()))
        self._plain: dict[str, list[Any]] | None = None

    def plain(self) -> dict[str, list[Any]]:
        """Return the columns as lists of plain values; what is not a number is None."""
        if self._plain is None:
            self._plain = {name: _listed(column) for name, column in self.columns.items()}
        return self._plain

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(self._length))]
        if self._length <= _FEW or self._plain is not None:
            return {name: column[place] for name, column in self.plain().items()}
        return {name: _listed(column[place : place + 1 or None])[0] for name, column in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        plain = self.plain()
        return (dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True))


def time_texts(values: NDArray[Any]) -> list[str | None]:
    """Return times (datetime64) as JSON would give them, to the microsecond; NaT is None.

    >>> time_texts(np.array(["2026-03-01T12:30", "NaT"], "M8[s]"))
    ['2026-03-01T12:30:00.000000', None]
    """
    return [None if text == "NaT" else text for text in np.datetime_as_string(values.astype("M8[us]")).tolist()]


def _listed(column: Column) -> list[Any]:
    if isinstance(column, list):
        return column
    values: list[Any] = column.tolist()
    if column.dtype.kind != "f":
        return values
    if len(values) <= _FEW:
        return [None if math.isnan(value) else value for value in values]
    for place in np.flatnonzero(np.isnan(column)).tolist():
        values[place] = None
    return values
