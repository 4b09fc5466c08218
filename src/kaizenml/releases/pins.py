"""What a release is made of: the model, every table and view behind it, the project's code, and the libraries."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata

import msgspec

from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data.dataset import DatasetVersion
from kaizenml.data.tables import version as dataset_version
from kaizenml.features.offline import frame
from kaizenml.features.signature import Signature
from kaizenml.registry.model import ModelVersion
from kaizenml.releases.release import Pins
from kaizenml.training.run import Run

LIBRARIES = (
    "kaizenml", "deltalake", "httptools", "lightgbm", "msgspec", "numpy", "onnxruntime", "pyarrow", "scikit-learn", "scipy", "skops", "sqlalchemy",
    "uvicorn", "uvloop", "xgboost-cpu",
)  # fmt: skip
"""Distributions that decide what a model learns and answers. The others may change without a new release."""


def pin(ctx: Context, model: ModelVersion, run: Run | None, signature: Signature) -> Pins:
    """Collect the pins of a model version that ``run`` made; of one that was made elsewhere nobody knows the data (None)."""
    versions = [dataset_version(ctx, run.dataset), *_behind_views(ctx, run, signature)] if run else []
    libraries = installed()
    return Pins(
        model=model.ref,
        model_hash=model.hash,
        data=[each.ref for each in versions],
        data_hashes=[each.hash for each in versions],
        features=list(run.views) if run else [],
        code=run.code if run else None,
        libraries=libraries,
        libraries_hash=hashlib.sha256(msgspec.json.encode(libraries, order="deterministic")).hexdigest(),
    )


def installed() -> dict[str, str]:
    """Return the versions of what is installed, with Python's own."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # uvloop on Windows; kaizenml run from a source tree
    return found


def _behind_views(ctx: Context, run: Run, signature: Signature) -> list[DatasetVersion]:
    """Return the dataset versions that the model's views read: the newest ones when its run started."""
    names = dict.fromkeys(name for view in frame.pinned(ctx, [use.ref for use in signature.views]) for name in frame.datasets_behind(ctx, view))
    found = []
    for name in names:
        known = data.versions(ctx, name)
        then = [each for each in known if each.created_at <= run.started_at]
        found.append(max(then or known, key=lambda each: each.number))
    return found
