"""Features are found by words, described as models see them, and told of what was made of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from kaizenml import events, operations
from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.governance import features, lineage
from kaizenml.project import open_project

START = datetime(2026, 10, 1, tzinfo=UTC)
TOML = """
[project]
name = "shop"
[task]
dataset = "orders"
target = "late"
time = "at"
[features.stock]
dataset = "stocks"
entity = "sku"
columns = ["left", "kind"]
at = "at"
[features.strange]
dataset = "stocks"
entity = "nowhere"
columns = ["left"]
"""


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "kaizen.toml").write_text(TOML)
    ctx = open_project(tmp_path, actor="ann", clock=SimulatedClock(tmp_path / "clock", START + timedelta(days=3)))
    hours = [START + timedelta(hours=hour) for hour in range(48)]
    stocks = {"sku": ["a"] * 24, "left": [float(hour) for hour in range(24)], "kind": ["x", "y"] * 12, "at": hours[:24], "nowhere": ["n"] * 24}
    data.add(ctx, "stocks", table=pa.table(stocks), time="at", why="counted")
    data.add(ctx, "orders", table=pa.table({"sku": ["a", "b"] * 24, "late": [True, False] * 24, "at": hours}), time="at")
    yield ctx
    ctx.online.close()
    ctx.catalog.close()


def test_a_feature_is_described_as_it_was_known_for_the_tasks_rows(ctx: Context):
    found = features.describe(ctx, "stock", picture=True)
    assert found.looked_at == "as known for 48 rows of orders@1"
    left, kind = found.features
    assert (left.name, left.missing, left.profile["max"]) == ("stock_left", 0.5, 23.0)  # b has none
    assert sum(step.rows for step in left.over_time) == 48
    assert left.over_time[-1].middle == 23.0
    assert dict(map(tuple, kind.profile["top"])) == {"x": 12, "y": 12}
    assert found.sources == {"stocks@1": ["main"]}
    assert found.age_s == timedelta(hours=49).total_seconds()
    assert found.unused == ["stock_left", "stock_kind"]
    texts = [element.text for element in ET.fromstring(found.picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"stock_left", "stock_kind"} <= set(texts)


def test_looking_at_features_changes_nothing(ctx: Context):
    with ctx.catalog.read() as connection:
        before = len(events.read(connection))
    features.describe(ctx, "stock")
    features.search(ctx)
    lineage.show(ctx, "stocks")
    with ctx.catalog.read() as connection:
        assert len(events.read(connection)) == before


def test_what_is_kept_of_a_description_goes_when_rows_come(ctx: Context):
    assert features.describe(ctx, "stock").features[0].rows == 48
    data.add(ctx, "orders", table=pa.table({"sku": ["a"], "late": [True], "at": [START]}))
    assert features.describe(ctx, "stock").features[0].rows == 49


def test_where_the_tasks_rows_have_no_such_entity_the_rows_behind_the_view_are_described(ctx: Context):
    found = features.describe(ctx, "strange")
    assert found.looked_at == "the 24 rows behind it"
    assert found.features[0].profile["mean"] == 11.5


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({}, ["stock_left", "stock_kind", "strange_left"]), ({"text": "LEFT"}, ["stock_left", "strange_left"]), ({"text": "kind"}, ["stock_kind"]),
        ({"text": "weather"}, []), ({"owner": "bob"}, []), ({"tag": "x"}, []), ({"unused": True}, ["stock_left", "stock_kind", "strange_left"]),
    ],
)  # fmt: skip
def test_features_are_found_by_words(ctx: Context, asked, names):
    assert [one.feature for one in features.search(ctx, **asked)] == names


def test_a_version_says_who_made_it_and_why(ctx: Context):
    shown = operations.find("data", "show").call(ctx, {"dataset": "stocks@1"})
    assert (shown["made_by"], shown["why"]) == ("ann", "counted")
    assert shown["used_by"] == {"views": [], "runs": [], "models": [], "releases": [], "endpoints": []}


def test_windows_defined_in_python_are_described_and_found_by_owner_and_tag(ctx: Context):
    (ctx.root / "features.py").write_text(
        '''
from kaizenml import count, derived, features, mean


@features(entity="sku", source="orders", at="at", owner="Bob", tags=["stock"])
class Asked:
    """How often a thing was asked for."""

    asked_6h = count(last="6h")
    late_share = mean("late", last="6h")


@derived
def strain(asked_6h: float, late_share: float) -> float:
    return asked_6h * late_share
'''
    )
    found = features.describe(ctx, "asked")
    asked = found.features[0]
    assert (asked.name, asked.of, asked.profile["max"]) == ("asked_6h", "count of rows, last 6 h", 3.0)  # every other hour
    assert found.looked_at.startswith("as known for 48 rows")
    assert [one.feature for one in features.search(ctx, owner="bob", tag="STOCK")] == ["asked_6h", "late_share"]
    assert [one.feature for one in features.search(ctx, "often")] == ["asked_6h", "late_share"]
    assert [(one.feature, one.view, one.description) for one in features.search(ctx, "strain", unused=True)] == [
        ("strain", "", "computed from asked_6h, late_share")
    ]
