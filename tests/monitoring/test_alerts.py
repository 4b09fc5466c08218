"""One alert for each episode."""

from __future__ import annotations

from typing import Any

from kaizenml.monitoring.alert import Alert, after

DAY = 86_400.0


def look(alert: Alert | None, label: str, at: float) -> tuple[Alert | None, Alert | None]:
    common: dict[str, Any] = {"endpoint": "shop", "cause": label, "since": None, "number": 1, "quiet_s": 2 * DAY}
    return after(alert, label=label, at=at, **common)


def opened(label: str) -> Alert:
    _, new = look(None, label, DAY)
    assert new is not None
    return new


def test_health_raises_nothing_and_each_fault_its_own_severity() -> None:
    assert look(None, "healthy", DAY) == look(None, "waiting", DAY) == (None, None)
    assert [opened(label).severity for label in ("shift_harmless", "concept", "upstream")] == ["note", "warning", "critical"]


def test_the_same_finding_again_is_the_same_episode() -> None:
    old, new = look(opened("concept"), "concept", 2 * DAY)
    assert new is None
    assert old is not None
    assert (old.opened_at, old.seen_at, old.open) == (DAY, 2 * DAY, True)


def test_one_quiet_day_inside_an_episode_does_not_end_it_two_do() -> None:
    assert look(opened("shift_harmless"), "healthy", 2 * DAY) == (None, None)
    old, new = look(opened("shift_harmless"), "healthy", 3 * DAY)
    assert new is None
    assert old is not None
    assert old.closed_at == 3 * DAY


def test_a_worse_model_is_one_episode_whether_its_inputs_moved_or_not() -> None:
    old, new = look(opened("concept"), "shift", 2 * DAY)
    assert new is None
    assert old is not None
    assert (old.label, old.opened_at, old.open) == ("shift", DAY, True)


def test_a_louder_finding_takes_over_at_once_and_a_quieter_one_waits() -> None:
    old, new = look(opened("shift_harmless"), "upstream", DAY + 60)
    assert old is not None
    assert new is not None
    assert (old.open, new.label) == (False, "upstream")
    assert look(opened("upstream"), "shift_harmless", DAY + 60) == (None, None)
