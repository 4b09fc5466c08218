"""Migrations: they make exactly the tables of the rooms, once, whoever comes first."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from kaizenml import migrations
from kaizenml.catalog import Catalog
from kaizenml.errors import Conflict

OPEN = "import sys; from kaizenml.catalog import Catalog; Catalog(sys.argv[1]).create()"


def made(url: str) -> Catalog:
    catalog = Catalog(url)
    catalog.create()
    return catalog


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_the_migrations_make_exactly_the_tables_of_the_rooms(tmp_path, engine, request):
    """When this fails, a room's tables changed: see the docstring of kaizenml.migrations."""
    catalog = made(f"sqlite:///{tmp_path / 'catalog.db'}" if engine == "sqlite" else request.getfixturevalue("postgres"))
    with catalog.read() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), migrations.tables())
    assert found == []
    catalog.close()


def test_head_is_the_newest_revision():
    with sa.create_engine("sqlite://").connect() as connection:
        scripts = ScriptDirectory.from_config(migrations.config(connection))
    assert scripts.get_heads() == [migrations.HEAD]


@pytest.mark.slow
def test_processes_that_open_a_new_catalog_at_once_make_it_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    openers = [subprocess.Popen([sys.executable, "-c", OPEN, url], stderr=subprocess.PIPE) for _ in range(3)]
    assert [(opener.communicate()[1], opener.returncode) for opener in openers] == [(b"", 0)] * 3
    catalog = made(url)
    with catalog.read() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").all() == [(migrations.HEAD,)]
    catalog.close()


def test_opening_a_current_catalog_costs_one_query_and_no_alembic(tmp_path):
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    made(url).close()
    code = f"import sys; {OPEN}; print('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True).stdout == "False\n"
    again = Catalog(url)
    asked: list[str] = []
    sa.event.listen(again.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    again.create()
    again.close()
    assert [statement for statement in asked if statement.startswith("SELECT")] == ["SELECT version_num FROM alembic_version"]
    assert {statement.split()[0] for statement in asked} <= {"BEGIN", "PRAGMA", "SELECT"}


def test_a_migration_that_dies_half_way_leaves_nothing(tmp_path):
    catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    with catalog.write() as connection:
        connection.exec_driver_sql("CREATE TABLE runs (x INTEGER)")  # in the way of the revision, half way through
    with pytest.raises(sa.exc.OperationalError):
        catalog.create()
    with catalog.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["runs"]
    with catalog.write() as connection:
        connection.exec_driver_sql("DROP TABLE runs")
    catalog.create()
    catalog.close()


def test_a_catalog_of_a_newer_kaizenml_is_left_alone(tmp_path):
    catalog = made(f"sqlite:///{tmp_path / 'catalog.db'}")
    with catalog.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Conflict, match="pip install --upgrade"):
        catalog.create()
    catalog.close()
