"""``python -m kaizenml.migrations "What changed"``: write the revision that brings a database from HEAD to the tables as they are."""

from __future__ import annotations

import sys

import sqlalchemy as sa
from alembic import command

from kaizenml import migrations


def main() -> None:
    """Write the next revision into ``versions/``."""
    number = f"{int(migrations.HEAD) + 1:04d}" if len(sys.argv) < 3 else sys.argv[2]
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    if number != "0001":
        migrations.upgrade(engine)
    migrations.tables()
    with engine.connect() as connection:
        made = migrations.config(connection)
        made.set_main_option("file_template", "%%(rev)s_%%(slug)s")
        command.revision(made, sys.argv[1], autogenerate=True, rev_id=number)


if __name__ == "__main__":
    main()
