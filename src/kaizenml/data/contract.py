"""The contract: learnt from the first rows, then held against every addition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data import addition, uniqueness
from kaizenml.data.dataset import Column, Contract, Kind, Personal, Severity
from kaizenml.data.kinds import RESERVED, STORED, kind_of, no_column, notes_of
from kaizenml.data.parse import parse_as
from kaizenml.data.people import detect
from kaizenml.data.people import personal as persons
from kaizenml.errors import ContractBroken, InvalidData, nearest

_WORDS: dict[Kind, str] = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "timestamp": "a date or time",
    "category": "text",
    "text": "text",
}


class Checked(NamedTuple):
    """What a check found: rows that keep the contract, rows that do not, and how the contract grows to take the good ones."""

    good: pa.Table
    """In the contract's columns and kinds; absent columns of a partial addition are null."""
    rows: pa.Array
    """Place of each good row in what was given, from 0."""
    bad: pa.Table
    """As it came, every value as text, with ``_row`` (from 1) and ``_reason``."""
    contract: Contract
    """The contract, with new columns added and whole numbers widened to numbers where fractions came."""
    changes: list[str]
    warnings: dict[str, int]
    """Rules that are broken and only told (severity ``warn``), with how many rows break them."""
    refusals: dict[str, int]
    """Rules for which the contract refuses the whole addition (severity ``refuse``), with how many rows break them."""


@dataclass
class SoFar:
    """What went before, where an addition is checked in pieces. The caller counts ``rows`` up."""

    rows: int = 0
    values: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By column, how many values it had and how many of them were not of its kind."""

    def count(self, column: str, given: int, wrong: int) -> tuple[int, int]:
        """Add values of a column and return (all, all wrong ones)."""
        before = self.values.get(column, (0, 0))
        self.values[column] = (before[0] + given, before[1] + wrong)
        return self.values[column]


def infer(table: pa.Table, *, key: str | list[str] | None = None, time: str | None = None) -> Contract:
    """Learn a contract from a table.

    It promises what must hold for the data to mean the same: which columns there are, of which kind, the key without gaps or
    doubles, the time without gaps. It promises no ranges, no closed lists of categories and no completeness of other columns:
    models take missing and new values, monitoring tells when they become many, and a row that is wrongly kept out is lost.
    Who knows more writes it into the contract's file. A column without any value is left out until it has one.

    Parameters
    ----------
    table : normalised rows.
    key : column that identifies a row, or several that do so together.
    time : column that says when a row happened; text is taken if it reads as dates.

    Raises
    ------
    InvalidData : no such column, a time that is none, a key that does not identify, no value in any column.
    """
    keys = [key] if isinstance(key, str) else key or []
    for name in (*keys, time):
        if name is not None and name not in table.column_names:
            raise no_column(name, table.column_names, "the table")
    if len(keys) > 1:
        _check_keys(table, keys)
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = kind_of(column)
        if name == time:
            _check_time(name, column, notes_of(table).get(name))
            kind = "timestamp"
        if [name] == keys:
            kind = _kind_of_key(name, column, kind)
        if kind:
            columns.append(Column(name=name, kind=kind, nullable=name not in (*keys, time)))
    if not columns:
        raise InvalidData("no column holds any value", remedy="give a file with values in it", values={"columns": table.column_names[:50]})
    return Contract(columns=columns, key=keys[0] if len(keys) == 1 else keys or None, time=time)


def check(
    table: pa.Table,
    contract: Contract,
    *,
    partial: bool = False,
    before: addition.Before | None = None,
    single: bool = False,
    so_far: SoFar | None = None,
) -> Checked:
    """Hold a table against a contract.

    Parameters
    ----------
    table : normalised rows.
    contract : the promise.
    partial : whether columns may be absent; those become null, whatever the contract says of nulls.
    before : the rows that these are added to, and the time, for what a contract says of whole additions.
    single : whether each row stands for itself: many wrong values of a column do not break the contract, and do not widen it.
    so_far : the rows of the same addition that were checked before; their values are judged together with these.

    Returns
    -------
    Good rows and bad rows with reasons. Of rows that are alike in what should tell them apart, those from the second on are bad, and
    those that are there before. What the contract refuses is listed, and for the caller to refuse.

    Raises
    ------
    ContractBroken : a column is gone, or most of its values are of another kind, so that quarantine would swallow the data.
    """
    check_contract(contract)
    so_far = so_far or SoFar()
    personal = persons.decisions(contract)
    dropped = persons.dropped(contract)
    missing = [column.name for column in contract.columns if column.name not in table.column_names and column.name not in dropped]
    fresh = _new_columns(table, contract, broken=bool(missing and not partial))
    faults = _Faults(table.num_rows, personal)
    columns: dict[str, pa.ChunkedArray] = {}
    changed: dict[str, str] = {}
    grown: list[Column] = []
    for column in contract.columns:
        if column.name in dropped:
            grown.append(column)  # what is not stored need not keep a promise
            continue
        if column.name in missing:
            columns[column.name] = pa.chunked_array([pa.nulls(table.num_rows, STORED[column.kind])])
            grown.append(column)
            continue
        values, kind, problem = _coerce(table[column.name], column, faults, so_far, single=single)
        if problem:
            changed[column.name] = problem
        else:
            columns[column.name] = values
            grown.append(msgspec.structs.replace(column, kind=kind))
            _check_values(values, column, faults)
    if changed or (missing and not partial):
        gone = [column for column in contract.columns if column.name in missing and not partial]
        raise broken(gone, changed, _schema_change(table, contract, gone=gone, changed=changed, fresh=fresh))
    changes = [f"{old.name}: {old.kind} becomes {new.kind}" for old, new in zip(contract.columns, grown, strict=True) if old.kind != new.kind]
    changes += [f"{column.name}: new, {column.kind}" for column in fresh]
    for column in fresh:
        columns[column.name] = table[column.name]
        _check_values(table[column.name], column, faults)
    good = pa.table(columns)
    _check_apart(good, contract, before, faults)
    if before is not None:
        addition.check(good, contract, before, faults)
    rows = faults.good()
    return Checked(
        good=good if len(rows) == table.num_rows else good.take(rows),
        rows=rows,
        bad=as_bad(table, faults.reasons, so_far.rows),
        contract=msgspec.structs.replace(contract, columns=[*grown, *fresh]),
        changes=changes,
        warnings=faults.warned,
        refusals=faults.refused,
    )


def without(checked: Checked, table: pa.Table, named: Mapping[str, addition.Numbers], first: int) -> Checked:
    """Move rows that rules name from the good ones to the bad ones.

    Parameters
    ----------
    table : the rows that were checked.
    named : by rule, the rows' numbers from 1.
    first : so many rows were given before these.
    """
    numbers = pc.add(checked.rows.cast(pa.int64()), first + 1)
    reasons: dict[int, list[Reason]] = {}
    for rule, rows in named.items():
        for number in numbers.filter(pc.is_in(numbers, value_set=pa.array(rows, pa.int64()))).to_pylist():
            reasons.setdefault(number - 1 - first, []).append(Reason(rule, rule))
    if not reasons:
        return checked
    keep = pc.invert(pc.is_in(checked.rows, value_set=pa.array(list(reasons), checked.rows.type)))
    bad = pa.concat_tables([checked.bad, as_bad(table, reasons, first)], promote_options="default").sort_by("_row")
    return checked._replace(good=checked.good.filter(keep), rows=checked.rows.filter(keep), bad=bad)


def check_contract(contract: Contract) -> None:
    """Raise InvalidData when a contract contradicts itself."""
    names = [column.name for column in contract.columns]
    doubled = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if doubled is not None:
        raise InvalidData(f"the contract names column {doubled!r} twice", remedy="keep one of them", values={"column": doubled})
    apart = [("unique", name) for one in contract.unique for name in one.columns]
    for role, name in (*(("key", name) for name in contract.keys), ("time", contract.time), ("subject", contract.subject), *apart):
        if name is not None and name not in names:
            close = nearest(name, names)
            raise InvalidData(
                f"the contract's {role} {name!r} is none of its columns{f'; did you mean {close!r}?' if close else ''}",
                remedy=f"set {role} to a column",
                values={role: name, "nearest": close},
            )
    for column in contract.columns:
        if column.name == contract.time and column.kind != "timestamp":
            raise InvalidData(
                f"the contract's time {column.name!r} is {column.kind}", remedy='set its kind to "timestamp"', values={"column": column.name}
            )
        if column.minimum is not None and column.maximum is not None and column.minimum > column.maximum:
            raise InvalidData(
                f"column {column.name!r}: the minimum {column.minimum:g} is above the maximum {column.maximum:g}",
                remedy="swap them",
                values={"column": column.name},
            )
    persons.check_decisions(contract)
    addition.check_promises(contract)


def narrowed(old: Contract, new: Contract) -> list[str]:
    """Return the columns whose values under ``old`` might not be values of their kind in ``new``."""
    kinds = {column.name: column.kind for column in old.columns}
    found = []
    for column in new.columns:
        before = kinds.get(column.name, column.kind)
        if before != column.kind and column.kind not in ("text", "category") and (before, column.kind) != ("integer", "number"):
            found.append(column.name)
    return found


def as_bad(table: pa.Table, reasons: dict[int, list[Reason]], first: int = 0) -> pa.Table:
    """Return the rows that have reasons, every value as text, with ``_row`` (from 1), ``_reason``, and the first broken ``_rule``.

    ``first`` rows were given before these.
    """
    rows = sorted(reasons)
    taken = table.take(pa.array(rows, pa.int64()))
    columns = {name: column.cast(pa.string()) for name, column in zip(taken.column_names, taken.columns, strict=True)}
    columns["_row"] = pa.array([first + row + 1 for row in rows], pa.int64())
    columns["_rule"] = pa.array([reasons[row][0].rule for row in rows], pa.string())
    columns["_reason"] = pa.array(["; ".join(reason.text for reason in reasons[row]) for row in rows], pa.string())
    return pa.table(columns)


class Reason(NamedTuple):
    """Why a row is bad: the rule that it breaks, and the same with the value seen."""

    rule: str
    text: str


def reason(name: str, value: Any, why: str, personal: Mapping[str, Personal]) -> Reason:
    """Say that column ``name`` with ``value`` is wrong and ``why``; values of ``personal`` columns are not shown."""
    return Reason(f"{name} {why}", f"{name}: {persons.shown(name, _shown(value), personal)} {why}")


class _Faults:
    """Reasons by row, for the few rows that have any."""

    def __init__(self, rows: int, personal: Mapping[str, Personal]) -> None:
        self._rows = rows
        self.personal = personal
        self.reasons: dict[int, list[Reason]] = {}
        self.warned: dict[str, int] = {}
        self.refused: dict[str, int] = {}

    def whole(self, rule: str, rows: int, severity: Severity) -> None:
        """Note that a rule is broken that no single row answers for, or whose rows are not kept apart."""
        noted = self.warned if severity == "warn" else self.refused
        noted[rule] = noted.get(rule, 0) + rows

    def mark(self, places: list[int], rule: str, severity: Severity) -> None:
        """Note a rule against rows by their places."""
        if places and severity != "quarantine":
            self.whole(rule, len(places), severity)
        for place in places if severity != "warn" else []:
            self.reasons.setdefault(place, []).append(Reason(rule, rule))

    def add(
        self, mask: pa.ChunkedArray | pa.Array, values: pa.ChunkedArray, name: str, why: str, severity: Severity = "quarantine"
    ) -> None:
        """Note that the value ``why`` (such as "is not finite") against each row where ``mask`` is true."""
        places = pc.indices_nonzero(pc.fill_null(mask, False))
        if len(places) and severity != "quarantine":
            self.whole(f"{name} {why}", len(places), severity)
        if len(places) and severity != "warn":
            for place, value in zip(places.to_pylist(), values.take(places).to_pylist(), strict=True):
                self.reasons.setdefault(place, []).append(reason(name, value, why, self.personal))

    def good(self) -> pa.Array:
        """Return the places of the rows without a reason."""
        keep = np.ones(self._rows, dtype=bool)
        keep[list(self.reasons)] = False
        return pa.array(np.flatnonzero(keep))


def _new_columns(table: pa.Table, contract: Contract, *, broken: bool) -> list[Column]:
    known = {column.name.lower(): column.name for column in contract.columns}
    fresh = []
    for name in table.column_names:
        other = known.get(name.lower())
        if other == name:
            continue
        if other is not None and not broken:
            raise ContractBroken(
                f"new column {name!r} differs from the contract's {other!r} only in case", remedy=f"rename it to {other!r}", values={"column": name}
            )
        kind = kind_of(table[name])
        if kind and name not in RESERVED:
            fresh.append(Column(name=name, kind=kind))
    return fresh


def _coerce(
    values: pa.ChunkedArray, column: Column, faults: _Faults, so_far: SoFar, *, single: bool
) -> tuple[pa.ChunkedArray, Kind, str | None]:
    """Bring values to the column's kind; (values with null where impossible, kind, why the kind is another one or None)."""
    target, kind = STORED[column.kind], column.kind
    if values.type == target:
        so_far.count(column.name, len(values) - values.null_count, 0)
        return values, kind, None
    if pa.types.is_null(values.type) or pa.types.is_string(target):
        return values.cast(target), kind, None
    found = _converted(values, kind)
    if kind == "integer" and not single and found.null_count > values.null_count:
        # fractions where whole numbers were promised: the promise was learnt too narrow
        wide = _converted(values, "number")
        if wide.null_count < found.null_count:
            found, kind = wide, "number"
    lost = pc.and_(pc.is_null(found), pc.is_valid(values))
    count = pc.sum(lost).as_py() or 0
    given, wrong = so_far.count(column.name, len(values) - values.null_count, count)
    if count and wrong * 2 > given and not single:
        at = pc.index(lost, True).as_py()
        now, sample = kind_of(values), persons.shown(column.name, _shown(values[at].as_py()), faults.personal)
        return found, kind, f"was {column.kind} and is now {now} ({sample} in row {so_far.rows + at + 1}; {wrong:,} of {given:,} values)"
    if count:
        # without a value of its kind a row cannot be taken, so a warning would not do
        faults.add(lost, values, column.name, f"is not {_WORDS[kind]}", "refuse" if column.severity == "refuse" else "quarantine")
    return found, kind, None


def _converted(values: pa.ChunkedArray, kind: Kind) -> pa.ChunkedArray:
    """Convert what can be converted without loss of meaning; null elsewhere."""
    target, source = STORED[kind], values.type
    if source == target:
        return values
    if pa.types.is_string(source):
        return parse_as(values, kind)
    if kind == "number" and (pa.types.is_integer(source) or pa.types.is_boolean(source)):
        return values.cast(pa.int64()).cast(target, safe=False)
    if kind == "integer" and pa.types.is_boolean(source):
        return values.cast(target)
    if kind == "integer" and pa.types.is_floating(source):
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))
        return pc.if_else(whole, values, None).cast(target)
    if kind == "boolean" and (pa.types.is_integer(source) or pa.types.is_floating(source)):
        return pc.if_else(pc.is_in(values, value_set=pa.array([0, 1], source)), values, None).cast(target)
    return pa.chunked_array([pa.nulls(len(values), target)])


def _check_values(values: pa.ChunkedArray, column: Column, faults: _Faults) -> None:
    name, severity = column.name, column.severity
    if not column.nullable and values.null_count:
        # a value that could not be read has its reason already
        gaps = [place for place in pc.indices_nonzero(pc.is_null(values)).to_pylist() if place not in faults.reasons]
        if gaps and severity != "quarantine":
            faults.whole(f"{name} is missing", len(gaps), severity)
        for place in gaps if severity != "warn" else []:
            faults.reasons[place] = [Reason(f"{name} is missing", f"{name} is missing")]
    if pa.types.is_floating(values.type):
        faults.add(pc.invert(pc.is_finite(values)), values, name, "is not finite", "refuse" if severity == "refuse" else "quarantine")
    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        if column.minimum is not None:
            faults.add(pc.less(values, column.minimum), values, name, f"is below {column.minimum:g}", severity)
        if column.maximum is not None:
            faults.add(pc.greater(values, column.maximum), values, name, f"is above {column.maximum:g}", severity)
    if column.categories is not None:
        allowed = pc.is_in(values.cast(pa.string()), value_set=pa.array(column.categories, pa.string()))
        faults.add(pc.and_(pc.invert(allowed), pc.is_valid(values)), values, name, f"is none of {', '.join(column.categories[:8])}", severity)


def _check_apart(rows: pa.Table, contract: Contract, before: addition.Before | None, faults: _Faults) -> None:
    """Find rows that are alike in what should tell them apart: among these rows, and among those that are there."""
    there = before.rows if before is not None else None
    for promise in contract.told_apart:
        if not set(promise.columns) <= set(rows.column_names):
            continue  # not stored
        name = ", ".join(promise.columns)
        seen = uniqueness.shown(rows, [column for column in promise.columns if column not in faults.personal] or promise.columns)
        # of two rows the first good one stands
        again = uniqueness.repeated(uniqueness.joined(rows, promise.columns), faults.reasons)
        if before is not None and before.earlier is not None and set(promise.columns) <= set(before.earlier.column_names):
            again = pc.or_(again, uniqueness.known(uniqueness.joined(rows, promise.columns), uniqueness.joined(before.earlier, promise.columns)))
        faults.add(again, seen, name, "was there before", promise.severity)
        if before is not None and there is not None and set(promise.columns) <= set(there.column_names):
            given = before.stored(rows.select(promise.columns))
            alike = uniqueness.known(
                uniqueness.joined(given, promise.columns), uniqueness.joined(there.select(promise.columns).cast(given.schema), promise.columns)
            )
            faults.add(alike, seen, name, f"is in {before.ref} already", promise.severity)


def _check_time(name: str, column: pa.ChunkedArray, note: str | None) -> None:
    if pa.types.is_timestamp(column.type):
        return
    if pa.types.is_string(column.type):
        read = parse_as(column, "timestamp")
        lost = pc.and_(pc.is_null(read), pc.is_valid(column))
        count = pc.sum(lost).as_py() or 0
        if read.null_count < len(column) and count * 2 <= len(column) - column.null_count:
            return
        shown = column[pc.index(lost, True).as_py()].as_py() if count else None
    else:
        shown = next((value for value in column.slice(0, 100).to_pylist() if value is not None), None)
    found = detect.column(name, column)
    if found is not None:
        note, shown = None, f"a value that is not shown ({found.kind})"
    holds = note or (f"it holds {kind_of(column) or 'no value'}, such as {shown if found else _shown(shown)}")
    raise InvalidData(
        f"column {name!r} is no date or time: {holds}",
        remedy="write times as 2026-11-23T08:30:00Z (or 2026-11-23), or name another time column",
        values={"column": name, "found": shown},
    )


def _kind_of_key(name: str, column: pa.ChunkedArray, kind: Kind | None) -> Kind:
    given = len(column) - column.null_count
    distinct = pc.count_distinct(column).as_py() if given else 0
    if distinct < 0.9 * len(column):
        most: list[dict[str, Any]] = pc.value_counts(column.drop_null()).to_pylist() if given else []
        top: dict[str, Any] = max(most, key=lambda item: int(item["counts"]), default={"values": None, "counts": 0})
        found = detect.column(name, column)
        what = (
            f"{f'a value that is not shown ({found.kind})' if found else _shown(top['values'])} is on {top['counts']:,} rows"
            if top["counts"] > 1
            else f"{column.null_count:,} of {len(column):,} rows have none"
        )
        raise InvalidData(
            f"column {name!r} does not identify a row: {what}",
            remedy="name another key column, or none",
            values={"column": name, "distinct": distinct, "rows": len(column)},
        )
    return "text" if kind == "category" or kind is None else kind


def _check_keys(table: pa.Table, keys: list[str]) -> None:
    distinct = pc.count_distinct(uniqueness.joined(table, keys)).as_py()
    if distinct < 0.9 * table.num_rows:
        raise InvalidData(
            f"columns {', '.join(map(repr, keys))} do not identify a row: {table.num_rows:,} rows have {distinct:,} different values of them",
            remedy="name more key columns, or none",
            values={"columns": keys, "distinct": distinct, "rows": table.num_rows},
        )


def broken(gone: list[Column], changed: dict[str, str], change: dict[str, list[dict[str, Any]]]) -> ContractBroken:
    """Build the error for a table whose columns are not those of the contract; ``change`` is the difference, for machines."""
    missing, new = [column.name for column in gone], [column["name"] for column in change["added"]]
    lines = [*(f"column {name!r} {what}" for name, what in changed.items()), *_gone(missing, new)]
    lines += [f"column {column['name']!r} is new ({column['kind']})" for column in change["added"]]
    return ContractBroken(
        f"the data breaks its contract: {'; '.join(lines[:6])}{f'; and {len(lines) - 6} more' if len(lines) > 6 else ''}",
        remedy="mend the source; if it means to change, edit the contract's file under contracts/, then add with mode replace",
        values={"missing": missing, "changed": changed, "new": new, "diff": change},
    )


def _schema_change(
    table: pa.Table, contract: Contract, *, gone: list[Column], changed: Mapping[str, str], fresh: list[Column]
) -> dict[str, list[dict[str, Any]]]:
    """Return what differs between the contract's columns and the table's: gone, added, changed; with values seen where the kind changed."""
    was, personal = {column.name: column.kind for column in contract.columns}, persons.decisions(contract)
    return {
        "gone": [{"name": column.name, "kind": column.kind} for column in gone],
        "added": [{"name": column.name, "kind": column.kind} for column in fresh],
        "changed": [
            {
                "name": name, "was": was[name], "now": kind_of(table[name]),
                # none of a column that tells of persons
                "samples": [] if name in personal else _samples(table[name], was[name]),
            }
            for name in changed
        ],
    }  # fmt: skip


def _samples(values: pa.ChunkedArray, kind: Kind) -> list[str]:
    """Return a few different values that are not of the kind."""
    wrong = values.filter(pc.and_(pc.is_null(_converted(values, kind)), pc.is_valid(values)))
    return [_shown(value) for value in wrong.slice(0, 10_000).unique().slice(0, 3).to_pylist()]


def _gone(missing: list[str], new: list[str]) -> Iterator[str]:
    for name in missing:
        close = nearest(name, new)
        yield f"column {name!r} is gone{f' (renamed to {close!r}?)' if close else ''}"


def _shown(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}" if value != int(value) else str(int(value))
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
