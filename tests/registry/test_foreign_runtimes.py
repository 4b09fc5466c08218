"""XGBoost and ONNX behind the runtimes' protocol: the bare library answers as the real packages do, on real data."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import elsewhere
import numpy as np
import pytest

from kaizenml.errors import Corrupt, InvalidInput, MissingExtra, Unavailable
from kaizenml.features.encoding.encoder import EncodedColumn, Encoder
from kaizenml.features.signature import Field, Signature
from kaizenml.registry import runtimes
from kaizenml.training import model_file
from kaizenml.training.model_file import Member, ModelSpec, Naive

TASKS = ["binary", "multiclass", "regression"]
CLASSES = {"binary": [0, 1], "multiclass": [0, 1, 2], "regression": []}


def write(folder: Path, task: str, names: list[str], member: Member, kinds: dict[str, str] | None = None) -> None:
    kinds = kinds or {}
    classes = CLASSES[task]
    spec = ModelSpec(
        format=model_file.FORMAT,
        signature=Signature(task=task, target="y", classes=classes, fields=[Field(name=n, kind=kinds.get(n, "number")) for n in names]),
        encoder=Encoder(columns=[EncodedColumn(name=n, kind=kinds.get(n, "number")) for n in names]),
        members=[member],
        naive=Naive(value=0, probabilities=[1 / len(classes)] * len(classes) if classes else None),
    )
    model_file.write(folder, spec)


def asked(model: runtimes.Model, rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """The answers together and one by one."""
    shown = [model.answer(rows), [model.answer([row])[0] for row in rows]]
    return tuple(np.array([each.value if each.probabilities is None else each.probabilities for each in answers]) for answers in shown)


@pytest.fixture(scope="module")
def xgboost():
    return pytest.importorskip("xgboost", reason="xgboost-cpu is not installed")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("ending", ["json", "ubj"])
def test_xgboost_answers_equal_the_package_to_the_bit(tmp_path, xgboost, task, ending):
    x, y, names = elsewhere.table(task)
    objective = {"binary": "binary:logistic", "multiclass": "multi:softprob", "regression": "reg:squarederror"}[task]
    parameters = {"objective": objective, "nthread": 1, "max_depth": 3} | ({"num_class": 3} if task == "multiclass" else {})
    x = np.where(np.random.default_rng(0).random(x.shape) < 0.05, np.nan, x)
    booster = xgboost.train(parameters, xgboost.DMatrix(x, y), 8)
    booster.save_model(tmp_path / f"m.{ending}")
    write(tmp_path, task, names, Member(name="m", kind="xgboost", file=f"m.{ending}", weight=1.0))
    expected = booster.inplace_predict(x.astype(np.float32)).astype(np.float64)
    model = runtimes.load(tmp_path)
    assert not model.blocks
    assert not model.batches
    rows = [{name: None if np.isnan(value) else value for name, value in row.items()} for row in elsewhere.dict_rows(x[:60], names)]
    for found in asked(model, rows):
        np.testing.assert_array_equal(found[:, 1] if task == "binary" else found, expected[:60])
    model.close()
    model.close()


def test_an_xgboost_that_answers_with_a_class_gives_its_probabilities_all_the_same(tmp_path, xgboost):
    x, y, names = elsewhere.table("multiclass")
    booster = xgboost.train({"objective": "multi:softmax", "num_class": 3, "nthread": 1}, xgboost.DMatrix(x, y), 5)
    booster.save_model(tmp_path / "m.json")
    write(tmp_path, "multiclass", names, Member(name="m", kind="xgboost", file="m.json", weight=1.0, link="softmax"))
    margins = booster.inplace_predict(x.astype(np.float32), predict_type="margin")
    powers = np.exp(margins - margins.max(axis=1, keepdims=True))
    np.testing.assert_allclose(runtimes.load(tmp_path).scores(x.astype(np.float32)), powers / powers.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other width"])
def test_a_damaged_xgboost_file_is_told(tmp_path, xgboost, damage):
    x, y, names = elsewhere.table("regression")
    xgboost.train({"nthread": 1}, xgboost.DMatrix(x, y), 2).save_model(tmp_path / "m.json")
    body = (tmp_path / "m.json").read_bytes()
    changed = {"empty": b"", "cut": body[: len(body) // 2], "text": b"hello"}.get(damage, body)
    (tmp_path / "m.json").write_bytes(changed)
    write(tmp_path, "regression", names[:4] if damage == "other width" else names, Member(name="m", kind="xgboost", file="m.json", weight=1.0))
    with pytest.raises(Corrupt, match=r"m\.json"):
        runtimes.load(tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_onnx_answers_equal_the_arithmetic(tmp_path, task):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    x, _, names = elsewhere.table(task)
    rng = np.random.default_rng(1)
    outputs = 3 if task == "multiclass" else 1
    weights, bias = rng.normal(size=(len(names), outputs)).astype(np.float32) / 100, rng.normal(size=outputs).astype(np.float32)
    (tmp_path / "m.onnx").write_bytes(elsewhere.linear_onnx(weights, bias, {"binary": "Sigmoid", "multiclass": "Softmax"}.get(task, "")))
    write(tmp_path, task, names, Member(name="m", kind="onnx", file="m.onnx", weight=1.0))
    scores = x[:50].astype(np.float32).astype(np.float64) @ weights.astype(np.float64) + bias
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = {"binary": 1 / (1 + np.exp(-scores)), "multiclass": powers / powers.sum(axis=1, keepdims=True), "regression": scores}[task]
    for found in asked(runtimes.load(tmp_path), elsewhere.dict_rows(x[:50], names)):
        np.testing.assert_allclose(found[:, 1:] if task == "binary" else found.reshape(expected.shape), expected, rtol=2e-5, atol=2e-6)


def test_scores_become_probabilities_by_the_link_that_the_import_found(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    weights, bias = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    (tmp_path / "m.onnx").write_bytes(elsewhere.linear_onnx(weights, bias))
    write(tmp_path, "multiclass", ["a", "b", "c"], Member(name="m", kind="onnx", file="m.onnx", weight=1.0, link="softmax"))
    (answer,) = runtimes.load(tmp_path).answer([{"a": 0.0, "b": math.log(2.0), "c": 0.0}])
    assert answer.value == 1
    np.testing.assert_allclose(answer.probabilities, [0.25, 0.5, 0.25], atol=1e-6)


def test_whole_numbers_reach_onnx_exactly_and_missing_ones_are_refused_by_name(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    cast = elsewhere.node("Cast", ["ids"], "out", elsewhere.field(1, "to") + elsewhere.field(3, 11) + elsewhere.field(20, 2))
    graph = elsewhere.field(1, cast) + elsewhere.field(2, "ids") + elsewhere.field(11, elsewhere.value_info("ids", 2, 7))
    graph += elsewhere.field(12, elsewhere.value_info("out", 2, 11))
    body = elsewhere.field(1, 8) + elsewhere.field(7, graph) + elsewhere.field(8, elsewhere.field(2, 17))
    (tmp_path / "m.onnx").write_bytes(body)
    write(tmp_path, "binary", ["t0", "t1"], Member(name="m", kind="onnx", file="m.onnx", weight=1.0), {"t0": "integer", "t1": "integer"})
    model = runtimes.load(tmp_path)
    assert model.answer([{"t0": 16_777_217, "t1": 1}])[0].probabilities[1] == 1.0
    assert model.answer([{"t0": 1, "t1": 16_777_217}] * 2)[1].probabilities[1] == 16_777_217  # float32 would have lost the last digit
    with pytest.raises(InvalidInput, match=r"inputs\[1\]\.t1 is missing"):
        model.answer([{"t0": 1, "t1": 2}, {"t0": 1, "t1": None}])


def test_a_graph_whose_loop_does_not_end_is_cut_off_and_goes_on_answering(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    h, kinds = onnx.helper, onnx.TensorProto
    step = h.make_graph(
        [h.make_node("Identity", ["go"], ["on"]), h.make_node("Add", ["x0", "one"], ["x1"])], "step",
        [
            h.make_tensor_value_info("i", kinds.INT64, []), h.make_tensor_value_info("go", kinds.BOOL, []),
            h.make_tensor_value_info("x0", kinds.FLOAT, None),
        ],
        [h.make_tensor_value_info("on", kinds.BOOL, []), h.make_tensor_value_info("x1", kinds.FLOAT, None)],
        [h.make_tensor("one", kinds.FLOAT, [], [1.0])],
    )  # fmt: skip
    nodes = [
        h.make_node("Greater", ["x", "zero"], ["above"]), h.make_node("Cast", ["above"], ["number"], to=kinds.FLOAT),
        h.make_node("ReduceMax", ["number"], ["any"], keepdims=0), h.make_node("Cast", ["any"], ["begin"], to=kinds.BOOL),
        h.make_node("Loop", ["", "begin", "x"], ["y"], body=step),  # for ever, once begun
    ]  # fmt: skip
    columns = [[h.make_tensor_value_info(name, kinds.FLOAT, ["n", 1])] for name in "xy"]
    graph = h.make_graph(nodes, "graph", *columns, [h.make_tensor("zero", kinds.FLOAT, [], [0.0])])
    body = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(body)
    write(tmp_path, "regression", ["x"], Member(name="m", kind="onnx", file="m.onnx", weight=1.0, timeout_s=0.3))
    model = runtimes.load(tmp_path)
    assert model.blocks  # nobody waits for it on the event loop
    assert model.answer([{"x": -2.0}])[0].value == -2.0
    with pytest.raises(Unavailable, match=r"within 0\.3 s"):
        model.answer([{"x": 2.0}])
    assert model.answer([{"x": -3.0}])[0].value == -3.0


@pytest.mark.slow
def test_loading_xgboost_and_onnx_brings_no_data_stack(tmp_path, xgboost):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    x, y, names = elsewhere.table("regression")
    (tmp_path / "x").mkdir()
    (tmp_path / "o").mkdir()
    xgboost.train({"nthread": 1}, xgboost.DMatrix(x, y), 2).save_model(tmp_path / "x" / "m.ubj")
    write(tmp_path / "x", "regression", names, Member(name="m", kind="xgboost", file="m.ubj", weight=1.0))
    (tmp_path / "o" / "m.onnx").write_bytes(elsewhere.linear_onnx(np.ones((len(names), 1), np.float32), np.zeros(1, np.float32)))
    write(tmp_path / "o", "regression", names, Member(name="m", kind="onnx", file="m.onnx", weight=1.0))
    code = (
        "import sys; from pathlib import Path; from kaizenml.registry import runtimes\n"
        f"for folder in 'xo': runtimes.load(Path(folder)).answer([dict.fromkeys({names!r}, 0.0)])\n"
        "print(*sorted({'pandas', 'scipy', 'sklearn', 'pyarrow', 'sqlalchemy', 'xgboost'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "\n", done.stderr


def test_a_missing_library_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not there
    (tmp_path / "m.onnx").write_bytes(elsewhere.linear_onnx(np.ones((1, 1), np.float32), np.zeros(1, np.float32)))
    write(tmp_path, "regression", ["a"], Member(name="m", kind="onnx", file="m.onnx", weight=1.0))
    with pytest.raises(MissingExtra) as told:
        runtimes.load(tmp_path)
    assert told.value.remedy == 'pip install "kaizenml[onnx]"'


def test_model_folders_of_format_1_are_read_and_a_newer_one_is_refused_by_number(tmp_path):
    write(tmp_path, "regression", ["a"], Member(name="m", kind="onnx", file="m.onnx", weight=1.0))
    text = (tmp_path / "model.json").read_text()
    old = text.replace('"format": 2', '"format": 1', 1).replace('"onnx"', '"linear"')
    for new in ("wide", "rounds", "link", "slow", "batches", "function", "timeout_s", "memory_bytes"):  # what format 1 did not have
        old = "\n".join(line for line in old.splitlines() if f'"{new}"' not in line)
    (tmp_path / "model.json").write_text(old.replace('"trees": 0,', '"trees": 0'))
    assert model_file.read(tmp_path).members[0].kind == "linear"
    (tmp_path / "model.json").write_text(text.replace('"format": 2', '"format": 3', 1))
    with pytest.raises(Corrupt, match="has format 3; this kaizenml reads up to 2"):
        model_file.read(tmp_path)


@pytest.mark.parametrize("file", ["../m.onnx", "/etc/m.onnx", "a/../../m.onnx"])
def test_a_member_outside_its_folder_is_not_loaded(tmp_path, file):
    write(tmp_path, "regression", ["a"], Member(name="m", kind="onnx", file=file, weight=1.0))
    with pytest.raises(Corrupt, match="lies outside"):
        runtimes.load(tmp_path)
