"""The table of rollouts: one row for each revision of each endpoint, never changed; the newest is how things are."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from kaizenml.catalog import metadata
from kaizenml.rollouts.rollout import Change, Rollout

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
)


def insert(connection: sa.Connection, change: Change) -> None:
    connection.execute(rollouts.insert().values(endpoint=change.endpoint, revision=change.revision, document=msgspec.json.encode(change)))


def current(connection: sa.Connection, endpoint: str) -> Rollout | None:
    """Return the endpoint as it is now."""
    query = sa.select(rollouts.c.document).where(rollouts.c.endpoint == endpoint).order_by(rollouts.c.revision.desc()).limit(1)
    row = connection.execute(query).first()
    return msgspec.json.decode(row.document, type=Change).rollout if row else None


def every(connection: sa.Connection) -> list[Rollout]:
    """Return all endpoints as they are now, by name."""
    newest = sa.select(rollouts.c.endpoint, sa.func.max(rollouts.c.revision).label("revision")).group_by(rollouts.c.endpoint).subquery()
    query = (
        sa.select(rollouts.c.document)
        .join(newest, sa.and_(rollouts.c.endpoint == newest.c.endpoint, rollouts.c.revision == newest.c.revision))
        .order_by(rollouts.c.endpoint)
    )
    return [msgspec.json.decode(row.document, type=Change).rollout for row in connection.execute(query)]


def changes(connection: sa.Connection, endpoint: str, limit: int) -> list[Change]:
    """Return the newest changes of an endpoint, newest first."""
    query = sa.select(rollouts.c.document).where(rollouts.c.endpoint == endpoint).order_by(rollouts.c.revision.desc()).limit(limit)
    return [msgspec.json.decode(row.document, type=Change) for row in connection.execute(query)]
