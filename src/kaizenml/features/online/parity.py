"""Whether requests read online what training reads offline: some entities looked up in both at one moment, their values compared exactly."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from kaizenml.context import Context
from kaizenml.features.offline import frame
from kaizenml.features.online import filling
from kaizenml.features.online.reading import read_at
from kaizenml.features.view import FeatureView

_LOOKED_AT = 100_000  # keys of the online store among which the sample is drawn
SHOWN = 5


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A value that is not the same online and offline."""

    key: str
    feature: str  # the view's column or aggregate
    online: Any
    offline: Any
    beyond: bool = False  # online it would take more rows than the store keeps of an entity


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How a view's online values compare with those of its dataset at the same moment."""

    view: str  # name.version
    dataset: str  # name@number
    at: float
    entities: int  # compared; those left out were pushed to meanwhile, or have rows from the future
    values: int
    differing: int  # values
    first: list[Difference]

    @property
    def same(self) -> bool:
        return self.differing == 0


def compare(ctx: Context, view: FeatureView, dataset: str, *, entities: int) -> Parity:
    """Compare up to so many entities, of those that the online store knows and of those that the dataset knows."""
    now = ctx.clock.timestamp()
    t = round(now * 1e6)
    rng = random.Random(t)
    rows = frame.view_rows(ctx, view, dataset)
    known_entities = rows.select(view.entities).group_by(view.entities).aggregate([])
    texts = list(filling.key_texts(view.entities, known_entities))
    online = list(itertools.islice(ctx.online.keys(view.ref), _LOOKED_AT))
    offline = sorted({key for key in texts if key is not None})
    half = max(entities // 2, 1)
    chosen = list(dict.fromkeys([*rng.sample(online, min(half, len(online))), *rng.sample(offline, min(entities - half, len(offline)))]))
    stored = ctx.online.read(view.ref, chosen)
    waiting = _waiting(ctx, view)
    settled = [(key, row) for key, row in zip(chosen, stored, strict=True) if key not in waiting and (row is None or round(row.at * 1e6) <= t)]
    keys = [key for key, _ in settled]
    found = read_at(view.columns, view.aggregates, view.ttl_s, [row for _, row in settled], t)
    asked, known = _asked(known_entities, texts, keys)
    joined = frame.with_features(ctx, asked, [view], [], known_at=np.full(len(known), t), told=dataset)
    columns = {column: filling.online_values(joined.column(name)) for name, column in view.features.items()}
    offline_values = {key: {name: column[position] for name, column in columns.items()} for position, key in enumerate(known)}
    expected = [offline_values.get(key, dict.fromkeys(view.features.values())) for key in keys]
    differences = [
        Difference(key=key, feature=name, online=read.values[name], offline=truth[name], beyond=name in read.beyond)
        for key, read, truth in zip(keys, found, expected, strict=True)
        for name in truth
        if not _same(read.values[name], truth[name])
    ]
    return Parity(
        view=view.ref, dataset=dataset, at=now, entities=len(keys), values=len(keys) * len(view.features), differing=len(differences),
        first=differences[:SHOWN],
    )  # fmt: skip


def _asked(entities: pa.Table, texts: list[str | None], keys: list[str]) -> tuple[pa.Table, list[str]]:
    """Return the entities that the dataset knows of, of these keys, as rows with the view's key columns."""
    place: dict[str | None, int] = {}
    for position, key in enumerate(texts):
        place.setdefault(key, position)
    known = [key for key in keys if key in place]
    return entities.take(pa.array([place[key] for key in known], pa.int64())), known


def _waiting(ctx: Context, view: FeatureView) -> set[str]:
    """Return the entities that rows were pushed for which the dataset does not hold yet."""
    found: set[str] = set()
    for batch in filling.waiting_rows(ctx, view):
        table = pa.table({name: pa.array([row[name] for row in batch]) for name in view.entities})
        found |= {key for key in filling.key_texts(view.entities, table) if key is not None}
    return found


def _same(online: Any, offline: Any) -> bool:
    if online is None or offline is None:
        return online is offline
    return bool(online == offline) and isinstance(online, bool) == isinstance(offline, bool)
