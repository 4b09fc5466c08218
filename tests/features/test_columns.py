"""Rows that came as columns are encoded to the same bits, and refused with the same words, as rows that came as rows."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.errors import InvalidInput
from kaizenml.features.encoding.batch import compile_rows
from kaizenml.features.encoding.columns import Columns
from kaizenml.features.encoding.encoder import EncodedColumn, Encoder, compile_row

ENCODER = Encoder(
    columns=[
        EncodedColumn(name="price", kind="number"),
        EncodedColumn(name="size", kind="category", levels=["M", "L"]),
        EncodedColumn(name="count", kind="integer"),
        EncodedColumn(name="gift", kind="boolean"),
        EncodedColumn(name="ordered", kind="timestamp", yearday=True),
    ],
    accepts=["order"],
)
ENCODE = compile_row(ENCODER)
ENCODE_ROWS = compile_rows(ENCODER, ENCODE)
DTYPES = ["f2", "f4", "f8", "i1", "i8", "u1", "u8", "?", "U2", "M8[us]"]


def arrays(length: int) -> st.SearchStrategy[np.ndarray]:
    def of(dtype: str) -> st.SearchStrategy[np.ndarray]:
        kind = np.dtype(dtype)
        if kind.kind == "f":
            value = st.floats(width=8 * kind.itemsize) | st.sampled_from([0.0, -0.0, 1.0, np.nan, np.inf])
        elif kind.kind in "iu":
            value = st.integers(np.iinfo(kind).min, np.iinfo(kind).max) | st.integers(0, 1)
        elif kind.kind == "M":
            value = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))
        else:
            value = st.booleans() if kind.kind == "b" else st.sampled_from(["M", "L", "XS", ""])
        return st.lists(value, min_size=length, max_size=length).map(lambda values: np.array(values, kind))

    return st.sampled_from(DTYPES).flatmap(of)


def columns_of(names: list[str]) -> st.SearchStrategy[Columns]:
    return st.integers(1, 4).flatmap(lambda length: st.fixed_dictionaries({name: arrays(length) for name in names})).map(Columns)


@pytest.mark.slow
@given(columns_of(["price", "size", "count", "gift", "ordered", "order"]))
@settings(max_examples=60, deadline=None)
def test_columns_and_rows_give_the_same_bits_or_the_same_refusal(columns) -> None:
    def tried(rows):
        try:
            return ENCODE_ROWS(rows).tobytes()
        except InvalidInput as refused:
            return refused.document()

    whole = tried(columns)
    assert whole == tried(list(columns))
    one_by_one = [tried([row]) for row in columns]
    if isinstance(whole, bytes):
        assert whole == b"".join(one_by_one)


def test_arrays_that_fit_are_taken_over_without_making_rows(monkeypatch) -> None:
    columns = Columns({
        "price": np.array([1.5, np.nan]), "size": ["L", None], "count": np.array([1.0, np.nan]), "gift": np.array([1, 0]),
        "ordered": ["2026-03-01", None],
    })  # fmt: skip
    expected = ENCODE_ROWS(list(columns))
    monkeypatch.setattr(Columns, "__iter__", lambda self: pytest.fail("rows were made"))
    assert ENCODE_ROWS(columns).tobytes() == expected.tobytes()


def test_a_column_too_many_or_too_few_is_named() -> None:
    whole = {"price": [1.0], "size": ["M"], "count": [1], "gift": [True], "ordered": [None]}
    with pytest.raises(InvalidInput, match="did you mean 'price'"):
        ENCODE_ROWS(Columns({**whole, "prise": [1.0]}))
    with pytest.raises(InvalidInput, match="price is absent"):
        ENCODE_ROWS(Columns({name: column for name, column in whole.items() if name != "price"}))


def test_a_row_is_plain_from_either_end() -> None:
    columns = Columns({"price": np.array([1.5, np.nan], np.float32), "size": ["L", None]})
    assert columns[-1] == columns[1] == {"price": None, "size": None}
    assert columns[:1] == [{"price": 1.5, "size": "L"}] == [next(iter(columns))]
    with pytest.raises(IndexError):
        columns[2]
