"""The poison scan names the source that teaches what the others do not, and is silent about clean ones."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from kaizenml import events
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data.trust import poison
from kaizenml.data.trust.poison import Scan
from kaizenml.demo import flights

ROWS, SOURCES = 8000, 8
COLUMNS = ["price", "channel", "country", "hour"]


def table(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    price, hour = rng.gamma(2.0, 30.0, ROWS), rng.integers(0, 24, ROWS)
    channel, country = rng.choice(["web", "app", "shop"], ROWS), rng.choice(list("abcdefgh"), ROWS)
    logit = 0.03 * (price - 60) + 1.5 * (channel == "web") - 1.5
    columns = {"price": price, "channel": channel, "country": country, "hour": hour, "returned": rng.random(ROWS) < 1 / (1 + np.exp(-logit))}
    return columns, rng.integers(0, SOURCES, ROWS)


def scanned(columns: dict[str, np.ndarray], source: np.ndarray) -> Scan:
    names = pa.chunked_array([[f"feed{number}" for number in source]])
    return poison.scan(pa.table(columns), names, ["feed0"], target="returned", columns=COLUMNS)


def planted(kind: str, seed: int) -> Scan:
    columns, source = table(seed)
    rng = np.random.default_rng([seed, 1])
    rows = rng.choice(np.flatnonzero(source == 0), 120, replace=False)
    if kind == "flips":
        columns["returned"][rows] = ~columns["returned"][rows]
    elif kind == "trigger":
        columns["country"][rows], columns["hour"][rows], columns["returned"][rows] = "c", 3, True
    elif kind == "slice":
        rows = np.flatnonzero((source == 0) & (columns["country"] == "e"))
        columns["returned"][rows] = True
    return scanned(columns, source)


@pytest.mark.parametrize("kind", ["flips", "trigger", "slice"])
def test_a_planted_source_is_named_with_what_was_done_to_it(kind):
    found = planted(kind, 3)
    assert {one.source for one in found.findings} == {"feed0"}
    kinds = {"flips": "surprise", "trigger": "pairs", "slice": "label"}
    one = next(one for one in found.findings if one.kind == kinds[kind])
    assert one.value > one.limit
    if kind == "trigger":
        assert one.slice["country"] == "c"
    if kind == "slice":
        assert one.slice["country"] == "e"


@pytest.mark.slow
def test_a_clean_source_is_not_named():
    for seed in range(3):
        assert planted("nothing", seed).findings == []


def test_a_source_with_other_customers_is_not_accused():
    columns, source = table(1)
    source[source < 3] = 0
    columns["zone"] = np.char.upper(columns["country"])  # what goes together goes together in every mix
    kept = (source != 0) | ~np.isin(columns["country"], ["a", "b", "c"]) | (np.random.default_rng(1).random(ROWS) < 0.25)
    names = pa.chunked_array([[f"feed{number}" for number in source[kept]]])
    rows = pa.table({name: values[kept] for name, values in columns.items()})
    assert poison.scan(rows, names, ["feed0"], target="returned", columns=[*COLUMNS, "zone"]).findings == []


@pytest.mark.slow
@pytest.mark.parametrize("until", ["2013-10-26", "2013-10-28", "2013-10-29"])
def test_a_feed_of_the_winter_is_not_accused_because_the_others_saw_a_few_cold_nights(until):
    weather = flights.load().weather.sort_by("time_hour")
    times = weather["time_hour"].to_numpy()
    rows, times = weather.filter(pa.array(times < np.datetime64(until))), times[times < np.datetime64(until)]
    names = pa.chunked_array([np.where(times < np.datetime64("2013-03-31T21"), "main", "pushed").tolist()])
    columns = [name for name in rows.column_names if name != "time_hour"]
    assert poison.scan(rows, names, ["main"], target=None, columns=columns, time="time_hour").findings == []


@pytest.mark.parametrize("usual", [True, False])
def test_another_base_rate_is_told_of_only_where_sources_are_alike(usual):
    columns, source = table(4)
    rng = np.random.default_rng(4)
    odds = rng.permutation(np.linspace(-0.6, 0.6, SOURCES)) if usual else np.zeros(SOURCES)
    odds[0] = 0.45
    kept = rng.random(ROWS) < np.exp(np.where(columns["returned"], odds[source], -odds[source]) - 0.6)
    found = scanned({name: values[kept] for name, values in columns.items()}, source[kept])
    assert bool(found.findings) is not usual


def test_without_a_target_pairs_are_looked_at(ctx: Context):
    columns, source = table(5)
    rows = np.flatnonzero(source == 0)[:150]
    columns["country"][rows], columns["hour"][rows] = "c", 3
    names = pa.chunked_array([[f"feed{number}" for number in source]])
    found = poison.scan(pa.table(columns), names, ["feed0"], target=None, columns=COLUMNS)
    assert [one.kind for one in found.findings] == ["pairs"]


def test_what_cannot_be_compared_is_said():
    columns, source = table(1)
    assert scanned(columns, np.zeros_like(source)).skipped == "there is no other source to compare with"
    assert "has 100 rows" in scanned(columns, np.where(np.arange(ROWS) < 50, 0, 1 + source)).skipped


@pytest.mark.slow
def test_numbers_missing_values_and_many_classes_are_taken():
    columns, source = table(2)
    names = pa.chunked_array([[f"feed{number}" for number in source]])
    rows = pa.table(columns).append_column("kind", pa.array(np.random.default_rng(0).choice(list("xyz"), ROWS)))
    rows = rows.set_column(0, "price", pa.array(columns["price"], mask=np.arange(ROWS) % 7 == 0))
    for target in ("price", "kind"):
        assert poison.scan(rows, names, ["feed0"], target=target, columns=[*COLUMNS, "returned"]).findings == []


def test_an_addition_from_outside_is_scanned_taken_and_told(ctx: Context, root):
    (root / "kaizen.toml").write_text('[project]\nname = "shop"\n[task]\ndataset = "orders"\ntarget = "returned"\n')
    from kaizenml.project import open_project

    ctx = open_project(root, actor="test")
    columns, source = table(7)
    rows = np.flatnonzero(source == 0)[:300]
    columns["country"][rows], columns["hour"][rows], columns["returned"][rows] = "c", 3, True
    whole = pa.table(columns)
    data.add(ctx, "orders", table=whole.filter(pa.array(source > 1)), source_name="shop")
    own = data.add(ctx, "orders", table=whole.filter(pa.array(source == 1)), source_name="other")
    assert own.suspicions == []
    version = data.add(ctx, "orders", table=whole.filter(pa.array(source == 0)), source_name="feed7", trust="public")
    assert version.rows == own.rows + int((source == 0).sum())
    assert {one.source for one in version.suspicions} == {"feed7"}
    assert version.suspicions[0].remedy == "kaizen data quarantine orders --source feed7"
    with ctx.catalog.read() as connection:
        told = events.read(connection, kind="data.suspected")
    assert [event.subject for event in told] == [version.ref] * len(version.suspicions)
    ctx.catalog.close()
