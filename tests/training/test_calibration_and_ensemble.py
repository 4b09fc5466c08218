from __future__ import annotations

import numpy as np
import pytest

from kaizenml.training import calibration, ensemble
from kaizenml.training.model_file import Calibration


def two(positive: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - positive, positive])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_overconfident_answers_are_brought_back():
    random = np.random.default_rng(0)
    x = random.normal(size=4000)
    y = (random.random(4000) < sigmoid(x + 0.5)).astype(float)
    found = calibration.fit(two(sigmoid(3 * x)), y)
    assert found.a == pytest.approx(1 / 3, abs=0.05)
    assert found.b == pytest.approx(0.5, abs=0.1)


def test_what_is_calibrated_stays_as_it_is():
    random = np.random.default_rng(1)
    p = random.beta(2, 3, 4000)
    y = (random.random(4000) < p).astype(float)
    assert calibration.fit(two(p), y) == Calibration()


def test_several_classes_get_a_temperature():
    random = np.random.default_rng(2)
    logits = random.normal(size=(3000, 4))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = np.array([random.choice(4, p=row) for row in shares]).astype(float)
    sharp = np.exp(2 * logits) / np.exp(2 * logits).sum(axis=1, keepdims=True)
    found = calibration.fit(sharp, y)
    assert found.a == pytest.approx(0.5, abs=0.08)
    assert calibration.apply(found, sharp).sum(axis=1) == pytest.approx(1.0)


def test_few_rows_teach_no_calibration():
    assert calibration.fit(two(np.full(60, 0.9)), np.zeros(60)) == Calibration()


def test_the_ensemble_is_no_worse_than_its_best_member_and_small():
    random = np.random.default_rng(3)
    y = random.normal(size=500)
    members = {f"m{place}": y + random.normal(size=500) * (1 + place / 4) for place in range(8)}
    weights = ensemble.choose(members, y)
    blend = sum(weight * members[name] for name, weight in weights.items())
    assert np.mean((blend - y) ** 2) <= min(np.mean((answer - y) ** 2) for answer in members.values())
    assert len(weights) <= 5
    assert sum(weights.values()) == pytest.approx(1.0)


def test_a_useless_member_is_left_out():
    random = np.random.default_rng(4)
    y = (random.random(1000) < 0.5).astype(float)
    good = two(np.where(y == 1, 0.8, 0.2))
    assert ensemble.choose({"noise": two(random.random(1000)), "good": good}, y) == {"good": 1.0}
