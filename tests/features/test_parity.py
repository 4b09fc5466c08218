"""Online against offline, at one moment: sameness is shown, and a planted difference is found and told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from view_settings import TOML

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.features import operations
from kaizenml.features.buffer import buffer_of
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
