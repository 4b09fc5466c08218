"""One real project for all tests of the room: a real table, a real training, a registered model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_breast_cancer

from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.registry.model import ModelVersion
from kaizenml.training import operations as training

SETTINGS = """
[project]
name = "clinic"
[task]
dataset = "cells"
target = "malignant"
[features.site]
dataset = "sites"
entity = "ward"
columns = ["beds"]
[train]
budget = "1.5s"
threads = 1
[gates]
rate = 50
p99_ms = 2000
load_seconds = 0.5
parity_rows = 200
"""


@pytest.fixture(scope="session")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    root = tmp_path_factory.mktemp("clinic")
    (root / "kaizen.toml").write_text(SETTINGS)
    ctx = open_project(root, actor="tester")
    frame = load_breast_cancer(as_frame=True).frame
    rng = np.random.default_rng(0)
    wards = rng.choice(["north", "south", "east"], len(frame))
    columns = {name: pa.array(frame[name]) for name in frame.columns[:8]}
    seen = np.datetime64("2020-01-01") + rng.integers(0, 9_000_000, len(frame)).astype("timedelta64[s]")
    columns |= {"ward": pa.array(wards), "seen": pa.array(seen)}
    columns |= {"smoker": pa.array(rng.random(len(frame)) < 0.3, mask=rng.random(len(frame)) < 0.2)}
    columns |= {"malignant": pa.array(frame["target"] == 0)}
    data.add(ctx, "sites", table=pa.table({"ward": ["north", "south", "east"], "beds": [10, 20, 30]}), key="ward")
    data.add(ctx, "cells", table=pa.table(columns))
    return ctx


@pytest.fixture(scope="session")
def model(ctx: Context) -> ModelVersion:
    return registry.register(ctx, training.train(ctx, run_id="first").id)


@pytest.fixture(scope="session")
def folder(ctx: Context, model: ModelVersion) -> Path:
    return registry.folder_of(ctx, model)
