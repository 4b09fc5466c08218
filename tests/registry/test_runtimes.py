"""Runtimes: the bare library answers as the real packages do, to the bit, for every task."""

from __future__ import annotations

import lightgbm
import msgspec
import numpy as np
import pytest

from kaizenml.errors import Corrupt, InvalidInput
from kaizenml.features.encoding.encoder import EncodedColumn, Encoder
from kaizenml.features.signature import Field, Signature
from kaizenml.registry import runtimes
from kaizenml.training import model_file, scoring
from kaizenml.training.model_file import Calibration, Member, ModelSpec, Naive

NONE = Calibration()
NAMES = ["a", "b", "c", "d", "e"]


def _matrix(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, len(NAMES))).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    return matrix


def _booster(task: str, seed: int = 0) -> lightgbm.Booster:
    x = _matrix(600, seed)
    score = np.nan_to_num(x[:, 0]) * 2 + np.nan_to_num(x[:, 1]) ** 2
    y = {"binary": score > 1, "multiclass": np.digitize(score, [0, 1.5]), "regression": score}[task]
    parameters = {"objective": task, "num_leaves": 15, "verbosity": -1, "num_threads": 1, "seed": seed}
    if task == "multiclass":
        parameters["num_class"] = 3
    return lightgbm.train(parameters, lightgbm.Dataset(x, y.astype(float)), 30)


def _spec(task: str, members: list[Member], calibration: Calibration) -> ModelSpec:
    classes = {"binary": [False, True], "multiclass": ["low", "mid", "high"], "regression": []}[task]
    return ModelSpec(
        signature=Signature(task=task, target="y", classes=classes, fields=[Field(name=n, kind="number") for n in NAMES], key="id"),
        encoder=Encoder(columns=[EncodedColumn(name=n, kind="number") for n in NAMES]),
        members=members,
        calibration=calibration,
        naive=Naive(value=classes[0] if classes else 1.5, probabilities=[1 / len(classes)] * len(classes) if classes else None),
    )


def _write(folder, task: str, calibration: Calibration = NONE, seeds: tuple[int, ...] = (0,)):
    boosters = [_booster(task, seed) for seed in seeds]
    members = []
    for n, booster in enumerate(boosters):
        booster.save_model(str(folder / f"{n}.txt"))
        members.append(Member(name=f"m{n}", kind="lightgbm", file=f"{n}.txt", weight=1 / len(seeds)))
    model_file.write(folder, _spec(task, members, calibration))
    return boosters


def _rows(matrix: np.ndarray) -> list[dict]:
    return [{name: None if np.isnan(value) else float(value) for name, value in zip(NAMES, row, strict=True)} for row in matrix]


def _expected(boosters, matrix, task, calibration):
    raw = sum(b.predict(matrix, num_threads=1) for b in boosters) / len(boosters)
    if task == "binary":
        z = calibration.a * np.log(raw / (1 - raw)) + calibration.b
        p = 1 / (1 + np.exp(-z))
        return np.column_stack([1 - p, p])
    if task == "multiclass":
        powers = raw**calibration.a
        return powers / powers.sum(axis=1, keepdims=True)
    return raw


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("calibration", [Calibration(), Calibration(a=0.8, b=0.1)])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_answers_equal_the_packages_one_by_one_and_in_batches(tmp_path, task, calibration, seeds):
    boosters = _write(tmp_path, task, calibration, seeds)
    model = runtimes.load(tmp_path)
    matrix = _matrix(200, seed=7)
    expected = _expected(boosters, matrix, task, calibration)
    batch = model.answer(_rows(matrix))
    single = [model.answer([row])[0] for row in _rows(matrix)]
    for found in (batch, single):
        got = np.array([a.value if task == "regression" else a.probabilities for a in found])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.scores(matrix), expected, rtol=0, atol=1e-12)
    assert [a.value for a in batch] == [a.value for a in single]
    if task != "regression":
        assert all(a.value == model.signature.classes[int(np.argmax(a.probabilities))] for a in batch)


def test_uncalibrated_answers_equal_the_package_to_the_bit(tmp_path):
    (booster,) = _write(tmp_path, "binary")
    model, matrix = runtimes.load(tmp_path), _matrix(100, seed=3)
    expected = booster.predict(matrix, num_threads=1)
    assert [model.answer([row])[0].probabilities[1] for row in _rows(matrix)] == expected.tolist()
    assert model.scores(matrix)[:, 1].tolist() == expected.tolist()


def test_the_key_may_come_along_and_a_wrong_type_names_its_row(tmp_path):
    _write(tmp_path, "binary")
    model = runtimes.load(tmp_path)
    good, bad = _rows(_matrix(2))
    assert model.answer([{**good, "id": "x1"}])
    with pytest.raises(InvalidInput, match=r"inputs\[1\]\.b: 'far' is not a number"):
        model.answer([good, {**bad, "b": "far"}])
    assert model.answer([]) == []


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "gone", "other width"])
def test_a_damaged_file_is_told_and_does_not_end_the_process(tmp_path, damage):
    _write(tmp_path, "binary")
    path = tmp_path / "0.txt"
    text = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "other width":
        spec = model_file.read(tmp_path)
        narrow = Encoder(columns=spec.encoder.columns[:3])
        model_file.write(tmp_path, ModelSpec(signature=spec.signature, encoder=narrow, members=spec.members, naive=spec.naive))
    else:
        path.write_bytes({"empty": b"", "cut": text[: len(text) // 2], "text": b"hello"}[damage])
    with pytest.raises(Corrupt):
        runtimes.load(tmp_path)


def test_many_models_are_freed(tmp_path):
    _write(tmp_path, "binary")
    models = [runtimes.load(tmp_path) for _ in range(5)]
    row = _rows(_matrix(1))
    answers = {model.answer(row)[0].probabilities[1] for model in models}
    assert len(answers) == 1
    for model in models:
        model.close()
        model.close()  # again is harmless


def _write_mixed(folder, task: str) -> None:
    """Two boosted members and a linear one, calibrated: all that an ensemble can hold."""
    outputs = 3 if task == "multiclass" else 1
    rng = np.random.default_rng(5)
    _write(folder, task, Calibration(a=0.9, b=0.2 if task == "binary" else 0.0) if task != "regression" else NONE, (0, 1))
    columns = 4 + 1 + 3
    document = {
        "width": 5, "numeric": [0, 1, 2, 3], "fill": [0.1, 0.0, -0.2, 0.0], "mean": [0.0, 0.1, 0.0, 0.0], "scale": [1.0, 2.0, 1.0, 0.5], "clip": 5.0,
        "missing": [2], "onehot": [{"column": 4, "levels": 3}], "coefficients": rng.normal(size=(outputs, columns)).tolist(),
        "intercept": rng.normal(size=outputs).tolist(),
    }  # fmt: skip
    (folder / "linear.json").write_bytes(msgspec.json.encode(document))
    spec = model_file.read(folder)
    members = [msgspec.structs.replace(member, weight=0.3) for member in spec.members]
    members.append(Member(name="linear", kind="linear", file="linear.json", weight=0.4))
    model_file.write(folder, msgspec.structs.replace(spec, members=members))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_ensembles_with_linear_members_answer_as_training_scores(tmp_path, task):
    _write_mixed(tmp_path, task)
    model, matrix = runtimes.load(tmp_path), _matrix(300, seed=11)
    matrix[:, 4] = np.random.default_rng(2).integers(-1, 5, 300)
    matrix[:5, 0] = [3e38, -3e38, 1e-30, 0.0, -0.0]
    expected = scoring.predict(tmp_path, matrix)
    np.testing.assert_allclose(model.scores(matrix), expected, rtol=0, atol=1e-12)
    rows = _rows(matrix)
    for found in (model.answer(rows), [model.answer([row])[0] for row in rows]):
        got = np.array([a.value if task == "regression" else a.probabilities for a in found])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"width": 5}'])
def test_a_damaged_linear_member_is_told(tmp_path, document):
    _write_mixed(tmp_path, "binary")
    (tmp_path / "linear.json").write_bytes(document)
    with pytest.raises(Corrupt, match="not a linear model"):
        runtimes.load(tmp_path)
