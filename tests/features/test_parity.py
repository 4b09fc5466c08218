"""Online against offline, at one moment: sameness is shown, and a planted difference is found and told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest
from view_settings import TOML

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.errors import InvalidInput, UsageError
from kaizenml.features import operations
from kaizenml.features.offline import frame
from kaizenml.features.online import parity as offline
from kaizenml.features.online.buffer import buffer_of
from kaizenml.features.view import FeatureView
from kaizenml.features.windows.aggregates import Aggregate
from kaizenml.monitoring import operations as monitoring
from kaizenml.monitoring import parity


@pytest.fixture
def weather(reopen: Callable[..., Context], clock: SimulatedClock) -> Iterator[Context]:
    ctx = reopen(TOML.partition("[features.planes]")[0])
    start = dt.datetime(2013, 1, 1, tzinfo=dt.UTC)
    rows = [
        {"origin": f"P{n % 30}", "at": start + dt.timedelta(minutes=7 * n), "temp": n / 3 if n % 5 else None, "sky": "fog", "gusts": True, "seen": n}
        for n in range(90)
    ]
    data.add(ctx, "weather", table=pa.Table.from_pylist(rows))
    yield ctx
    ctx.online.close()
    ctx.catalog.close()
    buffer_of(ctx.state).close()


def test_what_is_the_same_is_said_to_be_and_a_difference_is_named(weather: Context) -> None:
    found = operations.check(weather, "weather", entities=1000)
    assert (found.entities, found.values, found.differing, found.first, found.same) == (30, 120, 0, [], True)
    ref = found.view
    row = weather.online.read(ref, ["P29"])[0]
    assert row is not None
    weather.online.update(ref, ["P29", "P28"], lambda key, _row: row._replace(values={**row.values, "seen": -1}) if key == "P29" else None)
    found = operations.check(weather, "weather", entities=1000)
    assert found.differing == 1 + 4
    told = {(one.key, one.feature, one.online) for one in found.first}
    assert told == {("P29", "seen", -1), *(("P28", name, None) for name in ("temp", "sky", "gusts", "seen"))}


def test_nothing_to_compare_is_no_comparison(weather: Context) -> None:
    with pytest.raises(UsageError, match="entities is 0"):
        operations.check(weather, "weather", entities=0)


def test_values_past_their_time_are_missing_on_both_sides(weather: Context, clock: SimulatedClock) -> None:
    clock.advance(dt.timedelta(days=2))
    found = operations.check(weather, "weather", entities=1000)
    assert (found.entities, found.differing) == (30, 0)


def test_the_watch_looks_every_hour_and_opens_one_alert_until_it_is_over(weather: Context, clock: SimulatedClock) -> None:
    assert parity.watch(weather) == []  # nothing is online yet
    operations.materialize(weather, "weather")
    assert [found.same for found in parity.watch(weather)] == [True]
    ref = operations.show(weather, "weather").ref
    row = weather.online.read(ref, ["P29"])[0]
    assert row is not None
    weather.online.update(ref, ["P29"], lambda _key, _row: row._replace(values={**row.values, "seen": -1}))
    assert parity.watch(weather) == []  # the hour is not over
    for _ in range(2):
        clock.advance(dt.timedelta(hours=1))
        weather.online.update(ref, ["P29"], lambda _key, _row: row._replace(values={**row.values, "seen": -1}, at=clock.timestamp()))
        assert [found.same for found in parity.watch(weather)] == [False]
    (alert,) = monitoring.alerts(weather)
    assert (alert.endpoint, alert.label, alert.severity, alert.open) == ("features/weather", "parity", "critical", True)
    assert "online and" in alert.cause
    operations.materialize(weather, "weather", everything=True)
    clock.advance(dt.timedelta(hours=1))
    assert [found.same for found in parity.watch(weather)] == [True]
    assert not monitoring.alerts(weather)[0].open


def test_a_look_checks_one_view_the_one_that_has_waited_longest(weather: Context, reopen: Callable[..., Context], clock: SimulatedClock) -> None:
    two = reopen(TOML.partition("[features.planes]")[0] + '\n[features.sky]\ndataset = "weather"\nentity = "origin"\ncolumns = ["sky"]\nat = "at"\n')
    for name in ("weather", "sky"):
        operations.materialize(two, name)
    looked = [found.view.partition(".")[0] for _ in range(3) for found in parity.watch(two)]
    assert sorted(looked) == ["sky", "weather"]  # one after the other, and a third time nothing
    clock.advance(dt.timedelta(hours=1))
    assert [found.view.partition(".")[0] for _ in range(2) for found in parity.watch(two)] == sorted(looked, key=looked.index)
    two.online.close()
    two.catalog.close()


def test_each_version_that_a_release_reads_is_watched_as_long_as_it_does(
    weather: Context, reopen: Callable[..., Context], clock: SimulatedClock
) -> None:
    operations.materialize(weather, "weather")
    old = operations.show(weather, "weather")
    changed = reopen(TOML.partition("[features.planes]")[0].replace('ttl = "3h"', 'ttl = "5h"'))
    operations.serve(changed, [old.ref])  # as publishing a rollout does
    operations.materialize(changed, "weather")
    new, place = operations.show(changed, "weather").ref, f"weather@{old.view.version}"
    assert {found.view for _ in range(3) for found in parity.watch(changed)} == {old.ref, new}
    clock.advance(dt.timedelta(hours=1))
    row = changed.online.read(old.ref, ["P29"])[0]
    assert row is not None
    changed.online.update(old.ref, ["P29"], lambda _key, _row: row._replace(values={**row.values, "seen": -1}, at=clock.timestamp()))
    looked = {found.view: found.same for _ in range(2) for found in parity.watch(changed)}
    assert looked == {old.ref: False, new: True}
    (alert,) = monitoring.alerts(changed)
    assert (alert.endpoint, alert.open) == (f"features/{place}", True)
    assert f"`kaizen features check {place}` says of whom" in alert.cause
    assert not operations.check(changed, place, entities=1000).same
    operations.serve(changed, [])
    assert parity.watch(changed) == []
    assert not monitoring.alerts(changed)[0].open
    changed.online.close()
    changed.catalog.close()


WINDOWS = '''
from kaizenml import count, features, latest, mean, sum_

@features(entity="origin", source="weather", at="at", ttl="2d")
class Recent:
    seen_2h = sum_("seen", last="2h")
    mean_6h = mean("temp", last="6h")
    rows_1h = count(last="1h", every="1h")
    sky = latest("sky")

@features(entity="origin", source="weather", sql='select origin, "at", temp * 2 as doubled from weather', at="at")
class Doubled:
    doubled = latest("doubled")
'''


def test_windows_and_queries_defined_in_python_are_the_same_online_and_offline(weather: Context, clock: SimulatedClock) -> None:
    pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'kaizenml[duckdb]'")
    (weather.root / "features.py").write_text(WINDOWS, encoding="utf-8")
    for name, features in (("recent", 4), ("doubled", 1)):
        found = operations.check(weather, name, entities=1000)
        assert (found.entities, found.values, found.first) == (30, 30 * features, [])
    row = {"origin": "P29", "at": "2013-01-01T11:30:00Z", "seen": 7, "temp": 0.1, "sky": "clear"}
    assert operations.push(weather, "recent", [row, row]).late == 0
    kept = operations.get(weather, "recent", "P29")
    assert (kept.values["seen_2h"], kept.values["rows_1h"], kept.values["sky"]) == (96, 1, "clear")
    clock.advance(dt.timedelta(minutes=47))
    found = operations.check(weather, "recent", entities=1000)
    assert (found.entities, found.first, found.dataset) == (30, [], "weather@2")
    assert operations.check(weather, "doubled", entities=1000).first == []
    with pytest.raises(InvalidInput, match="are what a query gives"):
        operations.push(weather, "doubled", [row])


@pytest.mark.parametrize("seed", range(4))
def test_the_rows_that_count_at_a_moment_give_the_values_that_all_rows_give(seed: int) -> None:
    rng = np.random.default_rng(seed)
    day, now, many = 86_400_000_000, 1_700_000_000_000_000, 400
    ages = np.where(rng.random(many) < 0.5, rng.integers(-day, 2 * day, many), rng.integers(0, 40 * day, many))  # some are of the future
    times = pa.array(now - ages // 3_600_000_000 * 3_600_000_000, mask=rng.random(many) < 0.05).cast(pa.timestamp("us", "UTC"))
    rows = pa.table({"who": [f"p{n}" for n in rng.integers(0, 60, many)], "at": times, "x": rng.normal(size=many)})
    asked = pa.table({"who": [f"p{n}" for n in range(65)]})
    windows = [
        Aggregate(name="rows_1d", function="count", column=None, last_s=86_400.0, every_s=3600.0),
        Aggregate(name="mean_3d", function="mean", column="x", last_s=3 * 86_400.0),
        Aggregate(name="last_2h", function="latest", column="x", last_s=7200.0),
    ]
    for ttl_s in (None, 7200.0, 10 * 86_400.0):
        for columns, aggregates in ((["x"], []), ([], windows), (["x"], windows)):
            view = FeatureView(name="v", dataset="d", entity="who", columns=columns, at="at", ttl_s=ttl_s, aggregates=aggregates)
            moment = np.full(asked.num_rows, now)
            fewer = offline.counting(rows, asked, view, now)
            assert fewer.num_rows < many
            for less, whole in zip(frame.known_of(asked, fewer, view, moment), frame.known_of(asked, rows, view, moment), strict=True):
                assert less.to_pylist() == whole.to_pylist()


BESIDE = '''
from kaizenml import features, mean

@features(entity=["origin", "carrier"], source="departures", at="left")
class OfCarrier:
    carrier_6h = mean("delay", last="6h")

@features(entity="origin", source="departures", at="left")
class AtOrigin:
    origin_2h = mean("delay", last="2h")
'''


def test_rows_pushed_into_one_view_of_a_dataset_are_counted_for_the_view_beside_it(weather: Context, clock: SimulatedClock) -> None:
    start = dt.datetime(2013, 1, 1, 9, tzinfo=dt.UTC)
    rows = [
        {"flight": str(n), "left": start + dt.timedelta(minutes=n), "origin": f"P{n % 3}", "carrier": f"C{n % 2}", "delay": n / 7} for n in range(120)
    ]
    data.add(weather, "departures", table=pa.Table.from_pylist(rows[:60]), key="flight", time="left")
    (weather.root / "features.py").write_text(BESIDE, encoding="utf-8")
    clock.set(start + dt.timedelta(hours=2))
    assert operations.check(weather, "at_origin", entities=100).same
    operations.push(weather, "of_carrier", rows[60:])
    operations.push(weather, "at_origin", [{name: row[name] for name in row if name != "carrier"} for row in rows[60:]], offline=False)
    pushed = operations.get(weather, "at_origin", "P1").values["origin_2h"]
    found = operations.check(weather, "at_origin", entities=100)
    assert (found.entities, found.first, found.dataset) == (3, [], "departures@2")
    assert operations.get(weather, "at_origin", "P1").values["origin_2h"] == pushed == sum(n / 7 for n in range(1, 120, 3)) / 40
    assert operations.check(weather, "of_carrier", entities=100).same


def test_a_view_filled_anew_keeps_the_rows_that_wait_in_the_view_beside_it(weather: Context, clock: SimulatedClock) -> None:
    start = dt.datetime(2013, 1, 1, 9, tzinfo=dt.UTC)
    first, second = ({"flight": str(n), "left": start + dt.timedelta(minutes=n), "origin": "P1", "carrier": "C1", "delay": 10.0 * n} for n in (1, 2))
    data.add(weather, "departures", table=pa.Table.from_pylist([first]), key="flight", time="left")
    (weather.root / "features.py").write_text(BESIDE, encoding="utf-8")
    clock.set(start + dt.timedelta(hours=1))
    operations.materialize(weather, "at_origin")
    operations.materialize(weather, "of_carrier")
    operations.push(weather, "of_carrier", [second])
    operations.renew(weather, operations.show(weather, "at_origin").view, ["P1"])
    assert operations.get(weather, "at_origin", "P1").values["origin_2h"] == 15.0
