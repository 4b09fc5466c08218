from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, mean_absolute_error, r2_score, roc_auc_score

from kaizenml.training.evaluation import auc, blocks_of, difference, metrics

RANDOM = np.random.default_rng(7)


def two(positive: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - positive, positive])


def test_values_agree_with_scikit_learn():
    y = (RANDOM.random(500) < 0.3).astype(float)
    p = np.clip(0.3 * y + 0.7 * RANDOM.random(500), 0.01, 0.99)
    found = metrics("binary", two(p), y)
    assert found["log_loss"].value == pytest.approx(log_loss(y, p))
    assert found["auc"].value == pytest.approx(roc_auc_score(y, p))
    assert found["brier"].value == pytest.approx(brier_score_loss(y, p))
    numbers = metrics("regression", p, y)
    assert numbers["mae"].value == pytest.approx(mean_absolute_error(y, p))
    assert numbers["r2"].value == pytest.approx(r2_score(y, p))
    three = RANDOM.dirichlet([1, 1, 1], 300)
    labels = RANDOM.integers(0, 3, 300).astype(float)
    several = metrics("multiclass", three, labels)
    assert several["log_loss"].value == pytest.approx(log_loss(labels, three))
    assert several["auc"].value == pytest.approx(roc_auc_score(labels, three, multi_class="ovr"))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40).filter(lambda rows: len({label for _, label in rows}) == 2))
def test_auc_is_the_share_of_pairs_in_order_with_ties_as_halves(rows):
    score = np.array([float(value) for value, _ in rows])
    y = np.array([float(label) for _, label in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in score[y == 1] for b in score[y == 0]]
    assert auc(score, y) == pytest.approx(np.mean(pairs))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["log_loss", "auc", "accuracy", "brier"])
def test_intervals_cover_the_truth_on_independent_rows(metric):
    random = np.random.default_rng(1)

    def draw(rows: int) -> tuple[np.ndarray, np.ndarray]:
        p = random.beta(2, 5, rows)
        return two(p), (random.random(rows) < p).astype(float)

    truth = metrics("binary", *draw(400_000))[metric].value
    inside = sum(found[metric].low <= truth <= found[metric].high for found in (metrics("binary", *draw(400)) for _ in range(200)))
    assert inside >= 178  # 190 expected; 178 is four standard errors below


def test_intervals_by_day_cover_the_truth_when_days_differ_and_plain_ones_do_not():
    random = np.random.default_rng(2)
    covered = {"by day": 0, "plain": 0}
    for _ in range(100):
        days = np.repeat(np.arange(30), 100)
        p_day = random.beta(3, 7, 30)
        y = (random.random(3000) < p_day[days]).astype(float)
        flat = two(np.full(3000, 0.3))
        truth = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
        for name, blocks in (("by day", blocks_of(days * 86400.0)), ("plain", None)):
            found = metrics("binary", flat, y, blocks)["log_loss"]
            covered[name] += found.low <= truth <= found.high
    assert covered["by day"] >= 88
    assert covered["plain"] < 60


def test_perfect_answers_still_have_an_interval():
    y = np.repeat([0.0, 1.0], 30)
    found = metrics("binary", two(y * 0.8 + 0.1), y)
    assert found["auc"].value == 1.0
    assert found["auc"].low == pytest.approx(0.9)
    assert 0.9 < found["accuracy"].low < 1.0 == found["accuracy"].high


def test_one_class_among_the_judges_gives_no_auc():
    assert "auc" not in metrics("binary", two(np.full(40, 0.2)), np.zeros(40))


def test_the_difference_is_paired_and_positive_when_ours_is_better():
    random = np.random.default_rng(3)
    p = random.beta(1, 1, 2000)
    y = (random.random(2000) < p).astype(float)
    found = difference("binary", two(p), two(np.full(2000, 0.5)), y)
    assert 0 < found.low < found.value < found.high
    same = difference("binary", two(p), two(p), y)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_few_days_become_stretches_of_time():
    hours = np.arange(200) * 3600.0
    blocks = blocks_of(hours)
    assert blocks is not None
    assert len(set(blocks)) == 20
    assert (np.diff(blocks) >= 0).all()
    assert blocks_of(None) is None


def test_a_loss_has_no_interval_below_zero():
    y = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    p = np.array([0.01, 0.99, 0.02, 0.98, 0.05])  # one row lost nearly everything
    found = metrics("binary", two(p), y)
    assert (found["log_loss"].low, found["brier"].low) == (0.0, 0.0)
    assert metrics("regression", p, y)["mae"].low == 0.0
