"""The blast radius as a picture: from the rows on the left, step by step, to the answers on the right."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

import msgspec

from kaizenml import charts
from kaizenml.governance.cutting_off.radius import Radius, name_of

MOST = 6  # boxes in a column; the rest is counted


def draw(found: Radius, *, standalone: bool = False) -> str:
    """Return the picture as SVG: a column for versions, views, models, releases, endpoints and answers, with how many rows or answers."""
    serving = {each.release for each in found.endpoints if each.role != "shadow"}
    columns = [
        ("versions", [(each.ref, f"{each.rows:,} rows", "warn") for each in reversed(found.versions)]),
        ("views", [(each.ref.rpartition(".")[0], f"{each.entities:,} entities", "warn") for each in found.views]),
        ("models", [(each.ref, f"{each.rows:,} rows", "warn") for each in reversed(found.models)]),
        ("releases", [(each.ref, "answers now" if each.ref in serving else "", _tone(each.ref in serving)) for each in reversed(found.releases)]),
        ("endpoints", [(each.endpoint, f"{each.role}: {each.release}", _tone(each.role != "shadow")) for each in found.endpoints]),
        ("answers", [(each.endpoint, f"{each.answers:,} by {each.release}", "bad") for each in found.predictions]),
    ]
    inner = _columns(columns, found.headline)
    return charts.stack([inner], title=name_of(found.exclusions), about=found.headline) if standalone else inner


def drawn(found: Radius) -> Radius:
    """Return the radius with its picture."""
    return msgspec.structs.replace(found, picture=draw(found, standalone=True))


def _columns(columns: list[tuple[str, list[tuple[str, str, str]]]], about: str) -> str:
    """Draw named columns of boxes (name, words, tone), with an arrow from each column to the next that has boxes."""
    step, wide, tall = 148, 132, 36
    body, last, lowest = [], None, 0
    for place, (head, boxes) in enumerate(columns):
        x = 2 + place * step
        body.append(f'<text x="{x}" y="14">{head}</text>')
        if boxes and last is not None:
            body.append(f'<path class="grid" d="M{last + wide + 1} {26 + tall / 2:.0f}H{x - 2}m-5 -4l5 4l-5 4"/>')
        last = x if boxes else last
        shown = [*boxes[:MOST], *([(f"and {len(boxes) - MOST} more", "", "neutral")] if len(boxes) > MOST else [])]
        for row, (name, words, tone) in enumerate(shown or [("none", "", "neutral")]):
            y = 26 + row * (tall + 8)
            whole = escape(f"{head}: {name}, {words}" if words else name)
            body.append(f'<rect class="band {tone}" x="{x}" y="{y}" width="{wide}" height="{tall}" rx="3"><title>{whole}</title></rect>')
            body.append(f'<text class="{tone}" x="{x + 7}" y="{y + 15}">{escape(_short(name))}</text>')
            body.append(f'<text x="{x + 7}" y="{y + 29}">{escape(_short(words))}</text>')
            lowest = max(lowest, y + tall)
    width, height = step * len(columns), lowest + 4
    label = quoteattr(f"What the rows went into. {about}")
    return f'<svg class="kz" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label={label}>{"".join(body)}</svg>'


def _short(text: str) -> str:
    return text if len(text) <= 21 else f"{text[:20]}…"


def _tone(live: bool) -> str:
    return "bad" if live else "warn"
