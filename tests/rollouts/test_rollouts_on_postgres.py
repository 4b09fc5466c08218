"""Rollouts, releases and their events in a catalog on PostgreSQL: the same tests."""

from __future__ import annotations

import pytest
from test_rollout_operations import (  # noqa: F401
    test_a_change_of_a_revision_that_has_passed_is_refused,
    test_a_trial_from_challenge_to_promotion_and_back,
    test_an_event_and_its_change_stand_or_fall_together,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def on_postgres(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAIZEN_PROJECT_CATALOG", postgres)
