"""The table of tokens: their hashes, never the tokens."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from kaizenml.access.token import Token
from kaizenml.catalog import metadata

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("document", sa.LargeBinary, nullable=False),
)


def put(connection: sa.Connection, token: Token) -> None:
    connection.execute(tokens.delete().where(tokens.c.id == token.id))
    connection.execute(tokens.insert().values(id=token.id, name=token.name, document=msgspec.json.encode(token)))


def find(connection: sa.Connection, name: str) -> Token | None:
    row = connection.execute(sa.select(tokens.c.document).where(tokens.c.name == name)).first()
    return msgspec.json.decode(row.document, type=Token) if row else None


def every(connection: sa.Connection) -> list[Token]:
    """Return all tokens by name, revoked ones too."""
    rows = connection.execute(sa.select(tokens.c.document).order_by(tokens.c.name))
    return [msgspec.json.decode(row.document, type=Token) for row in rows]
