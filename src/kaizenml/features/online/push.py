"""Checking pushed rows: one converter per column, compiled once for each view. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from kaizenml.data.dataset import Kind
from kaizenml.data.recognised import Recogniser
from kaizenml.errors import InvalidInput, nearest
from kaizenml.features.encoding.encoder import parse_time_us
from kaizenml.features.view import FeatureView, entity_key, key_of
from kaizenml.features.windows.moments import Row, keeps_rows

if TYPE_CHECKING:  # serving processes check rows too, and make no tables
    import pyarrow as pa

Converter = Callable[[Any], Any]
_EXPECTED: dict[str, str] = {
    "number": "a number",
    "integer": "a whole number within 64 bits",
    "boolean": "true or false",
    "category": "text",
    "text": "text",
    "timestamp": "a time (ISO 8601 such as '2026-03-01T12:30:00Z', or seconds since 1970)",
    "any": "a number, text, true, false or null",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Checked(NamedTuple):
    """Pushed rows, fit for both stores."""

    online: list[tuple[str, float, dict[str, Any]]]
    histories: dict[str, list[Row]]  # instead, of a view that keeps rows
    offline: list[dict[str, Any]]
    left_out: int = 0  # rows of subjects who were forgotten, which are in none of them


class Checker:
    """Checks rows for one view and writes their values the way both stores hold them.

    Parameters
    ----------
    view : the definition.
    kinds : kinds of the dataset's columns; where one is unknown (no dataset yet) any scalar passes.
    keys : the columns that tell the dataset's rows apart, for a view that keeps rows.
    hide : by column that tells of persons, what makes its pseudonyms.
    gone : by column in which subjects who were forgotten may stand, what tells them.
    """

    def __init__(
        self,
        view: FeatureView,
        kinds: Mapping[str, Kind],
        keys: Sequence[str] = (),
        *,
        hide: Mapping[str, Callable[[Any], str | None]] | None = None,
        gone: Mapping[str, Recogniser] | None = None,
    ) -> None:
        self.view = view
        self.keys = list(keys)
        self.kinds: dict[str, str] = {name: kinds.get(name, "any") for name in (*view.entities, *view.reads, *keys)}
        self.kinds |= dict.fromkeys((name for name in (view.at, view.created) if name is not None), "timestamp")
        self._needed = {*view.entities, *keys, view.at}
        self._hide = hide or {}
        self._gone = {name: recogniser for name, recogniser in (gone or {}).items() if name in self.kinds}
        self.ref, self._entities, self._reads, self._keeps_rows = view.ref, view.entities, view.reads, keeps_rows(view)  # once, not for each row
        self._converters = [(name, self._hide.get(name) or _CONVERTERS[kind]) for name, kind in self.kinds.items()]

    def check(self, rows: Sequence[Mapping[str, Any]]) -> Checked:
        """Return the rows for both stores, or raise InvalidInput naming row, field, found and expected."""
        view, online, offline = self.view, [], []
        histories: dict[str, list[Row]] = {}
        gone, left_out = self._gone, 0
        for position, row in enumerate(rows):
            if not isinstance(row, Mapping) or row.keys() != self.kinds.keys():
                raise self._wrong_names(row, position)
            values: dict[str, Any] = {}
            name = ""
            try:
                for name, convert in self._converters:
                    values[name] = convert(row[name])
            except (ValueError, TypeError, OverflowError):
                raise self._wrong_value(name, row[name], position) from None
            if gone and self._is_gone(values):
                left_out += 1
                continue
            key = key_of([values[name] for name in self._entities])
            us = 0 if view.at is None else parse_time_us(values[view.at])
            identity = key_of([values[name] for name in self.keys]) if self.keys else ""
            if key is None or us is None or identity is None:
                raise self._wrong_value(next(name for name in self.kinds if name in self._needed and values[name] is None), None, position)
            if self._keeps_rows:
                created = None if view.created is None else parse_time_us(values[view.created])
                made = Row(us, max(us, us if created is None else created), identity or None, tuple([values[name] for name in self._reads]))
                histories.setdefault(key, []).append(made)
            else:
                online.append((key, us / 1e6, {name: values[name] for name in view.columns}))
            offline.append(values)
        return Checked(online, histories, offline, left_out)

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Return checked rows as the dataset takes them."""
        import pyarrow as pa

        types = {
            "number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "category": pa.string(), "text": pa.string(),
            "timestamp": pa.timestamp("us", "UTC"),
        }  # fmt: skip
        columns = {}
        for name, kind in self.kinds.items():
            values = [row.get(name) for row in rows]
            if kind == "timestamp":
                values = [None if value is None else parse_time_us(value) for value in values]
            elif kind in ("category", "text"):
                values = [entity_key(value) for value in values]  # also what was checked before the column became text
            columns[name] = pa.array(values, types.get(kind))
        return pa.table(columns)

    def _is_gone(self, values: Mapping[str, Any]) -> bool:
        texts = ((recogniser, entity_key(values[name])) for name, recogniser in self._gone.items())
        return any(text is not None and recogniser.among([text]) for recogniser, text in texts)

    def _wrong_names(self, row: Any, position: int) -> InvalidInput:
        if not isinstance(row, Mapping):
            return InvalidInput(f"rows[{position}] is not an object", remedy="push objects {column: value}", values={"row": position})
        absent = [name for name in self.kinds if name not in row]
        extra = [str(name) for name in row if name not in self.kinds]
        if absent:
            close = nearest(absent[0], extra)
            return InvalidInput(
                f"rows[{position}].{absent[0]} is absent" + (f"; did you mean it by {close!r}?" if close else ""),
                remedy=f"push {absent[0]!r}" + ("" if absent[0] in self._needed else ", as null when it is not known"),
                values={"row": position, "field": absent[0], "nearest": close},
            )
        close = nearest(extra[0], self.kinds)
        return InvalidInput(
            f"rows[{position}].{extra[0][:100]} is no column of the view {self.view.name!r}" + (f"; did you mean {close!r}?" if close else ""),
            remedy=f"push only {', '.join(self.kinds)}",
            values={"row": position, "field": extra[0][:100], "nearest": close},
        )

    def _wrong_value(self, name: str, value: Any, position: int) -> InvalidInput:
        expected = _EXPECTED[self.kinds[name]]
        needed = name in self._needed
        shown = repr(value) if len(repr(value)) <= 100 else repr(value)[:97] + "..."
        if name in self._hide and value is not None:
            shown = "a value that is not shown"
        return InvalidInput(
            f"rows[{position}].{name}: {'null' if value is None else shown} is not {expected.split(' (')[0]}",
            remedy=f"push {expected}" + ("" if needed else ", or null when it is not known"),
            values={"row": position, "field": name, "found": shown, "expected": expected},
        )


def time_text(us: int) -> str:
    """Write microseconds since 1970 as ISO 8601 in UTC, the way online values hold times."""
    return (_EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (float, int):
        raise ValueError
    number = float(value)
    if math.isinf(number):
        raise ValueError
    return None if math.isnan(number) else number


def _integer(value: Any) -> int | None:
    if value is None or (type(value) is float and math.isnan(value)):
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def _boolean(value: Any) -> bool | None:
    if value is None or (type(value) is float and math.isnan(value)):
        return None
    if type(value) is bool or (type(value) in (int, float) and value in (0, 1)):
        return bool(value)
    raise ValueError


def _text(value: Any) -> str | None:
    if value is None or (type(value) is float and math.isnan(value)):
        return None
    if type(value) is not str:
        raise ValueError
    value.encode()  # a lone surrogate cannot be stored
    return value


def _timestamp(value: Any) -> str | None:
    us = parse_time_us(value)
    return None if us is None else time_text(us)


def _any(value: Any) -> Any:
    kind = type(value)
    if kind is float:
        return _number(value)
    if kind is str:
        return _text(value)
    if value is None or kind is bool:
        return value
    return _timestamp(value) if isinstance(value, datetime) else _integer(value)


_CONVERTERS: dict[str, Converter] = {
    "number": _number, "integer": _integer, "boolean": _boolean, "category": _text, "text": _text, "timestamp": _timestamp, "any": _any,
}  # fmt: skip
