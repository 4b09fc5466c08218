"""Each way to go wrong gets its own name and its own action; a healthy stream gets no alert at all."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from monitored_airline import Air, calm

from kaizenml import events
from kaizenml.monitoring import operations as monitoring
from kaizenml.releases import operations as releases
from kaizenml.releases import store as released
from kaizenml.releases.release import Manifest
from kaizenml.rollouts import store as rollout_store
from kaizenml.rollouts.rollout import Change


@pytest.fixture
def air(calm_air: Air) -> Air:
    """Six days have been calm."""
    return calm_air


@pytest.mark.slow
def test_a_healthy_stream_of_sixty_days_gives_no_alert(air: Air) -> None:
    labels = []
    for _ in range(54):
        air.live_day()
        labels.append(air.watch().label)
    assert set(labels) <= {"healthy", "waiting"}, labels
    assert monitoring.alerts(air.ctx) == []


@pytest.mark.slow
def test_a_flood_of_nulls_is_upstream_and_holds_retraining(air: Air) -> None:
    def flood(rows: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        gone = rows["hour"] > (14 if air.day == 66 else 0)  # from the afternoon on
        for name in ("temp", "wind", "humid"):
            rows[name] = np.where(gone, np.nan, rows[name])

    for _ in range(4):
        air.live_day(change=flood)
        found = air.watch()
        assert (found.label, found.action, found.view) == ("upstream", "hold", "weather"), found
        assert found.since == "2026-03-08"
        assert set(found.columns) == {"weather_temp", "weather_wind", "weather_humid"}
        assert "nulls" in found.cause
    alerts = monitoring.alerts(air.ctx)
    assert len(alerts) == 1
    assert alerts[0].open
    assert alerts[0].severity == "critical"
    for _ in range(10):  # it ends, and does not come back as a fault of the model
        air.live_day()
        assert air.watch().label == "healthy"
    alerts = monitoring.alerts(air.ctx)
    assert len(alerts) == 1
    assert not alerts[0].open
    with air.ctx.catalog.read() as connection:
        kinds = [event.kind for event in events.read(connection, kind="monitoring.")]
    assert kinds == ["monitoring.opened", "monitoring.closed"]


def test_another_unit_is_upstream_and_names_the_column_and_the_day(air: Air) -> None:
    def kilometres(rows: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        rows["distance"] = rows["distance"] * 1.609

    for _ in range(4):
        air.live_day(change=kilometres)
        found = air.watch()
        assert (found.label, found.action, found.columns, found.since) == ("upstream", "hold", ["distance"], "2026-03-08"), found
        assert "unit" in found.cause


def test_a_day_is_judged_as_soon_as_its_answers_are_all_drained_and_not_before(air: Air) -> None:
    def kilometres(rows: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        rows["distance"] = rows["distance"] * 1.609

    ids = air.live_day(change=kilometres, labels=lambda late: None)
    midnight = air.clock.timestamp() // 86_400 * 86_400
    monitoring.observe(air.ctx, "air", drained_at=midnight - 1)
    assert monitoring.diagnose(air.ctx, "air").label == "healthy"
    air.tell(dict.fromkeys(ids[:5], False))
    monitoring.observe(air.ctx, "air", drained_at=midnight)
    assert monitoring.diagnose(air.ctx, "air").label == "upstream"


def test_celsius_for_fahrenheit_is_another_unit(air: Air) -> None:
    def celsius(rows: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        rows["temp"] = (rows["temp"] - 32) / 1.8

    for _ in range(3):
        air.live_day(change=celsius)
        found = air.watch()
    assert (found.label, found.columns, found.evidence["kind"]) == ("upstream", ["weather_temp"], "units"), found


def test_values_that_stand_still_are_upstream(air: Air) -> None:
    frozen = {"temp": 41.0, "wind": 9.0, "humid": 61.0}

    def still(rows: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        for name, value in frozen.items():
            rows[name] = value + np.where(rows["origin"] == "E", 0.0, 1.0)

    for _ in range(3):
        air.live_day(change=still)
        found = air.watch()
    assert (found.label, found.action, found.view, found.evidence["kind"]) == ("upstream", "hold", "weather", "stale"), found


def test_codes_never_seen_are_upstream(air: Air) -> None:
    def renamed(rows: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        rows["carrier"] = np.array([f"carrier-{name}" for name in rows["carrier"]])

    for _ in range(3):
        air.live_day(change=renamed)
        found = air.watch()
    assert (found.label, found.action, found.columns, found.evidence["kind"]) == ("upstream", "hold", ["carrier"], "codes"), found


@pytest.mark.slow
def test_inputs_that_move_without_harm_raise_one_note_and_no_retraining(air: Air) -> None:
    def nearer(rows: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        rows["distance"] = rows["distance"] * np.where(rng.random(len(rows["distance"])) < 0.5, 0.55, 0.9)

    found = []
    for _ in range(16):
        air.live_day(change_truth=nearer)
        found.append(air.watch())
    assert {item.label for item in found} <= {"healthy", "shift_harmless"}, found
    assert found[-1].label == "shift_harmless"
    assert found[-1].action == "none"
    assert found[-1].columns == ["distance"]
    assert [alert.severity for alert in monitoring.alerts(air.ctx)] == ["note"]


@pytest.mark.slow
def test_a_changed_world_with_quiet_inputs_is_concept_drift_and_asks_to_retrain(air: Air) -> None:
    calm(air, 2)
    found = []
    for _ in range(12):
        air.live_day(concept=0.35)
        found.append(air.watch())
    assert found[-1].label == "concept", found
    assert found[-1].action == "retrain"
    assert found[-1].since is not None
    assert abs(int(found[-1].since[-2:]) - 10) <= 1, found[-1]
    assert [alert.label for alert in monitoring.alerts(air.ctx)] == ["concept"]


@pytest.mark.slow
def test_inputs_that_move_with_harm_ask_to_retrain(air: Air) -> None:
    calm(air, 2)

    def farther(rows: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        rows["distance"] = rows["distance"] * np.where(rng.random(len(rows["distance"])) < 0.5, 1.0, 0.45)

    found = []
    for _ in range(14):
        air.live_day(change_truth=farther, concept=0.4)
        found.append(air.watch())
    assert (found[-1].label, found[-1].action) == ("shift", "retrain"), found


def test_outcomes_that_are_all_the_same_are_not_learnt_from(air: Air) -> None:
    found = []
    for _ in range(3):
        air.live_day(labels=lambda late: np.zeros(len(late), bool))
        found.append(air.watch())
    assert (found[-1].label, found[-1].action) == ("labels", "hold"), found


def test_outcomes_turned_round_are_not_learnt_from(air: Air) -> None:
    for _ in range(2):
        air.live_day(labels=lambda late: ~late)
        found = air.watch()
    assert (found.label, found.action) == ("labels", "hold"), found


@pytest.mark.slow
def test_outcomes_that_stop_coming_are_told(air: Air) -> None:
    calm(air, 3)
    for _ in range(6):
        air.live_day(labels=lambda late: None)
        found = air.watch()
    assert (found.label, found.action) == ("labels", "hold"), found
    assert "stopped" not in found.cause
    assert "no outcomes have come" in found.cause


def crown(air: Air, number: int) -> str:
    """Make the champion's bundle a second release, and deploy it."""
    document = msgspec.to_builtins(releases.show(air.ctx, air.champion)) | {"number": number, "files": {}}
    with air.ctx.catalog.write() as connection:
        released.insert(connection, msgspec.convert(document, Manifest), None)
        before = rollout_store.current(connection, "air")
        assert before
        after = msgspec.structs.replace(before, champion=f"air@{number}", revision=before.revision + 1, previous=[air.champion])
        change = Change(
            endpoint="air", revision=after.revision, verb="promoted", release=after.champion, at=0.0, actor="tester", why="", rollout=after
        )
        rollout_store.insert(connection, change)
    return f"air@{number}"


@pytest.mark.slow
def test_a_release_that_is_worse_from_its_first_day_is_skew_and_asks_to_roll_back(air: Air) -> None:
    calm(air, 2)
    former, air.champion = air.champion, crown(air, 9)

    def swapped(rows: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        # serving reads the inputs of another row: each column looks as ever, together they mean nothing
        order = rng.permutation(len(rows["distance"]))
        for name in ("distance", "carrier"):
            rows[name] = rows[name][order]

    found = []
    for _ in range(7):
        air.live_day(change=swapped)
        found.append(air.watch())
    assert (found[-1].label, found[-1].action) == ("skew", "rollback"), found
    assert former not in found[-1].cause
    assert "air@9" in found[-1].cause
