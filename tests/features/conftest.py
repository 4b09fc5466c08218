from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from view_settings import TOML

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.features.online import buffer
from kaizenml.project import open_project


@pytest.fixture
def clock(tmp_path: Path) -> SimulatedClock:
    return SimulatedClock(tmp_path / "clock", dt.datetime(2013, 1, 1, 12, tzinfo=dt.UTC))


@pytest.fixture
def reopen(tmp_path: Path, clock: SimulatedClock) -> Callable[..., Context]:
    def reopen(toml: str = TOML) -> Context:
        root = tmp_path / "project"
        root.mkdir(exist_ok=True)
        (root / "kaizen.toml").write_text(toml, encoding="utf-8")
        return open_project(root, actor="test", clock=clock)

    return reopen


@pytest.fixture
def ctx(reopen: Callable[..., Context]) -> Iterator[Context]:
    ctx = reopen()
    yield ctx
    ctx.online.close()
    ctx.catalog.close()
    buffer.buffer_of(ctx.state).close()
