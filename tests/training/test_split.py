from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.training.split import folds, holdout, rows_at


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=30, max_size=300), st.integers(0, 5))
def test_by_time_no_training_row_is_newer_than_a_judging_one(seconds, seed):
    times = np.array(seconds, dtype=np.float64)
    found = holdout(np.zeros(len(times)), times, stratify=False, seed=seed)
    assert times[found.train].max() <= times[found.holdout].min()
    assert sorted([*found.train, *found.holdout]) == list(range(len(times)))
    assert 0 < len(found.holdout) <= 0.5 * len(times) + 1


def test_rows_of_one_instant_stay_on_one_side():
    times = np.repeat(np.arange(50.0), 7)
    found = holdout(np.zeros(350), times, stratify=False, seed=0)
    assert not set(times[found.train]) & set(times[found.holdout])


def test_rows_without_a_time_count_as_oldest():
    times = np.arange(100.0)
    times[[3, 98]] = np.nan
    assert {3, 98} <= set(holdout(np.zeros(100), times, stratify=False, seed=0).train.tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(30, 400), st.integers(0, 9))
def test_without_time_every_class_keeps_its_share(rows, seed):
    y = (np.arange(rows) % 3).astype(np.float64)
    found = holdout(y, None, stratify=True, seed=seed)
    again = holdout(y, None, stratify=True, seed=seed)
    assert found.by == "random"
    assert found.holdout.tolist() == again.holdout.tolist()
    assert sorted([*found.train, *found.holdout]) == list(range(rows))
    for label in range(3):
        share = (y[found.holdout] == label).sum() / (y == label).sum()
        assert abs(share - 0.2) < 0.12


def test_a_class_of_two_rows_is_always_taught():
    y = np.zeros(60)
    y[[10, 40]] = 1
    for seed in range(20):
        assert y[holdout(y, None, stratify=True, seed=seed).train].sum() >= 1


def test_folds_over_time_are_validated_on_what_follows():
    train = np.arange(1000)[::-1].copy()
    for fit, validation in folds(train, np.zeros(1000), "time", stratify=False, seed=0):
        assert train.tolist().index(fit[-1]) + 1 == train.tolist().index(validation[0])


def test_random_folds_cover_small_tables_once():
    pairs = folds(np.arange(100), np.zeros(100), "random", stratify=True, seed=0)
    assert sorted(np.concatenate([validation for _, validation in pairs])) == list(range(100))
    assert all(not set(fit) & set(validation) for fit, validation in pairs)
    assert len(folds(np.arange(6000), np.zeros(6000), "random", stratify=True, seed=0)) == 1


@pytest.mark.parametrize("places", [[3, 4, 5], [5, 3, 4], [0, 2], [7], []])
def test_rows_are_found_by_their_places_and_those_side_by_side_are_not_copied(places):
    table = pa.table({"a": np.arange(10)})
    found = rows_at(table, np.array(places, dtype=np.int64))
    assert found["a"].to_pylist() == places
    if places == [3, 4, 5]:
        assert found["a"].chunk(0).buffers()[1].address == table["a"].chunk(0).buffers()[1].address
