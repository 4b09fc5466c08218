"""A real project on disk, and releases with real bundles of a small model written by hand (training is not what is tested here)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from kaizenml.context import Context
from kaizenml.data import store as datasets
from kaizenml.data.dataset import Contract, Dataset, DatasetVersion
from kaizenml.features.encoding.encoder import EncodedColumn, Encoder
from kaizenml.features.signature import Field, Signature
from kaizenml.project import open_project
from kaizenml.releases import bundle, store
from kaizenml.releases.release import GateResult, Manifest, Pins, Release
from kaizenml.training import model_file
from kaizenml.training.model_file import Member, ModelSpec, Naive

LINEAR = {
    "width": 1, "numeric": [0], "fill": [0.0], "mean": [0.0], "scale": [1.0], "clip": 5.0, "missing": [], "onehot": [], "coefficients": [[1.0]],
    "intercept": [0.0],
}  # fmt: skip


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "kaizen.toml").write_text('[project]\nname = "shop"\n')
    ctx = open_project(tmp_path, actor="tester")
    yield ctx
    ctx.catalog.close()


@pytest.fixture
def release(ctx: Context, tmp_path: Path) -> Callable[..., Release]:
    """Make the next release of ``shop``: passed unless a failed gate is named."""

    def make(failed: str | None = None, target: str = "returned") -> Release:
        with ctx.catalog.write() as connection:
            if datasets.find(connection, "orders") is None:  # what is pinned is there; without rows, which nobody reads here
                datasets.save(connection, Dataset(name="orders", contract=Contract(columns=[]), source="by hand", created_at=0.0))
                pinned = DatasetVersion(
                    dataset="orders", number=1, parts=[1], rows=0, hash="d", columns={}, source="by hand", quarantined=0, code=None, created_at=0.0
                )
                datasets.add_version(connection, pinned, datasets.Part(1, "d", []), None)
            number = store.next_number(connection, "shop")
            folder = ctx.state / "releases" / "shop" / str(number)
            source = tmp_path / "source"
            source.mkdir(exist_ok=True)
            (source / "linear.json").write_bytes(msgspec.json.encode(LINEAR))
            signature = Signature(task="binary", target=target, classes=[False, True], fields=[Field(name="price", kind="number")])
            spec = ModelSpec(
                signature=signature,
                encoder=Encoder(columns=[EncodedColumn(name="price", kind="number")]),
                members=[Member(name="linear", kind="linear", file="linear.json", weight=1.0)],
                naive=Naive(value=False, probabilities=[0.9, 0.1]),
            )
            model_file.write(source, spec)
            bundle.fill(folder, source, [{"price": float(number)}])
            pins = Pins(
                model=f"shop@{number}", model_hash="m", data=["orders@1"], data_hashes=["d"], features=[], code=None, libraries={}, libraries_hash="l"
            )
            gates = [GateResult(name=failed, passed=False, summary=f"{failed} said no", evidence={})] if failed else []
            manifest = Manifest(
                name="shop",
                number=number,
                hash=bundle.content_hash(pins, bundle.hashed(folder)),
                pins=pins,
                gates=gates,
                state="refused" if failed else "passed",
                bundle=f"releases/shop/{number}",
                why="",
                created_at=0.0,
                files={},
            )
            manifest = bundle.seal(folder, manifest, "# card\n")
            store.insert(connection, manifest, None)
        return msgspec.convert(msgspec.to_builtins(manifest), Release)

    return make
