"""The tables of the catalog: every room's ``store.py`` adds its own here; ``migrations/`` brings a database to them."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()
