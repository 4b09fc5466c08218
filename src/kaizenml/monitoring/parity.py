"""The watch over features: every hour (``monitor.parity``), whether requests read online what training reads offline. Else it raises an alert.

It looks at the views of today and at each other version that a release reads which answers, watches, or would come back by a rollback. A look of the
loop checks one of them at most, for a check reads the view's rows: the loop has other things to do as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from kaizenml.clock import parse_duration
from kaizenml.context import Context
from kaizenml.errors import KaizenError
from kaizenml.features import operations as features
from kaizenml.features.online.parity import Difference, Parity
from kaizenml.monitoring import alert as alerts
from kaizenml.monitoring import store
from kaizenml.ports import OnlineRow

_ENTITIES = 100
_PLACE = "watched"
log = logging.getLogger("kaizenml.monitoring")


def watch(ctx: Context) -> list[Parity]:
    """Check the view that has waited longest, if its time has come. One that cannot be checked is told in the log, and tried again next time."""
    views = features.online(ctx)
    _close_others(ctx, views)
    at = {name: ctx.online.read(f"{view.ref}#", [_PLACE])[0] for name, view in views.items()}
    for name in sorted(views, key=lambda one: row.at if (row := at[one]) is not None else 0.0):
        try:
            if _due(ctx, views[name].ref):
                found = features.check(ctx, name, entities=_ENTITIES)
                _record(ctx, name, found)
                return [found]
        except KaizenError as error:
            log.warning("the feature view %s could not be checked: %s", name, error.what)
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


def _close_others(ctx: Context, views: Iterable[str]) -> None:
    """Close the alerts of views and versions that nothing reads any more: nobody will look at them again."""
    watched = {_place(name) for name in views}
    with ctx.catalog.read() as connection:
        found = store.list_alerts(connection, open_only=True)
    others = [each for each in found if each.endpoint.startswith(_place("")) and each.endpoint not in watched]
    if others:
        with ctx.catalog.write() as connection:
            for each in others:
                store.put_alert(connection, msgspec.structs.replace(each, closed_at=ctx.clock.timestamp()))


def _place(name: str) -> str:
    return f"features/{name}"


def _record(ctx: Context, name: str, found: Parity) -> None:
    place, label = _place(name), "healthy" if found.same else "parity"
    cause = _told(name, found) if found.first else ""
    with ctx.catalog.write() as connection:
        old, new = alerts.after(
            store.open_alert(connection, place), endpoint=place, label=label, cause=cause, since=None, at=found.at,
            number=store.next_alert(connection, place), quiet_s=0.0,
        )  # fmt: skip
        for each in (old, new):
            if each is not None:
                store.put_alert(connection, each)
        if new is not None:
            ctx.record(connection, "monitoring.alert", place, label=new.label, severity=new.severity, cause=new.cause)


def _told(name: str, found: Parity) -> str:
    one: Difference = found.first[0]
    return (
        f"{found.differing} of {found.values} values are not the same online as in {found.dataset}; the first: "
        f"{one.feature} is {one.online!r} online and {one.offline!r} offline (`kaizen features check {name}` says of whom)"
    )
