"""The catalog: one small database that holds the truth about everything but bulk data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from kaizenml.errors import StorageFull, Unavailable
from kaizenml.schema import metadata

__all__ = ["Catalog", "metadata"]


class Catalog:
    """A database with serialised writers and consistent readers (SQLite WAL, or Postgres).

    >>> from kaizenml import events
    >>> catalog = Catalog("sqlite://")
    >>> catalog.create()
    >>> with catalog.write() as connection:
    ...     event = events.append(connection, at=0.0, actor="doctest", kind="project.made", subject="shop")
    >>> event.seq
    1
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {}
        if url in ("sqlite://", "sqlite:///:memory:"):
            options = {"poolclass": sa.pool.StaticPool, "connect_args": {"check_same_thread": False}}
        self.engine = sa.create_engine(url, **options)
        if self._sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)

    def create(self) -> None:
        """Bring the database to the current schema; safe to call again and from several processes."""
        from kaizenml import migrations

        migrations.upgrade(self.engine)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open one write transaction: all of it is kept, or nothing. Writers wait for each other."""
        with _translated(self.url), self.engine.connect().execution_options(kaizen_write=True) as connection, connection.begin():
            if not self._sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(727368)"))  # one chain of events: one writer at a time
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open one consistent read."""
        with _translated(self.url), self.engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    # FULL: a step of the loop that was reported done is done, also after a power cut
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=15000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("kaizen_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.OperationalError as error:
        text = str(error.orig)
        if "disk is full" in text or "disk I/O error" in text:
            what = "the disk that holds the catalog is full; nothing was half-written"
            raise StorageFull(what, remedy="free some space and repeat", values={"database": _shown(url)}) from error
        if "locked" in text or "unable to open" in text or "connect" in text:
            remedy = "repeat; if it stays so, look at what holds it"
            raise Unavailable(f"the catalog does not answer: {text}", remedy=remedy, values={"database": _shown(url)}) from error
        raise


def _shown(url: str) -> str:
    return sa.make_url(url).render_as_string(hide_password=True)
