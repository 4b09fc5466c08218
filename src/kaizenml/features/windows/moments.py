"""What the online store holds of an entity in a view with windows: its rows, for as long as a window may ask for them.

A row is never there twice: it is told by the dataset's key, or where there is none by all that the view reads of it. So rows may
come in any order and again and again, and from a push and the dataset both. What is older than every window goes; of what a window
over all time reads, and one that moves by steps (``every``), the oldest of more than ``MOST`` rows are folded into exact sums: of all, and by
step. Values come out as ``aggregates.values_at`` gives them, bit for bit; those that would need rows which are gone are not there at all.
Format 1, and 2 where there are sums by step. Hot path: imports only the standard library and msgspec.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from kaizenml.errors import Corrupt
from kaizenml.features.view import Aggregate, FeatureView
from kaizenml.features.windows import aggregates as rules
from kaizenml.features.windows.folded import Folded, Panes, extreme

FORMAT = 2
MOST = 10_000
"""Rows of an entity that are kept one by one; of more, the oldest half goes."""
_MOST_PANES = 1000  # from the begin to the end of a window
_PLACE = ""  # in the values of an online row


class Row(NamedTuple):
    """A row of an entity: times in microseconds since 1970 UTC, what tells it from all others of the view, values by the view's columns."""

    at: int
    known: int
    identity: str | None
    values: tuple[Any, ...]


class History:
    """The rows of one entity, oldest first.

    Parameters
    ----------
    columns : the columns that the view reads, in its order.
    timed : whether a row may become known later than it happens (``created``).
    keyed : whether the dataset has a key, by which rows are told apart.
    """

    __slots__ = ("columns", "folded", "identities", "known", "panes", "since", "times")

    def __init__(self, columns: Sequence[str], *, timed: bool, keyed: bool) -> None:
        self.times: list[int] = []
        self.known: list[int] | None = [] if timed else None
        self.identities: list[str] | None = [] if keyed else None
        self.columns: dict[str, list[Any]] = {name: [] for name in columns}
        self.since: int | None = None
        """Rows at or before this moment are not here one by one; None: all that ever came are."""
        self.folded: Folded | None = None
        """What is known of those, where a window over all time asks for them."""
        self.panes: Panes | None = None
        """What is known of those by steps of time, where a window that moves by steps asks for them."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> History:
        """Return what ``packed`` has written; raises Corrupt."""
        self = cls.__new__(cls)
        try:
            version, *held = values[_PLACE]
            if version in (1, FORMAT):
                self.times, self.known, self.identities, self.columns, self.since, folded, *panes = held
                self.folded = None if folded is None else Folded.read(folded)
                self.panes = Panes.read(*panes) if version == FORMAT else None
                return self
        except (KeyError, ValueError, TypeError) as error:
            remedy = "kaizen features materialize VIEW --everything"
            raise Corrupt(f"the rows of an entity in the online store are damaged: {error}", remedy=remedy) from None
        what = f"rows of an entity in the online store have format {version}; this kaizenml reads {FORMAT}"
        raise Corrupt(what, remedy="pip install --upgrade kaizenml")

    def packed(self) -> dict[str, Any]:
        """Return the history as values of an online row."""
        folded = None if self.folded is None else self.folded.packed()
        held = [self.times, self.known, self.identities, self.columns, self.since, folded]
        return {_PLACE: [1, *held] if self.panes is None else [FORMAT, *held, self.panes.packed()]}

    def load(self, times: list[int], known: list[int] | None, identities: list[str] | None, columns: Sequence[list[Any]]) -> None:
        """Take rows, ordered by time, then by when they became known, then by addition, that are newer than all that are there.

        Parameters
        ----------
        times, known, identities : as the history has them.
        columns : the values, by the view's columns.
        """
        if self.identities is None and len(times) > 1:  # what says the same is one row
            rows = list(dict.fromkeys(zip(times, times if known is None else known, *columns, strict=True)))
            if len(rows) < len(times):
                times, learnt, *columns = map(list, zip(*rows, strict=True))
                known = None if known is None else learnt
        self.times += times
        if self.known is not None:
            self.known += known or []
        if self.identities is not None:
            self.identities += identities or []
        for held, column in zip(self.columns.values(), columns, strict=True):
            held.extend(column)

    def put(self, rows: Iterable[Row], *, over: bool = False) -> tuple[int, int]:
        """Take rows, in the order of addition; those that are there already change nothing.

        Parameters
        ----------
        over : the rows are the dataset's, which decides between two of one identity, and in which order rows of one moment came.

        Returns
        -------
        How many rows were new or changed, and how many are older than what is kept one by one.
        """
        new = late = 0
        for row in rows:
            if self.since is not None and row.at <= self.since:
                late += 1
                continue
            place = self._found(row)
            if place is None:
                self._insert(row)
                new += 1
            elif over:
                before = self._row(place)
                self._remove(place)  # and to its place among rows of the same moment
                new += self._insert(row) != place or self._row(place) != before
        return new, late

    def summed(self, rows: Iterable[Row]) -> bool:
        """Tell whether any of these rows belongs into what is kept as sums only: nobody knows whether it is in there."""
        if self.since is None or (self.folded is None and self.panes is None):
            return False
        begin = None if self.folded is not None or self.panes is None else self.panes.since
        return any(row.at <= self.since and (begin is None or row.at > begin) for row in rows)

    def sums(self, window: Window, ending: int) -> Folded | None:
        """Return what is folded of a window's rows; None where that is not known."""
        if window.last is None:
            return self.folded if self.since is not None and ending >= self.since else None
        return None if self.panes is None else self.panes.between(ending - window.last, ending, window.column)

    def prune(self, keep_us: int | None, by: Steps | None = None, *, most: int | None = None) -> None:
        """Let go of rows that no window can ask for from the newest one on.

        Parameters
        ----------
        keep_us : how far the windows reach back; None: one of them over all time, so that only what is more than ``MOST`` goes.
        by : the steps by which rows that go are summed where windows reach there.
        most : default MOST.
        """
        most = MOST if most is None else most
        times = self.times
        if not times:
            return
        gone = 0
        newest = self._newest_known()
        if keep_us is not None and newest is not None:
            since = newest - keep_us
            gone = bisect_right(times, since)
            if gone:
                self.since = max(since, self.since) if self.since is not None else since
        if len(times) - gone > most:
            first, gone = gone, bisect_right(times, times[len(times) - most // 2])  # all rows of a moment go together
            gone = min(gone, bisect_right(times, times[-1] - 1))
            if gone > first:
                self._fold(first, gone, by, endless=keep_us is None)
        if self.panes is not None and by is not None and newest is not None:
            self.panes.drop(newest - by.reach)
        if gone:
            for column in self._lists():
                del column[:gone]

    def _fold(self, first: int, stop: int, by: Steps | None, *, endless: bool) -> None:
        """Keep rows as sums that go. Those before ``first`` are asked for by nobody."""
        times, columns = self.times[first:stop], {name: column[first:stop] for name, column in self.columns.items()}
        if endless:
            self.folded = self.folded or Folded(columns)
            self.folded.add(columns, times)
        if by is None or self.panes is None or self.panes.step != by.step:
            self.panes = None if by is None else Panes(by.step, self.since)
        if self.panes is not None:
            self.panes.add(columns, times)
        self.since = times[-1]

    def _newest_known(self) -> int | None:
        """Return the time of the newest row that is known from the newest moment on: what reads from then on rest upon."""
        if self.known is None:
            return self.times[-1]
        return next((at for at, known in zip(reversed(self.times), reversed(self.known), strict=True) if known <= self.times[-1]), None)

    def at(self, t: int) -> History:
        """Return what was known at a moment: this very history when that is all."""
        if self.known is None or not self.known or max(self.known) <= t:
            return self
        kept = [place for place, known in enumerate(self.known) if known <= t]
        seen = History.__new__(History)
        seen.times, seen.known = [self.times[place] for place in kept], None
        seen.columns = {name: [column[place] for place in kept] for name, column in self.columns.items()}
        seen.identities, seen.since, seen.folded, seen.panes = None, self.since, self.folded, self.panes
        return seen

    def _found(self, row: Row) -> int | None:
        if self.identities is not None:
            try:
                return self.identities.index(row.identity)  # type: ignore[arg-type]  # a keyed row has one
            except ValueError:
                return None
        place = bisect_right(self.times, row.at) - 1
        while place >= 0 and self.times[place] == row.at:
            if self._row(place) == (row.at, row.at if self.known is None else row.known, row.values):
                return place
            place -= 1
        return None

    def _row(self, place: int) -> tuple[int, int, tuple[Any, ...]]:
        at = self.times[place]
        return at, at if self.known is None else self.known[place], tuple(column[place] for column in self.columns.values())

    def _insert(self, row: Row) -> int:
        place = bisect_right(self.times, row.at)
        if self.known is not None:
            while place and self.times[place - 1] == row.at and self.known[place - 1] > row.known:
                place -= 1
            self.known.insert(place, row.known)
        self.times.insert(place, row.at)
        if self.identities is not None:
            self.identities.insert(place, row.identity or "")
        for column, value in zip(self.columns.values(), row.values, strict=True):
            column.insert(place, value)
        return place

    def _remove(self, place: int) -> None:
        for column in self._lists():
            del column[place]

    def _lists(self) -> list[list[Any]]:
        beside = [column for column in (self.known, self.identities) if column is not None]
        return [self.times, *beside, *self.columns.values()]


class Reading:
    """How a view's columns and aggregates are read out of a history. Made once for each use of a view."""

    def __init__(self, columns: Sequence[str], aggregates: Sequence[Aggregate], ttl_us: int | None) -> None:
        self.columns = list(columns)
        self.names = [*columns, *(each.name for each in aggregates)]
        self.ttl_us = ttl_us
        # what reads the same rows is computed together
        self._windows: dict[Window, list[tuple[str, str]]] = {}
        for each in aggregates:
            if each.function != "ratio":
                window = Window(each.column, _micros(each.last_s), _micros(each.every_s), each.n)
                self._windows.setdefault(window, []).append((each.name, each.function))
        self._ratios = [each for each in aggregates if each.function == "ratio"]

    def values(self, history: History, t: int) -> tuple[dict[str, Any], int | None]:
        """Return the values at a moment, and the time of the entity's newest row then; None: there is none, and no value either.

        A value is not among them where it would take rows that are no longer there one by one.
        """
        history = history.at(t)
        times = history.times
        end = bisect_right(times, t)
        if not end:
            return dict.fromkeys(self.names), None
        newest = times[end - 1]
        if self.ttl_us is not None and newest < t - self.ttl_us:
            return dict.fromkeys(self.names), newest
        found = {name: history.columns[name][end - 1] for name in self.columns}
        for window, wanted in self._windows.items():
            found.update(_read(history, window, wanted, t, end))
        for each in self._ratios:
            first, second = each.of
            if first in found and second in found:
                found[each.name] = rules.ratio(found[first], found[second])
        return found, newest


class Window(NamedTuple):
    """Which rows aggregates read; lengths in microseconds."""

    column: str | None
    last: int | None
    every: int | None
    n: int | None


def keeps_rows(view: FeatureView) -> bool:
    """Tell whether the online store keeps rows of a view, and not only the newest values of each entity."""
    return bool(view.aggregates) or view.created is not None


def keep_s(view: FeatureView) -> float | None:
    """Return how long after its last row nobody can have a use for an entity. A margin is for clocks that are not ours."""
    return None if view.ttl_s is None else 2 * view.ttl_s + 86_400.0


def reach_us(aggregates: Iterable[Aggregate]) -> int | None:
    """Return how far back, in microseconds, the windows of a view may ask; None: without end."""
    reach = 1
    for each in aggregates:
        if each.function == "ratio":
            continue
        if each.last_s is None:
            return None
        reach = max(reach, (_micros(each.last_s) or 0) + (_micros(each.every_s) or 0))
    return reach


class Steps(NamedTuple):
    """By which steps rows are summed for windows that move by steps, and how far back; in microseconds."""

    step: int
    reach: int


def steps(aggregates: Iterable[Aggregate]) -> Steps | None:
    """Return the steps that serve the windows of a view that move by steps; None: there is no such window.

    A window that is longer than a thousand of its steps does without: its sums would be as many as rows.

    >>> spend = Aggregate(name="spend", function="sum", column="amount", last_s=5400.0, every_s=3600.0)
    >>> steps([spend])
    Steps(step=1800000000, reach=9000000000)
    """
    step = longest = reach = 0
    able = [each for each in aggregates if each.last_s and each.every_s and each.n is None and each.function not in ("ratio", "distinct")]
    for each in sorted(able, key=lambda each: (-(each.last_s or 0.0), -(each.every_s or 0.0), each.name)):
        last, every = _micros(each.last_s) or 0, _micros(each.every_s) or 0
        finer = math.gcd(last, every, step)
        if finer and max(longest, last) <= finer * _MOST_PANES:
            step, longest, reach = finer, max(longest, last), max(reach, last + every)
    return Steps(step, reach) if step else None


def _micros(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * rules.SECOND_US)


def _read(history: History, window: Window, wanted: list[tuple[str, str]], t: int, stop: int) -> dict[str, Any]:
    """Compute what is wanted of a window, except where rows would be needed that are no longer there one by one."""
    found: dict[str, Any] = {}
    times, since, folded = history.times, history.since, None
    column, last, every, n = window
    ending = t
    if every is not None:
        ending = t // every * every
        stop = bisect_right(times, ending, 0, stop)
    start = 0 if last is None else bisect_right(times, ending - last, 0, stop)
    rows = times if column is None else history.columns[column]
    values = rows[start:stop]
    if None in values:
        values = [value for value in values if value is not None]
    if since is not None and (last is None or ending - last < since) and (n is None or len(values) < n):
        folded = None if n is not None else history.sums(window, ending)
        if folded is None:
            return found
    if n is not None:
        values = values[-n:]
    total: Any = None
    for name, function in wanted:
        if function == "since":
            newest = next((times[place] for place in range(stop - 1, start - 1, -1) if rows[place] is not None), None)
            newest = newest if newest is not None or folded is None else folded.newest(column)
            found[name] = None if newest is None else (t - newest) / 1e6
        elif folded is not None:
            with suppress(LookupError):
                found[name] = folded.value(function, column, values)
        elif function in ("sum", "mean"):
            total = _total(values) if total is None else total
            found[name] = total if function == "sum" else rules.mean(total, len(values)) if values else None
        else:
            found[name] = _computed(function, values)
    return found


def _computed(function: str, values: list[Any]) -> Any:
    if function == "count":
        return len(values)
    if function == "distinct":
        return len(set(values))
    if not values:
        return None
    if function == "latest":
        return values[-1]
    if function == "first":
        return values[0]
    if function in ("min", "max"):
        return extreme(function, values)
    return rules.deviation(*rules._exact(values))


def _total(values: list[Any]) -> Any:
    if values and type(values[0]) is float:  # one is enough: the sum is a float's
        try:
            return math.fsum(values) + 0.0
        except OverflowError:
            pass
    return rules.total(values)
