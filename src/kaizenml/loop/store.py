"""The loop's tables: improvements, and what people asked for."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from kaizenml.catalog import metadata
from kaizenml.errors import Conflict
from kaizenml.loop.improvement import Improvement

improvements_table = sa.Table(
    "improvements",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("step", sa.Text, nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
)

wishes_table = sa.Table(
    "improvement_wishes",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

holds_table = sa.Table(
    "improvement_holds",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
)


def insert(connection: sa.Connection, improvement: Improvement) -> None:
    """Add a new improvement; the primary key refuses a second one of the same number."""
    connection.execute(
        improvements_table.insert().values(
            endpoint=improvement.endpoint, number=improvement.number, step=improvement.step, revision=improvement.revision,
            document=msgspec.json.encode(improvement),
        )
    )  # fmt: skip


def update(connection: sa.Connection, before: Improvement, after: Improvement) -> None:
    """Replace an improvement, if nobody else moved it since ``before`` was read."""
    table = improvements_table
    changed = connection.execute(
        table.update()
        .where(table.c.endpoint == before.endpoint, table.c.number == before.number, table.c.revision == before.revision)
        .values(step=after.step, revision=after.revision, document=msgspec.json.encode(after))
    ).rowcount
    if changed != 1:
        raise Conflict(
            f"improvement {before.token} was moved by another loop", remedy="run one loop for a project", values={"improvement": before.token}
        )


def latest(connection: sa.Connection, endpoint: str, limit: int = 1) -> list[Improvement]:
    """Return the newest improvements of an endpoint, newest first."""
    table = improvements_table
    rows = connection.execute(sa.select(table.c.document).where(table.c.endpoint == endpoint).order_by(table.c.number.desc()).limit(limit))
    return [msgspec.json.decode(row.document, type=Improvement) for row in rows]


def wish(connection: sa.Connection, endpoint: str) -> str | None:
    """Return what a person asked for, if it still waits."""
    return connection.execute(sa.select(wishes_table.c.why).where(wishes_table.c.endpoint == endpoint)).scalar()


def put_wish(connection: sa.Connection, endpoint: str, *, why: str, actor: str, at: float) -> None:
    """Keep a wish; a newer one replaces the older."""
    drop_wish(connection, endpoint)
    connection.execute(wishes_table.insert().values(endpoint=endpoint, why=why, actor=actor, at=at))


def drop_wish(connection: sa.Connection, endpoint: str) -> None:
    """Forget a wish that was taken up."""
    connection.execute(wishes_table.delete().where(wishes_table.c.endpoint == endpoint))


def hold(connection: sa.Connection, endpoint: str) -> str | None:
    """Return why retraining is held, if it is."""
    return connection.execute(sa.select(holds_table.c.why).where(holds_table.c.endpoint == endpoint)).scalar()


def put_hold(connection: sa.Connection, endpoint: str, why: str | None, at: float) -> None:
    """Remember that retraining is held (or, with None, that it no longer is)."""
    connection.execute(holds_table.delete().where(holds_table.c.endpoint == endpoint))
    if why is not None:
        connection.execute(holds_table.insert().values(endpoint=endpoint, why=why, since=at))
