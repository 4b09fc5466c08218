"""Rows of a request decoded straight into records of one model's inputs, and the encoder's pass over them.

A request that fits, and almost every request does, need not become dictionaries first: the JSON decoder checks names and
types while it reads, and what it has read needs packing only. Whatever does not fit goes the way of dictionaries, which
explains it. Bit for bit what ``compile_row`` gives. Hot path: imports only the standard library, numpy and msgspec.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, overload

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from kaizenml.features.encoding.encoder import FLOAT32_MAX, Encoder, compile_column
from kaizenml.features.signature import FieldKind

Plain = str | int | float | bool | None
_NAN = math.nan
_TYPES: dict[FieldKind, Any] = {"number": int | float | None, "integer": int | None, "boolean": bool | None, "category": str | None}


class RecordType:
    """A record's type: the inputs in the order of the vector, then what a request may hold beside them."""

    def __init__(self, inputs: Sequence[tuple[str, FieldKind]], accepts: Sequence[str]) -> None:
        self.names = [*(name for name, _ in inputs), *accepts]
        fields: list[Any] = [(f"f{n}", _TYPES.get(kind, Plain), msgspec.field(name=name)) for n, (name, kind) in enumerate(inputs)]
        fields += [(f"g{n}", Plain | msgspec.UnsetType, msgspec.field(name=name, default=msgspec.UNSET)) for n, name in enumerate(accepts)]
        # records hold plain values only, so they are never part of a cycle
        self.struct: type[msgspec.Struct] = msgspec.defstruct("Record", fields, forbid_unknown_fields=True, gc=False)

    def plain(self, record: msgspec.Struct) -> dict[str, Any]:
        """Return a record as the row that was sent."""
        return {name: value for name, value in zip(self.names, astuple(record), strict=True) if value is not msgspec.UNSET}


class Records(Sequence[dict[str, Any]]):
    """Rows that were decoded into records; each is a dictionary to whoever looks at it."""

    __slots__ = ("held", "kind")

    def __init__(self, kind: RecordType, held: list[msgspec.Struct]) -> None:
        self.kind = kind
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.kind.plain, self.held)

    @overload
    def __getitem__(self, position: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, position: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, position: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(position, slice):
            return list(map(self.kind.plain, self.held[position]))
        return self.kind.plain(self.held[position])


class RecordEncoder:
    """The pass over records of ``kind``. It raises ``OutOfForm`` where the pass over dictionaries has to look.

    >>> from kaizenml.features.encoding.encoder import EncodedColumn
    >>> encoder = compile_records(Encoder(columns=[EncodedColumn(name="price", kind="number")]))
    >>> encoder.many(msgspec.json.decode('[{"price": 3}, {"price": null}]', type=list[encoder.kind.struct])).tolist()
    [[3.0], [nan]]
    """

    def __init__(self, encoder: Encoder, kind: RecordType) -> None:
        self.kind = kind
        columns = encoder.ordered
        self._width = encoder.width
        self._pack = struct.Struct(f"={encoder.width}f").pack  # without the sign it would take what float32 cannot hold
        self._inputs = len(columns)
        self._steps = [(n, compile_column(column)) for n, column in enumerate(columns) if column.kind == "category"]
        self._times = [(n, compile_column(column)) for n, column in enumerate(columns) if column.kind == "timestamp"]
        self._as_sent = not self._steps and not self._times and len(kind.names) == self._inputs

    def one(self, record: msgspec.Struct) -> list[float]:
        """Return the vector of one record."""
        vector = list(self._values(record))
        try:
            if None in vector:
                vector = [_NAN if value is None else value for value in vector]
            if not math.hypot(*vector) <= FLOAT32_MAX:  # NaN, or perhaps beyond float32: packing tells
                self._pack(*vector)
        except (OverflowError, struct.error):
            raise OutOfForm from None
        return vector

    def many(self, records: Sequence[msgspec.Struct]) -> NDArray[np.float32]:
        """Return (rows, width)."""
        pack = self._pack
        try:
            try:
                packed = b"".join([pack(*vector) for vector in map(astuple if self._as_sent else self._values, records)])
            except struct.error:  # null
                packed = b"".join([pack(*(_NAN if value is None else value for value in vector)) for vector in map(self._values, records)])
        except (OverflowError, struct.error):
            raise OutOfForm from None
        return np.frombuffer(packed, np.float32).reshape(len(records), self._width)

    def _values(self, record: msgspec.Struct) -> Sequence[Any]:
        values = astuple(record)
        if self._as_sent:
            return values
        vector = list(values[: self._inputs])
        try:
            for place, step in self._steps:
                vector[place] = step(vector[place])
            if self._times:
                del vector[self._times[0][0] :]
                for place, step in self._times:
                    vector += step(values[place])
        except Exception:  # whatever it is, the pass over dictionaries says which value
            raise OutOfForm from None
        return vector


class OutOfForm(Exception):
    """The records hold what is clamped or refused."""


def compile_records(encoder: Encoder) -> RecordEncoder | None:
    """Compile the encoder for records; None where requests need more than decoding: some inputs come from elsewhere."""
    columns = encoder.ordered
    if not columns or any(column.view is not None for column in columns):
        return None
    names = {column.name for column in columns}
    try:
        kind = _record_type(tuple((column.name, column.kind) for column in columns), tuple(name for name in encoder.accepts if name not in names))
    except ValueError:  # a name that msgspec does not take for a field
        return None
    return RecordEncoder(encoder, kind)


@lru_cache(256)  # releases of one model mostly take the same inputs: their records are then of one type
def _record_type(inputs: tuple[tuple[str, FieldKind], ...], accepts: tuple[str, ...]) -> RecordType:
    return RecordType(inputs, accepts)
