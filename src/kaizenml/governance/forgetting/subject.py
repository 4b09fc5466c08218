"""Whom a forgetting is about, and which values say so. Pure."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.dataset import Contract
from kaizenml.data.kinds import STORED
from kaizenml.data.people import personal
from kaizenml.errors import UsageError
from kaizenml.features.encoding.encoder import parse_time_us
from kaizenml.features.view import entity_key

MOST = 1000
"""Subjects in one forgetting."""


class Subject(msgspec.Struct, frozen=True):
    """A person, by the column that says whom a row is about and the value as text (as ``entity_key`` writes it)."""

    column: str
    value: str


def parse(texts: Iterable[str]) -> list[Subject]:
    """Read subjects as they are written: ``customer_id=42``.

    >>> parse(["customer_id=42", "customer_id=42", "email=a=b@c.org"])
    [Subject(column='customer_id', value='42'), Subject(column='email', value='a=b@c.org')]
    """
    found: dict[Subject, None] = {}
    for text in texts:
        column, mark, value = text.partition("=")
        column, value = column.strip(), value.strip()
        if not mark or not column or not value:
            # what was given is not shown: it may be half a name
            raise UsageError("a subject is written COLUMN=VALUE", remedy="--subject customer_id=42", values={"expected": "COLUMN=VALUE"})
        found[Subject(column, value)] = None
    if len(found) > MOST:
        raise UsageError(f"{len(found):,} subjects at once are too many", remedy=f"forget {MOST} at a time", values={"subjects": len(found)})
    return list(found)


def holders(contract: Contract) -> dict[str, str]:
    """Return the columns of a dataset that may say whom a row is about: name -> the name by which subjects are asked for."""
    return {column.name: column.holds or column.name for column in contract.columns}


def values_by_column(contract: Contract, forms: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return which values to look for in which column of a dataset.

    Parameters
    ----------
    forms : by the name subjects are asked for, their values in every form in which they may be stored.
    """
    return {name: list(forms[known]) for name, known in holders(contract).items() if known in forms}


def expression(types: Mapping[str, pa.DataType], wanted: Mapping[str, Iterable[str]]) -> Any | None:
    """Return the filter for rows that hold one of the values in their column; None where no column could.

    Parameters
    ----------
    types : the table's columns.
    wanted : values as text, by column.
    """
    parts = []
    for name, values in wanted.items():
        kind = types.get(name)
        if kind is None:
            continue
        stored = [value for text in values for value in _as_stored(text, kind)]
        if stored:
            parts.append(pc.is_in(pc.field(name), value_set=pa.array(stored, _plain(kind))))
    if not parts:
        return None
    return functools.reduce(operator.or_, parts)


def texts(text: str) -> list[str]:
    """Return how a value reads as text in columns of each kind in which it could be stored.

    >>> texts("42")
    ['42', '42.0']
    """
    found = {text: None}
    for kind in dict.fromkeys(STORED.values()):
        found |= dict.fromkeys(personal.texts(pa.chunked_array([pa.array(_as_stored(text, kind), kind)])).to_pylist())
    return sorted(found)


def in_row(row: Mapping[str, Any], wanted: Mapping[str, Iterable[str]]) -> bool:
    """Return whether a row (as JSON has it) is about one of the subjects."""
    return any(name in row and same(row[name], values) for name, values in wanted.items())


def same(value: Any, texts: Iterable[str]) -> bool:
    """Return whether a value is one of those that are looked for, whatever type it came in."""
    text = entity_key(value)
    return text is not None and text in {form for each in texts for form in alike(each)}


def alike(text: str) -> set[str]:
    """Return how a value may be written: the same whole number with and without a point."""
    number = _number(text)
    return {text} | ({str(int(number)), repr(number)} if number is not None and number.is_integer() else set())


def _as_stored(text: str, kind: pa.DataType) -> list[Any]:
    """Return how a value may stand in a column of this type; nothing where it cannot."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return sorted(alike(text))  # the same number may have been written with a point by another system
    number = _number(text)
    if pa.types.is_integer(kind):
        whole = _whole(text, number)
        return [whole] if whole is not None and -(2**63) <= whole < 2**63 else []
    if pa.types.is_floating(kind):
        return [number] if number is not None else []
    if pa.types.is_boolean(kind):
        return [text.lower() == "true"] if text.lower() in ("true", "false") else []
    if pa.types.is_timestamp(kind):
        try:
            us = parse_time_us(text)
        except (ValueError, OverflowError, TypeError):
            return []
        return [us] if us is not None else []
    return []


def _whole(text: str, number: float | None) -> int | None:
    try:
        return int(text)  # before float: beyond 2**53 digits would be lost
    except ValueError:
        return int(number) if number is not None and number.is_integer() else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number - number == 0 else None  # neither NaN nor infinite


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind
