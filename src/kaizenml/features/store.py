"""The catalog's table of feature views: which definitions were ever used, since when, and how far each is materialized."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from kaizenml.catalog import metadata
from kaizenml.context import Context
from kaizenml.features.view import FeatureView

views_table = sa.Table(
    "feature_views",
    metadata,
    sa.Column("ref", sa.Text, primary_key=True),  # name.version
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("definition", sa.LargeBinary, nullable=False),  # JSON of FeatureView
    sa.Column("used_at", sa.Float, nullable=False),  # first time
    sa.Column("materialized", sa.Integer, nullable=False, default=0),  # version of the dataset in the online store
    sa.Column("exclusions", sa.Text, nullable=False, server_default=""),  # ids of those that the online store's values heed, as "1,3"
)

_recorded: set[tuple[str, str]] = set()  # (catalog, ref): definitions never change, so one look per process is enough


def record_use(ctx: Context, views: list[FeatureView]) -> bool:
    """Keep the definition of each view when it is used for the first time, with its event; return whether this process had to look."""
    fresh = [view for view in views if (ctx.catalog.url, view.ref) not in _recorded]
    if not fresh:
        return False
    with ctx.catalog.read() as connection:
        known = {row.ref for row in connection.execute(sa.select(views_table.c.ref))}
    if any(view.ref not in known for view in fresh):
        with ctx.catalog.write() as connection:
            known = {row.ref for row in connection.execute(sa.select(views_table.c.ref))}
            for view in fresh:
                if view.ref not in known:
                    definition = msgspec.json.encode(view, order="deterministic")
                    row = {"ref": view.ref, "name": view.name, "definition": definition, "used_at": ctx.clock.timestamp(), "materialized": 0}
                    connection.execute(views_table.insert().values(row))
                    ctx.record(connection, "features.defined", view.ref, definition=msgspec.to_builtins(view))
    if not ctx.catalog.url.endswith((":memory:", "sqlite://")):  # those share their address, not their rows
        _recorded.update((ctx.catalog.url, view.ref) for view in fresh)
    return True


def materialized(connection: sa.Connection, ref: str) -> int:
    """Return the number of the dataset version that the online store holds for this view; 0 for none."""
    return connection.execute(sa.select(views_table.c.materialized).where(views_table.c.ref == ref)).scalar() or 0


def set_materialized(connection: sa.Connection, ref: str, number: int) -> None:
    """Keep how far the online store is. Never goes back: an older, slower run must not undo a newer one."""
    connection.execute(views_table.update().where(views_table.c.ref == ref, views_table.c.materialized < number).values(materialized=number))


def heeded(connection: sa.Connection, ref: str) -> set[int]:
    """Return the ids of the exclusions that the online values of this view heed."""
    text = connection.execute(sa.select(views_table.c.exclusions).where(views_table.c.ref == ref)).scalar() or ""
    return {int(each) for each in text.split(",") if each}


def set_heeded(connection: sa.Connection, ref: str, ids: set[int]) -> None:
    """Keep which exclusions the online values of this view heed."""
    connection.execute(views_table.update().where(views_table.c.ref == ref).values(exclusions=",".join(map(str, sorted(ids)))))


def definitions(connection: sa.Connection) -> dict[str, FeatureView]:
    """Return every definition that was ever used, by ``name.version``."""
    query = sa.select(views_table.c.ref, views_table.c.definition).order_by(views_table.c.used_at, views_table.c.ref)
    return {row.ref: msgspec.json.decode(row.definition, type=FeatureView) for row in connection.execute(query)}


def versions(connection: sa.Connection, name: str) -> list[tuple[FeatureView, float]]:
    """Return every definition that the view ever had, newest first, with the time of its first use."""
    query = sa.select(views_table).where(views_table.c.name == name).order_by(views_table.c.used_at.desc(), views_table.c.ref)
    return [(msgspec.json.decode(row.definition, type=FeatureView), row.used_at) for row in connection.execute(query)]


def every(connection: sa.Connection) -> list[FeatureView]:
    """Return every definition that any view ever had, oldest first."""
    query = sa.select(views_table.c.definition).order_by(views_table.c.used_at, views_table.c.ref)
    return [msgspec.json.decode(body, type=FeatureView) for body in connection.execute(query).scalars()]
