from __future__ import annotations

import math
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from kaizenml.errors import Corrupt, InvalidData, InvalidInput
from kaizenml.features.encoding.encoder import EncodedColumn, Encoder, compile_row, compile_unknown
from kaizenml.features.encoding.vectorised import MAX_LEVELS, encode, learn
from kaizenml.features.signature import Field

ENCODER = Encoder(
    columns=[
        EncodedColumn(name="distance", kind="number"),
        EncodedColumn(name="seats", kind="integer"),
        EncodedColumn(name="carrier", kind="category", levels=["UA", "B6"], categorical=True),
        EncodedColumn(name="freight", kind="boolean"),
        EncodedColumn(name="scheduled", kind="timestamp"),
        EncodedColumn(name="weather_temp", kind="number", view="weather"),
    ],
    accepts=["tailnum"],
)
ROW: dict[str, Any] = {"distance": 1400, "seats": 150, "carrier": "B6", "freight": False, "scheduled": "2013-01-01T05:15:00Z", "weather_temp": 39.02}
encode_row = compile_row(ENCODER)


def refused(row: dict[str, Any], position: int = 0) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        encode_row(row, position)
    msgspec.json.encode(caught.value.document())  # it travels
    assert caught.value.remedy
    return caught.value


def test_a_row_becomes_its_vector_with_times_at_the_end() -> None:
    assert ENCODER.names == ["distance", "seats", "carrier", "freight", "weather_temp", "scheduled.hour", "scheduled.weekday"]
    assert encode_row(ROW) == [1400.0, 150.0, 1.0, 0.0, 39.02, 5.25, 1.0]
    assert (ENCODER.width, ENCODER.categorical, ENCODER.onehot) == (7, [2], {2: 2, 6: 7})


def test_null_is_missing() -> None:
    assert all(math.isnan(value) for value in encode_row(dict.fromkeys(ROW)))
    assert all(math.isnan(value) for value in encode_row(dict.fromkeys(ROW, math.nan)))


def test_what_a_view_gives_may_be_absent() -> None:
    row = {name: value for name, value in ROW.items() if name != "weather_temp"}
    assert math.isnan(encode_row(row)[4])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("distance", "far", "'far' is not a number"),
        ("distance", "1400", "'1400' is not a number"),
        ("distance", True, "True is not a number"),
        ("distance", math.inf, "inf is not a number"),
        ("distance", -math.inf, "-inf is not a number"),
        ("distance", 10**400, "is not a number"),
        ("distance", [1], r"\[1\] is not a number"),
        ("distance", {"km": 3}, "is not a number"),
        ("seats", 1.5, "1.5 is not a whole number"),
        ("seats", False, "False is not a whole number"),
        ("seats", "1", "'1' is not a whole number"),
        ("seats", math.inf, "inf is not a whole number"),
        ("carrier", 7, "7 is not text"),
        ("carrier", True, "True is not text"),
        ("carrier", ["UA"], "is not text"),
        ("carrier", {}, "is not text"),
        ("freight", "true", "'true' is not true or false"),
        ("freight", 2, "2 is not true or false"),
        ("freight", [], "is not true or false"),
        ("scheduled", "tomorrow", "'tomorrow' is not a time"),
        ("scheduled", "", "'' is not a time"),
        ("scheduled", 1.7e12, "is not a time"),
        ("scheduled", 10**30, "is not a time"),
        ("scheduled", math.inf, "is not a time"),
        ("scheduled", True, "True is not a time"),
        ("weather_temp", "cold", "'cold' is not a number"),
    ],
)
def test_a_wrong_value_is_named_with_row_field_and_what_was_expected(field: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^inputs\[3\]\.{field}: .*{said}"):
        encode_row({**ROW, field: value}, 3)
    error = refused({**ROW, field: value}, 3)
    assert (error.values["row"], error.values["field"]) == (3, field)
    assert error.values["expected"]
    assert "null" in error.remedy


def test_long_values_are_cut_in_messages() -> None:
    error = refused({**ROW, "distance": "x" * 10_000_000})
    assert len(error.what) < 200
    assert len(error.values["found"]) <= 100


def test_an_absent_input_is_refused_and_its_misspelling_found() -> None:
    row = {name: value for name, value in ROW.items() if name != "distance"}
    assert refused(row).what == "inputs[0].distance is absent"
    assert refused({**row, "distanse": 3.0}, 2).what == "inputs[2].distance is absent; did you mean 'distance' by 'distanse'?"


def test_all_absent_inputs_are_named_at_once() -> None:
    error = refused({"distance": 3.0})
    absent = error.values["absent"]
    assert absent
    assert "distance" not in absent
    assert error.what.startswith(f"inputs[0].{absent[0]} is absent, and so are ")
    assert all(name in error.what for name in absent[:13])
    assert error.remedy == "send them, as null when they are not known"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    error = refused({**ROW, "freigth": True})
    assert error.what == "inputs[0].freigth is not an input of this model; did you mean 'freight'?"
    assert error.remedy == "rename it to 'freight'"
    assert "leave it out" in refused({**ROW, "zzz": 1}).remedy
    without_view = {name: value for name, value in ROW.items() if name != "weather_temp"}
    assert refused({**without_view, "weather_tmp": 1.0}).values["nearest"] == "weather_temp"


def test_other_columns_of_the_dataset_are_accepted_and_ignored() -> None:
    assert encode_row({**ROW, "tailnum": "N14228"}) == encode_row(ROW)


@pytest.mark.parametrize("row", [[1, 2], "text", 5, None, True])
def test_a_row_that_is_no_object_is_refused(row: Any) -> None:
    assert refused(row, 1).what == "inputs[1] is not an object"


def test_zero_and_one_are_booleans_and_whole_floats_are_integers() -> None:
    assert encode_row({**ROW, "freight": 1, "seats": 3.0}) == encode_row({**ROW, "freight": True, "seats": 3})
    assert math.copysign(1, encode_row({**ROW, "seats": -0.0})[1]) == 1.0


def test_a_level_not_seen_in_training_is_missing_and_can_be_told() -> None:
    unknown = compile_unknown(ENCODER)
    assert math.isnan(encode_row({**ROW, "carrier": "ZZ"})[2])
    assert unknown({**ROW, "carrier": "ZZ"}) == ["carrier"]
    assert unknown(ROW) == []
    assert unknown({**ROW, "carrier": None}) == []
    assert unknown({}) == []


def test_levels_are_ranked_by_frequency_then_name_whatever_the_order_of_rows() -> None:
    fields = [Field(name="c", kind="category")]
    values = ["b", "a", "c", "c", None, "b", "d"]
    encoder = learn(pa.table({"c": values}), fields)
    assert encoder.columns[0].levels == ["b", "c", "a", "d"]
    assert learn(pa.table({"c": values[::-1]}), fields) == encoder


def test_few_levels_are_categorical_and_many_a_rank() -> None:
    fields = [Field(name="c", kind="category")]
    few, many = pa.table({"c": [str(i) for i in range(40)]}), pa.table({"c": [str(i) for i in range(41)]})
    assert learn(few, fields).categorical == [0]
    assert learn(few, fields).onehot == {0: 40}
    assert learn(many, fields).categorical == []
    assert encode(learn(many, fields), many)[:, 0].max() == 40.0


def test_the_rarest_of_very_many_levels_count_as_unknown() -> None:
    table = pa.table({"c": [f"k{i:05}" for i in range(MAX_LEVELS + 5)]})
    encoder = learn(table, [Field(name="c", kind="category")])
    assert len(encoder.columns[0].levels) == MAX_LEVELS
    assert math.isnan(compile_row(encoder)({"c": f"k{MAX_LEVELS:05}"})[0])


def test_learning_accepts_every_other_column_of_the_table() -> None:
    table = pa.table({"x": [1.0], "key": ["a"], "late": [True]})
    assert learn(table, [Field(name="x", kind="number")]).accepts == ["key", "late"]
    assert learn(table, [Field(name="x", kind="number")], accepts=["x", "unit"]).accepts == ["unit"]


def test_columns_without_a_value_encode_as_missing() -> None:
    fields = [Field(name=kind, kind=kind) for kind in ("number", "integer", "category", "boolean", "timestamp")]
    table = pa.table({field.name: pa.nulls(2) for field in fields})
    encoder = learn(table, fields)
    assert all(math.isnan(value) for row in encode(encoder, table).tolist() for value in row)
    assert encoder.categorical == []


def test_a_table_of_another_shape_is_refused() -> None:
    encoder = learn(pa.table({"x": [1.0]}), [Field(name="x", kind="number")])
    with pytest.raises(InvalidData, match="lacks the column 'x'"):
        encode(encoder, pa.table({"y": [1.0]}))
    with pytest.raises(InvalidData, match="'x' holds string"):
        encode(encoder, pa.table({"x": ["far"]}))


def test_an_encoder_of_a_newer_format_is_refused() -> None:
    with pytest.raises(Corrupt, match="format 2"):
        compile_row(Encoder(format=2, columns=[]))


def test_encoders_of_one_and_of_no_column_work() -> None:
    assert compile_row(Encoder(columns=[]))({}) == []
    assert compile_row(Encoder(columns=[EncodedColumn(name="x", kind="number")]))({"x": 1}) == [1.0]


def test_the_hot_modules_load_no_data_stack() -> None:
    import subprocess
    import sys

    code = (
        "import sys, kaizenml.features.encoding.encoder, kaizenml.features.online.reading, kaizenml.adapters.sqlite_online\n"
        "heavy = {'pandas', 'scipy', 'sklearn', 'lightgbm', 'pyarrow', 'sqlalchemy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
