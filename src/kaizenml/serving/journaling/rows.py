"""Journal records as rows of the predictions dataset. Offline: pure, but for the signatures it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from kaizenml.errors import KaizenError
from kaizenml.features.encoding.encoder import parse_time_us
from kaizenml.refs import parse_ref
from kaizenml.rollouts.snapshot import LENT
from kaizenml.serving.journaling import predictions
from kaizenml.serving.journaling.records import Body, PredictionRecord, Record, ShadowRecord
from kaizenml.training import model_file

_TIME = pa.timestamp("us", tz="UTC")
_TYPES: dict[str, pa.DataType] = {
    "number": pa.float64(), "integer": pa.float64(), "boolean": pa.bool_(), "category": pa.string(), "timestamp": _TIME,
}  # fmt: skip
_decode_body = msgspec.json.Decoder(Body).decode


class InputKinds:
    """Which type each input of a release has in the dataset, from the signature in its bundle."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._known: dict[str, dict[str, pa.DataType]] = {}

    def of(self, release: str) -> dict[str, pa.DataType]:
        """Return input name -> type; empty where the bundle is gone (types then follow from the values)."""
        known = self._known.get(release)
        if known is None:
            known = self._known[release] = self._read(release)
        return known

    def _read(self, release: str) -> dict[str, pa.DataType]:
        try:
            name, number = parse_ref(release)
            signature = model_file.read(self._state / "releases" / name / str(number) / "model").signature
        except (KaizenError, OSError):
            return {}
        kinds = {field.name: _TYPES[field.kind] for field in signature.fields}
        if signature.time:
            kinds.setdefault(signature.time, _TIME)
        return kinds


def tabulate(records: Sequence[Record], kinds: InputKinds, batch: int, existing: Mapping[str, pa.DataType]) -> pa.Table:
    """Turn records of one endpoint into rows; live ones first, each in the order of the journal.

    Inputs become columns ``x_...``; ``at_VIEW`` says when the values are from that a row had out of a feature view.

    Parameters
    ----------
    kinds : the types of the releases' inputs.
    batch : the number of this drain.
    existing : columns ``x_...`` that the table has, whose types stand.
    """
    live = [record for record in records if isinstance(record, PredictionRecord)]
    ordered: list[Record] = [*live, *(record for record in records if isinstance(record, ShadowRecord))]
    columns = _base(ordered, batch)
    inputs = [row for record in live for row in _inputs(record)]
    absent = len(columns["id"]) - len(inputs)
    types: dict[str, pa.DataType] = {}
    for release in dict.fromkeys(record.release for record in live):
        types |= kinds.of(release)
    for name in _names(inputs):
        values = [row.get(name) for row in inputs]
        kind = existing.get(f"x_{name}") or types.get(name) or _guess(values)
        if kind is None:
            continue  # nothing but null so far
        columns[f"x_{name}"] = pa.concat_arrays([_array(values, kind), pa.nulls(absent, kind)])
    for view in dict.fromkeys(view for record in live for view in record.ats or ()):
        times = [at for record in live for at in (record.ats or {}).get(view) or [None] * len(record.answers)]
        micros = [None if at is None else round(at * 1e6) for at in times]
        columns[f"at_{view}"] = pa.concat_arrays([pa.array(micros, pa.int64()).cast(_TIME), pa.nulls(absent, _TIME)])
    return pa.table(columns)


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what any of the rows has a value for, in the order in which they come; rows mostly have the same."""
    names: dict[str, None] = {}
    for row in rows:
        if not row.keys() <= names.keys():
            names |= dict.fromkeys(row)
    return [*names]


def _base(records: Sequence[Record], batch: int) -> dict[str, pa.Array]:
    counts = [len(record.answers) for record in records]
    answers = [answer for record in records for answer in record.answers]
    texts: dict[Any, str] = {}
    whole: dict[str, list[Any]] = {
        "id": [answer.id for answer in answers],
        "at": _spread([round(record.at * 1e6) for record in records], counts),
        "day": _spread([_day(record.at) for record in records], counts),
        "_batch": [batch] * len(answers),
        "role": _spread(["live" if isinstance(record, PredictionRecord) else "shadow" for record in records], counts),
        "release": [answer.release or record.release for record in records for answer in record.answers],
        "arm": [LENT if answer.release else record.arm for record in records for answer in record.answers],
        "decided_by": [answer.decided_by for answer in answers],
        "reason": [answer.reason for answer in answers],
        "unit": _spread([record.unit if isinstance(record, PredictionRecord) else None for record in records], counts),
        "value": [_text(answer.value, texts) for answer in answers],
        "score": [_score(answer.value, answer.probabilities) for answer in answers],
        "probabilities": [answer.probabilities for answer in answers],
        "propensity": [answer.propensity for answer in answers],
    }
    return {name: pa.array(values, predictions.BASE.field(name).type) for name, values in whole.items()}


def _inputs(record: PredictionRecord) -> list[dict[str, Any]]:
    rows = _decode_body(record.body).rows
    if record.features is None:
        return list(rows)
    return [given | row for given, row in zip(record.features, rows, strict=True)]


def _spread(values: list[Any], counts: list[int]) -> list[Any]:
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]


def _day(at: float) -> str:
    # the second, as in the id: the two must name the same day
    return _date(int(at) // 86_400)


@lru_cache(1000)
def _date(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")


def _text(value: Any, known: dict[Any, str]) -> str:
    if isinstance(value, float):
        return msgspec.json.encode(value).decode()
    key = (type(value), value)  # True and 1 are equal, and different answers
    text = known.get(key)
    if text is None:
        text = known[key] = msgspec.json.encode(value).decode()
    return text


def _score(value: Any, probabilities: list[float] | None) -> float | None:
    if probabilities:
        return probabilities[1] if len(probabilities) == 2 else max(probabilities)
    return value if isinstance(value, float) else None  # a class, answered without probabilities, is no score


def _guess(values: list[Any]) -> pa.DataType | None:
    """Choose a type for an input that no signature names (a key, an entity, an unused column)."""
    for value in values:
        if value is not None:
            kinds = {bool: pa.bool_(), int: pa.float64(), float: pa.float64(), datetime: _TIME}
            return kinds.get(type(value), pa.string())
    return None


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Make a column, reading each value as leniently as the encoder does; what does not fit is null."""
    if kind == _TIME:
        return pa.array([_read(parse_time_us, value) for value in values], pa.int64()).cast(_TIME)
    try:
        return pa.array(values, kind, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        readers: dict[pa.DataType, Callable[[Any], Any]] = {pa.float64(): float, pa.bool_(): _boolean, pa.string(): _string}
        reader = readers[kind]
        return pa.array([_read(reader, value) for value in values], kind, from_pandas=True)


def _read(reader: Callable[[Any], Any], value: Any) -> Any:
    try:
        return None if value is None else reader(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _boolean(value: Any) -> bool | None:
    return bool(value) if value in (0, 1) else None


def _string(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
