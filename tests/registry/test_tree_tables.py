"""Trees as tables: the library's own scores, to the bit, for whatever a tree may hold; and a clear no to the rest."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from kaizenml.registry.lightgbm_native import LightGBM
from kaizenml.registry.tree_tables import BLOCK, TreeTables, Unsuited

WIDTH = 6


def vectors(rows: int, seed: int, *, missing: bool = True) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    matrix[:, 1] = np.round(matrix[:, 1])  # many on one threshold, 0 among them
    matrix[:, 4] = rng.integers(0, 40, rows)
    matrix[:, 5] = rng.integers(0, 3, rows)
    if missing:
        matrix[rng.random(matrix.shape) < 0.15] = np.nan
    return matrix


def booster(*, missing: bool = True, **parameters) -> lightgbm.Booster:
    x = vectors(900, 1, missing=missing)
    known = np.nan_to_num(x)
    score = known[:, 0] + known[:, 1] ** 2 + (known[:, 4] % 7 > 3) + known[:, 5] * known[:, 2]
    chosen = {"objective": "binary", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5, **parameters}
    y = {"binary": score > 1, "multiclass": np.digitize(score, [0, 1.5])}.get(chosen["objective"], score)
    return lightgbm.train(chosen, lightgbm.Dataset(x, y.astype(float), categorical_feature=[4, 5]), 25)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"num_leaves": 7},
        {"num_leaves": 60},
        {"objective": "multiclass", "num_class": 3},
        {"objective": "regression"},
        {"objective": "binary", "sigmoid": 0.7},
        {"max_cat_to_onehot": 40, "min_data_per_group": 5, "cat_smooth": 1.0},
        {"missing": False},
        {"use_missing": False},
        {"min_gain_to_split": 1e9},
    ],
    ids=str,
)
def test_scores_equal_the_librarys_to_the_bit(tmp_path, parameters):
    trained = booster(**parameters)
    trained.save_model(str(tmp_path / "m.txt"))
    tables = TreeTables((tmp_path / "m.txt").read_text())
    strange = np.array([[value] * WIDTH for value in (0.0, -0.0, np.nan, 1e30, -1e30, 1e-36, -0.5)], np.float32)
    asked = np.concatenate([vectors(2 * BLOCK + 9, 2), strange, tables.probes(WIDTH, 300)])
    assert tables.scores(asked).squeeze().tolist() == trained.predict(asked, num_threads=1).tolist()


def test_a_served_model_is_scored_by_tables_in_batches_and_by_the_library_one_by_one(tmp_path):
    trained = booster()
    trained.save_model(str(tmp_path / "m.txt"))
    model = LightGBM(tmp_path / "m.txt", WIDTH)
    asked, calls = vectors(64, 3), []
    assert model._tables is not None
    scores, model._tables.scores = model._tables.scores, lambda matrix: calls.append(len(matrix)) or scores(matrix)
    expected = trained.predict(asked, num_threads=1)
    assert model.many(asked)[:, 0].tolist() == expected.tolist()
    assert model.many(asked[:3])[:, 0].tolist() == expected[:3].tolist()
    assert [model.one(row.tolist())[0] for row in asked] == expected.tolist()
    assert calls == [64]


@pytest.mark.parametrize(
    "parameters",
    [
        {"zero_as_missing": True},
        {"linear_tree": True, "objective": "regression"},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
        {"objective": "poisson"},
        {"num_leaves": 90, "min_data_in_leaf": 1},
    ],
    ids=str,
)
def test_what_has_no_tables_is_left_to_the_library(tmp_path, parameters):
    if parameters.get("objective") == "poisson":
        x = vectors(300, 1)
        trained = lightgbm.train({**parameters, "verbosity": -1}, lightgbm.Dataset(x, np.abs(np.nan_to_num(x[:, 0]))), 5)
    else:
        trained = booster(**parameters)
    trained.save_model(str(tmp_path / "m.txt"))
    with pytest.raises(Unsuited):
        TreeTables((tmp_path / "m.txt").read_text())
    asked = vectors(40, 3)
    assert LightGBM(tmp_path / "m.txt", WIDTH).many(asked)[:, 0].tolist() == trained.predict(asked, num_threads=1).tolist()


def test_tables_that_do_not_give_what_the_library_gives_are_not_used(tmp_path):
    booster().save_model(str(tmp_path / "m.txt"))
    text = (tmp_path / "m.txt").read_bytes()
    model = LightGBM(tmp_path / "m.txt", WIDTH)
    begin = text.index(b"leaf_value=") + 11
    other = text[:begin] + b"9.5 " + text[text.index(b" ", begin) + 1 :]
    assert model._proven(text) is not None
    assert model._proven(other) is None
