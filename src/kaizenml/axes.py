"""Axes of charts: round numbers, round times, and numbers written with the digits that a step can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def nice(low: float, high: float, count: int) -> list[float]:
    """Return round numbers that enclose nearly all of low..high.

    >>> nice(0.41, 0.58, 4)
    [0.4, 0.45, 0.5, 0.55, 0.6]
    """
    span = high - low
    size = max(abs(low), abs(high))
    if not span > max(1e-9, size * 1e-9) or not math.isfinite(span):  # as good as one value: nothing finer could be written on an axis
        span = size * 0.2 if size > 1e-6 else 1.0
        low, high = low - span / 2, high + span / 2
    raw = span / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.8)
    first, last = math.floor(low / step + 0.15), math.ceil(high / step - 0.15)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def time_ticks(x0: float, x1: float, most: int, *, finest: int = 300) -> list[tuple[float, str]]:
    """Return at most about ``most`` times and their labels on round hours, days, months or years, no finer than ``finest`` seconds."""
    start, span = datetime.fromtimestamp(x0, UTC), max(x1 - x0, 1.0)
    for step in (300, 900, 3600, 10800, 21600, 43200, 86400, 2 * 86400, 7 * 86400, 14 * 86400):
        if step >= finest and span / step <= most:
            base = float(math.ceil(x0 / step) * step)
            times = [base + i * step for i in range(int((x1 - base) // step) + 1)] or [x0]
            return [(t, _tick(t, step)) for t in times]
    for months in (1, 2, 3, 6, 12, 24, 60, 120):
        if span / (30.4 * 86400 * months) <= most:
            break
    found: list[tuple[float, str]] = []
    year, month = start.year, 1
    while (moment := datetime(year, month, 1, tzinfo=UTC)).timestamp() <= x1 and len(found) < 400:
        if moment.timestamp() >= x0 - 1:
            found.append((moment.timestamp(), str(year) if month == 1 else _MONTHS[month - 1]))
        year, month = year + (month - 1 + months) // 12, (month - 1 + months) % 12 + 1
    return found or [(x0, day(x0))]


def _tick(seconds: float, step: int) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    if step < 86400 and (moment.hour or moment.minute):
        return f"{moment:%H:%M}"
    return f"{moment.day} {_MONTHS[moment.month - 1]}"


def day(seconds: float, *, clock: bool = False) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%d %H:%M}" if clock else f"{moment:%Y-%m-%d}"


def number(value: float, ticks: Sequence[float]) -> str:
    return rounded(value, ticks[1] - ticks[0] if len(ticks) > 1 else abs(value) or 1.0)


def rounded(value: float, step: float) -> str:
    """Write a number with the digits that a step of this size can show."""
    if abs(value) >= 1e6 and step >= 1e3:
        return f"{value / 1e6:.4g} M"
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 3
    scaled = step * 10**digits
    if abs(scaled - round(scaled)) > 1e-6:  # 0.25 needs one digit more than 0.2
        digits += 1
    return f"{value:,.{min(digits, 8)}f}".replace("-", "−").replace(",", "\u202f")
