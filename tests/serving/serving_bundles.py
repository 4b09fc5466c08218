"""Real bundles, projects and servers for the tests of serving."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np

from kaizenml.features.encoding.encoder import EncodedColumn, Encoder
from kaizenml.features.signature import Field, Signature, ViewUse
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.snapshot import EndpointRoute, Lineage, Route, Snapshot
from kaizenml.training import model_file
from kaizenml.training.model_file import Member, ModelSpec, Naive

TOML = '[project]\nname = "shop"\n\n[task]\ndataset = "orders"\ntarget = "returned"\n'
GOOD = {"price": 3.0, "size": "M", "count": 2, "gift": True, "ordered": "2026-03-01T12:30:00Z"}
COLUMNS = [
    EncodedColumn(name="price", kind="number"),
    EncodedColumn(name="size", kind="category", levels=["M", "L", "S"], categorical=True),
    EncodedColumn(name="count", kind="integer"),
    EncodedColumn(name="gift", kind="boolean"),
    EncodedColumn(name="ordered", kind="timestamp"),
]
CLASSES: dict[str, list[Any]] = {"binary": [False, True], "multiclass": ["low", "mid", "high"], "regression": []}


def lineage(name: str) -> Lineage:
    return Lineage(model=name, data="orders@1", features=[], code="abc123", hash=f"hash-of-{name}")


def write_bundle(state: Path, name: str = "shop", number: int = 1, *, task: str = "binary", view: bool = False, seed: int = 0) -> Route:
    """Train a small model and write it as the bundle ``releases/NAME/NUMBER``."""
    columns = [*COLUMNS, EncodedColumn(name="weather_temp", kind="number", view="weather")] if view else COLUMNS
    encoder = Encoder(columns=columns)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, encoder.width)).astype(np.float32)
    score = x[:, 0] + (3 * x[:, encoder.names.index("weather_temp")] if view else 0) + rng.normal(size=400) * 0.3
    y = {"binary": score > 0, "multiclass": np.digitize(score, [-0.5, 0.5]), "regression": score}[task]
    parameters: dict[str, Any] = {"objective": task, "num_leaves": 7, "verbosity": -1, "num_threads": 1, "seed": seed}
    if task == "multiclass":
        parameters["num_class"] = 3
    folder = state / "releases" / name / str(number) / "model"
    folder.mkdir(parents=True)
    lightgbm.train(parameters, lightgbm.Dataset(x, y.astype(float)), 15).save_model(str(folder / "m.txt"))
    classes = CLASSES[task]
    fields = [Field(name=c.name, kind=c.kind, view=c.view) for c in columns]
    views = [ViewUse(name="weather", version="v1", entity="place", columns=["temp"], ttl_s=3600.0)] if view else []
    spec = ModelSpec(
        signature=Signature(task=task, target="returned", classes=classes, fields=fields, views=views, key="order", unit="customer"),
        encoder=encoder,
        members=[Member(name="m", kind="lightgbm", file="m.txt", weight=1.0)],
        naive=Naive(value=classes[0] if classes else 0.5, probabilities=[1 / len(classes)] * len(classes) if classes else None),
    )
    model_file.write(folder, spec)
    ref = f"{name}@{number}"
    pins = {"model": ref, "data": ["orders@1"], "features": [], "code": "abc123"}
    manifest = {"name": name, "number": number, "hash": f"hash-of-{ref}", "pins": pins}
    (folder.parent / "release.json").write_bytes(msgspec.json.encode(manifest))
    return Route(release=ref, bundle=f"releases/{name}/{number}", weight=1000, arm="champion", lineage=lineage(ref))


def route(state: Path, champion: Route, *challengers: Route, endpoint: str = "shop", revision: int = 1, **more: Any) -> None:
    """Write the routing snapshot with one endpoint. Challengers' weights are theirs; the champion has the rest."""
    left = 1000 - sum(other.weight for other in challengers)
    arms = [msgspec.structs.replace(champion, weight=left)]
    arms += [msgspec.structs.replace(other, arm=f"challenger-{n + 1}") for n, other in enumerate(challengers)]
    found = EndpointRoute(endpoint=endpoint, revision=revision, arms=arms, paired=bool(challengers), **more)
    snapshot.write(state / "serving" / snapshot.FILE, Snapshot(revision=revision, written_at=0.0, endpoints={endpoint: found}))


@contextmanager
def served(*arguments: str, env: dict[str, str] | None = None, log: Path | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run ``python -m kaizenml.serving`` on a free port; gives the process and its address."""
    process = start(*arguments, env=env, log=log)
    try:
        yield process, address(process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def start(*arguments: str, env: dict[str, str] | None = None, log: Path | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kaizenml.serving", "--port", "0", *arguments]
    with (log or Path(os.devnull)).open("ab") as errors:
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}, stdout=subprocess.PIPE, stderr=errors)


def address(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the server ended with {process.wait()}"
    return f"http://127.0.0.1:{json.loads(line)['port']}"
