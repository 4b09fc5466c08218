from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.project import open_project

TOML = """
[project]
name = "shop"

[task]
dataset = "rows"
target = "{target}"
{more}

[train]
budget = "{budget}"
threads = 1
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Callable[..., Context]]:
    opened: list[Context] = []

    def project(target: str, more: str = "", budget: str = "4s") -> Context:
        (tmp_path / "kaizen.toml").write_text(TOML.format(target=target, more=more, budget=budget), encoding="utf-8")
        clock = SimulatedClock(tmp_path / "clock", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        opened.append(open_project(tmp_path, actor="test", clock=clock))
        return opened[-1]

    yield project
    for ctx in opened:
        ctx.online.close()
        ctx.catalog.close()
