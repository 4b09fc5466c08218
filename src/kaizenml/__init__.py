"""kaizenml: keep a model in production, right, explainable and getting better.

The names below are imported when they are used, so that ``import kaizenml`` costs next to nothing and serving
never loads the data stack. What one can do with a project is in each room's ``operations``:

>>> import kaizenml
>>> from kaizenml.rollouts import operations as rollouts
>>> ctx = kaizenml.open_project("shop")  # doctest: +SKIP
>>> rollouts.promote(ctx, "shop", "shop@2", why="lower log loss on the canary")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# OpenMP's waiting threads must sleep: spinning ones made training thirty times slower beside a busy process on the same
# cores. The library reads this once, when it is loaded, so it is said before any room can load it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_WHERE = {
    "open_project": "kaizenml.project",
    "Context": "kaizenml.context",
    "Client": "kaizenml.serving.client",
    "Settings": "kaizenml.settings",
    "Ref": "kaizenml.refs",
    "parse_ref": "kaizenml.refs",
    "SystemClock": "kaizenml.clock",
    "SimulatedClock": "kaizenml.clock",
    "Event": "kaizenml.events",
    "Dataset": "kaizenml.data.dataset",
    "DatasetVersion": "kaizenml.data.dataset",
    "Contract": "kaizenml.data.dataset",
    "FeatureView": "kaizenml.features.view",
    "Signature": "kaizenml.features.signature",
    "derived": "kaizenml.features.defining.define",
    "count": "kaizenml.features.defining.define",
    "sum_": "kaizenml.features.defining.define",
    "mean": "kaizenml.features.defining.define",
    "min_": "kaizenml.features.defining.define",
    "max_": "kaizenml.features.defining.define",
    "std": "kaizenml.features.defining.define",
    "distinct": "kaizenml.features.defining.define",
    "first": "kaizenml.features.defining.define",
    "latest": "kaizenml.features.defining.define",
    "ratio": "kaizenml.features.defining.define",
    "since": "kaizenml.features.defining.define",
    "Run": "kaizenml.training.run",
    "ModelVersion": "kaizenml.registry.model",
    "Release": "kaizenml.releases.release",
    "Rollout": "kaizenml.rollouts.rollout",
    "OnlineStore": "kaizenml.ports",
    "Notifier": "kaizenml.ports",
    "KaizenError": "kaizenml.errors",
    "UsageError": "kaizenml.errors",
    "InvalidData": "kaizenml.errors",
    "InvalidInput": "kaizenml.errors",
    "NotFound": "kaizenml.errors",
    "Conflict": "kaizenml.errors",
    "Refused": "kaizenml.errors",
    "Waiting": "kaizenml.errors",
    "Unavailable": "kaizenml.errors",
}

if TYPE_CHECKING:
    from kaizenml.clock import SimulatedClock as SimulatedClock
    from kaizenml.clock import SystemClock as SystemClock
    from kaizenml.context import Context as Context
    from kaizenml.data.dataset import Contract as Contract
    from kaizenml.data.dataset import Dataset as Dataset
    from kaizenml.data.dataset import DatasetVersion as DatasetVersion
    from kaizenml.errors import Conflict as Conflict
    from kaizenml.errors import InvalidData as InvalidData
    from kaizenml.errors import InvalidInput as InvalidInput
    from kaizenml.errors import KaizenError as KaizenError
    from kaizenml.errors import NotFound as NotFound
    from kaizenml.errors import Refused as Refused
    from kaizenml.errors import Unavailable as Unavailable
    from kaizenml.errors import UsageError as UsageError
    from kaizenml.errors import Waiting as Waiting
    from kaizenml.events import Event as Event
    from kaizenml.features.defining.define import count as count
    from kaizenml.features.defining.define import derived as derived
    from kaizenml.features.defining.define import distinct as distinct
    from kaizenml.features.defining.define import features as features
    from kaizenml.features.defining.define import first as first
    from kaizenml.features.defining.define import latest as latest
    from kaizenml.features.defining.define import max_ as max_
    from kaizenml.features.defining.define import mean as mean
    from kaizenml.features.defining.define import min_ as min_
    from kaizenml.features.defining.define import ratio as ratio
    from kaizenml.features.defining.define import since as since
    from kaizenml.features.defining.define import std as std
    from kaizenml.features.defining.define import sum_ as sum_
    from kaizenml.features.signature import Signature as Signature
    from kaizenml.features.view import FeatureView as FeatureView
    from kaizenml.ports import Notifier as Notifier
    from kaizenml.ports import OnlineStore as OnlineStore
    from kaizenml.project import open_project as open_project
    from kaizenml.refs import Ref as Ref
    from kaizenml.refs import parse_ref as parse_ref
    from kaizenml.registry.model import ModelVersion as ModelVersion
    from kaizenml.releases.release import Release as Release
    from kaizenml.rollouts.rollout import Rollout as Rollout
    from kaizenml.serving.client import Client as Client
    from kaizenml.settings import Settings as Settings
    from kaizenml.training.run import Run as Run


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'kaizenml' has no attribute {name!r}")
    found = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
