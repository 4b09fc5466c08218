"""Fixtures: a trained project, and a copy of it for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from monitored_airline import START, TOML, TRAINED_DAYS, Air, calm, inputs, truth, weather_rows

from kaizenml.clock import SimulatedClock
from kaizenml.data import operations as data
from kaizenml.monitoring import operations as monitoring
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.training import operations as training
from made_once import made_once


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with data, a trained model, a release and a champion; copied for each test."""
    return made_once(tmp_path_factory, "air", _train)


def _train(root: Path) -> None:
    (root / "kaizen.toml").write_text(TOML)
    clock = SimulatedClock(root / "clock", START + timedelta(days=TRAINED_DAYS))
    ctx = open_project(root, actor="tester", clock=clock)
    rng = np.random.default_rng(0)
    days = [inputs(day, rng) for day in range(TRAINED_DAYS)]
    rows = {name: np.concatenate([day[name] for day in days]) for name in days[0]}
    late = rng.random(len(rows["at"])) < truth(rows)
    trips = pa.table(
        {
            "trip": pa.array([f"t{number}" for number in range(len(late))]),
            "at": pa.array(rows["at"], pa.timestamp("us", tz="UTC")),
            **{name: pa.array(rows[name]) for name in ("origin", "carrier", "distance")},
            "late": pa.array(late),
        }
    )
    data.add(ctx, "weather", table=weather_rows(range(-1, TRAINED_DAYS)), time="time")
    data.add(ctx, "trips", table=trips, key="trip", time="at")
    run = training.train(ctx, budget="3s")
    model = registry.register(ctx, run.id)
    release = releases.create(ctx, model.ref, skip=["load", "parity", "champion", "naive"], why="a test")
    rollouts.deploy(ctx, "air", release.ref, why="first")
    monitoring.observe(ctx, "air")  # makes the reference
    ctx.online.close()
    ctx.catalog.close()


@pytest.fixture
def air(trained: Path, tmp_path: Path) -> Iterator[Air]:
    with _opened(trained, tmp_path / "air") as found:
        yield found


@pytest.fixture(scope="session")
def six_calm_days(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Air:
    with _opened(trained, tmp_path_factory.mktemp("calm") / "air") as found:
        calm(found, 6)
    return found


@pytest.fixture
def calm_air(six_calm_days: Air, tmp_path: Path) -> Iterator[Air]:
    """The project after six days on which nothing was found."""
    with _opened(six_calm_days.ctx.root, tmp_path / "air", six_calm_days) as found:
        yield found


@contextmanager
def _opened(source: Path, root: Path, after: Air | None = None) -> Iterator[Air]:
    """Open a copy of ``source``, to which ``after`` happened."""
    shutil.copytree(source, root)
    clock = SimulatedClock(root / "clock")
    ctx = open_project(root, actor="tester", clock=clock)
    found = Air(ctx, clock, rollouts.show(ctx, "air").champion, after)
    try:
        yield found
    finally:
        found.store.close()
        ctx.online.close()
        ctx.catalog.close()
