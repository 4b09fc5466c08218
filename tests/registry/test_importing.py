"""Importing: a model made elsewhere answers here as it did there, or it is not kept."""

from __future__ import annotations

from pathlib import Path

import elsewhere
import lightgbm
import numpy as np
import pytest

from kaizenml import events
from kaizenml.context import Context
from kaizenml.errors import Corrupt, InvalidData, NotFound, UsageError
from kaizenml.monitoring import reference
from kaizenml.project import open_project
from kaizenml.registry import check_rows, importing, runtimes
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.server.pages.models import release_values
from kaizenml.training import model_file

pytestmark = pytest.mark.slow  # each import asks the model in a process of its own
ROWS = 40


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    (tmp_path / "kaizen.toml").write_text(elsewhere.TOML)
    monkeypatch.chdir(tmp_path)
    return open_project(tmp_path, actor="tester")


def brought(ctx: Context, source: str, **how) -> tuple[runtimes.Model, importing.Origin]:
    model = registry.import_model(ctx, source, check="rows.csv", **how)
    folder = registry.folder_of(ctx, model)
    origin = importing.read(folder)
    assert origin is not None
    return runtimes.load(folder), origin


def linear_file(path: Path, task: str, link: str = "", scale: float = 0.01) -> np.ndarray:
    """Write an ONNX model and the rows with its answers; return what it answers with ``link`` (Sigmoid, Softmax) applied."""
    x, _, names = elsewhere.table(task)
    rng = np.random.default_rng(3)
    outputs = 3 if task == "multiclass" else 1
    weights, bias = rng.normal(size=(len(names), outputs)).astype(np.float32) * scale, np.zeros(outputs, np.float32)
    path.write_bytes(elsewhere.linear_onnx(weights, bias, link))
    scores = x[:ROWS].astype(np.float32).astype(np.float64) @ weights.astype(np.float64)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return {"binary": (1 / (1 + np.exp(-scores)))[:, 0], "multiclass": powers / powers.sum(axis=1, keepdims=True), "regression": scores[:, 0]}[task]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_lightgbm_text_answers_to_the_bit_also_where_float32_would_not(ctx, task):
    x, y, names = elsewhere.table(task)
    parameters = {"objective": task, "verbosity": -1, "num_threads": 1} | ({"num_class": 3} if task == "multiclass" else {})
    booster = lightgbm.train(parameters, lightgbm.Dataset(x, y, feature_name=names), 10)
    booster.save_model("m.txt")
    expected = booster.predict(x[:ROWS])
    elsewhere.write_rows(Path("rows.csv"), x[:ROWS], names, **elsewhere.answers_of(task, expected))
    model, origin = brought(ctx, "m.txt", target="y")
    assert origin.largest_difference is not None
    assert origin.largest_difference < 1e-15
    answers = model.answer(elsewhere.dict_rows(x[:ROWS], names))
    got = np.array([each.value if task == "regression" else each.probabilities for each in answers])
    np.testing.assert_array_equal(got[:, 1] if task == "binary" else got, expected)


def test_categories_of_a_data_frame_are_text_in_a_request(ctx):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"price": rng.normal(size=300), "size": pandas.Categorical(rng.choice(["M", "S", "L"], 300))})
    score = frame["price"] + (frame["size"] == "L")
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, lightgbm.Dataset(frame, (score > 0.3).astype(int)), 10)
    booster.save_model("m.txt")
    frame[:ROWS].assign(kept=booster.predict(frame[:ROWS])).to_csv("rows.csv", index=False)
    model, _ = brought(ctx, "m.txt", target="kept", classes=["no", "yes"])
    assert [(each.name, each.kind, each.levels) for each in model.spec.encoder.columns] == [
        ("price", "number", []), ("size", "category", ["L", "M", "S"]),
    ]  # fmt: skip
    (answer,) = model.answer([{"price": 2.0, "size": "L"}])
    assert (answer.value, answer.probabilities[1]) == ("yes", booster.predict(pandas.DataFrame({"price": [2.0], "size": ["L"]}).astype(
        {"size": pandas.CategoricalDtype(["L", "M", "S"])}))[0])  # fmt: skip


def test_xgboost_that_stopped_early_uses_the_rounds_that_its_own_package_would(ctx):
    xgboost = pytest.importorskip("xgboost", reason="xgboost-cpu is not installed")
    x, y, names = elsewhere.table("binary")
    model = xgboost.XGBClassifier(n_estimators=200, learning_rate=0.5, early_stopping_rounds=3, n_jobs=1)
    model.fit(x[:400], y[:400], eval_set=[(x[400:], y[400:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    model.save_model("m.json")
    expected = model.predict_proba(x[:ROWS])[:, 1]
    elsewhere.write_rows(Path("rows.csv"), x[:ROWS], names, y=expected)
    loaded, origin = brought(ctx, "m.json", target="y")
    assert origin.notes == [f"the first {model.best_iteration + 1} rounds are used, as it stopped early"]
    np.testing.assert_allclose([each.probabilities[1] for each in loaded.answer(elsewhere.dict_rows(x[:ROWS], names))], expected, atol=1e-7)


@pytest.mark.parametrize(("task", "link"), [("binary", "Sigmoid"), ("multiclass", "Softmax"), ("regression", "")])
def test_onnx_takes_its_columns_from_the_rows_and_its_classes_from_the_answers(ctx, task, link):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    expected = linear_file(Path("m.onnx"), task, link)
    x, _, names = elsewhere.table(task)
    elsewhere.write_rows(Path("rows.csv"), x[:ROWS], names, **elsewhere.answers_of(task, expected))
    model, origin = brought(ctx, "m.onnx", target="y", task=task)
    assert origin.maker == "ONNX, made by by-hand"
    assert model.signature.classes == {"binary": [0, 1], "multiclass": ["0", "1", "2"], "regression": []}[task]
    assert [field.name for field in model.signature.fields] == names


def test_scores_without_a_link_get_the_one_that_gives_the_expected_answers(ctx):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    expected = linear_file(Path("m.onnx"), "multiclass")
    x, _, names = elsewhere.table("multiclass")
    elsewhere.write_rows(Path("rows.csv"), x[:ROWS], names, **elsewhere.answers_of("multiclass", expected))
    _, origin = brought(ctx, "m.onnx", target="y")
    assert origin.notes == ["softmax is applied to its outputs"]


def test_a_model_that_answers_otherwise_here_is_not_kept_and_the_row_is_named(ctx):
    x, y, names = elsewhere.table("regression")
    booster = lightgbm.train({"verbosity": -1, "num_threads": 1}, lightgbm.Dataset(x, y), 5)
    booster.save_model("m.txt")
    expected = booster.predict(x[:ROWS])
    expected[7] += 0.5
    elsewhere.write_rows(Path("rows.csv"), x[:ROWS], names, y=expected)
    with pytest.raises(InvalidData, match=r"row 8: the model answers .* here and .* where it was made") as told:
        registry.import_model(ctx, "m.txt", check="rows.csv", target="y")
    assert told.value.values["row"] == 8
    assert registry.list(ctx) == []
    assert list((ctx.state / "models" / "clinic").iterdir()) == []
    assert registry.import_model(ctx, "m.txt", check="rows.csv", target="y", tolerance=0.1).ref == "clinic@1"


def test_swapped_columns_are_found_out(ctx):
    x, y, names = elsewhere.table("regression")
    booster = lightgbm.train({"verbosity": -1, "num_threads": 1}, lightgbm.Dataset(x, y), 20)  # its columns have no names
    booster.save_model("m.txt")
    elsewhere.write_rows(Path("rows.csv"), x[:ROWS], names, y=booster.predict(x[:ROWS]))
    with pytest.raises(InvalidData, match="look at the columns' order"):
        registry.import_model(ctx, "m.txt", check="rows.csv", target="y", columns=[names[2], *names[:2], *names[3:]])
    assert registry.import_model(ctx, "m.txt", check="rows.csv", target="y", columns=names).ref == "clinic@1"


def test_importing_the_same_again_returns_the_version_it_already_is(ctx):
    Path("double.py").write_text("def predict(rows):\n    return [row['a'] * 2 for row in rows]\n")
    elsewhere.write_rows(Path("rows.csv"), np.arange(4.0)[:, None], ["a"], y=np.arange(4.0) * 2)
    first = registry.import_model(ctx, "double.py:predict", check="rows.csv", target="y")
    assert registry.import_model(ctx, "double.py:predict", check="rows.csv", target="y") == first
    assert registry.import_model(ctx, "double.py:predict", check="rows.csv", target="y", timeout="2s").ref == "clinic@2"
    assert first.imported
    assert registry.verify(ctx, "clinic@1") == first
    with ctx.catalog.read() as connection:
        (event, _) = events.read(connection, kind="registry.imported")
    assert event.data["answered_by"] == "python"


def test_rows_with_probabilities_alone_stand_for_their_likeliest_classes(ctx):
    Path("m.py").write_text("def predict(rows):\n    return [{'no': 1 - row['a'], 'yes': row['a']} for row in rows]\n")
    elsewhere.write_rows(Path("rows.csv"), np.array([[0.25], [0.75]]), ["a"], y=np.array([0.25, 0.75]))
    model = registry.import_model(ctx, "m.py:predict", check="rows.csv", target="y", classes=["no", "yes"])
    folder = registry.folder_of(ctx, model)
    spec = model_file.read(folder)
    assert check_rows.table_of(check_rows.read(folder), spec.signature).to_pydict() == {"a": [0.25, 0.75], "y": ["no", "yes"]}
    assert (spec.naive.value, spec.naive.probabilities) == ("no", [0.5, 0.5])


@pytest.mark.parametrize(
    ("what", "how", "told"),
    [
        ("double.py", {}, "which function answers"),
        ("double.py:twice", {}, "has no function 'twice'; it has broken, predict"),
        ("gone.py:predict", {}, "there is no file"),
        ("double.py:predict", {"target": "z"}, "no column 'z' with the answers; there is 'a', 'y'"),
        ("double.py:predict", {"columns": ["b"]}, "lack the input 'b'"),
        ("double.py:predict", {"columns": ["a:numbr"]}, "'numbr' is no kind of column; did you mean 'number'"),
        ("double.py:predict", {"task": "binary"}, "neither classes nor probabilities|are expected|none of the model's classes"),
        ("double.py:predict", {"timeout": "0s"}, "in no time or memory"),
        ("double.py:predict", {"memory_mb": -1}, "in no time or memory"),
        ("double.py:short", {}, "3 answers for 4 rows"),
        ("double.py:broken", {}, "the model raised ZeroDivisionError"),
        ("double.py:words", {}, "the model raised ValueError"),
    ],
)
def test_what_cannot_be_imported_says_why(ctx, what, how, told):
    Path("double.py").write_text(
        "def predict(rows):\n    return [row['a'] * 2 for row in rows]\n"
        "def short(rows):\n    return [1.0] * (len(rows) - 1)\ndef broken(rows):\n    return 1 / 0\ndef words(rows):\n    return ['x'] * len(rows)\n"
    )
    elsewhere.write_rows(Path("rows.csv"), np.arange(4.0)[:, None], ["a"], y=np.arange(4.0) * 2 + 0.5)
    with pytest.raises((InvalidData, UsageError, NotFound), match=told):
        registry.import_model(ctx, what, check="rows.csv", **{"target": "y", **how})


def test_a_bare_scikit_learn_learner_is_converted_and_a_pipeline_answers_as_it_is(ctx):
    skops = pytest.importorskip("skops.io", reason="skops is not installed")
    pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, names = elsewhere.table("multiclass")
    found = {}
    for made in (
        RandomForestClassifier(10, random_state=0),
        make_pipeline(StandardScaler(), LogisticRegression()),
        HistGradientBoostingClassifier(max_iter=5),  # has no converter
    ):
        made.fit(x, y)
        skops.dump(made, "m.skops")
        elsewhere.write_rows(Path("rows.csv"), x[:ROWS], names, **elsewhere.answers_of("multiclass", made.predict_proba(x[:ROWS])))
        model, origin = brought(ctx, "m.skops", target="y", name=type(made).__name__)
        model.close()
        found[type(made).__name__] = (origin.answered_by, origin.largest_difference < 1e-6)
    assert found == {"RandomForestClassifier": ("onnx", True), "Pipeline": ("sklearn", True), "HistGradientBoostingClassifier": ("sklearn", True)}


def test_an_onnx_pipeline_takes_text_and_names_its_classes(ctx):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"price": rng.normal(size=300), "size": rng.choice(["M", "S", "L"], 300), "count": rng.integers(0, 5, 300)})
    kept = np.where(frame["price"] + (frame["size"] == "L") > 0.4, "yes", "no")
    encoded = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["size"]), remainder="passthrough")
    pipeline = make_pipeline(encoded, LogisticRegression()).fit(frame, kept)
    kinds = {"price": FloatTensorType, "size": StringTensorType, "count": Int64TensorType}
    made = skl2onnx.convert_sklearn(pipeline, initial_types=[(name, kind([None, 1])) for name, kind in kinds.items()])
    Path("m.onnx").write_bytes(made.SerializeToString())
    shares = pipeline.predict_proba(frame)
    answers = {"kept": pipeline.predict(frame), "kept:no": shares[:, 0], "kept:yes": shares[:, 1]}
    frame.assign(**answers).to_csv("rows.csv", index=False)
    model, origin = brought(ctx, "m.onnx", target="kept")
    assert origin.largest_difference < 1e-6
    assert model.signature.classes == ["no", "yes"]
    asked = {"price": 0.25, "size": "never seen", "count": 2}
    (answer,) = model.answer([asked])
    np.testing.assert_allclose(answer.probabilities, pipeline.predict_proba(pandas.DataFrame([asked]))[0], atol=1e-6)


def test_an_imported_model_becomes_a_release_whose_gates_say_what_they_cannot_judge(ctx):
    Path("double.py").write_text("def predict(rows):\n    return [row['a'] * 2 for row in rows]\n")
    elsewhere.write_rows(Path("rows.csv"), np.arange(20.0)[:, None], ["a"], y=np.arange(20.0) * 2)
    (ctx.root / "kaizen.toml").write_text(elsewhere.TOML + "[gates]\nrate = 20\np99_ms = 2000\nload_seconds = 0.5\n")
    ctx = open_project(ctx.root, actor="tester")
    model = registry.import_model(ctx, "double.py:predict", check="rows.csv", target="y")
    release = releases.create(ctx, model.ref)
    assert release.state == "passed"
    assert releases.verify(ctx, release.ref) == release
    gates = {gate.name: gate for gate in release.gates}
    assert "made elsewhere" in gates["naive"].evidence["skipped"]
    assert "made elsewhere" in gates["champion"].evidence["skipped"]
    assert gates["parity"].evidence["rows"] == 20
    assert "skipped" not in gates["load"].evidence
    card = (ctx.state / release.bundle / "card.md").read_text()
    assert "Made elsewhere: Python, code/double.py:predict, from the file `double.py`" in card
    # what others want to know of a release, they get of this one too
    assert release_values(ctx, release.ref)["run"] is None
    assert reference.of(ctx, release.ref).rows == 20
    assert rollouts.deploy(ctx, "clinic", release.ref).champion == "clinic@1"
    # the code is pinned with the bundle: who changes it is found out
    code = ctx.state / release.bundle / "model" / "code" / "double.py"
    assert "model/code/double.py" in releases.bundle.read(ctx.state / release.bundle).files
    code.write_text("def predict(rows):\n    return [0.0] * len(rows)\n")
    with pytest.raises(Corrupt, match=r"double\.py differs from its hash"):
        releases.verify(ctx, release.ref)
    assert model_file.read(registry.folder_of(ctx, model)).format == 2


def test_whether_an_onnx_model_is_waited_for_and_batched_is_measured_when_it_is_imported(ctx):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    rng = np.random.default_rng(0)
    found = {}
    for name, inner in (("small", 4), ("large", 3000)):  # the large one reads 36 MB of weights for each call, however many rows it has
        first, second = (rng.normal(size=size).astype(np.float32) / inner for size in ((4, inner), (inner, inner)))
        steps = [elsewhere.node("MatMul", ["x", "w1"], "h"), elsewhere.node("MatMul", ["h", "w2"], "wide")]
        steps.append(elsewhere.node("ReduceSum", ["wide", "axes"], "out"))
        axes = elsewhere.field(1, 1) + elsewhere.field(2, 7) + elsewhere.field(8, "axes") + elsewhere.field(9, (1).to_bytes(8, "little"))
        graph = b"".join(elsewhere.field(1, step) for step in steps) + elsewhere.field(2, "g") + elsewhere.field(5, axes)
        graph += elsewhere.field(5, elsewhere.tensor("w1", first)) + elsewhere.field(5, elsewhere.tensor("w2", second))
        graph += elsewhere.field(11, elsewhere.value_info("x", 4)) + elsewhere.field(12, elsewhere.value_info("out", 1))
        Path("m.onnx").write_bytes(elsewhere.field(1, 8) + elsewhere.field(7, graph) + elsewhere.field(8, elsewhere.field(2, 17)))
        x = rng.normal(size=(20, 4))
        expected = (x.astype(np.float32).astype(np.float64) @ first.astype(np.float64) @ second.astype(np.float64)).sum(axis=1)
        elsewhere.write_rows(Path("rows.csv"), x, list("abcd"), y=expected)
        model, _ = brought(ctx, "m.onnx", target="y", name=name, task="regression", tolerance=1e-3)
        found[name] = (model.blocks, model.batches)
    assert found == {"small": (False, False), "large": (True, True)}
