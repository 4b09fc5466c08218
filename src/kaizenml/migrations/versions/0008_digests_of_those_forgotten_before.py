"""Subjects who were forgotten before there were marks, by the digests in the record of their forgetting."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_EVENTS = "SELECT kind, subject, data FROM events WHERE kind IN ('data.forgotten', 'data.readmitted') ORDER BY seq"


def upgrade() -> None:
    """Apply it."""
    connection = op.get_bind()
    standing: dict[tuple[str, str], int] = {}
    for kind, subject, data in connection.execute(sa.text(_EVENTS)):
        for each in json.loads(bytes(data)).get("subjects", []):
            named = each["column"], each["digest"]
            if kind == "data.readmitted":
                standing.pop(named, None)
            else:
                standing[named] = int(subject.rpartition(" ")[2])  # "forgetting 3"
    subjects = sa.table("forgotten_subjects", *map(sa.column, ("column", "mark", "forgetting", "hidden")))
    marked = set(connection.execute(sa.select(subjects.c.forgetting)).scalars())
    for (column, digest), number in standing.items():
        if number not in marked:
            connection.execute(subjects.insert().values(column=column, mark=digest, forgetting=number, hidden=0))
