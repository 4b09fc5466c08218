"""Live accuracy agrees with the metrics computed from all rows; who decided is told apart; labelled rows come back as data."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from monitored_airline import START, Air, inputs
from sklearn import metrics as sk

from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.errors import NotFound, UsageError
from kaizenml.monitoring import joining, live, operations
from kaizenml.monitoring.reference import Answers


def days_of(task: str, probabilities: np.ndarray | None, values: np.ndarray, truth: np.ndarray, naive: np.ndarray) -> list[live.DayState]:
    rng = np.random.default_rng(0)
    day, hour = rng.integers(0, 7, len(truth)), rng.integers(0, 24, len(truth))
    found = []
    for number in range(7):
        mine = day == number
        scored = live.score(task, probabilities[mine] if probabilities is not None else None, values[mine], truth[mine], naive)  # type: ignore[arg-type]
        found.append(live.decode(live.encode(live.fold(task, scored, hour[mine], np.zeros(mine.sum(), bool)))))  # type: ignore[arg-type]
    return found


def test_binary_metrics_equal_those_of_all_rows() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(2, 5, 4_000)
    truth = (rng.random(4_000) < p).astype(float)
    days = days_of("binary", np.stack([1 - p, p], axis=1), np.zeros(4_000), truth, np.array([0.7, 0.3]))
    found = live.metrics("binary", days)
    assert found["log_loss"].value == pytest.approx(sk.log_loss(truth, p), abs=1e-9)
    assert found["brier"].value == pytest.approx(sk.brier_score_loss(truth, p), abs=1e-9)
    assert found["accuracy"].value == pytest.approx(sk.accuracy_score(truth, p > 0.5), abs=1e-9)
    assert found["auc"].value == pytest.approx(sk.roc_auc_score(truth, p), abs=2e-3)  # binned
    assert found["auc"].low < found["auc"].value < found["auc"].high
    assert found["log_loss"].rows == 4_000
    naive = live.naive_metric("binary", days)
    assert naive
    assert naive.value == pytest.approx(sk.log_loss(truth, np.full(4_000, 0.3)), abs=1e-9)
    groups = live.calibration(live.total(days))
    assert sum(group["rows"] for group in groups) == 4_000
    assert max(abs(group["score"] - group["positives"]) for group in groups) < 0.08


def test_multiclass_and_regression_metrics_equal_those_of_all_rows() -> None:
    rng = np.random.default_rng(2)
    p = rng.dirichlet([1, 2, 3], 2_000)
    truth = np.array([rng.choice(3, p=row) for row in p]).astype(float)
    found = live.metrics("multiclass", days_of("multiclass", p, np.zeros(2_000), truth, np.array([0.2, 0.3, 0.5])))
    assert found["log_loss"].value == pytest.approx(sk.log_loss(truth, p), abs=1e-9)
    assert found["accuracy"].value == pytest.approx(sk.accuracy_score(truth, p.argmax(axis=1)))
    y = rng.normal(100, 10, 2_000)
    guess = y + rng.normal(0, 3, 2_000)
    found = live.metrics("regression", days_of("regression", None, guess, y, np.array([100.0])))
    assert found["rmse"].value == pytest.approx(sk.root_mean_squared_error(y, guess))
    assert found["mae"].value == pytest.approx(sk.mean_absolute_error(y, guess))
    assert found["r2"].value == pytest.approx(sk.r2_score(y, guess), abs=1e-6)
    assert found["rmse"].low < found["rmse"].value < found["rmse"].high


def test_a_model_expects_of_itself_the_loss_it_has_when_it_is_calibrated() -> None:
    rng = np.random.default_rng(3)
    p = rng.beta(1, 3, 50_000)
    truth = (rng.random(50_000) < p).astype(float)
    scored = live.score("binary", np.stack([1 - p, p], axis=1), np.zeros(50_000), truth, None)
    assert abs((scored.loss - scored.own).mean()) < 0.005


@pytest.mark.slow
def test_intervals_by_day_hold_the_truth_though_whole_days_move_together() -> None:
    rng = np.random.default_rng(4)
    hit = 0
    for _ in range(150):
        days = []
        for _day in range(30):
            share = np.clip(0.3 + rng.normal(0, 0.1), 0.01, 0.99)
            truth = (rng.random(200) < share).astype(float)
            p = np.full(200, 0.3)
            scored = live.score("binary", np.stack([1 - p, p], axis=1), np.zeros(200), truth, None)
            days.append(live.fold("binary", scored, rng.integers(0, 24, 200), np.zeros(200, bool)))
        found = live.metrics("binary", days)["log_loss"]
        center = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
        hit += found.low <= center <= found.high
    assert hit >= 133  # 95 % of 150, less what chance takes


@pytest.mark.parametrize(
    ("classes", "values", "indices"),
    [
        ([False, True], [True, 0, 1, False], [1, 0, 1, 0]),
        (["no", "yes"], ["yes", "no", "maybe"], [1, 0, np.nan]),
        ([1, 2, 3], ["2", 3, 9], [1, 2, np.nan]),
    ],
)
def test_outcomes_are_read_as_the_classes_of_the_signature(classes: list[object], values: list[object], indices: list[float]) -> None:
    known = Answers(task="binary", target="t", classes=classes, naive=[])
    assert joining.truth_of(known, values) == pytest.approx(np.array(indices, float), nan_ok=True)


def test_answers_of_kill_and_fallback_are_counted_apart(air: Air) -> None:
    air.live_day()
    world = inputs(61, np.random.default_rng(8), 50)
    ids = [air.ids.make(t / 1e6, 1)[0] for t in world["at"].tolist()]
    naive = np.tile([0.6, 0.4], (50, 1))
    air.write(air.table(world, ids, naive, release=air.champion, role="live", arm="champion", decided_by="kill"))
    air.clock.set(START + timedelta(days=62, minutes=5))
    air.tell(dict.fromkeys(ids, False))
    seen = operations.observe(air.ctx, "air")
    assert seen.without_model == 50
    by_day = operations.accuracy(air.ctx, "air")
    assert [(found.window, found.rows, found.without_model) for found in by_day] == [("2026-03-02", 250, 0), ("2026-03-03", 0, 50)]
    (whole,) = operations.accuracy(air.ctx, "air", release=air.champion, by="all")
    assert (whole.rows, whole.without_model) == (250, 50)
    assert whole.naive is not None
    assert whole.metrics["log_loss"].value < whole.naive.value


def test_what_rules_answered_or_refused_is_not_counted_as_the_champions(air: Air) -> None:
    air.live_day()
    world = inputs(61, np.random.default_rng(8), 60)
    ids = [air.ids.make(t / 1e6, 1)[0] for t in world["at"].tolist()]
    rows = air.table(world, ids, np.tile([0.1, 0.9], (60, 1)), release=air.champion, role="live", arm="champion")
    lent, refused = rows.slice(0, 20), rows.slice(20, 40)
    lent = lent.set_column(lent.column_names.index("release"), "release", pa.array(["air@7"] * 20))
    lent = lent.set_column(lent.column_names.index("arm"), "arm", pa.array(["rule"] * 20))
    for name, values in (("decided_by", ["fallback"] * 40), ("value", ["null"] * 40), ("score", [None] * 40), ("probabilities", [None] * 40)):
        refused = refused.set_column(refused.column_names.index(name), rows.schema.field(name), pa.array(values, rows.schema.field(name).type))
    air.write(lent, refused)
    air.clock.set(START + timedelta(days=62, minutes=5))
    air.tell(dict.fromkeys(ids, False))
    assert operations.observe(air.ctx, "air").without_model == 40
    (whole,) = operations.accuracy(air.ctx, "air", release=air.champion, by="all")
    assert (whole.rows, whole.without_model) == (250, 40)
    assert operations.diagnose(air.ctx, "air").label in ("healthy", "waiting")


def test_labelled_rows_are_rows_of_the_dataset(air: Air) -> None:
    ids = air.live_day()
    told = {identity: air.labels[identity] for identity in ids}
    found, cursor = operations.labelled(air.ctx, "air", after=0)
    assert found.num_rows == 250
    assert set(found.column_names) == {"id", "trip", "at", "origin", "carrier", "distance", "late"}  # nothing that views gave
    assert dict(zip(found["id"].to_pylist(), found["late"].to_pylist(), strict=True)) == told
    again, same = operations.labelled(air.ctx, "air", after=cursor)
    assert (again.num_rows, same) == (0, cursor)
    part, upto = operations.labelled(air.ctx, "air", after=0, upto=100)
    assert (part.num_rows, upto) == (100, 100)
    version = data.add(air.ctx, "trips", table=found.drop_columns(["id"]), partial=True, origin="feedback", once="air-1")
    assert (version.number, version.quarantined) == (2, 0)
    assert tables.read(air.ctx, "trips@2").num_rows == version.rows


def test_labelled_rows_wait_for_their_prediction_to_be_drained(air: Air) -> None:
    air.live_day()
    known = operations.labelled(air.ctx, "air", after=0)[1]
    early = air.ids.make(air.clock.timestamp(), 2)
    air.tell(dict.fromkeys(early, True))
    assert operations.labelled(air.ctx, "air", after=0)[1] == known
    air.clock.advance(timedelta(hours=2))  # by now it would be there: it is nobody's
    assert operations.labelled(air.ctx, "air", after=0)[1] == known + 2


def test_evidence_compares_on_the_same_rows_and_says_how_many_more_it_needs(air: Air) -> None:
    with pytest.raises(UsageError, match="itself"):
        operations.evidence(air.ctx, "air", air.champion)
    nothing = operations.evidence(air.ctx, "air", "air@5")
    assert (nothing.decision, nothing.rows) == ("undecided", 0)
    with pytest.raises(NotFound):
        operations.diagnose(air.ctx, "nowhere")


def test_wrong_windows_are_refused_with_what_there_is(air: Air) -> None:
    with pytest.raises(UsageError, match="week"):
        operations.accuracy(air.ctx, "air", by="week")


def test_before_any_answer_it_waits(air: Air) -> None:
    assert operations.diagnose(air.ctx, "air").label == "waiting"
    assert operations.drift(air.ctx, "air") == []
    assert operations.accuracy(air.ctx, "air") == []
    assert operations.alerts(air.ctx) == []
