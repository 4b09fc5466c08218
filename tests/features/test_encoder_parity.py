"""The law of the encoder: a row sent as JSON gives the same float32 bits as the same row in a table."""

from __future__ import annotations

import datetime as dt
from array import array
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kaizenml.errors import InvalidInput
from kaizenml.features.encoding.batch import compile_rows
from kaizenml.features.encoding.encoder import Encoder, RowEncoder, compile_row
from kaizenml.features.encoding.vectorised import encode, learn
from kaizenml.features.signature import Field

FIELDS = [
    Field(name="number", kind="number"),
    Field(name="late", kind="timestamp"),
    Field(name="integer", kind="integer"),
    Field(name="colour of it", kind="category"),
    Field(name="many", kind="category"),
    Field(name="open", kind="boolean"),
    Field(name="at", kind="timestamp"),
    Field(name="v_temp", kind="number", view="v"),
]
SCHEMA = pa.schema(
    {
        "number": pa.float64(),
        "late": pa.timestamp("us", "UTC"),
        "integer": pa.int64(),
        "colour of it": pa.string(),
        "many": pa.string(),
        "open": pa.bool_(),
        "at": pa.timestamp("us"),
        "v_temp": pa.float64(),
        "unused": pa.string(),
    }
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TIMES = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999))
ROWS = st.fixed_dictionaries(
    {
        "number": st.none() | FLOATS,
        "late": st.none() | TIMES.map(lambda moment: moment.replace(tzinfo=dt.UTC)),
        "integer": st.none() | st.integers(-(2**63), 2**63 - 1),
        "colour of it": st.none() | TEXT,
        "many": st.none() | st.integers(0, 200).map(str),
        "open": st.none() | st.booleans(),
        "at": st.none() | st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1)),
        "v_temp": st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
        "unused": st.none() | TEXT,
    }
)
TABLES = st.lists(ROWS, max_size=12)


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row as a client sends it: to JSON and back."""
    return msgspec.json.decode(msgspec.json.encode(row))  # type: ignore[no-any-return]


def bits(compiled: RowEncoder, rows: list[dict[str, Any]]) -> bytes:
    return b"".join(array("f", compiled(row)).tobytes() for row in rows)


@pytest.mark.slow
@given(trained=TABLES, served=TABLES)
@settings(deadline=None)
@example(trained=[], served=[])
@example(trained=[{**dict.fromkeys(SCHEMA.names), "many": str(i)} for i in range(60)], served=[{**dict.fromkeys(SCHEMA.names), "many": "7"}])
def test_a_row_and_a_table_give_the_same_bits(trained: list[dict[str, Any]], served: list[dict[str, Any]]) -> None:
    encoder = learn(pa.Table.from_pylist(trained, SCHEMA), FIELDS)
    stored = msgspec.json.decode(msgspec.json.encode(encoder), type=Encoder)
    assert stored == encoder
    compiled = compile_row(stored)
    for rows in (trained, served):
        vectors = encode(encoder, pa.Table.from_pylist(rows, SCHEMA))
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        assert vectors.shape == (len(rows), encoder.width) == (len(rows), len(encoder.names))
        assert not np.isinf(vectors).any()
        vectors[np.isnan(vectors)] = np.nan  # one NaN for all: its sign says nothing
        sent = [plain(row) for row in rows]
        assert vectors.tobytes() == bits(compiled, sent)
        together = compile_rows(stored, compiled)(sent)
        assert together.dtype == np.float32
        assert together.flags.c_contiguous
        together[np.isnan(together)] = np.nan
        assert together.tobytes() == vectors.tobytes()


ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from([0, 1, 1.0, 3.0, 2**63, -(2**64), 1e39, 4e307, 10**400])
    | st.sampled_from(["2026-03-01T12:30:00Z", "2026-03-01", "0", "1", "red", "7"])
)  # fmt: skip
NAMES = [field.name for field in FIELDS]


@given(st.lists(st.fixed_dictionaries({name: ANYTHING for name in NAMES[:-1]}, optional={"v_temp": ANYTHING, "stranger": ANYTHING}), max_size=5))
@settings(deadline=None)
def test_rows_together_and_one_by_one_give_the_same_bits_or_the_same_refusal(rows: list[dict[str, Any]]) -> None:
    encoder = learn(pa.Table.from_pylist([{**dict.fromkeys(SCHEMA.names), "colour of it": "red", "many": "7"}], SCHEMA), FIELDS)
    compiled = compile_row(encoder)
    alone: bytes | tuple[str, dict[str, Any]]
    together: bytes | tuple[str, dict[str, Any]]
    try:
        alone = b"".join(array("f", compiled(row, position)).tobytes() for position, row in enumerate(rows))
    except InvalidInput as error:
        alone = error.what, error.values
    try:
        together = compile_rows(encoder, compiled)(rows).tobytes()
    except InvalidInput as error:
        together = error.what, error.values
    if isinstance(alone, bytes) and isinstance(together, bytes):
        found = np.frombuffer(alone, np.float32), np.frombuffer(together, np.float32)
        assert np.array_equal(*found, equal_nan=True)
        assert np.array_equal(*map(np.signbit, (values[~np.isnan(values)] for values in found)))
    else:
        assert repr(together) == repr(alone)


@pytest.mark.slow
@given(st.lists(st.none() | st.floats(), min_size=1, max_size=30))
def test_offline_infinities_are_missing_and_what_float32_cannot_hold_is_clamped(values: list[float | None]) -> None:
    table = pa.table({"x": pa.array(values, pa.float64())})
    encoder = learn(table, [Field(name="x", kind="number")])
    compiled = compile_row(encoder)
    found = encode(encoder, table)[:, 0]
    for value, vector in zip(values, found, strict=True):
        if value is None or not np.isfinite(value):
            assert np.isnan(vector)
        else:
            assert np.float32(compiled({"x": value})[0]).tobytes() == vector.tobytes()
            assert abs(vector) <= np.finfo(np.float32).max


@pytest.mark.parametrize(
    "text", ["2013-07-04T09:30:00Z", "2013-07-04T09:30", "2013-07-04 09:30:00.000000+00:00", "2013-07-04T11:30:00+02:00", "20130704T0930"]
)
def test_one_moment_written_in_many_ways_is_one_vector(text: str) -> None:
    table = pa.table({"at": pa.array([dt.datetime(2013, 7, 4, 9, 30), dt.datetime(2012, 1, 1)], pa.timestamp("us"))})
    encoder = learn(table, [Field(name="at", kind="timestamp")])
    assert encoder.names == ["at.hour", "at.weekday", "at.yearday"]
    expected = encode(encoder, table)[0].tolist()
    assert expected == [9.5, 3.0, 185.0]
    compiled = compile_row(encoder)
    moment = dt.datetime(2013, 7, 4, 9, 30, tzinfo=dt.UTC)
    for value in (text, moment, moment.replace(tzinfo=None), moment.timestamp(), int(moment.timestamp())):
        assert compiled({"at": value}) == expected


def test_columns_of_other_arrow_types_encode_alike() -> None:
    names = ["number", "integer", "category", "boolean", "timestamp"]
    fields = [Field(name=kind, kind=kind) for kind in ("number", "integer", "category", "boolean", "timestamp")]
    moments = [dt.datetime(2013, 1, 1, 5), None, dt.datetime(1969, 12, 31, 23)]
    usual = pa.table([[1.5, None, 3.0], [1, None, 3], ["a", None, "b"], [True, None, False], pa.array(moments, pa.timestamp("us"))], names=names)
    encoder = learn(usual, fields)
    other = pa.table(
        [
            pa.array([1.5, None, 3.0], pa.float32()),
            pa.array([1, None, 3], pa.uint8()),
            pa.array(["a", None, "b"]).dictionary_encode(),
            pa.array([1, None, 0], pa.int8()),
            pa.array(moments, pa.timestamp("ns", "America/New_York")).cast(pa.timestamp("ns", "UTC")),
        ],
        names=names,
    )
    chunked = pa.concat_tables([other.slice(0, 1), other.slice(1)])
    assert encode(encoder, other).tobytes() == encode(encoder, usual).tobytes() == encode(encoder, chunked).tobytes()
    assert learn(other, fields) == encoder
    large = usual.set_column(2, "category", usual["category"].cast(pa.large_string()))
    assert encode(encoder, large).tobytes() == encode(encoder, usual).tobytes()


def test_dates_encode_as_their_midnight() -> None:
    table = pa.table({"day": pa.array([dt.date(2026, 11, 23)], pa.date32())})
    encoder = learn(table, [Field(name="day", kind="timestamp")])
    assert encode(encoder, table).tolist() == [[0.0, 0.0]] == [compile_row(encoder)({"day": "2026-11-23"})]
