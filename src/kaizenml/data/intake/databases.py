"""Rows of a query to any database that SQLAlchemy knows, read some at a time; by a cursor column, only those that are new."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from kaizenml.data.intake.incoming import Piece
from kaizenml.data.intake.locations import filled_in, masked
from kaizenml.data.kinds import check_names, normalise
from kaizenml.errors import InvalidData, MissingExtra, Unavailable, UsageError

_ROWS = 50_000
_DRIVERS = {"psycopg": "kaizenml[postgres]"}


def read_query(url: str, query: str, cursor: str | None, after: Any) -> Iterator[Piece]:
    """Run a query and return its rows.

    Parameters
    ----------
    url : SQLAlchemy's, secrets as ``${NAME}``.
    query : one SELECT, or the name of a table.
    cursor : column by which rows are new; the rows come in its order.
    after : only rows with a greater value; None for all.

    Raises
    ------
    MissingExtra : the database's driver is not installed.
    Unavailable : the database does not answer.
    InvalidData : the query fails, in the database's words.
    """
    engine = _engine(url)
    try:
        with engine.connect().execution_options(stream_results=True, max_row_buffer=_ROWS) as connection:
            found = connection.execute(_statement(engine, query, cursor, after))
            names = list(found.keys())
            check_names(names)
            while rows := found.fetchmany(_ROWS):
                columns = {name: _column(name, [row[place] for row in rows]) for place, name in enumerate(names)}
                yield Piece(normalise(pa.table(columns)), 0.5)  # how much is left, the database does not say
    except sa.exc.OperationalError as error:
        what = _words(error, url)
        if error.connection_invalidated or isinstance(error.orig, ConnectionError) or "connect" in what.lower():
            remedy = "check the address, the user and the password"
            raise Unavailable(f"the database {masked(url)} cannot be reached: {what}", remedy=remedy) from None
        raise _failed(url, query, what) from None
    except (sa.exc.SQLAlchemyError, pa.ArrowException) as error:
        raise _failed(url, query, _words(error, url)) from None
    finally:
        engine.dispose()


def _engine(url: str) -> sa.Engine:
    try:
        return sa.create_engine(filled_in(url), poolclass=sa.pool.NullPool)
    except sa.exc.NoSuchModuleError:
        kind = url.partition(":")[0]
        raise UsageError(f"SQLAlchemy knows no database {kind!r}", remedy="install its dialect, or mend the address") from None
    except sa.exc.ArgumentError:
        raise UsageError(
            f"{masked(url)} is no address of a database", remedy="give SQLAlchemy's, such as 'postgresql+psycopg://user:${PASSWORD}@host/name'"
        ) from None
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"the driver {error.name} of {masked(url)} is not installed", remedy=f"pip install '{_DRIVERS.get(error.name or '', error.name)}'"
        ) from None


def _statement(engine: sa.Engine, query: str, cursor: str | None, after: Any) -> sa.TextClause:
    query = query.strip().rstrip(";")
    if " " not in query and "\n" not in query:
        query = f"SELECT * FROM {query}"  # noqa: S608  (the query is its user's own)
    query = re.sub(r"(?<!:):(?=\w)", r"\\:", query)  # colons of the query are its own, no parameters
    if cursor is None:
        return sa.text(query)
    column = engine.dialect.identifier_preparer.quote(cursor)
    wrapped = f"SELECT * FROM ({query}) AS kaizen_rows"  # noqa: S608  (likewise)
    if after is None:
        return sa.text(f"{wrapped} WHERE {column} IS NOT NULL ORDER BY {column}")
    return sa.text(f"{wrapped} WHERE {column} > :kaizen_after ORDER BY {column}").bindparams(kaizen_after=after)


def _column(name: str, values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) > 1:
        values = [None if value is None else float(value) for value in values]
    elif kinds and kinds <= {Decimal}:
        whole = all(value is None or (value.is_finite() and value.as_tuple().exponent == 0) for value in values)
        values = [None if value is None else int(value) if whole else float(value) for value in values]
    elif kinds <= {uuid.UUID}:
        values = [None if value is None else str(value) for value in values]
    elif len(kinds) > 1 or kinds & {bytes, memoryview}:
        if kinds & {bytes, memoryview}:
            what = f"column {name!r} holds bytes, which a model cannot learn from"
            raise InvalidData(what, remedy="leave it out of the query", values={"column": name})
        values = [None if value is None else value if isinstance(value, str) else str(value) for value in values]
    try:
        return pa.array(values)
    except OverflowError:
        return pa.array([None if value is None else str(value) for value in values])


def cursor_text(value: Any) -> str:
    """Write a cursor's value so that ``cursor_value`` reads it back."""
    if isinstance(value, dt.datetime):
        return f"t:{value.isoformat()}"
    return f"{'n' if isinstance(value, int | float) else 's'}:{value}"


def cursor_value(text: str) -> Any:
    """Read a cursor's value."""
    kind, _, rest = text.partition(":")
    if kind == "t":
        return dt.datetime.fromisoformat(rest)
    return rest if kind == "s" else int(rest) if rest.lstrip("-").isdigit() else float(rest)


def _failed(url: str, query: str, what: str) -> InvalidData:
    return InvalidData(
        f"the query to {masked(url)} fails: {what}", remedy="mend the query; try it in the database's own shell", values={"query": query[:300]}
    )


def _words(error: Exception, url: str) -> str:
    """Return what the database said, without a password that it may have repeated."""
    said = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
    try:
        secret = sa.engine.make_url(filled_in(url)).password
    except sa.exc.ArgumentError:
        secret = None
    return masked(said.replace(secret, "***") if secret else said)
