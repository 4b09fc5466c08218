"""Whether requests read online what training reads offline: some entities looked up in both at one moment, their values compared exactly."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from kaizenml.context import Context
from kaizenml.features.encoding.vectorised import microseconds
from kaizenml.features.join import MISSING, codes, positions_at
from kaizenml.features.offline import frame
from kaizenml.features.online import filling
from kaizenml.features.online.by_entity import key_texts
from kaizenml.features.online.reading import read_at
from kaizenml.features.view import FeatureView
from kaizenml.features.windows.moments import reach_us

_DAY_US = 86_400_000_000
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
    texts = list(key_texts(view.entities, known_entities))
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
    computed = frame.known_of(asked, counting(rows, asked, view, t), view, np.full(len(known), t))
    columns = {column: filling.online_values(values) for column, values in zip(view.features.values(), computed, strict=True)}
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


def counting(rows: pa.Table, asked: pa.Table, view: FeatureView, t: int) -> pa.Table:
    """Return the rows behind a view that say all of its features for some entities at one moment: windows that end leave most rows out.

    Of an entity without a row in the time that the windows reach back, the newest is kept: it says what is latest, and whether that is too old.
    """
    reach = reach_us(view.aggregates)
    if reach is None or view.at is None or view.created is not None:
        return rows
    times = np.asarray(microseconds(rows.column(view.at)).fill_null(MISSING).to_numpy(), np.int64)
    keep = times >= t - max(reach, _DAY_US)
    of_asked, of_rows = codes(asked, rows, view.entities)
    quiet = np.setdiff1d(of_asked, of_rows[keep & (times <= t)])
    theirs = np.flatnonzero(np.isin(of_rows, quiet) & (times != MISSING))
    newest = positions_at(quiet, np.full(len(quiet), t), of_rows[theirs], times[theirs], None)
    keep[theirs[newest[newest >= 0]]] = True
    return rows.filter(pa.array(keep))


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
        found |= {key for key in key_texts(view.entities, table) if key is not None}
    return found


def _same(online: Any, offline: Any) -> bool:
    if online is None or offline is None:
        return online is offline
    return bool(online == offline) and isinstance(online, bool) == isinstance(offline, bool)
