from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from kaizenml.errors import InvalidData
from kaizenml.training.task import infer, labels


def table(values: object, **more: object) -> pa.Table:
    return pa.table({"y": values, **more})


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([True, False, None] * 20, "binary", [False, True]),
        ([0, 1] * 20, "binary", [0, 1]),
        ([0.0, 1.0, None] * 20, "binary", [0, 1]),
        (["no", "yes"] * 20, "binary", ["no", "yes"]),
        (["a", "b", "c"] * 20, "multiclass", ["a", "b", "c"]),
        ([1, 2, 3, 4, 5] * 20, "multiclass", [1, 2, 3, 4, 5]),
        (list(range(60)), "regression", []),
        ([1.5, 2.5, 3.5] * 20, "regression", []),
        ([1, 2, 3, 4, 5] * 6, "regression", []),  # six rows for each are too few to call them classes
    ],
)
def test_the_kind_follows_from_the_values(values, kind, classes):
    task = infer(table(values), "y")
    assert (task.kind, task.classes) == (kind, classes)


def test_labels_are_class_indices_and_nan_where_missing():
    rows = table(["b", None, "a"] * 20)
    y = labels(infer(rows, "y"), rows)
    assert y[:3].tolist()[::2] == [1.0, 0.0]
    assert np.isnan(y[1])
    floats = table([1.0, None, 0.0] * 20)
    assert np.isnan(labels(infer(floats, "y"), floats)).sum() == 20


def test_a_dictionary_column_is_read_like_its_texts():
    rows = table(pa.array(["b", "a", None] * 20).dictionary_encode())
    assert infer(rows, "y").classes == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "target", "kind", "says"),
    [
        ({"returned": [0, 1] * 20}, "retuned", "auto", "did you mean 'returned'"),
        ({"y": [1, 1, 1] * 20}, "y", "auto", "one value only"),
        ({"y": [True] * 40}, "y", "auto", "one value only"),
        ({"y": [0, 1, 0]}, "y", "auto", "at least 30"),
        ({"y": [0, 1] * 10 + [None] * 100}, "y", "auto", "100 more lack it"),
        ({"y": pa.array([None] * 40, pa.float64())}, "y", "auto", "missing in all 40"),
        ({"y": pa.nulls(40)}, "y", "auto", "missing in all 40"),
        ({"y": ["a", "b"] * 20 + ["c"]}, "y", "auto", "'c' of 'y' has 1 row only"),
        ({"y": [f"name {place}" for place in range(101)] * 2}, "y", "auto", "101 classes"),
        ({"y": list(range(200)) * 2}, "y", "multiclass", "200 classes"),
        ({"y": [1, 2, 3] * 20}, "y", "binary", "3 values"),
        ({"y": ["a", "b"] * 20}, "y", "regression", "no numbers"),
        ({"y": pa.array([0, 1] * 20, pa.timestamp("us"))}, "y", "auto", "type timestamp"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_explained(rows, target, kind, says):
    with pytest.raises(InvalidData, match=says) as caught:
        infer(pa.table(rows), target, kind)
    assert caught.value.remedy
    assert caught.value.values


def test_too_many_numeric_classes_suggest_regression():
    with pytest.raises(InvalidData) as caught:
        infer(table(list(range(200)) * 2), "y", "multiclass")
    assert 'kind = "regression"' in caught.value.remedy


def test_an_infinite_target_is_refused_with_its_row():
    rows = table([float(place) / 3 for place in range(40)] + [float("inf")])
    with pytest.raises(InvalidData, match="row 41"):
        labels(infer(rows, "y"), rows)
