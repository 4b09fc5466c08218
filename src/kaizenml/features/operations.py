"""Operations on feature views: push newest values, move them into the datasets, fill the online store, look up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.data.dataset import DatasetVersion
from kaizenml.errors import InvalidInput, NotFound
from kaizenml.features import corrections, frame, join, store
from kaizenml.features.buffer import buffer_of
from kaizenml.features.encoding import microseconds
from kaizenml.features.push import Checker, time_text
from kaizenml.features.view import FeatureView, Kept, Materialized, Pushed, ViewState, key_of

__all__ = ["flush", "get", "list", "materialize", "push", "show"]

_BATCH = 10_000  # entities in one transaction of the online store: others may write in between
_checkers: dict[tuple[str, str], Checker] = {}  # (state folder, view): a push must not wait for the catalog


def push(ctx: Context, view: str, rows: Sequence[Mapping[str, Any]], *, offline: bool = True) -> Pushed:
    """Take newest values of a feature view: online at once, and kept for its dataset.

    The rows are durable in the buffer before they are online. Late rows (older than what the online store
    holds) change nothing online, but reach the dataset, where point-in-time joins find them. Pushing the same
    rows again is harmless.

    Parameters
    ----------
    view : name of the view.
    rows : objects with the view's entity, its event time and all its columns; null where a value is not known.
    offline : also keep them for the dataset (`flush` moves them there); without, training never sees them.

    Returns
    -------
    How many rows are now the newest of their entity, and how many came late.

    Raises
    ------
    NotFound : there is no such view.
    InvalidInput : a column is absent, unknown, or of the wrong kind; nothing was taken.

    Examples
    --------
    kaizen features push weather '[{"origin": "JFK", "time_hour": "2013-04-01T05:00:00Z", "temp": 39.0}]'
    """
    found = frame.view_named(ctx, view)
    try:
        checked = _checker(ctx, found).check(rows)
    except InvalidInput:  # unless a column's kind has changed meanwhile
        checked = _checker(ctx, found, fresh=True).check(rows)
    if checked.offline:
        store.record_use(ctx, [found])
        if offline:
            buffer_of(ctx.state).put(found.ref, checked.offline)
    kept = ctx.online.write(found.ref, checked.online) if checked.online else 0
    return Pushed(view=found.ref, rows=len(rows), kept=kept, late=len(rows) - kept)


def flush(ctx: Context, view: str) -> DatasetVersion | None:
    """Move the pushed rows of a view into its dataset, as one new version.

    Every row arrives exactly once, whatever crashes: a batch is sealed under a name before it is handed on, and the
    dataset takes a name once. A batch that the dataset refuses stays and is tried again.

    Parameters
    ----------
    view : name of the view.

    Returns
    -------
    The dataset's new version; null when nothing was waiting.

    Raises
    ------
    ContractBroken : the rows do not fit the dataset; mend its contract and flush again.

    Examples
    --------
    kaizen features flush weather
    """
    found = frame.view_named(ctx, view)
    buffer = buffer_of(ctx.state)
    version = None
    for _ in range(2):  # a batch that an earlier flush left sealed, and what came since
        batch = buffer.seal(found.ref)
        if batch is None:
            break
        table = _checker(ctx, found, fresh=True).table(batch.rows)
        why = f"{len(batch.rows)} pushed rows"
        version = data.add(
            ctx, found.dataset, table=table, mode="append", partial=True, origin=f"pushed to {found.ref}", source_name="pushed", once=batch.token,
            why=why,
        )  # fmt: skip
        buffer.done(batch)
    return version


def materialize(ctx: Context, view: str, *, everything: bool = False) -> Materialized:
    """Fill the online store with the newest values of a view's dataset.

    Flushes pushed rows first. Does nothing when the online store already holds the dataset's newest version.
    Values that are newer online stay. May run at any time, beside pushes and reads.

    Parameters
    ----------
    view : name of the view.
    everything : also when nothing has changed, for example after the online store was lost.

    Returns
    -------
    The version of the dataset, and how many entities were looked at and written.

    Raises
    ------
    NotFound : there is no such view, or its dataset does not exist yet.

    Examples
    --------
    kaizen features materialize weather --everything
    """
    found = frame.view_named(ctx, view)
    flush(ctx, view)
    store.record_use(ctx, [found])
    heed(ctx, found)
    version = tables.version(ctx, found.dataset)
    with ctx.catalog.read() as connection:
        done = store.materialized(connection, found.ref)
    if done == version.number and not everything:
        return Materialized(view=found.ref, dataset=version.ref, entities=0, kept=0)
    rows = frame.view_rows(ctx, found, version.ref)
    newest = join.newest(rows, on=found.entities, at=found.at)
    kept = 0
    for start in range(0, newest.num_rows, _BATCH):
        kept += ctx.online.write(found.ref, _online_rows(found, newest.slice(start, _BATCH)))
    with ctx.catalog.write() as connection:
        store.set_materialized(connection, found.ref, version.number)
        ctx.record(connection, "features.materialized", found.ref, dataset=version.ref, entities=newest.num_rows, kept=kept)
    return Materialized(view=found.ref, dataset=version.ref, entities=newest.num_rows, kept=kept)


def get(ctx: Context, view: str, key: str) -> Kept:
    """Look up what the online store holds for an entity.

    Parameters
    ----------
    view : name of the view.
    key : the entity, as text.

    Returns
    -------
    The values, their event time and age in seconds, and whether the view still counts them.

    Raises
    ------
    NotFound : there is no such view, or it holds nothing for this entity.

    Examples
    --------
    kaizen features get weather JFK
    """
    found = frame.view_named(ctx, view)
    row = ctx.online.read(found.ref, [key])[0]
    if row is None:
        raise NotFound(
            f"the online store holds nothing for {key!r} in the view {found.name!r}",
            remedy=f"kaizen features materialize {found.name}",
            values={"view": found.ref, "key": key},
        )
    if found.at is None:
        return Kept(view=found.ref, key=key, values=dict(row.values), at=None, age_s=None, fresh=True)
    age_s = ctx.clock.timestamp() - row.at
    return Kept(view=found.ref, key=key, values=dict(row.values), at=row.at, age_s=age_s, fresh=found.ttl_s is None or age_s <= found.ttl_s)


def list(ctx: Context) -> Sequence[ViewState]:
    """List the project's feature views and how far their values have come.

    Returns
    -------
    One state for each view, in the order of kaizen.toml.

    Examples
    --------
    kaizen features list
    """
    return [_state(ctx, view) for view in frame.views(ctx)]


def show(ctx: Context, view: str) -> ViewState:
    """Show a feature view: its definition, its version, and how far its values have come.

    Parameters
    ----------
    view : name of the view.

    Raises
    ------
    NotFound : there is no such view.

    Examples
    --------
    kaizen features show weather
    """
    return _state(ctx, frame.view_named(ctx, view))


def _state(ctx: Context, view: FeatureView) -> ViewState:
    with ctx.catalog.read() as connection:
        used_at = next((at for definition, at in store.versions(connection, view.name) if definition.version == view.version), None)
        done = store.materialized(connection, view.ref)
    try:
        number = tables.version(ctx, view.dataset).number
    except NotFound:
        number = None
    features = [f"{view.name}_{column}" for column in view.columns]
    waiting = buffer_of(ctx.state).waiting(view.ref)
    return ViewState(view=view, ref=view.ref, features=features, used_at=used_at, dataset_version=number, materialized=done, waiting=waiting)


def heed(ctx: Context, view: FeatureView) -> int:
    """Bring the online values of a definition in line with the exclusions on its dataset; return how many entities changed."""
    return corrections.correct(ctx, view, _online_rows)


def _checker(ctx: Context, view: FeatureView, fresh: bool = False) -> Checker:
    place = (str(ctx.state), view.ref)
    kept = _checkers.get(place)
    if kept is not None and not fresh:
        return kept
    try:
        _checkers[place] = checker = Checker(view, tables.version(ctx, view.dataset).columns)
    except NotFound:
        return Checker(view, {})  # the first flush makes the dataset
    return checker


def _online_rows(view: FeatureView, rows: pa.Table) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Write a table's rows as ``push`` would: NaN and infinite are null, times are text."""
    keys = map(key_of, zip(*(join.key_text(rows.column(name)).to_pylist() for name in view.entities), strict=True))
    times = [us / 1e6 for us in microseconds(rows.column(view.at)).to_pylist()] if view.at is not None else [0.0] * rows.num_rows
    columns = [_online_values(rows.column(name)) for name in view.columns]
    for key, at, values in zip(keys, times, zip(*columns, strict=True), strict=True):
        if key is not None:
            yield key, at, dict(zip(view.columns, values, strict=True))


def _online_values(column: pa.ChunkedArray) -> Sequence[Any]:
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return [None if us is None else time_text(us) for us in microseconds(column).to_pylist()]
    values: Sequence[Any] = column.to_pylist()
    if pa.types.is_floating(column.type):
        finite = np.isfinite(column.to_numpy())
        return values if finite.all() else [value if keep else None for value, keep in zip(values, finite, strict=True)]
    return values
