"""Charts as SVG text, drawn by pure functions: for the console (coloured by its CSS) and for files (``standalone=True``).

Every chart has a name and a description that screen readers read, direct labels beside the lines
(never colour alone), and with a pointer over it shows the values below, without any script.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from kaizenml import axes
from kaizenml.errors import MissingExtra

Moment = datetime | float
"""A time: an aware datetime, or seconds since 1970-01-01 UTC."""

Tone = Literal["neutral", "good", "warn", "bad"]

_FONT = "Inter, Roboto, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
_SIZE = 11.0  # of all text in a chart
_MAX_STRIPS = 130  # more points than that get no pointer read-out: it would weigh more than the chart

LIGHT = {
    "paper": "#ffffff", "ink": "#1b1c1f", "soft": "#5f636b", "faint": "#e4e5e1", "good": "#1f7a4d", "warn": "#8a5a00", "bad": "#b3372b",
    "quiet": "#8b9099", "c1": "#2f5bd8", "c2": "#1f7a4d", "c3": "#b4530a", "c4": "#7a3fc4", "c5": "#0f7488", "c6": "#b02a6b",
}  # fmt: skip
"""Colours of a chart that stands alone; the console gives its own, through CSS variables of the same names."""


@dataclass(frozen=True)
class Series:
    """One line: ``y`` over ``x``, with an optional band. None or NaN in ``y`` interrupts the line.

    ``colour`` is 1..6, or 0 for quiet grey (a reference such as the naive model); None takes the next free one.
    """

    name: str
    x: Sequence[Moment]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    colour: int | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line where something happened. ``label`` stands above it; ``about`` is read out with it."""

    at: Moment
    label: str
    tone: Tone = "neutral"
    about: str = ""


@dataclass(frozen=True)
class Span:
    """A shaded stretch of time, such as an outage upstream."""

    start: Moment
    end: Moment
    label: str
    tone: Tone = "warn"


class _Plot(NamedTuple):
    """Where data falls on the paper."""

    left: float
    top: float
    right: float
    bottom: float
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, seconds: float) -> float:
        return self.left + (seconds - self.x0) / ((self.x1 - self.x0) or 1.0) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.y0) / ((self.y1 - self.y0) or 1.0) * (self.bottom - self.top)


class _Line(NamedTuple):
    """A series with its numbers made plain: seconds, floats, NaN for missing."""

    name: str
    points: list[tuple[float, float, float, float]]  # x, y, low, high
    colour: str
    dashed: bool


def line(
    series: Sequence[Series],
    *,
    title: str,
    about: str = "",
    y_label: str = "",
    marks: Sequence[Mark] = (),
    spans: Sequence[Span] = (),
    limit: float | None = None,
    limit_label: str = "",
    include: Sequence[float] = (),
    width: int = 720,
    height: int = 260,
    margins: tuple[int, int] = (0, 0),
    readout: bool = True,
    standalone: bool = False,
) -> str:
    """Draw lines over time, with bands, vertical marks and shaded stretches.

    Parameters
    ----------
    series : the lines; each is labelled at its right end.
    title : the name of the chart for screen readers, and its heading when it stands alone.
    about : one sentence that says what the picture shows, for who cannot see it.
    y_label : what the numbers are, with their unit; above the axis.
    marks, spans : what happened when.
    limit, limit_label : a dashed horizontal line, such as the level that alarms.
    include : values that the y axis must reach, for example 0.
    width, height : of the drawing, in CSS pixels; it scales with the page.
    margins : least room at the left and right, so that charts below each other line up.
    readout : show the values below the pointer (at most 130 different times).
    standalone : a complete file with its own colours on white, else an element coloured by CSS.

    >>> svg = line([Series("loop", [0.0, 86400.0], [0.5, 0.4])], title="Log loss")
    >>> svg.startswith("<svg") and "loop" in svg
    True
    """
    lines = _lines(series)
    xs = [p[0] for one in lines for p in one.points] + [_seconds(m.at) for m in marks] + [_seconds(s) for one in spans for s in (one.start, one.end)]
    ys = [v for one in lines for p in one.points for v in p[1:] if not math.isnan(v)] + [*include, *([limit] if limit is not None else [])]
    if not xs or not ys:
        return _empty(title, width, height, standalone=standalone)
    ticks = axes.nice(min(ys), max(ys), 3 if height < 160 else 5)
    rows = _mark_rows(marks, min(xs), max(xs), width)
    head = (26 if standalone else 0) + (18 if y_label else 6)
    texts = [axes.number(t, ticks) for t in ticks]
    room = max((_text_width(one.name) for one in lines), default=0.0)
    plot = _Plot(
        left=max(max(map(_text_width, texts)) + 12, margins[0]), right=width - max(room + 18, margins[1]),
        top=head + 13.0 * (max(rows.values(), default=-1) + 1) + 6, bottom=height - 24.0,
        x0=min(xs), x1=max(xs), y0=min([ticks[0], *ys]), y1=max([ticks[-1], *ys]),
    )  # fmt: skip
    body = [
        *_heading(title, y_label, standalone=standalone),
        *_spans(spans, plot),
        *_grid(ticks, texts, plot),
        *_time_axis(plot, by_day=all(p[0] % 86400 == 0 for one in lines for p in one.points)),
        *_limit(limit, limit_label, plot),
        *(_band(one, plot) for one in lines),
        *(_path(one, plot) for one in lines),
        *_marks(marks, rows, head, plot),
        *_end_labels(lines, plot),
        *(_strips(lines, plot, ticks, head) if readout and not standalone else ()),
    ]
    return _svg(width, height, title, about or _describe(lines, ticks), body, standalone=standalone)


def traffic(parts: Sequence[tuple[str, float, str]], *, title: str = "Traffic") -> str:
    """Draw shares as one stacked bar as wide as its place; parts are (label, share 0..1, colour class such as ``c1`` or ``quiet``).

    A share above zero is never drawn thinner than one per cent, so that a small canary stays in sight.

    >>> traffic([("shop@1", 0.95, "c1"), ("shop@2", 0.05, "c2")]).count("<rect")
    2
    """
    shown = [(label, share, max(share, 0.01), colour) for label, share, colour in parts if share > 0]
    total = sum(size for _, _, size, _ in shown) or 1.0
    body, at = [], 0.0
    for i, (label, share, size, colour) in enumerate(shown):
        wide = size / total * 1000
        gap = 4 if i < len(shown) - 1 else 0
        body.append(_rect(f"fill {colour}", at, 0, max(wide - gap, 2), 8, f"{label} {percent(share)}"))
        at += wide
    words = ", ".join(f"{label} {percent(share)}" for label, share, _, _ in shown) or "none"
    name = quoteattr(f"{title}: {words}")
    return f'<svg class="kz traffic" viewBox="0 0 1000 8" preserveAspectRatio="none" role="img" aria-label={name}>{"".join(body)}</svg>'


def histogram(
    counts: Sequence[float], *, reference: Sequence[float] | None = None, title: str, labels: Sequence[str] = (), width: int = 160, height: int = 36
) -> str:
    """Draw a small histogram; ``reference`` (the same bins, any total) is outlined behind it, both as shares of their total."""
    now, then = _shares(counts), _shares(reference or ())
    top = max([*now, *then, 1e-12])
    step = width / max(len(now), 1)
    body = []
    for i, share in enumerate(now):
        tall = share / top * (height - 2)
        name = labels[i] if i < len(labels) else f"bin {i + 1}"
        note = f"{name}: {percent(share)}" + (f", reference {percent(then[i])}" if i < len(then) else "")
        body.append(_rect("count", i * step + 0.5, height - tall, max(step - 1, 0.5), tall, note))
    if then:
        tops = [f"{'M' if i == 0 else 'L'}{i * step:.1f} {height - s / top * (height - 2):.1f}H{(i + 1) * step:.1f}" for i, s in enumerate(then)]
        body.append(f'<path class="stroke" d="{"".join(tops)}"/>')
    return _svg(width, height, title, "", body, extra="small")


def spark(values: Sequence[float | None], *, title: str, width: int = 120, height: int = 28, colour: str = "c1", limit: float | None = None) -> str:
    """Draw a line without axes, for a table cell; the last value gets a dot."""
    numbers = [_float(v) for v in values]
    known = [v for v in numbers if not math.isnan(v)]
    if not known:
        return _svg(width, height, title, "no values yet", [], extra="small")
    reach = [*known, *([limit] if limit is not None else [])]
    plot = _Plot(2, 3, width - 4, height - 3, 0, max(len(numbers) - 1, 1), min(reach), max(reach) if max(reach) > min(reach) else min(reach) + 1)
    one = _Line("", [(float(i), v, math.nan, math.nan) for i, v in enumerate(numbers)], colour, False)
    last = max(i for i, v in enumerate(numbers) if not math.isnan(v))
    body = [_path(one, plot), f'<circle class="fill {colour}" cx="{plot.x(last):.1f}" cy="{plot.y(numbers[last]):.1f}" r="2.5"/>']
    if limit is not None:
        body.insert(0, f'<path class="limit" d="M0 {plot.y(limit):.1f}H{width}"/>')
    return _svg(width, height, title, "", body, extra="small")


def interval(
    value: float, low: float, high: float, *, title: str, start: float, end: float, reference: float | None = None,
    colour: str = "c1", width: int = 180,
) -> str:  # fmt: skip
    """Draw a value as a dot on its interval, on a scale from ``start`` to ``end``; ``reference`` is a line across (for example naive)."""
    plot = _Plot(6, 0, width - 6, 20, start, end, 0, 1)

    def at(number: float) -> float:
        return min(max(plot.x(number), 1.0), width - 1.0)

    body = [f'<path class="grid" d="M0 10H{width}"/>']
    if reference is not None:
        body.append(f'<path class="limit" d="M{at(reference):.1f} 1V19"/>')
    body.append(f'<path class="whisker {colour}" d="M{at(low):.1f} 10H{at(high):.1f}"/>')
    body.append(f'<circle class="fill {colour}" cx="{at(value):.1f}" cy="10" r="4"/>')
    return _svg(width, 20, title, "", body, extra="small")


def heat(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], *, title: str, top: float,
    about: str = "", width: int = 720,
) -> str:  # fmt: skip
    """Draw a table of cells that darken from 0 to ``top``; rows are named at the left, first and last column below."""
    room = max((_text_width(name) for name in rows), default=0.0) + 10
    step, tall = (width - room) / max(len(columns), 1), 18
    body = []
    for i, name in enumerate(rows):
        body.append(f'<text x="{room - 8:.1f}" y="{i * tall + 13}" text-anchor="end">{escape(name)}</text>')
        for j, value in enumerate(values[i]):
            number = _float(value)
            level = "none" if math.isnan(number) else f"h{min(int(number / (top or 1.0) * 8), 8)}"
            words = f"{name}, {columns[j]}: {'no value' if math.isnan(number) else f'{number:.3g}'}"
            body.append(_rect(f"cell {level}", room + j * step, i * tall + 1, max(step - 1, 0.5), tall - 2, words))
    foot = len(rows) * tall + 14
    if columns:
        body.append(f'<text x="{room:.1f}" y="{foot}">{escape(columns[0])}</text>')
        body.append(f'<text x="{width}" y="{foot}" text-anchor="end">{escape(columns[-1])}</text>')
    return _svg(width, foot + 6, title, about, body)


def stack(charts: Sequence[str], *, title: str, about: str = "", gap: int = 12, notes: Sequence[str] = (), standalone: bool = True) -> str:
    """Put charts below each other in one picture under a heading; ``notes`` are lines of text at its foot."""
    sizes = [_size(chart) for chart in charts]
    width = max((w for w, _ in sizes), default=720)
    body, y = [f'<text class="heading" x="12" y="26">{escape(title)}</text>'], 40
    for chart, (_, tall) in zip(charts, sizes, strict=True):
        body.append(chart.replace("<svg ", f'<svg x="0" y="{y}" ', 1))
        y += tall + gap
    for note in notes:
        body.append(f'<text x="12" y="{y + 6}">{escape(note)}</text>')
        y += 17
    return _svg(width, y + 6, title, about, body, standalone=standalone)


def labelled(rows: Sequence[tuple[str, str, Tone, str]], *, title: str, about: str = "", standalone: bool = False) -> str:
    """Draw small charts below each other, each beside its name and a sentence; rows are (name, sentence, its tone, chart)."""
    body, y = [f'<text class="heading" x="12" y="26">{escape(title)}</text><text x="12" y="44">{escape(about)}</text>'], 58
    width = max(420.0, _text_width(about) + 24, *(_size(chart)[0] + _text_width(said) + 40 for _, said, _, chart in rows))
    for name, said, tone, chart in rows:
        wide, tall = _size(chart)
        body.append(chart.replace("<svg ", f'<svg x="12" y="{y}" ', 1))
        body.append(f'<text x="{wide + 24}" y="{y + 14}" style="font-weight:bold">{escape(name)}</text>')
        body.append(f'<text class="{tone}" x="{wide + 24}" y="{y + 29}">{escape(said)}</text>')
        y += tall + 14
    return _svg(round(width), y, title, about, body, standalone=standalone)


def png(svg: str, *, scale: float = 2.0) -> bytes:
    """Render a chart that stands alone as PNG.

    Raises
    ------
    MissingExtra : the renderer or its font is not installed.
    """
    try:
        renderer = importlib.import_module("resvg_py")
        fonts = importlib.util.find_spec("font_roboto")
        if fonts is None or not fonts.submodule_search_locations:
            raise ImportError("font_roboto")
    except ImportError as error:
        raise MissingExtra(f"PNG needs a package that is not installed: {error}", remedy="pip install 'kaizenml[demo]'") from error
    folder = Path(fonts.submodule_search_locations[0]) / "files"
    files = [str(folder / name) for name in ("Roboto-Regular.ttf", "Roboto-Bold.ttf")]
    image = renderer.svg_to_bytes(
        svg_string=svg, zoom=scale, skip_system_fonts=True, font_files=files, font_family="Roboto", sans_serif_family="Roboto", background="#ffffff"
    )
    return bytes(image)


def stylesheet(colours: Mapping[str, str]) -> str:
    """Return the CSS of all charts with these colours (the names of ``LIGHT``; values are CSS colours)."""
    rules = [
        f".kz text{{font-family:{_FONT};font-size:{_SIZE:g}px;fill:{colours['soft']};font-variant-numeric:tabular-nums}}",
        f".kz .heading{{font-size:15px;font-weight:bold;fill:{colours['ink']}}}",
        f".kz .grid{{stroke:{colours['faint']};stroke-width:1;fill:none}}",
        f".kz .limit{{stroke:{colours['bad']};stroke-width:1;stroke-dasharray:4 3;fill:none}}",
        f".kz .cursor{{stroke:{colours['soft']};stroke-width:1}}",
        ".kz .line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}",
        ".kz .dashed{stroke-dasharray:5 4}",
        ".kz .whisker{fill:none;stroke-width:2;stroke-linecap:round}",
        f".kz .count{{fill:{colours['c1']};fill-opacity:0.45}}",
        f".kz .stroke{{fill:none;stroke-width:1.3;stroke:{colours['ink']}}}",
        ".kz .band{stroke:none;fill-opacity:0.14}",
        ".kz .span{fill-opacity:0.13;stroke:none}",
        ".kz .mark{stroke-width:1;stroke-opacity:0.75;fill:none}",
        ".kz .hit{fill-opacity:0}",
        ".kz .at .show{opacity:0}",
        ".kz .at:hover .show{opacity:1}",
        f".kz .plate{{fill:{colours['paper']}}}",
        f".kz .cell.none{{fill:{colours['faint']};fill-opacity:0.4}}",
        *(f".kz .cell.h{i}{{fill:{colours['c3']};fill-opacity:{0.05 + 0.95 * i / 8:.2f}}}" for i in range(9)),
    ]
    for name in ("c1", "c2", "c3", "c4", "c5", "c6", "quiet", "good", "warn", "bad", "neutral"):
        value = colours["soft" if name == "neutral" else name]
        rules.append(f".kz .line.{name},.kz .mark.{name},.kz .whisker.{name}{{stroke:{value}}}")
        rules.append(f".kz .fill.{name},.kz .band.{name},.kz .span.{name},.kz text.{name}{{fill:{value}}}")
    return "\n".join(rules)


def percent(share: float) -> str:
    """Write a share of 1 as per cent with no more digits than help.

    >>> percent(0.05), percent(0.123), percent(0.0004)
    ('5 %', '12.3 %', '0.04 %')
    """
    number = share * 100
    digits = 0 if number >= 99.95 or number == round(number) else 1 if number >= 1 else 2
    text = f"{number:.{digits}f}"
    if digits == 2:
        text = text.rstrip("0") if float(text) else "below 0.01"
    return f"{text} %"


def _lines(series: Sequence[Series]) -> list[_Line]:
    free, lines = 1, []
    for one in series:
        number = one.colour
        if number is None:
            number, free = free, free % 6 + 1
        count = len(one.x)
        low, high = one.low or [None] * count, one.high or [None] * count
        points = [(_seconds(x), _float(y), _float(a), _float(b)) for x, y, a, b in zip(one.x, one.y, low, high, strict=True)]
        lines.append(_Line(one.name, sorted(points, key=lambda p: p[0]), f"c{number}" if number else "quiet", one.dashed))
    return lines


def _heading(title: str, y_label: str, *, standalone: bool) -> Iterable[str]:
    if standalone:
        yield f'<text class="heading" x="12" y="22">{escape(title)}</text>'
    if y_label:
        yield f'<text x="{12 if standalone else 2}" y="{38 if standalone else 12}">{escape(y_label)}</text>'


def _grid(ticks: Sequence[float], texts: Sequence[str], plot: _Plot) -> Iterable[str]:
    for tick, text in zip(ticks, texts, strict=True):
        y = plot.y(tick)
        yield f'<path class="grid" d="M{plot.left:.1f} {y:.1f}H{plot.right:.1f}"/>'
        yield f'<text x="{plot.left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _time_axis(plot: _Plot, *, by_day: bool) -> Iterable[str]:
    last = -1e9
    for seconds, text in axes.time_ticks(plot.x0, plot.x1, max(int((plot.right - plot.left) / 64), 2), finest=86400 if by_day else 300):
        x, half = plot.x(seconds), _text_width(text) / 2
        if x - half < last + 8:
            continue
        last = x + half
        yield f'<text x="{x:.1f}" y="{plot.bottom + 17:.1f}" text-anchor="middle">{text}</text>'


def _limit(limit: float | None, label: str, plot: _Plot) -> Iterable[str]:
    if limit is None:
        return
    y = plot.y(limit)
    yield f'<path class="limit" d="M{plot.left:.1f} {y:.1f}H{plot.right:.1f}"/>'
    if label:
        yield f'<text class="bad" x="{plot.left + 4:.1f}" y="{y - 4:.1f}">{escape(label)}</text>'


def _spans(spans: Sequence[Span], plot: _Plot) -> Iterable[str]:
    for span in spans:
        a, b = plot.x(_seconds(span.start)), plot.x(_seconds(span.end))
        wide = max(b - a, 2.0)
        yield _rect(f"span {span.tone}", a, plot.top, wide, plot.bottom - plot.top, span.label)
        size = _text_width(span.label)
        x = min(max(a + wide / 2, plot.left + size / 2), plot.right - size / 2)
        yield f'<text class="{span.tone}" x="{x:.1f}" y="{plot.bottom - 5:.1f}" text-anchor="middle">{escape(span.label)}</text>'


def _band(one: _Line, plot: _Plot) -> str:
    shapes = []
    for run in _runs(one.points, 2, 3):
        if len(run) == 1:
            x = plot.x(run[0][0])
            shapes.append(f"M{x - 2:.1f} {plot.y(run[0][3]):.1f}h4V{plot.y(run[0][2]):.1f}h-4Z")
            continue
        upper = "L".join(f"{plot.x(p[0]):.1f} {plot.y(p[3]):.1f}" for p in run)
        lower = "L".join(f"{plot.x(p[0]):.1f} {plot.y(p[2]):.1f}" for p in reversed(run))
        shapes.append(f"M{upper}L{lower}Z")
    return f'<path class="band {one.colour}" d="{"".join(shapes)}"/>' if shapes else ""


def _path(one: _Line, plot: _Plot) -> str:
    runs = _runs(one.points, 1, 1)
    d = "".join("M" + "L".join(f"{plot.x(p[0]):.1f} {plot.y(p[1]):.1f}" for p in run) for run in runs if len(run) > 1)
    dots = "".join(f'<circle class="fill {one.colour}" cx="{plot.x(r[0][0]):.1f}" cy="{plot.y(r[0][1]):.1f}" r="2.5"/>' for r in runs if len(r) == 1)
    return (f'<path class="line {one.colour}{" dashed" if one.dashed else ""}" d="{d}"/>' if d else "") + dots


def _runs(points: list[tuple[float, float, float, float]], first: int, second: int) -> list[list[tuple[float, float, float, float]]]:
    """Cut into stretches where both fields are known."""
    runs: list[list[tuple[float, float, float, float]]] = [[]]
    for point in points:
        if math.isnan(point[first]) or math.isnan(point[second]):
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def _mark_rows(marks: Sequence[Mark], x0: float, x1: float, width: int) -> dict[int, int]:
    """Give each mark's label a row where it overlaps no other label and no other line; beyond three rows a mark shows its line only.

    A line hangs down from its own row, so a mark below an earlier label must start lower than that label.
    """
    ends = [-1.0, -1.0, -1.0]
    rows: dict[int, int] = {}
    scale = width * 0.8 / ((x1 - x0) or 1.0)
    for i in sorted(range(len(marks)), key=lambda i: _seconds(marks[i].at)):
        x = (_seconds(marks[i].at) - x0) * scale
        row = max((r + 1 for r, end in enumerate(ends) if end >= x), default=0)
        if row == len(ends):
            continue
        ends[row] = x + _text_width(marks[i].label) + 10
        rows[i] = row
    return rows


def _marks(marks: Sequence[Mark], rows: Mapping[int, int], head: float, plot: _Plot) -> Iterable[str]:
    for i, mark in enumerate(marks):
        x, row = plot.x(_seconds(mark.at)), rows.get(i)
        top = plot.top if row is None else head + 13.0 * row + 4
        words = f"{mark.label}. {mark.about}" if mark.about else mark.label
        yield f'<path class="mark {mark.tone}" d="M{x:.1f} {top:.1f}V{plot.bottom:.1f}"><title>{escape(words)}</title></path>'
        if row is not None:
            flip = x + _text_width(mark.label) > plot.right + 30
            anchor = ' text-anchor="end"' if flip else ""
            yield f'<text class="{mark.tone}" x="{x + (-4 if flip else 4):.1f}" y="{top + 8:.1f}"{anchor}>{escape(mark.label)}</text>'


def _end_labels(lines: Sequence[_Line], plot: _Plot) -> Iterable[str]:
    """Name each line at its right end, moved apart where they would overlap."""
    wanted: list[tuple[float, _Line]] = []
    for one in lines:
        known = [p for p in one.points if not math.isnan(p[1])]
        if known:
            wanted.append((plot.y(known[-1][1]) + 4, one))
    wanted.sort(key=lambda pair: pair[0])
    previous = -1e9
    placed: list[tuple[float, _Line]] = []
    for y, one in wanted:
        previous = max(y, previous + 13)
        placed.append((previous, one))
    excess = max((placed[-1][0] if placed else 0) - (plot.bottom + 4), 0.0)
    for y, one in placed:
        yield f'<text class="{one.colour}" x="{plot.right + 7:.1f}" y="{max(y - excess, plot.top + 4):.1f}">{escape(one.name)}</text>'


def _strips(lines: Sequence[_Line], plot: _Plot, ticks: Sequence[float], head: float) -> Iterable[str]:
    """Draw one invisible strip per time that shows, under the pointer, a cursor and the values, by CSS alone."""
    at: dict[float, list[tuple[_Line, tuple[float, float, float, float]]]] = {}
    for one in lines:
        for point in one.points:
            if not math.isnan(point[1]):
                at.setdefault(point[0], []).append((one, point))
    times = sorted(at)
    if not 2 <= len(times) <= _MAX_STRIPS:
        return
    fine = (ticks[1] - ticks[0]) / 20 if len(ticks) > 1 else 0.01
    short = all(t % 86400 == 0 for t in times)
    for i, seconds in enumerate(times):
        x = plot.x(seconds)
        start = plot.left if i == 0 else (plot.x(times[i - 1]) + x) / 2
        end = plot.right if i == len(times) - 1 else (x + plot.x(times[i + 1])) / 2
        text = f"{axes.day(seconds, clock=not short)}  {' · '.join(_read(one, p, fine) for one, p in at[seconds])}"
        dots = "".join(f'<circle class="show fill {one.colour}" cx="{x:.1f}" cy="{plot.y(p[1]):.1f}" r="3"/>' for one, p in at[seconds])
        size = _text_width(text) * 1.02
        right = max(plot.right, plot.left + size)
        yield (
            f'<g class="at"><rect class="hit" x="{start:.1f}" y="{plot.top:.1f}" width="{end - start:.1f}" height="{plot.bottom - plot.top:.1f}"/>'
            f'<path class="show cursor" d="M{x:.1f} {plot.top:.1f}V{plot.bottom:.1f}"/>{dots}'
            f'<rect class="show plate" x="{right - size:.1f}" y="{head - 16:.1f}" width="{size:.1f}" height="15"/>'
            f'<text class="show" x="{right:.1f}" y="{head - 5:.1f}" text-anchor="end">{escape(text)}</text></g>'
        )


def _read(one: _Line, point: tuple[float, float, float, float], fine: float) -> str:
    _, y, low, high = point
    reach = "" if math.isnan(low) or math.isnan(high) else f" ({axes.rounded(low, fine)} to {axes.rounded(high, fine)})"
    return f"{one.name} {axes.rounded(y, fine)}{reach}"


def _describe(lines: Sequence[_Line], ticks: Sequence[float]) -> str:
    fine = (ticks[1] - ticks[0]) / 20 if len(ticks) > 1 else 0.01
    words = []
    for one in lines:
        known = [p for p in one.points if not math.isnan(p[1])]
        if known:
            ends = [f"{axes.rounded(p[1], fine)} on {axes.day(p[0])}" for p in (known[0], known[-1])]
            words.append(f"{one.name} from {ends[0]} to {ends[1]}")
    return "; ".join(words)


def _empty(title: str, width: int, height: int, *, standalone: bool) -> str:
    body = [f'<text x="{width / 2:.0f}" y="{height / 2:.0f}" text-anchor="middle">nothing measured yet</text>']
    return _svg(width, height, title, "nothing measured yet", body, standalone=standalone)


def _rect(classes: str, x: float, y: float, width: float, height: float, words: str) -> str:  # noqa: PLR0917 - the order of SVG itself
    return f'<rect class="{classes}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"><title>{escape(words)}</title></rect>'


def _svg(width: int, height: int, title: str, about: str, body: Iterable[str], *, standalone: bool = False, extra: str = "") -> str:
    size = f'viewBox="0 0 {width} {height}"'
    if not standalone:
        name = quoteattr(f"{title}. {about}" if about else title)
        return f'<svg class="kz {extra}" {size} width="{width}" height="{height}" role="img" aria-label={name}>{"".join(body)}</svg>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="kz" {size} width="{width}" height="{height}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(about)}</desc><style>{stylesheet(LIGHT)}</style>"
        f'<rect class="plate" width="{width}" height="{height}"/>{"".join(body)}</svg>\n'
    )


def _seconds(moment: Moment) -> float:
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment)


def _float(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else float(value)


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [c / total if total else 0.0 for c in counts]


def _text_width(text: str) -> float:
    # a mean of what the common sans-serif faces need; labels leave room for the error
    return sum(0.32 if c in " .,:;|ilj'()·" else 0.78 if c in "mwMW@%" else 0.56 for c in text) * _SIZE


def _size(svg: str) -> tuple[int, int]:
    found = re.search(r'viewBox="0 0 (\d+) (\d+)"', svg)
    return (int(found[1]), int(found[2])) if found else (0, 0)
