"""Results as people read them: aligned tables, times as times, numbers with few digits."""

from __future__ import annotations

import math
import shutil
from datetime import UTC, datetime
from typing import Any

import click

_WIDEST_CELL = 48


def render(value: Any) -> str:
    """Return plain builtins as text for a terminal."""
    if value is None:
        return "done"
    if isinstance(value, list):
        return table(value) if value and all(isinstance(row, dict) for row in value) else "\n".join(cell("", item) for item in value) or "none"
    if isinstance(value, dict):
        return _record(value, "")
    return cell("", value)


def table(rows: list[dict[str, Any]], columns: list[str] | None = None, *, width: int | None = None) -> str:
    """Return rows as an aligned table without columns that are empty everywhere; the last ones give way to the width, or lose a third of it."""
    names = columns or list(dict.fromkeys(key for row in rows for key in row))
    names = [name for name in names if any(row.get(name) not in (None, [], {}, "") for row in rows)] or names[:1]
    texts = [[_shorten(cell(name, row.get(name)), _WIDEST_CELL) for name in names] for row in rows]
    right = [all(isinstance(row.get(name), int | float) and not isinstance(row.get(name), bool) for row in rows) for name in names]
    widths = [max(len(name), *(len(line[i]) for line in texts)) for i, name in enumerate(names)]
    space = width or shutil.get_terminal_size((120, 24)).columns
    kept = len(names)
    while kept > 1 and sum(widths[:kept]) + 2 * (kept - 1) > space:
        kept -= 1
    room = space - sum(widths[:kept]) - 2 * kept
    if kept < len(names) and not right[kept] and room >= max(len(names[kept]), 2 * widths[kept] // 3):
        texts = [[_shorten(text, room) if place == kept else text for place, text in enumerate(line)] for line in texts]
        widths[kept] = room
        kept += 1
    heads = [name.rjust(w) if r else name.ljust(w) for name, w, r in zip(names, widths, right, strict=True)][:kept]
    lines = [click.style("  ".join(heads).rstrip(), bold=True)]
    for line in texts:
        cells = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(line, widths, right, strict=True)][:kept]
        lines.append("  ".join(cells).rstrip())
    if kept < len(names):
        lines.append(click.style(f"(not shown for want of width: {', '.join(names[kept:])}; --json has everything)", dim=True))
    return "\n".join(lines)


def cell(name: str, value: Any) -> str:
    """Return one value as short text; ``name`` tells times (``at``, ``created_at``) from other numbers."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int) and (name in ("at", "since", "until") or name.endswith("_at")) and value > 1e8:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dict) and set(value) >= {"value", "low", "high"}:  # an estimate with its interval
        return f"{_number(value['value'])} ({_number(value['low'])} to {_number(value['high'])})"
    if isinstance(value, dict):
        return ", ".join(f"{key}={cell(str(key), inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(cell(name, inner) for inner in value) or "-"
    return str(value)


def _record(record: dict[str, Any], indent: str) -> str:
    wide = max((len(key) for key in record), default=0)
    lines = []
    for key, value in record.items():
        label = indent + click.style(key.ljust(wide), bold=True)
        nested = isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
        if nested:
            lines += [label, *(f"{indent}  {line}" for line in table(value).splitlines())]
        elif isinstance(value, dict) and len(cell(key, value)) > 90:
            lines += [label, _record(value, indent + "  ")]
        elif isinstance(value, list) and any(isinstance(each, str) and len(each) > 40 for each in value):  # sentences, commands
            lines += [label, *(f"{indent}  {cell(key, each)}" for each in value)]
        else:
            lines.append(f"{label}  {cell(key, value)}")
    return "\n".join(lines)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def _shorten(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
