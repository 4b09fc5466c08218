"""Feature views: a push of newest values, and the look-ups of a request, on a project's own files.

What is promised: a push of three rows in less than a millisecond, durable in the buffer and online; the features of one
entity in a tenth of that. Each run takes the median of many calls.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from _rows import OURS, options, report
from kaizenml.features import frame, operations
from kaizenml.features.online import look_up
from kaizenml.project import open_project

TOML = """
[project]
name = "bench"
[task]
dataset = "flights"
target = "late"
[features.weather]
dataset = "weather"
entity = "origin"
columns = ["temp", "wind", "humid", "sky"]
at = "at"
"""
START = datetime(2026, 1, 1, tzinfo=UTC)
ENTITIES = 1000


def values(hour: int, origin: int) -> dict[str, object]:
    at = (START + timedelta(hours=hour)).isoformat()
    return {"origin": f"o{origin}", "at": at, "temp": 20.5 + origin, "wind": 3.25, "humid": 0.5, "sky": "clear"}


def main() -> None:
    given = options(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kaizen.toml").write_text(TOML, encoding="utf-8")
        ctx = open_project(folder, actor="bench")
        operations.push(ctx, "weather", [values(0, origin) for origin in range(ENTITIES)])
        uses, now, hours = frame.uses(frame.views(ctx)), START.timestamp(), itertools.count(1)
        asked = [{"origin": f"o{place * 7 % ENTITIES}"} for place in range(100)]
        cases: dict[str, Callable[[], object]] = {
            "push 3 rows": lambda: operations.push(ctx, "weather", [values(next(hours), origin) for origin in range(3)]),
            "look up 1 entity": lambda: look_up(ctx.online, uses, asked[:1], now),
            "look up 100 entities": lambda: look_up(ctx.online, uses, asked, now),
        }
        calls, runs = (50, 3) if given.quick else (500, 15)
        report([[(case, OURS, "us", timed(call, calls)) for case, call in cases.items()] for _ in range(runs)], given)
        ctx.online.close()
        ctx.catalog.close()


def timed(call: Callable[[], object], calls: int) -> float:
    taken = []
    for _ in range(calls):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1e6


if __name__ == "__main__":
    main()
