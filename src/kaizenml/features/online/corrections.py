"""Online values under exclusions: what came from rows that are left out now is made again from what remains, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from kaizenml.context import Context
from kaizenml.data import exclusions, tables
from kaizenml.errors import NotFound
from kaizenml.features import join, store
from kaizenml.features.offline import frame
from kaizenml.features.online import by_entity
from kaizenml.features.view import FeatureView
from kaizenml.ports import OnlineRow

MakeRows = Callable[[FeatureView, pa.Table], Iterable[tuple[str, float, Mapping[str, Any]]]]


def correct(ctx: Context, view: FeatureView, make_rows: MakeRows) -> int:
    """Bring a view's online values in line with the exclusions on its dataset; does nothing when they are.

    Only entities with rows that were left out or taken back since are touched, and of these only values that are not newer than
    such rows. A value may become older by it, or vanish. Killed anywhere, the next call does it all.

    Parameters
    ----------
    view : a definition that was used; it need not be the current one.
    make_rows : gives the online rows of a table with the newest row of each entity.

    Returns
    -------
    How many entities have another value, or none, now.
    """
    with ctx.catalog.read() as connection:
        was, filled = store.heeded(connection, view.ref), store.materialized(connection, view.ref) > 0
        known = {each.id: each for each in exclusions.every(connection, view.dataset)}
    now = {each.id for each in known.values() if each.active}
    if was == now:
        return 0
    try:
        version = tables.version(ctx, view.dataset)
    except NotFound:  # the dataset was named before it was made
        return 0
    columns = [*view.entities, *([view.at] if view.at else [])]
    touched = tables.rows_of(ctx, version, columns).filter(pa.array(tables.covered(ctx, version, [known[each] for each in was ^ now])))
    bounds = {key: at for key, at, _ in make_rows(_bare(view), join.newest(touched, on=view.entities, at=view.at))}
    remains = by_entity.of_keys(view, frame.view_batches(ctx, view, version.ref), bounds)
    rows = {key: OnlineRow(at, values) for key, at, values in make_rows(view, join.newest(pa.concat_tables(remains), on=view.entities, at=view.at))}

    def change(key: str, old: OnlineRow | None) -> OnlineRow | None:
        if old is None and not filled:
            return None
        return old if old is not None and old.at > bounds[key] else rows.get(key)

    changed = ctx.online.update(view.ref, bounds, change)
    with ctx.catalog.write() as connection:
        store.set_heeded(connection, view.ref, now)
        ctx.record(connection, "features.corrected", view.ref, exclusions=sorted(now), entities=len(bounds), changed=changed)
    return changed


def _bare(view: FeatureView) -> FeatureView:
    return FeatureView(name=view.name, dataset=view.dataset, entity=view.entity, columns=view.entities[:1], at=view.at)
