"""Brings a catalog's database to the current schema."""

from __future__ import annotations

import importlib
import importlib.util

import sqlalchemy as sa

from kaizenml.schema import metadata

ROOMS = ("data", "features", "training", "registry", "releases", "rollouts", "serving", "monitoring", "loop")


def upgrade(engine: sa.Engine) -> None:
    """Create or migrate every table."""
    tables()
    with engine.begin() as connection:
        metadata.create_all(connection)


def tables() -> sa.MetaData:
    """Import every room's ``store`` and return the metadata they filled."""
    importlib.import_module("kaizenml.events")
    for room in ROOMS:
        if importlib.util.find_spec(f"kaizenml.{room}.store"):
            importlib.import_module(f"kaizenml.{room}.store")
    return metadata
