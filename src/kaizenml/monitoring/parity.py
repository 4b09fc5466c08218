"""The watch over features: every hour (``monitor.parity``), whether requests read online what training reads offline. Else it raises an alert.

A look of the loop checks one view at most, for a check reads the view's rows: the loop has other things to do as well.
"""

from __future__ import annotations

import logging

from kaizenml.clock import parse_duration
from kaizenml.context import Context
from kaizenml.errors import KaizenError
from kaizenml.features import operations as features
from kaizenml.features.offline import frame
from kaizenml.features.online.parity import Difference, Parity
from kaizenml.monitoring import alert as alerts
from kaizenml.monitoring import store
from kaizenml.ports import OnlineRow

_ENTITIES = 100
_PLACE = "watched"
log = logging.getLogger("kaizenml.monitoring")


def watch(ctx: Context) -> list[Parity]:
    """Check the view that has waited longest, if its time has come. One that cannot be checked is told in the log, and tried again next time."""
    views = frame.views(ctx)
    at = {view.ref: ctx.online.read(f"{view.ref}#", [_PLACE])[0] for view in views}
    for view in sorted(views, key=lambda one: row.at if (row := at[one.ref]) is not None else 0.0):
        try:
            if _due(ctx, view.ref):
                found = features.check(ctx, view.name, entities=_ENTITIES)
                _record(ctx, view.name, found)
                return [found]
        except KaizenError as error:
            log.warning("the feature view %s could not be checked: %s", view.name, error.what)
    return []


def _due(ctx: Context, ref: str) -> bool:
    """Take the turn when it is due. A view that was never materialized has nothing online to compare."""
    now, every_s = ctx.clock.timestamp(), parse_duration(ctx.settings.monitor.parity)
    if ctx.online.read(f"{ref}#", ["dataset"])[0] is None:
        return False
    taken = False

    def change(_key: str, row: OnlineRow | None) -> OnlineRow | None:
        nonlocal taken
        taken = row is None or not 0 <= now - row.at < every_s
        return OnlineRow(now, {}) if taken else row

    ctx.online.update(f"{ref}#", [_PLACE], change)
    return taken


def _record(ctx: Context, view: str, found: Parity) -> None:
    place, label = f"features/{view}", "healthy" if found.same else "parity"
    with ctx.catalog.write() as connection:
        old, new = alerts.after(
            store.open_alert(connection, place), endpoint=place, label=label, cause=_told(found) if found.first else "", since=None, at=found.at,
            number=store.next_alert(connection, place), quiet_s=0.0,
        )  # fmt: skip
        for each in (old, new):
            if each is not None:
                store.put_alert(connection, each)
        if new is not None:
            ctx.record(connection, "monitoring.alert", place, label=new.label, severity=new.severity, cause=new.cause)


def _told(found: Parity) -> str:
    one: Difference = found.first[0]
    return (
        f"{found.differing} of {found.values} values are not the same online as in {found.dataset}; the first: "
        f"{one.feature} is {one.online!r} online and {one.offline!r} offline (`kaizen features check {found.view.partition('.')[0]}` says of whom)"
    )
