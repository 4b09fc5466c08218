"""Rows decoded straight into records give the bits that dictionaries give, or leave the row to them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kaizenml.errors import InvalidInput
from kaizenml.features.encoding.batch import compile_rows
from kaizenml.features.encoding.encoder import EncodedColumn, Encoder, compile_row
from kaizenml.features.encoding.records import OutOfForm, Records, compile_records

ENCODER = Encoder(
    columns=[
        EncodedColumn(name="number", kind="number"),
        EncodedColumn(name="late", kind="timestamp", yearday=True),
        EncodedColumn(name="integer", kind="integer"),
        EncodedColumn(name="colour of it", kind="category", levels=["red", "blue"], categorical=True),
        EncodedColumn(name="open", kind="boolean"),
        EncodedColumn(name="at", kind="timestamp"),
    ],
    accepts=["key", "number"],
)
ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
    | st.sampled_from([0, 1, 1.0, -0.0, 3.0, 2**63, -(2**64), 3.5e38, 1e39, 10**400, "red", "2026-03-01T12:30:00Z", "2026-03-01", 4e12])
)  # fmt: skip
FITTING = st.fixed_dictionaries(
    {
        "number": st.none() | st.integers(-(2**70), 2**70) | st.floats(width=32, allow_nan=False, allow_infinity=False),
        "late": st.none() | st.datetimes().map(lambda moment: moment.isoformat()),
        "integer": st.none() | st.integers(-(2**70), 2**70),
        "colour of it": st.none() | st.sampled_from(["red", "blue", "green"]),
        "open": st.none() | st.booleans(),
        "at": st.none() | st.integers(0, 2**31),
    },
    optional={"key": ANYTHING},
)
NOTHING = dict.fromkeys(("number", "late", "integer", "colour of it", "open", "at"))
ODD = st.fixed_dictionaries(dict.fromkeys(NOTHING, ANYTHING), optional={"stranger": ANYTHING})


def decoded(rows: list[dict[str, Any]]) -> tuple[Records, Any]:
    compiled = compile_records(ENCODER)
    assert compiled is not None
    return Records(compiled.kind, msgspec.json.decode(msgspec.json.encode(rows), type=list[compiled.kind.struct])), compiled


def bits(vectors: Any) -> bytes:
    found = np.array(vectors, np.float32)
    found[np.isnan(found)] = np.nan
    return found.tobytes()


@given(st.lists(FITTING, min_size=1, max_size=5))
@settings(deadline=None)
def test_rows_that_fit_give_the_bits_that_dictionaries_give_and_stay_the_rows_that_were_sent(rows: list[dict[str, Any]]) -> None:
    records, compiled = decoded(rows)
    sent = msgspec.json.decode(msgspec.json.encode(rows))
    assert [repr(sorted(row.items())) for row in records] == [repr(sorted(row.items())) for row in sent]
    assert (records[0], records[1:], len(records)) == (sent[0], sent[1:], len(sent))
    expected = compile_rows(ENCODER, compile_row(ENCODER))(sent)
    assert bits(compiled.many(records.held)) == bits(expected)
    assert [bits(compiled.one(record)) for record in records.held] == [bits(row) for row in expected]


@given(st.lists(ODD, min_size=1, max_size=3))
@settings(deadline=None)
@example([{**NOTHING, "number": 1e39}])
@example([{**NOTHING, "number": 3.4028235677973366e38}, {**NOTHING, "integer": -(10**400)}])
def test_what_is_clamped_refused_or_odd_is_left_to_dictionaries_or_gives_the_same_bits(rows: list[dict[str, Any]]) -> None:
    try:
        records, compiled = decoded(rows)
        together, alone = compiled.many(records.held), [compiled.one(record) for record in records.held]
    except (msgspec.DecodeError, OutOfForm):
        return
    encode = compile_row(ENCODER)
    expected = [encode(row, position) for position, row in enumerate(msgspec.json.decode(msgspec.json.encode(rows)))]
    assert bits(together) == bits(alone) == bits(expected)


@pytest.mark.parametrize(
    "row", [{"x": True}, {"x": "3"}, {"x": None, "y": 1}, {}, {"x": [1]}], ids=["boolean", "text", "unknown name", "absent", "list"]
)
def test_the_decoder_refuses_what_the_encoder_refuses(row: dict[str, Any]) -> None:
    encoder = Encoder(columns=[EncodedColumn(name="x", kind="number")])
    compiled = compile_records(encoder)
    assert compiled is not None
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(row), type=compiled.kind.struct)
    with pytest.raises(InvalidInput):
        compile_row(encoder)(row)


def test_inputs_from_feature_views_and_names_that_no_field_can_have_are_left_to_dictionaries() -> None:
    assert compile_records(Encoder(columns=[EncodedColumn(name="v_temp", kind="number", view="v")])) is None
    assert compile_records(Encoder(columns=[EncodedColumn(name='a "b"', kind="number")])) is None
    assert compile_records(Encoder(columns=[])) is None


def test_releases_that_take_the_same_inputs_share_their_records_and_others_do_not() -> None:
    def kind(*columns: EncodedColumn) -> Any:
        compiled = compile_records(Encoder(columns=list(columns)))
        assert compiled is not None
        return compiled.kind

    size, price = EncodedColumn(name="size", kind="category", levels=["M"]), EncodedColumn(name="price", kind="number")
    assert kind(size, price) is kind(EncodedColumn(name="size", kind="category", levels=["L", "M"]), price)
    assert kind(size, price) is not kind(price, size)
    assert kind(price) is not kind(EncodedColumn(name="price", kind="integer"))
