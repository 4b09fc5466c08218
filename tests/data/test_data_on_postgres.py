"""Datasets of a project whose catalog is PostgreSQL, which several machines may share: the same tests, and writers without a common lock file."""

from __future__ import annotations

import pytest
from test_data_crash import (  # noqa: F401
    adders,
    test_two_processes_that_add_at_once_both_land_one_after_the_other,
    test_what_a_writer_left_between_table_and_catalog_is_invisible_and_its_number_is_used_again,
)
from test_dataset_operations import (  # noqa: F401
    test_a_token_adds_once,
    test_bad_rows_go_to_quarantine_with_reasons_and_good_rows_land,
    test_odd_names_and_values_survive_storage,
    test_what_does_not_exist_is_named_with_the_nearest,
)

from kaizenml.context import Context

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def on_postgres(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAIZEN_PROJECT_CATALOG", postgres)


def test_the_catalog_and_its_locks_are_not_on_this_machine(ctx: Context):
    assert ctx.catalog.shared
    with ctx.hold("data/b") as held:
        assert held
    assert not [path.name for path in ctx.state.rglob("*") if path.suffix in (".db", ".lock")]
