"""Real rows as requests: what the gates send and what a bundle shows as its example."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from kaizenml.features.signature import Signature
from kaizenml.features.view import feature_names

Row = dict[str, Any]


def sample(table: pa.Table, count: int) -> pa.Table:
    """Return up to ``count`` rows, spread evenly over the table: old and new alike, the same ones every time."""
    if table.num_rows <= count:
        return table
    return table.take(np.linspace(0, table.num_rows - 1, count).astype(np.int64))


def requests(table: pa.Table, signature: Signature) -> list[Row]:
    """Return every row as a client would send it: the inputs, and the columns that name entity, unit, key and time.

    The rows have been through JSON: what comes back is what a server decodes.
    """
    names = [field.name for field in signature.fields]
    names += [key for view in signature.views for key in view.entities] + [name for name in (signature.key, signature.unit, signature.time) if name]
    names += [name for each in signature.derived for name in (each.name, *each.inputs)]
    present = [name for name in dict.fromkeys(names) if name in table.column_names]
    text = msgspec.json.encode([{name: _plain(value) for name, value in row.items()} for row in table.select(present).to_pylist()])
    rows: list[Row] = msgspec.json.decode(text)
    return rows


def example(table: pa.Table, count: int, signature: Signature) -> list[Row]:
    """Return up to ``count`` rows as a client sends them who leaves features to the online store: null in their place would count as unknown."""
    looked_up = {each.name for each in signature.derived}
    for view in signature.views:
        looked_up |= {*feature_names(view.name, [*view.columns, *(each.name for each in view.aggregates)], plain=view.plain)}
    return [{name: value for name, value in row.items() if name not in looked_up} for row in requests(sample(table, count), signature)]


def _plain(value: Any) -> Any:
    """Write what JSON has no word for the way clients do: times in ISO 8601, decimals as numbers."""
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    return value
