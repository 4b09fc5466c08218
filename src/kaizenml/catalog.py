"""The catalog: one small database that holds the truth about everything but bulk data: SQLite in the project, or PostgreSQL for several machines."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kaizenml import sqlite_file
from kaizenml.errors import InvalidSettings, MissingExtra, StorageFull, Unavailable
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

    Parameters
    ----------
    url : ``sqlite:///file``, or ``postgresql://USER:${PASSWORD}@HOST/DATABASE``, where ``${NAME}`` is taken from the environment.

    Raises
    ------
    InvalidSettings : another kind of database, or a variable is not there.
    MissingExtra : the client of PostgreSQL is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        """As it stands in the settings: what it takes from the environment is not in it."""
        self._sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {}
        if url in ("sqlite://", "sqlite:///:memory:"):
            options = {"poolclass": sa.pool.StaticPool, "connect_args": {"check_same_thread": False}}
        elif not self._sqlite:
            options = {"connect_args": _POSTGRES, "pool_pre_ping": True}
        self.engine = sa.create_engine(url if self._sqlite else _postgres(url), **options)
        if self._sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        file = self.engine.url.database if self._sqlite else None
        self._file = Path(file) if file and file != ":memory:" else None
        self._number, self._writes = next(_numbers), 0
        self._watching: sqlite3.Connection | None = None
        self._one_looks = threading.Lock()

    @property
    def shared(self) -> bool:
        """Tell whether other machines may have this catalog open."""
        return not self._sqlite

    def create(self) -> None:
        """Bring the database to the current schema; safe to call again and from several processes."""
        from kaizenml import migrations

        if self._sqlite:
            migrations.upgrade(self.engine)
            return
        with _translated(self.url):
            migrations.upgrade(self.engine)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open one write transaction: all of it is kept, or nothing. Writers wait for each other."""
        with _translated(self.url), self.engine.connect().execution_options(kaizen_write=True) as connection, connection.begin():
            if not self._sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(727368)"))  # one chain of events: one writer at a time
            yield connection
        self._writes += 1

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open one consistent read: nothing that is written meanwhile is seen."""
        with _translated(self.url), self.engine.connect() as connection:
            if not self._sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def hold(self, name: str, *, wait_s: float = 0.0) -> Iterator[bool]:
        """Hold a name against all processes of all machines that have this (shared) catalog open; the server lets go when this process ends.

        Parameters
        ----------
        name : what is held, such as ``data/orders``.
        wait_s : how long to try.

        Returns
        -------
        Whether it is held: False when another process has it for longer than ``wait_s``.
        """
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        deadline, pause = time.perf_counter() + wait_s, 0.01
        with _translated(self.url):
            connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            while True:
                with _translated(self.url):
                    held = bool(connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar())
                if held or time.perf_counter() > deadline:
                    break
                time.sleep(pause)
                pause = min(2 * pause, 0.5)
            yield held
        finally:
            with suppress(sa.exc.DBAPIError):
                connection.execute(sa.text("SELECT pg_advisory_unlock_all()"))
            with suppress(sa.exc.DBAPIError):
                connection.invalidate()  # the lock is the session's: ending it lets go, also where the word did not get through
            connection.close()

    def mark(self) -> object:
        """Return what equals an earlier mark only while nobody has written, so that what was read then need not be read again.

        It takes some microseconds, and no lock. Of a database on a server it only says whether a second is over; others may write meanwhile.
        """
        if not self._sqlite:
            return self._number, self._writes, int(time.monotonic())
        if self._file is None:
            return self._number, self._writes
        try:
            with self._one_looks:
                if self._watching is None:  # one of its own: SQLite tells a connection of what others have written
                    self._watching = sqlite_file.connect(self._file, readonly=True)
                return self._number, self._watching.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            return object()  # whoever reads now is told what is the matter

    def close(self) -> None:
        with self._one_looks:
            if self._watching is not None:
                self._watching.close()
            self._watching = None
        self.engine.dispose()


_numbers = itertools.count()  # of the catalogs that this process has opened: marks of two are never equal


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    # FULL: a step of the loop that was reported done is done, also after a power cut
    for pragma in ("busy_timeout=15000", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    sqlite_file.use_log(connection)


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("kaizen_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def revealed(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Put variables of the environment into ``${NAME}``, as passwords have to be kept out of kaizen.toml.

    >>> revealed("postgresql://me:${PASSWORD}@db/shop", {"PASSWORD": "p@ss"})
    'postgresql://me:p%40ss@db/shop'

    Raises
    ------
    InvalidSettings : there is no such variable.
    """
    from urllib.parse import quote

    known = os.environ if environ is None else environ

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise InvalidSettings(f"${{{match[1]}}} is not in the environment", remedy=f"export {match[1]}=...", values={"variable": match[1]})
        return quote(known[match[1]], safe="")

    return re.sub(r"\$\{(\w+)\}", value, text)


_POSTGRES = {
    "connect_timeout": 5,
    # as with SQLite: a writer waits 15 s for the one before it. A stopped process must not hold the chain of events for ever.
    "options": "-c lock_timeout=15000 -c idle_in_transaction_session_timeout=300000",
    "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3,
}  # fmt: skip


def _postgres(url: str) -> sa.URL:
    try:
        made: sa.URL | None = sa.make_url(revealed(url))
    except (sa.exc.ArgumentError, ValueError):
        made = None  # what SQLAlchemy says of it would show it
    if made is None or made.get_backend_name() != "postgresql":
        what = "[project] catalog is neither a PostgreSQL nor a SQLite database"
        remedy = 'write catalog = "postgresql://USER:${PASSWORD}@HOST/DATABASE", or leave it out'
        raise InvalidSettings(what, remedy=remedy, values={"scheme": url.partition("://")[0][:30] if "://" in url else None})
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise MissingExtra("psycopg is not installed here, and the catalog needs it", remedy="pip install 'kaizenml[postgres]'") from None
    return made.set(drivername="postgresql+psycopg")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError as error:
        if "has moved" in str(error.orig):
            raise Unavailable(str(error.orig), remedy="start it anew; if kaizen.toml still names the old place: kaizen migrate, as before") from error
        raise
    except sa.exc.OperationalError as error:
        text = str(error.orig).strip()
        if "disk is full" in text or "disk I/O error" in text or "No space left on device" in text:
            what = "the disk that holds the catalog is full; nothing was half-written"
            raise StorageFull(what, remedy="free some space and repeat", values={"database": _shown(url)}) from error
        if not url.startswith("sqlite") or "locked" in text or "unable to open" in text:
            remedy = "repeat; if it stays so, look at what holds it"
            raise Unavailable(f"the catalog does not answer: {text}", remedy=remedy, values={"database": _shown(url)}) from error
        raise


def _shown(url: str) -> str:
    return sa.make_url(url).render_as_string(hide_password=True)
