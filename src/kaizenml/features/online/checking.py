"""What checks pushed rows, as the catalog knows it now. What was read is kept for as long as nobody writes: a push must not wait for the catalog."""

from __future__ import annotations

import time
from typing import NamedTuple

import sqlalchemy as sa

from kaizenml.context import Context
from kaizenml.data import store as datasets
from kaizenml.data import tables
from kaizenml.data.people import left_out
from kaizenml.errors import NotFound, Unavailable
from kaizenml.features.online import filling, taking
from kaizenml.features.online.push import Checker
from kaizenml.features.view import FeatureView
from kaizenml.features.windows.moments import keeps_rows

_REST_S = 30.0
"""How long a catalog that does not answer is not asked again, where rows can be checked by what it said before."""


class _Kept(NamedTuple):
    mark: object  # of the catalog, before it was asked
    known: taking.Known
    checker: Checker
    rests_until: float = 0.0


_kept: dict[tuple[str, str], _Kept] = {}  # by state folder and view


def checker(ctx: Context, view: FeatureView, *, fresh: bool = False) -> Checker:
    """Return what checks the rows of a view: kinds and keys of its dataset, what is hidden in it, and who was forgotten.

    Parameters
    ----------
    fresh : ask the catalog in any case.

    Raises
    ------
    Unavailable : the catalog does not answer, and nothing was known before.
    """
    place, mark = (str(ctx.state), view.ref), ctx.catalog.mark()
    kept = _kept.get(place)
    if kept is not None and not fresh and (kept.mark == mark or time.monotonic() < kept.rests_until):
        return kept.checker
    try:
        now = known(ctx, view)
    except (Unavailable, sa.exc.DBAPIError):
        if kept is None or fresh:
            raise
        _kept[place] = kept._replace(rests_until=time.monotonic() + _REST_S)
        return kept.checker
    made = kept.checker if kept is not None and kept.known == now else now.checker(ctx.state)
    _kept[place] = _Kept(mark, now, made)
    return made


def known(ctx: Context, view: FeatureView) -> taking.Known:
    """Return a view as rows are pushed into it."""
    gone = _gone(ctx, view)
    try:
        version = tables.version(ctx, view.dataset)
    except NotFound:  # the first flush makes the dataset
        return taking.Known(view=view, kinds={}, gone=gone)
    keys = filling.keys_of(ctx, view.dataset) if keeps_rows(view) else []
    hidden = [name for name, form in version.personal.items() if form == "pseudonym"]
    return taking.Known(view=view, kinds=version.columns, keys=keys, hidden=hidden, gone=gone)


def _gone(ctx: Context, view: FeatureView) -> dict[str, taking.Gone]:
    """Return, by column of a view's dataset, the subjects who were forgotten and may stand in it."""
    with ctx.catalog.read() as connection:
        known = left_out.known(connection)
        found = datasets.find(connection, view.dataset) if known else None
    asked = {name: name for name in known}
    asked |= {column.name: column.holds for column in found.contract.columns if column.holds} if found is not None else {}
    return {
        name: taking.Gone(asked=of, marks=sorted(mark.hex() for mark in known[of].values), hidden=known[of].hidden)
        for name, of in asked.items()
        if of in known
    }
