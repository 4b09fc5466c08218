from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizenml.data.parse import parse, parse_as


def read(*values: str | None, **options: Any) -> tuple[str, list[Any], str | None]:
    parsed = parse(pa.chunked_array([pa.array(values, pa.string())]), first_line=2, **options)
    return str(parsed.column.type), parsed.column.to_pylist(), parsed.note


def instants(*values: str) -> list[str]:
    kind, found, _ = read(*values)
    assert kind == "timestamp[us, tz=UTC]", kind
    return [moment.isoformat() for moment in found]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "2", None], "int64", [1, 2, None]),
        ([" 1", "+2"], "int64", [1, 2]),
        (["-5", "-0.5"], "double", [-5.0, -0.5]),
        (["1.0", "2"], "double", [1.0, 2.0]),
        (["1e3", ".5"], "double", [1000.0, 0.5]),
        (["9007199254740993", "1"], "int64", [9007199254740993, 1]),
        (["true", "FALSE", "True"], "bool", [True, False, True]),
    ],
)
def test_values_of_one_type_get_it(values, kind, expected):
    assert read(*values) == (kind, expected, None)


@pytest.mark.parametrize("values", [["yes", "no"], ["Y", "N"], ["A", "b"], ["12:30", "13:45"], ["1,000", "2,000"], ["12%", "3%"], ["NY-1", "2"]])
def test_words_stay_as_they_are_written(values):
    assert read(*values)[:2] == ("string", values)


def test_codes_with_leading_zeros_stay_text():
    assert read("007", "12") == ("string", ["007", "12"], "text, because leading zeros make it a code")
    assert read("0x1f", "1")[0] == "string"
    assert read("0", "-0", "0.5")[0] == "double"


def test_whole_numbers_beyond_64_bits_keep_every_digit_as_text():
    kind, values, note = read("12345678901234567890", "1")
    assert (kind, values) == ("string", ["12345678901234567890", "1"])
    assert "64 bits" in note


def test_a_stranger_among_numbers_makes_text_and_is_named_with_its_line():
    kind, _, note = read("1", None, "x7", "3", "4")
    assert kind == "string"
    assert note == "text, because 'x7' on line 4 is no number; the other 3 values are"


def test_spellings_of_missing_among_numbers_are_missing_and_said():
    assert read("1", "?", "2.5", "None") == ("double", [1.0, None, 2.5, None], "missing where it says '?', 'None'")
    assert read("None", "None", "brick")[1] == ["None", "None", "brick"]


def test_a_decimal_comma_is_read_where_commas_do_not_separate():
    assert read("1,5", "-2,25", "1.000,5", decimal_comma=True)[:2] == ("double", [1.5, -2.25, 1000.5])
    assert read("1,5", "2,5")[0] == "string"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2013-01-31", "2013-01-31T00:00:00+00:00"),
        ("2013-01-31T06:00:00Z", "2013-01-31T06:00:00+00:00"),
        ("2013-01-31 06:00", "2013-01-31T06:00:00+00:00"),
        ("2013-01-31 06:00:00.123456789", "2013-01-31T06:00:00.123456+00:00"),
        ("2013-01-31T06:00:00+02:00", "2013-01-31T04:00:00+00:00"),
        ("2013-01-31 06:00:00 +0200", "2013-01-31T04:00:00+00:00"),
        ("2013-01-31 06:00:00 UTC", "2013-01-31T06:00:00+00:00"),
        ("31/01/2013", "2013-01-31T00:00:00+00:00"),
        ("01/31/2013 5:07", "2013-01-31T05:07:00+00:00"),
        ("01/31/2013 5:07 PM", "2013-01-31T17:07:00+00:00"),
        ("1.2.2013 10:15:30", "2013-02-01T10:15:30+00:00"),
        ("2013/1/5", "2013-01-05T00:00:00+00:00"),
        ("5 Jan 2013", "2013-01-05T00:00:00+00:00"),
        ("05-Jan-2013", "2013-01-05T00:00:00+00:00"),
        ("Jan 5, 2013", "2013-01-05T00:00:00+00:00"),
    ],
)
def test_dates_are_read_in_the_common_ways(text, expected):
    assert instants(text) == [expected]


def test_one_unambiguous_date_settles_day_and_month_for_the_column():
    assert instants("01/02/2013", "31/01/2013") == ["2013-02-01T00:00:00+00:00", "2013-01-31T00:00:00+00:00"]
    assert instants("01/02/2013", "01/31/2013") == ["2013-01-02T00:00:00+00:00", "2013-01-31T00:00:00+00:00"]


def test_ambiguous_dates_are_not_guessed():
    kind, _, note = read("01/02/2013", "03/04/2013")
    assert kind == "string"
    assert note == "text, because '01/02/2013' on line 2 can be read as day-month or month-day"


@pytest.mark.parametrize("wrong", ["2013-02-30", "2013-13-01", "2013-01-01T25:00:00", "tomorrow"])
def test_a_date_that_does_not_exist_makes_text_and_is_named(wrong):
    kind, _, note = read("2013-01-01", "2013-01-02", wrong)
    assert kind == "string"
    assert repr(wrong) in note
    assert "line 4" in note


def test_a_column_without_values_has_no_type():
    assert read(None, None)[0] == "null"


def test_reading_as_a_kind_leaves_out_only_what_does_not_fit():
    column = pa.chunked_array([["1", "x", "1.5", " 2", "2.0", None]])
    assert parse_as(column, "integer").to_pylist() == [1, None, None, 2, 2, None]
    assert parse_as(column, "number").to_pylist() == [1.0, None, 1.5, 2.0, 2.0, None]
    assert parse_as(pa.chunked_array([["1", "TRUE", "no"]]), "boolean").to_pylist() == [True, True, None]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50))
def test_every_64_bit_number_survives(numbers):
    assert read(*map(str, numbers)) == ("int64", numbers, None)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_every_float_survives_to_the_bit(numbers):
    _, found, _ = read(*map(repr, numbers))
    assert [float(value) for value in found] == numbers


@pytest.mark.slow
@given(st.lists(st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2250, 1, 1)), min_size=1, max_size=30))
def test_every_instant_survives(moments):
    kind, found, _ = read(*(moment.isoformat(sep=" ") for moment in moments))
    assert kind.startswith("timestamp")
    assert [value.replace(tzinfo=None) for value in found] == moments


@given(st.lists(st.one_of(st.none(), st.text(max_size=12)), max_size=30))
def test_parsing_never_fails_and_never_loses_a_row(values):
    parsed = parse(pa.chunked_array([pa.array(values, pa.string())]), first_line=2, decimal_comma=True)
    assert len(parsed.column) == len(values)
    for kind in ("number", "integer", "boolean", "timestamp"):
        assert len(parse_as(pa.chunked_array([pa.array(values, pa.string())]), kind)) == len(values)


@pytest.mark.slow
@given(st.lists(st.from_regex(r"[0-9+\-./: TZ,e]{1,14}", fullmatch=True), min_size=1, max_size=20))
def test_almost_numbers_and_almost_dates_never_fail(values):
    column = pa.chunked_array([pa.array(values, pa.string())])
    assert len(parse(column, decimal_comma=True).column) == len(values)
    for kind in ("number", "integer", "boolean", "timestamp"):
        assert len(parse_as(column, kind)) == len(values)
