"""Datasets and their versions in the catalog."""

from __future__ import annotations

import builtins

import msgspec
import sqlalchemy as sa

from kaizenml.catalog import metadata
from kaizenml.data.dataset import Contract, Dataset, DatasetVersion, Decided, Intake, Source, Trust

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("contract", sa.LargeBinary, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("trust", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

dataset_sources = sa.Table(
    "dataset_sources",
    metadata,
    sa.Column("dataset", sa.Text, sa.ForeignKey("datasets.name"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("place", sa.Integer, nullable=False),  # in the order in which they came
    sa.Column("body", sa.LargeBinary, nullable=False),
)

dataset_intakes = sa.Table(
    "dataset_intakes",
    metadata,
    sa.Column("dataset", sa.Text, sa.ForeignKey("datasets.name"), primary_key=True),
    sa.Column("location", sa.Text, primary_key=True),
    sa.Column("query", sa.Text, primary_key=True),  # empty where there is none
    sa.Column("body", sa.LargeBinary, nullable=False),
)

dataset_versions = sa.Table(
    "dataset_versions",
    metadata,
    sa.Column("dataset", sa.Text, sa.ForeignKey("datasets.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("part_hash", sa.Text, nullable=False),  # of the rows that this version added; its part has the version's number
    sa.Column("part_columns", sa.LargeBinary, nullable=False),
    sa.Column("once", sa.Text),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("dataset", "once"),
)

exclusions_table = sa.Table(
    "exclusions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("dataset", sa.Text, nullable=False, index=True),
    sa.Column("lifted_at", sa.Float),  # null: it holds
    sa.Column("document", sa.LargeBinary, nullable=False),
)

forgotten_subjects = sa.Table(
    "forgotten_subjects",
    metadata,
    sa.Column("column", sa.Text, primary_key=True),  # the name by which the subject was asked for
    sa.Column("mark", sa.Text, primary_key=True),  # see data/people/left_out.py
    sa.Column("forgetting", sa.Integer, nullable=False),
    sa.Column("hidden", sa.Integer, nullable=False),  # 1: only a pseudonym of the subject was known
)

quarantine_decisions = sa.Table(
    "quarantine_decisions",
    metadata,
    sa.Column("dataset", sa.Text, sa.ForeignKey("datasets.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)


class Part(msgspec.Struct, frozen=True):
    """The rows that one version added: their number in the table, their hash, and the columns that the hash covers."""

    number: int
    hash: str
    columns: builtins.list[str]


def find(connection: sa.Connection, name: str) -> Dataset | None:
    """Return a dataset, or None."""
    row = connection.execute(sa.select(datasets).where(datasets.c.name == name)).first()
    return _dataset(row, sources(connection, name)) if row else None


def names(connection: sa.Connection) -> builtins.list[str]:
    """Return every dataset's name."""
    return list(connection.execute(sa.select(datasets.c.name).order_by(datasets.c.name)).scalars())


def every(connection: sa.Connection) -> builtins.list[Dataset]:
    """Return every dataset, by name."""
    return [_dataset(row, sources(connection, row.name)) for row in connection.execute(sa.select(datasets).order_by(datasets.c.name))]


def sources(connection: sa.Connection, name: str) -> builtins.list[Source]:
    """Return a dataset's sources, oldest first."""
    query = sa.select(dataset_sources.c.body).where(dataset_sources.c.dataset == name).order_by(dataset_sources.c.place)
    return [msgspec.json.decode(body, type=Source) for body in connection.execute(query).scalars()]


def intakes(connection: sa.Connection, name: str) -> builtins.list[Intake]:
    """Return where a dataset's rows are taken from."""
    t = dataset_intakes.c
    query = sa.select(t.body).where(t.dataset == name).order_by(t.location, t.query)
    return [msgspec.json.decode(body, type=Intake) for body in connection.execute(query).scalars()]


def save_intake(connection: sa.Connection, name: str, intake: Intake | None, *, alone: bool) -> None:
    """Write where rows were taken from, new or changed; ``alone``: the rows of all others are no longer there."""
    mine = dataset_intakes.c.dataset == name
    if intake is not None and not alone:
        mine &= (dataset_intakes.c.location == intake.location) & (dataset_intakes.c.query == (intake.query or ""))
    if alone or intake is not None:
        connection.execute(dataset_intakes.delete().where(mine))
    if intake is not None:
        body = msgspec.json.encode(intake)
        connection.execute(dataset_intakes.insert().values(dataset=name, location=intake.location, query=intake.query or "", body=body))


def save(connection: sa.Connection, dataset: Dataset) -> None:
    """Write a dataset with its sources, new or changed."""
    values = {"contract": msgspec.json.encode(dataset.contract), "source": dataset.source, "trust": dataset.trust}
    done = connection.execute(datasets.update().where(datasets.c.name == dataset.name).values(**values))
    if not done.rowcount:
        connection.execute(datasets.insert().values(name=dataset.name, created_at=dataset.created_at, **values))
    known = {source.name: source for source in sources(connection, dataset.name)}
    for place, source in enumerate(dataset.sources):
        if known.get(source.name) == source:
            continue
        body = msgspec.json.encode(source)
        if source.name in known:
            mine = (dataset_sources.c.dataset == dataset.name) & (dataset_sources.c.name == source.name)
            connection.execute(dataset_sources.update().where(mine).values(body=body))
        else:
            connection.execute(dataset_sources.insert().values(dataset=dataset.name, name=source.name, place=place, body=body))


def version(connection: sa.Connection, name: str, number: int | None) -> DatasetVersion | None:
    """Return one version, the newest when ``number`` is None; None when there is none."""
    query = sa.select(dataset_versions.c.body).where(dataset_versions.c.dataset == name)
    query = query.where(dataset_versions.c.number == number) if number else query.order_by(dataset_versions.c.number.desc()).limit(1)
    body = connection.execute(query).scalar()
    return msgspec.json.decode(body, type=DatasetVersion) if body else None


def versions(connection: sa.Connection, name: str) -> builtins.list[DatasetVersion]:
    """Return a dataset's versions, oldest first."""
    query = sa.select(dataset_versions.c.body).where(dataset_versions.c.dataset == name).order_by(dataset_versions.c.number)
    return [msgspec.json.decode(body, type=DatasetVersion) for body in connection.execute(query).scalars()]


def added_once(connection: sa.Connection, name: str, once: str) -> DatasetVersion | None:
    """Return the version that this token made, or None."""
    query = sa.select(dataset_versions.c.body).where(dataset_versions.c.dataset == name, dataset_versions.c.once == once)
    body = connection.execute(query).scalar()
    return msgspec.json.decode(body, type=DatasetVersion) if body else None


def parts(connection: sa.Connection, name: str) -> dict[int, Part]:
    """Return every committed part of a dataset by its number."""
    t = dataset_versions.c
    rows = connection.execute(sa.select(t.number, t.part_hash, t.part_columns).where(t.dataset == name))
    return {row.number: Part(row.number, row.part_hash, msgspec.json.decode(row.part_columns)) for row in rows}


def add_version(connection: sa.Connection, version: DatasetVersion, part: Part, once: str | None) -> None:
    """Write a new version; the primary key refuses a number that is taken."""
    connection.execute(
        dataset_versions.insert().values(
            dataset=version.dataset,
            number=version.number,
            part_hash=part.hash,
            part_columns=msgspec.json.encode(part.columns),
            once=once,
            body=msgspec.json.encode(version),
        )
    )


def decided(connection: sa.Connection, name: str) -> builtins.list[Decided]:
    """Return what was decided on a dataset's rows in quarantine, oldest first."""
    t = quarantine_decisions.c
    rows = connection.execute(sa.select(t.body).where(t.dataset == name).order_by(t.number)).scalars()
    return [msgspec.msgpack.decode(body, type=Decided) for body in rows]


def add_decided(connection: sa.Connection, decided: Decided) -> None:
    """Write a decision; the primary key refuses a number that is taken."""
    body = msgspec.msgpack.encode(decided)
    connection.execute(quarantine_decisions.insert().values(dataset=decided.dataset, number=decided.number, body=body))


def renew(connection: sa.Connection, version: DatasetVersion, part: Part) -> None:
    """Write a version and its part anew after rows were forgotten, or a personal column was hidden; nothing else ever changes a version."""
    t = dataset_versions.c
    values = {"part_hash": part.hash, "part_columns": msgspec.json.encode(part.columns), "body": msgspec.json.encode(version)}
    connection.execute(dataset_versions.update().where(t.dataset == version.dataset, t.number == version.number).values(**values))


def _dataset(row: sa.Row[tuple[str, bytes, str, str, float]], sources: builtins.list[Source]) -> Dataset:
    trust: Trust = row.trust
    contract = msgspec.json.decode(row.contract, type=Contract)
    return Dataset(name=row.name, contract=contract, source=row.source, trust=trust, created_at=row.created_at, sources=sources)
