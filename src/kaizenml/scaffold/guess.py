"""Which column says when a row happens, and which identifies it: pure rules over the table, each with its reason."""

from __future__ import annotations

import re

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data import kinds
from kaizenml.data.dataset import Contract

NOT_THE_EVENT = re.compile(r"birth|born|\bdob\b|^dob|expir|deadline|due|until|valid_to|updat|modif|delet", re.IGNORECASE)
"""Dates that belong to a thing or to the future: they do not say when the row happened."""
IDENTIFIES = re.compile(r"(?i:^(id|key|uuid|guid)$|[_ -](id|key|uuid|guid|no|nr|number)$|^(id|key)[_ -])|[a-z0-9](Id|ID|Key|Uuid|UUID)$")
_FEWEST_TIMES = 3


class Guess(msgspec.Struct, frozen=True, kw_only=True):
    """A column, or None, and why."""

    column: str | None
    why: str
    guessed: bool = True


def time(table: pa.Table, contract: Contract, target: str) -> Guess:
    """Guess the column that says when a row happens.

    A candidate is a date or time without gaps, with three different values at least, whose name is not that of a birthday,
    an expiry or an update. Of several the earliest by its median is taken: a row happens before what follows from it. Where
    one is only the day of another, the finer one stands for both.

    Parameters
    ----------
    table : the rows.
    contract : kinds of its columns.
    target : never taken.
    """
    found = []
    for column in contract.columns:
        if column.kind != "timestamp" or column.name == target or NOT_THE_EVENT.search(column.name):
            continue
        values = table[column.name]
        if values.null_count == 0 and pc.count_distinct(values).as_py() >= _FEWEST_TIMES:
            found.append((_median(values), column.name))
    if not found:
        return Guess(column=None, why="no column is a date or time without gaps; rows are split at random")
    if len(found) == 1:
        return Guess(column=found[0][1], why="the only date or time without gaps")
    names = [name for _median_value, name in found]
    days = {name for name in names if any(_is_day_of(table[name], table[other]) for other in names if other != name)}
    first = min(each for each in found if each[1] not in days)
    return Guess(column=first[1], why=f"the earliest of {', '.join(names)}" + (f"; {', '.join(sorted(days))} is only a day" if days else ""))


def spoilt_time(table: pa.Table, target: str) -> tuple[str, str] | None:
    """Return the first column that would be dates and times but for some values, and the note that says which; None: there is none."""
    for name, note in kinds.notes_of(table).items():
        if name != target and not NOT_THE_EVENT.search(name) and (kinds.NO_INSTANT in note or kinds.TWO_INSTANTS in note):
            return name, note
    return None


def key(table: pa.Table, contract: Contract, target: str) -> Guess:
    """Guess the column that identifies a row: text or whole numbers, without gaps or doubles, named like a key; the leftmost.

    Parameters
    ----------
    table : the rows.
    contract : kinds of its columns.
    target : never taken.
    """
    for column in contract.columns:
        if column.name == target or column.kind not in ("integer", "category", "text") or not IDENTIFIES.search(column.name):
            continue
        values = table[column.name]
        if values.null_count == 0 and pc.count_distinct(values).as_py() == table.num_rows:
            return Guess(column=column.name, why="named like a key, different in every row")
    return Guess(column=None, why="no column is named like a key and different in every row")


def _is_day_of(day: pa.ChunkedArray, moment: pa.ChunkedArray) -> bool:
    """Tell whether a column is another one's day in every row, and coarser."""
    days, moments = (values.cast(pa.timestamp("us")) for values in (day, moment))
    floor = pc.floor_temporal(moments, unit="day")
    return bool(days.equals(floor)) and not bool(moments.equals(floor))


def _median(values: pa.ChunkedArray) -> float:
    found = pc.quantile(values.cast(pa.timestamp("us")).cast(pa.int64()), 0.5).to_pylist()[0]
    return float(found)
