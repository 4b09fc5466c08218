"""Rows in quarantine that a person has looked at: released into the dataset, or dropped. Each row is decided once."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.data import addition, storage, tables
from kaizenml.data import contract as rules
from kaizenml.data.dataset import Column, Contract, DatasetVersion, Decided
from kaizenml.data.keys import Keys
from kaizenml.data.kinds import SOURCE, VERSION
from kaizenml.data.people import personal
from kaizenml.errors import NotFound, UsageError

_MARKS = (VERSION, "_row", "_rule", "_reason")


def waiting(ctx: Context, dataset: str, numbers: set[int], decided: list[Decided]) -> pa.Table:
    """Return the rows that the additions ``numbers`` kept out and nobody has decided on, as ``tables.read_quarantine`` gives them."""
    rows = tables.read_quarantine(tables.quarantine_folder(ctx, dataset), numbers)
    gone = _by_addition(decided)
    if not rows.num_rows or not gone.keys() & numbers:
        return rows
    keep = np.ones(rows.num_rows, dtype=bool)
    versions, places = rows[VERSION].to_numpy(), rows["_row"].to_numpy()
    for number, done in gone.items():
        keep &= ~((versions == number) & np.isin(places, builtins.list(done)))
    return rows.filter(pa.array(keep))


def choose(rows: pa.Table, dataset: str, *, rule: str | None, numbers: list[int] | None, version: int | None) -> pa.Table:
    """Return the waiting rows that a person means.

    Raises
    ------
    UsageError : row numbers that are of several additions.
    NotFound : there are no such rows.
    """
    if version is not None and rows.num_rows:
        rows = rows.filter(pc.equal(rows[VERSION], version))
    if numbers is not None and rows.num_rows:
        of = sorted(set(rows[VERSION].to_pylist()))
        if len(of) > 1:
            raise UsageError(
                f"rows {', '.join(map(str, numbers[:8]))} may be of the addition {' or '.join(map(str, of[:8]))}",
                remedy=f"name it: --version {of[-1]}", values={"versions": of},
            )  # fmt: skip
        missing = sorted(set(numbers) - set(rows["_row"].to_pylist()))
        if missing:
            raise NotFound(
                f"row {missing[0]} of {dataset} is not waiting in quarantine",
                remedy=f"kaizen data quarantine {dataset}", values={"rows": missing[:50]},
            )  # fmt: skip
        rows = rows.filter(pc.is_in(rows["_row"], value_set=pa.array(numbers, pa.int64())))
    if rule is not None and rows.num_rows:
        known = sorted(set(rows["_rule"].to_pylist()))
        rows = rows.filter(pc.equal(rows["_rule"], rule))
        if not rows.num_rows:
            raise NotFound(
                f"no row of {dataset} waits because of {rule!r}; there is {', '.join(map(repr, known[:8]))}",
                remedy=f"kaizen data quarantine {dataset}", values={"rule": rule, "known": known[:50]},
            )  # fmt: skip
    if not rows.num_rows:
        raise NotFound(f"no such row of {dataset} waits in quarantine", remedy=f"kaizen data quarantine {dataset}", values={"dataset": dataset})
    return rows


def typed(rows: pa.Table, contract: Contract, before: addition.Before, keys: Keys | None) -> rules.Checked:
    """Read rows of the quarantine as what they should have been; promises on values are waived, kinds, key and time are not.

    Returns
    -------
    Good rows as they are stored, with their source; the others with the reason why they stay.
    """
    must = {*contract.keys, contract.time}
    stored = personal.as_stored(contract)
    columns = [Column(name=column.name, kind=column.kind, nullable=column.name not in must, personal=column.personal) for column in stored.columns]
    waived = Contract(columns=columns, key=contract.key, time=contract.time, subject=contract.subject)
    given = rows.select([column.name for column in columns if column.name in rows.column_names])
    checked = rules.check(given, waived, partial=True, before=before, single=True)
    good = personal.protect(checked.good, contract, keys)
    return checked._replace(good=good.append_column(SOURCE, rows[SOURCE].take(checked.rows)) if SOURCE in rows.column_names else good)


def numbered(rows: pa.Table) -> dict[int, list[int]]:
    """Return the row numbers of each addition."""
    found: dict[int, list[int]] = {}
    for version, row in zip(rows[VERSION].to_pylist(), rows["_row"].to_pylist(), strict=True):
        found.setdefault(version, []).append(row)
    return {version: sorted(numbers) for version, numbers in sorted(found.items())}


def left_after(decided: list[Decided]) -> Callable[[DatasetVersion], int]:
    """Return what says how many rows of an addition still wait."""
    gone = _by_addition(decided)
    return lambda version: version.quarantined - len(gone.get(version.number, ()))


def sweep(ctx: Context, dataset: str, decided: list[Decided]) -> None:
    """Remove the rows that were decided on from the quarantine's table. May be done again, and be cut off anywhere."""
    path = tables.quarantine_folder(ctx, dataset)
    gone = _by_addition(decided)
    there = set(tables.part_files(path, VERSION))
    for number in sorted(gone.keys() & there):
        rows = tables.read_quarantine(path, [number])
        left = rows.filter(pc.invert(pc.is_in(rows["_row"], value_set=pa.array(sorted(gone[number]), pa.int64()))))
        if left.num_rows == rows.num_rows:
            continue
        table = storage.open_table(path)
        assert table is not None  # it has files
        if left.num_rows:
            storage.write(path, table, left, by=VERSION, mode="overwrite", predicate=f"{VERSION} = {number}")
        else:
            table.delete(f"{VERSION} = {number}")


def _by_addition(decided: list[Decided]) -> Mapping[int, set[int]]:
    found: dict[int, set[int]] = {}
    for one in decided:
        for number, rows in one.rows.items():
            found.setdefault(number, set()).update(rows)
    return found
