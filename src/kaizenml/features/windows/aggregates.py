"""Aggregates over the rows of one entity at one moment, in plain Python: the form for a request, and what the other form must give.

``vectorised.py`` holds the other form, over whole columns. Rules, the same in both:

- A row counts at the moment t when its event time is at or before t and it was known by then (``created``; where that is null,
  from its event time on). Rows are ordered by event time, then by when they became known, then by the order of addition.
- The window ends at t, or at the newest multiple of ``every`` (since 1970, UTC) at or before t; its length is ``last``, the begin
  not included. Of the rows in it those count whose column is neither null nor, for a number, NaN or infinite; of these the newest n.
- An entity without any row at t, or whose newest row is older than the view's ttl, has no values: all are None. Else an empty window
  gives 0 for count, distinct and sum, and None for all others.
- Sums are exact and rounded once, so that neither order nor the length of a history moves a bit; the mean is that sum over the count;
  the deviation (of a sample: over n - 1, None below two) comes from exact sums of values and squares. What a double or, for whole
  numbers, 64 bits cannot hold is None.
- Truth values count as 0 and 1. ``since`` is in seconds, from the newest row of the window to t.
- A ratio is None where its second part is 0 or missing.

Hot path: imports only the standard library and msgspec.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from kaizenml.data.dataset import Kind
from kaizenml.features.view import Aggregate

NUMERIC = frozenset({"sum", "mean", "std", "min", "max"})
WHOLE = frozenset({"integer", "boolean"})
SECOND_US = 1_000_000


class Event(NamedTuple):
    """A row of an entity. Times in microseconds since 1970 UTC; values by column, as JSON has them."""

    at: int
    known: int  # when it became known; never before ``at``
    values: Mapping[str, Any]


def ordered(events: Iterable[Event]) -> list[Event]:
    """Return rows, given in the order of addition, as the aggregates take them."""
    return sorted(events, key=itemgetter(0, 1))


def values_at(aggregates: Sequence[Aggregate], events: Sequence[Event], t: int, *, ttl: int | None = None) -> dict[str, Any]:
    """Return every aggregate's value for one entity.

    Parameters
    ----------
    aggregates : those of a view; a ratio comes after its parts or before, as it likes.
    events : the entity's rows, ``ordered``. Those older than every window may be left out, but not the newest.
    t : the moment of asking, microseconds since 1970 UTC.
    ttl : the view's, in microseconds.

    >>> spend = [Aggregate(name="spend", function="sum", column="amount", last_s=60.0), Aggregate(name="orders", function="count", last_s=60.0)]
    >>> rows = [Event(0, 0, {"amount": 5.0}), Event(90_000_000, 90_000_000, {"amount": 7.5})]
    >>> values_at(spend, rows, 100_000_000)
    {'spend': 7.5, 'orders': 1}
    """
    known = [event for event in events if event.at <= t and event.known <= t]
    if not known or (ttl is not None and known[-1].at < t - ttl):
        return {each.name: None for each in aggregates}
    found = {each.name: _value(each, known, t) for each in aggregates if each.function != "ratio"}
    for each in aggregates:
        if each.function == "ratio":
            found[each.name] = ratio(found[each.of[0]], found[each.of[1]])
    return {each.name: found[each.name] for each in aggregates}


def window(aggregate: Aggregate, t: int) -> tuple[int | None, int]:
    """Return begin (not included; None: all time) and end (included) of the window that is asked for at ``t``."""
    end = t
    if aggregate.every_s is not None:
        every = round(aggregate.every_s * SECOND_US)
        end = t // every * every
    return None if aggregate.last_s is None else end - round(aggregate.last_s * SECOND_US), end


def kind_of(function: str, column: Kind | None) -> Kind:
    """Return the kind of an aggregate's values."""
    if function in ("count", "distinct"):
        return "integer"
    if function == "sum":
        return "integer" if column in WHOLE else "number"
    if function in ("mean", "std", "ratio", "since"):
        return "number"
    if function in ("min", "max"):
        return "integer" if column in WHOLE else "number"
    return column or "number"


def _value(aggregate: Aggregate, known: Sequence[Event], t: int) -> Any:
    begin, end = window(aggregate, t)
    inside = [event for event in known if event.at <= end and (begin is None or event.at > begin)]
    column, function = aggregate.column, aggregate.function
    values: list[Any] = [None] * len(inside)
    if column is not None:
        inside = [event for event in inside if _counts(event.values.get(column))]
        values = [event.values[column] for event in inside]
    if aggregate.n is not None:
        inside, values = inside[-aggregate.n :], values[-aggregate.n :]
    if function == "count":
        return len(values)
    if function == "distinct":
        return len(set(values))
    if function == "sum":
        return total(values)
    if not values:
        return None
    if function == "since":
        return (t - inside[-1].at) / 1e6
    if function == "first":
        return values[0]
    if function == "latest":
        return values[-1]
    if function in {"min", "max"}:
        best = min(values) if function == "min" else max(values)
        return int(best) if type(best) is bool else best + 0  # never -0.0
    if function == "mean":
        return mean(total(values), len(values))
    return deviation(*_exact(values))


def total(values: Sequence[Any]) -> Any:
    """Return the sum of numbers or truth values, rounded once; None where it cannot be held.

    >>> total([0.1] * 10), total([1e16, 1.0, -1e16]), total([True, False]), total([])
    (1.0, 1.0, 1, 0)
    """
    if any(type(value) is float for value in values):
        try:
            return math.fsum(values) + 0.0
        except OverflowError:  # on the way, perhaps
            _, exact, _, shift = _exact(values)
            return _divided(exact, 1 << shift)
    whole = sum(values)
    return whole if -(2**63) <= whole < 2**63 else None


def mean(summed: Any, count: int) -> float | None:
    """Return the mean from the sum."""
    return None if summed is None else float(summed) / count


def ratio(first: Any, second: Any) -> float | None:
    """Return the first over the second; None where there is none, or where it is beyond all numbers."""
    if first is None or second is None or second == 0:
        return None
    found = float(first) / float(second)
    return found + 0.0 if math.isfinite(found) else None


def deviation(count: int, summed: int, squares: int, shift: int) -> float | None:
    """Return the sample's standard deviation from exact sums: of values times 2**shift, and of their squares.

    >>> deviation(*_exact([1e9 + 1, 1e9 + 2, 1e9 + 3]))
    1.0
    """
    if count < 2:
        return None
    variance = _divided(count * squares - summed * summed, (count * (count - 1)) << (2 * shift))
    return None if variance is None else math.sqrt(variance)


def _exact(values: Sequence[Any]) -> tuple[int, int, int, int]:
    """Return count, sum and sum of squares in units of 2**-shift, and that shift."""
    pairs = [value.as_integer_ratio() for value in values]
    shift = max((below.bit_length() - 1 for _, below in pairs), default=0)
    whole = [above << (shift - below.bit_length() + 1) for above, below in pairs]
    return len(whole), sum(whole), sum(value * value for value in whole), shift


def _divided(above: int, below: int) -> float | None:
    try:
        return above / below  # rounded once, whatever their lengths
    except OverflowError:
        return None


def _counts(value: Any) -> bool:
    return value is not None and (type(value) is not float or math.isfinite(value))
