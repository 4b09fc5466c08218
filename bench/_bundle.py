"""The model that is served: LightGBM, 200 trees of 31 leaves, 30 inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kaizenml.features.encoding.encoder import EncodedColumn, Encoder
from kaizenml.features.signature import Field, Signature
from kaizenml.rollouts.snapshot import Lineage, Route
from kaizenml.training import model_file
from kaizenml.training.model_file import Member, ModelSpec, Naive

NAMES = [f"feature_{n}" for n in range(30)]


def sample(number: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return what release ``number`` learns from."""
    rng = np.random.default_rng(number)
    x = rng.normal(size=(5000, len(NAMES))).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=5000) > 0).astype(float)


def write(state: Path, number: int) -> Route:
    """Train the model and write it as the bundle of ``bench@number``."""
    import lightgbm

    x, y = sample(number)
    folder = state / "releases" / "bench" / str(number) / "model"
    folder.mkdir(parents=True)
    # one thread: several that wait for each other crawl on a busy machine
    parameters = {"objective": "binary", "num_leaves": 31, "verbosity": -1, "num_threads": 1}
    lightgbm.train(parameters, lightgbm.Dataset(x, y), 200).save_model(str(folder / "m.txt"))
    signature = Signature(task="binary", target="y", classes=[False, True], fields=[Field(name=name, kind="number") for name in NAMES])
    encoder = Encoder(columns=[EncodedColumn(name=name, kind="number") for name in NAMES])
    members = [Member(name="boosted", kind="lightgbm", file="m.txt", weight=1.0)]
    model_file.write(folder, ModelSpec(signature=signature, encoder=encoder, members=members, naive=Naive(value=False, probabilities=[0.5, 0.5])))
    lineage = Lineage(model="bench@1", data="bench@1", features=[], code="0" * 40, hash="0" * 64)
    return Route(release=f"bench@{number}", bundle=f"releases/bench/{number}", weight=1000, arm="champion", lineage=lineage)
