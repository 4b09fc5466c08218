"""Brings a catalog's database to the current schema. The revisions are in ``versions/``, run by Alembic.

A change of a room's tables: change its ``store.py``, then
``./x python -m kaizenml.migrations "What changed"`` writes the revision; review it, and set ``HEAD`` to it.
A test holds revisions and tables together.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from kaizenml.errors import Conflict
from kaizenml.schema import metadata

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0008"
"""The newest revision: a catalog that has it is current, which one query tells without importing Alembic."""
ROOMS = ("access", "data", "features", "training", "registry", "releases", "rollouts", "serving", "monitoring", "loop")
_LOCK = 727_369


def upgrade(engine: sa.Engine) -> None:
    """Create or migrate every table; quick when there is nothing to do, safe from several processes at once.

    Raises
    ------
    Conflict : a newer kaizenml has migrated this catalog.
    """
    with engine.connect() as connection:
        if _revision(connection) == HEAD:
            return
    from alembic import command
    from alembic.util import CommandError

    # one transaction, begun as a writer's: a second process waits here, and then finds nothing to do
    with engine.connect().execution_options(kaizen_write=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        found = _revision(connection)
        if found == HEAD:
            return
        try:
            command.upgrade(config(connection), HEAD)
        except CommandError:
            raise Conflict(
                f"this catalog is at revision {found}, which this kaizenml ({HEAD}) does not know: a newer one has migrated it",
                remedy="pip install --upgrade kaizenml",
                values={"found": found, "known": HEAD},
            ) from None


def config(connection: sa.Connection) -> Config:
    """Return Alembic's configuration for an open connection."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def tables() -> sa.MetaData:
    """Import every room's ``store`` and return the metadata they filled."""
    importlib.import_module("kaizenml.events")
    for room in ROOMS:
        if importlib.util.find_spec(f"kaizenml.{room}.store"):
            importlib.import_module(f"kaizenml.{room}.store")
    return metadata


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return found
