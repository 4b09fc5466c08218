"""The table of model versions."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from kaizenml.catalog import metadata
from kaizenml.registry.model import ModelVersion

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("name", "run"),
)


def insert(connection: sa.Connection, model: ModelVersion) -> None:
    connection.execute(models.insert().values(name=model.name, number=model.number, run=model.run, document=msgspec.json.encode(model)))


def renew(connection: sa.Connection, model: ModelVersion) -> None:
    """Write a version anew after values of persons were taken out of its files."""
    where = (models.c.name == model.name) & (models.c.number == model.number)
    connection.execute(models.update().where(where).values(document=msgspec.json.encode(model)))


def of_run(connection: sa.Connection, name: str, run: str) -> ModelVersion | None:
    """Return the model version that this run became under this name."""
    return _first(connection, sa.select(models.c.document).where(models.c.name == name, models.c.run == run))


def find(connection: sa.Connection, name: str, number: int | None) -> ModelVersion | None:
    """Return one version; ``number`` None means the newest."""
    query = sa.select(models.c.document).where(models.c.name == name).order_by(models.c.number.desc()).limit(1)
    return _first(connection, query if number is None else query.where(models.c.number == number))


def every(connection: sa.Connection) -> list[ModelVersion]:
    rows = connection.execute(sa.select(models.c.document).order_by(models.c.name, models.c.number))
    return [msgspec.json.decode(row.document, type=ModelVersion) for row in rows]


def next_number(connection: sa.Connection, name: str) -> int:
    last = connection.execute(sa.select(sa.func.max(models.c.number)).where(models.c.name == name)).scalar()
    return int(last or 0) + 1


def _first(connection: sa.Connection, query: sa.Select[tuple[bytes]]) -> ModelVersion | None:
    row = connection.execute(query).first()
    return msgspec.json.decode(row.document, type=ModelVersion) if row else None
