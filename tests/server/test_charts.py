"""Charts are well-formed, say what they show, and hold whatever numbers come."""

from __future__ import annotations

import importlib.util
import math
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizenml import axes, charts
from kaizenml.charts import Mark, Series, Span
from kaizenml.errors import MissingExtra

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [START + timedelta(days=i) for i in range(30)]
numbers = st.one_of(st.none(), st.just(math.nan), st.just(math.inf), st.floats(-1e9, 1e9))


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


@given(st.lists(st.tuples(st.floats(0, 4e9), numbers, numbers, numbers), max_size=30), st.integers(200, 1200), st.booleans())
def test_any_numbers_make_a_well_formed_chart_without_nan(points: list[tuple[float, float, float, float]], width: int, alone: bool) -> None:
    columns = [list(column) for column in zip(*points, strict=True)] if points else [[], [], [], []]
    series = Series("a < b & c", columns[0], columns[1], columns[2], columns[3])
    svg = charts.line([series], title='a "title"', width=width, standalone=alone, limit=0.5, include=[0])
    parsed(svg)
    assert "nan" not in svg.lower().replace("nan<", "")
    assert "inf" not in svg.split("<style>")[0].replace("info", "")


@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
def test_ticks_are_round_and_enclose_most_of_the_range(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ticks = axes.nice(low, high, 5)
    assert 2 <= len(ticks) <= 14
    assert ticks == sorted(set(ticks))
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + step
    assert ticks[-1] >= high - step


@given(st.floats(0, 4e9), st.floats(1, 3e9), st.integers(2, 14))
def test_time_ticks_lie_inside_and_are_few(start: float, span: float, most: int) -> None:
    ticks = axes.time_ticks(start, start + span, most)
    assert 1 <= len(ticks) <= most + 3 or span > 1e9
    assert all(start - 1 <= at <= start + span + 1 for at, _ in ticks)


def test_a_chart_tells_its_name_and_its_ends_to_who_cannot_see_it() -> None:
    svg = parsed(charts.line([Series("loop", DAYS, [0.5 - i / 100 for i in range(30)])], title="Log loss"))
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "Log loss. loop from 0.500 on 2026-01-01 to 0.210 on 2026-01-30"


def test_a_gap_interrupts_the_line() -> None:
    values = [0.5] * 10 + [None] * 5 + [0.6] * 15
    svg = charts.line([Series("loop", DAYS, values)], title="x", readout=False)
    (path,) = [each for each in parsed(svg).iter() if each.get("class") == "line c1"]
    assert str(path.get("d")).count("M") == 2


def test_labels_of_crowded_marks_do_not_overlap_and_none_is_lost() -> None:
    marks = [Mark(DAYS[i], f"shop@{i}", "good", "better") for i in (10, 10, 11, 11, 12, 29)]
    svg = parsed(charts.line([Series("loop", DAYS, [0.5] * 30)], title="x", marks=marks, width=900, readout=False))
    lines = [each for each in svg.iter() if "mark" in str(each.get("class"))]
    assert len(lines) == len(marks)
    assert all(each[0].text for each in lines)  # each says what it is, also without a label
    labels = [(float(each.get("y", 0)), float(each.get("x", 0))) for each in svg.iter() if each.get("class") == "good" and each.tag.endswith("text")]
    rows: dict[float, list[float]] = {}
    for y, x in labels:
        rows.setdefault(y, []).append(x)
    assert all(b - a > 30 for xs in rows.values() for a, b in zip(sorted(xs), sorted(xs)[1:], strict=False))


def test_a_standalone_chart_needs_nothing_around_it() -> None:
    svg = charts.line([Series("loop", DAYS, [0.5] * 30)], title="Log loss", spans=[Span(DAYS[3], DAYS[5], "outage")], standalone=True)
    root = parsed(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in svg
    assert next(each.text for each in root if each.tag.endswith(("title", "desc"))) == "Log loss"


def test_the_console_s_charts_carry_no_style_of_their_own() -> None:
    svg = charts.line([Series("loop", DAYS, [0.5] * 30)], title="x") + charts.traffic([("a", 0.5, "c1"), ("b", 0.5, "c2")])
    assert "<style" not in svg
    assert "style=" not in svg


def test_a_small_canary_stays_in_sight() -> None:
    bar = parsed(charts.traffic([("shop@1", 0.999, "c1"), ("shop@2", 0.001, "c3")]))
    assert [float(each.get("width", 0)) >= 4 for each in bar] == [True, True]
    assert bar.get("aria-label") == "Traffic: shop@1 99.9 %, shop@2 0.1 %"


def test_stacked_charts_keep_their_sizes() -> None:
    one = charts.line([Series("a", DAYS, [1.0] * 30)], title="one", width=600, height=200, margins=(50, 80))
    two = charts.histogram([1, 2, 3], reference=[1, 1, 1], title="two")
    root = parsed(charts.stack([one, two], title="both", notes=["a note"]))
    assert root.get("viewBox") == "0 0 600 323"
    assert [child.get("y") for child in root if child.tag.endswith("svg")] == ["40", "252"]


def test_png_is_a_real_picture_with_text_or_says_what_to_install() -> None:
    svg = charts.line([Series("loop", DAYS, [0.5] * 30)], title="Log loss", standalone=True, width=400, height=200)
    if importlib.util.find_spec("resvg_py") is None or importlib.util.find_spec("font_roboto") is None:
        with pytest.raises(MissingExtra, match="resvg_py") as caught:
            charts.png(svg)
        assert "kaizenml[demo]" in caught.value.remedy
        return
    image = charts.png(svg, scale=2.0)
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(image[16:20]), int.from_bytes(image[20:24])) == (800, 400)
    assert len(image) > 2 * len(charts.png(charts.line([], title="", standalone=True, width=400, height=200)))
