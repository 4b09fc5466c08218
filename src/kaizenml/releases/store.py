"""The table of releases. Rows are written once, and changed only when a person is forgotten."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from kaizenml.catalog import metadata
from kaizenml.errors import Corrupt
from kaizenml.releases.release import Manifest, Release

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("model", sa.Text, nullable=False, index=True),  # name@number
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("once", sa.Text, unique=True),  # token of the caller that must not make it twice
    sa.Column("document", sa.LargeBinary, nullable=False),  # the manifest, as in the bundle's release.json
)


def insert(connection: sa.Connection, manifest: Manifest, once: str | None) -> None:
    connection.execute(
        releases.insert().values(
            name=manifest.name,
            number=manifest.number,
            model=manifest.pins.model,
            state=manifest.state,
            once=once,
            document=msgspec.json.encode(manifest),
        )
    )


def renew(connection: sa.Connection, manifest: Manifest) -> None:
    """Write a release anew after values of persons were taken out of its bundle."""
    where = (releases.c.name == manifest.name) & (releases.c.number == manifest.number)
    connection.execute(releases.update().where(where).values(document=msgspec.json.encode(manifest)))


def find(connection: sa.Connection, name: str, number: int | None) -> Release | None:
    """Return one release; ``number`` None means the newest that passed, or else the newest."""
    query = sa.select(releases.c.document).where(releases.c.name == name)
    if number is None:
        query = query.order_by(sa.case((releases.c.state == "passed", 0), else_=1), releases.c.number.desc()).limit(1)
    else:
        query = query.where(releases.c.number == number)
    row = connection.execute(query).first()
    return msgspec.json.decode(row.document, type=Release) if row else None


def get(connection: sa.Connection, ref: str) -> Release:
    """Return a release that something in the catalog refers to."""
    name, _, number = ref.partition("@")
    found = find(connection, name, int(number))
    if found is None:
        what = f"the catalog refers to release {ref}, which it does not hold"
        raise Corrupt(what, remedy="restore the catalog from a backup", values={"release": ref})
    return found


def made_for(connection: sa.Connection, once: str) -> Release | None:
    """Return the release that was made under this token."""
    row = connection.execute(sa.select(releases.c.document).where(releases.c.once == once)).first()
    return msgspec.json.decode(row.document, type=Release) if row else None


def manifest(connection: sa.Connection, release: Release) -> Manifest:
    """Return the manifest as it was written when the release was made."""
    query = sa.select(releases.c.document).where(releases.c.name == release.name, releases.c.number == release.number)
    return msgspec.json.decode(connection.execute(query).one().document, type=Manifest)


def every(connection: sa.Connection) -> list[Release]:
    rows = connection.execute(sa.select(releases.c.document).order_by(releases.c.name, releases.c.number))
    return [msgspec.json.decode(row.document, type=Release) for row in rows]


def next_number(connection: sa.Connection, name: str) -> int:
    last = connection.execute(sa.select(sa.func.max(releases.c.number)).where(releases.c.name == name)).scalar()
    return int(last or 0) + 1
