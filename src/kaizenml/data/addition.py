"""What a contract says of an addition as a whole: how fresh it is, how many rows it has, and checks in SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.clock import format_duration, parse_duration
from kaizenml.data import sql
from kaizenml.data.dataset import Contract, Query, Severity
from kaizenml.data.staged import ROW, Staged
from kaizenml.errors import InvalidData, UsageError

Numbers = npt.NDArray[np.int64]


class Before(NamedTuple):
    """What an addition is compared with."""

    now: datetime
    ref: str = ""
    """The version that the rows are added to."""
    rows: pa.Table | None = None
    """Its rows, in the columns that tell rows apart, as they are stored."""
    stored: Callable[[pa.Table], pa.Table] = lambda given: given
    """Brings rows to the form in which they are stored: values that tell of persons may be hidden."""
    newest: datetime | None = None
    """Its newest event time."""
    last: int | None = None
    """How many rows the addition before this one had."""
    earlier: pa.Table | None = None
    """Earlier rows of the same addition that may be alike to these, where it is checked in pieces."""


class Told(Protocol):
    """Where rules are noted that additions break as a whole."""

    def whole(self, rule: str, rows: int, severity: Severity) -> None:
        """Note a rule that is told, or for which everything is refused."""
        ...


class Faults(Told, Protocol):
    """Where broken rules are noted."""

    def mark(self, places: list[int], rule: str, severity: Severity) -> None:
        """Note a rule against the rows that break it, by their places."""
        ...

    def good(self) -> pa.Array:
        """Return the places of the rows that break nothing."""
        ...


def check(rows: pa.Table, contract: Contract, before: Before, faults: Faults) -> None:
    """Hold an addition against what the contract says of additions.

    Parameters
    ----------
    rows : all rows that were given, in the contract's kinds.
    before : what they are added to.
    faults : where broken rules are noted.

    Raises
    ------
    InvalidData : a query that cannot be run.
    """
    _check_count(rows.num_rows, contract, before.last, faults)
    good = rows.take(faults.good())
    newest = pc.max(good[contract.time]).as_py() if contract.time is not None and good.num_rows else None
    _check_freshness(newest, good.num_rows, contract, before, faults)
    for query in contract.checks:
        _check_query(rows, query, faults)


def check_whole(rows: int, newest: datetime | None, contract: Contract, before: Before, faults: Told) -> None:
    """Hold an addition that was checked in pieces against what the contract says of its size and freshness.

    Parameters
    ----------
    rows : how many were given.
    newest : the newest event time of the good ones.
    """
    _check_count(rows, contract, before.last, faults)
    _check_freshness(newest, rows, contract, before, faults)


def check_promises(contract: Contract) -> None:
    """Raise InvalidData when what the contract says of additions cannot hold."""
    if contract.freshness is not None:
        if contract.time is None:
            raise InvalidData("the contract asks for freshness, and has no time", remedy='set time = "COLUMN", or leave [freshness] out')
        try:
            parse_duration(contract.freshness.within)
        except UsageError as error:
            raise InvalidData(f"freshness: {error.what}", remedy=error.remedy, values=error.values) from None
        if contract.freshness.severity == "quarantine":
            raise _no_rows("freshness")
    limits = contract.rows
    if limits is not None:
        if limits.severity == "quarantine":
            raise _no_rows("rows")
        for low, high in ((limits.minimum, limits.maximum), (limits.shrink, limits.grow)):
            if low is not None and high is not None and low > high:
                raise InvalidData(f"rows: {low} is above {high}", remedy="swap them", values={"low": low, "high": high})
    names = [query.name for query in contract.checks]
    doubled = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if doubled is not None:
        raise InvalidData(f"the contract has two checks named {doubled!r}", remedy="rename one of them", values={"name": doubled})


def _no_rows(what: str) -> InvalidData:
    return InvalidData(f"{what}: no single row answers for it, so none can go to quarantine", remedy='set severity to "refuse" or "warn"')


def _check_count(rows: int, contract: Contract, last: int | None, faults: Told) -> None:
    limits = contract.rows
    if limits is None:
        return
    if limits.minimum is not None and rows < limits.minimum:
        faults.whole(f"{rows:,} rows are fewer than {limits.minimum:,}", rows, limits.severity)
    if limits.maximum is not None and rows > limits.maximum:
        faults.whole(f"{rows:,} rows are more than {limits.maximum:,}", rows, limits.severity)
    if last and limits.shrink is not None and rows < limits.shrink * last:
        faults.whole(f"{rows:,} rows are fewer than {limits.shrink:g} times the {last:,} of the addition before", rows, limits.severity)
    if last and limits.grow is not None and rows > limits.grow * last:
        faults.whole(f"{rows:,} rows are more than {limits.grow:g} times the {last:,} of the addition before", rows, limits.severity)


def _check_freshness(newest: datetime | None, rows: int, contract: Contract, before: Before, faults: Told) -> None:
    if contract.freshness is None or contract.time is None:
        return
    times = [time for time in (newest, before.newest) if time is not None]
    within = parse_duration(contract.freshness.within)
    if not times:
        faults.whole(f"no row has a {contract.time}", rows, contract.freshness.severity)
    elif before.now - max(times) > timedelta(seconds=within):
        age = format_duration((before.now - max(times)).total_seconds())
        rule = f"the newest {contract.time}, {max(times).isoformat(timespec='seconds')}, is {age} old, more than {format_duration(within)}"
        faults.whole(rule, 0, contract.freshness.severity)


def check_staged(staged: Staged, contract: Contract, faults: Told) -> dict[str, Numbers]:
    """Run the checks in SQL over an addition that was kept aside, one after the other, each over what the earlier ones left.

    Returns
    -------
    By rule, in the order of the checks, the numbers of the rows (from 1, sorted) that are to be kept apart.
    """
    found: dict[str, Numbers] = {}
    for query in contract.checks:
        numbers = _named(query, partial(staged.ask, query, [*found.values()]), faults)
        if numbers is None or not len(numbers):
            continue
        if query.severity in ("warn", "refuse"):
            faults.whole(_rule(query), len(numbers), query.severity)
        if query.severity != "warn":
            found[_rule(query)] = numbers
    return found


def _check_query(rows: pa.Table, query: Query, faults: Faults) -> None:
    places = faults.good()
    given = rows.take(places).append_column(ROW, pc.add(places.cast(pa.int64()), 1))
    numbers = _named(query, lambda: sql.answer(query.sql, {"rows": given}, ROW), faults)
    if numbers is not None:
        named = pc.is_in(given[ROW], value_set=pa.array(numbers))
        faults.mark(places.filter(named.combine_chunks()).to_pylist(), _rule(query), query.severity or "quarantine")


def _rule(query: Query) -> str:
    return f"check {query.name!r}"


def _named(query: Query, ask: Callable[[], sql.Answer], faults: Told) -> Numbers | None:
    """Run a check; return the numbers of the rows that it names, or None where it names none and what it found is noted."""
    try:
        found = ask()
    except InvalidData as error:
        raise InvalidData(f"{_rule(query)}: {error.what}", remedy=error.remedy, values=error.values | {"check": query.name}) from None
    if found.named is not None:
        try:
            return np.unique(found.named.drop_null().cast(pa.int64()).to_numpy())
        except pa.ArrowInvalid as error:
            raise InvalidData(f"{_rule(query)} gives a {ROW} that is no row's number", remedy=f"select {ROW} as rows have it",
                              values={"check": query.name, "reason": str(error)[:200]}) from None  # fmt: skip
    if query.severity == "quarantine":
        raise InvalidData(f"{_rule(query)} names no rows to put into quarantine", remedy=f"select {ROW}, or set severity to refuse or warn",
                          values={"check": query.name, "columns": found.columns})  # fmt: skip
    count = _count(found)
    if count:
        faults.whole(f"{_rule(query)} found {count:,}", count, query.severity or "refuse")
    return None


def _count(found: sql.Answer) -> int:
    """Return how much is wrong: the number, where the query gives a single one, else the rows that it gives."""
    if found.rows == 1 and len(found.columns) == 1 and (found.single is None or isinstance(found.single, bool | int | float | Decimal)):
        return int(found.single or 0)
    return found.rows
