"""Hostile files, made here: none is opened by what would obey it, none takes the importing process along, each is refused with the reason."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path

import elsewhere
import lightgbm
import numpy as np
import pytest

from kaizenml.context import Context
from kaizenml.errors import Corrupt, InvalidData
from kaizenml.project import open_project
from kaizenml.registry import foreign, onnx_file, skops_file, trees
from kaizenml.registry import operations as registry

ONE = elsewhere.linear_onnx(np.ones((1, 1), np.float32), np.zeros(1, np.float32))


class Harm:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    (tmp_path / "kaizen.toml").write_text(elsewhere.TOML)
    monkeypatch.chdir(tmp_path)
    elsewhere.write_rows(Path("rows.csv"), np.arange(4.0)[:, None], ["a"], y=np.arange(4.0))
    return open_project(tmp_path, actor="tester")


def torch_like(body: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model/data.pkl", body)
        archive.writestr("model/version", "3")
    return out.getvalue()


PACKED = {
    "protocol 0": lambda harm: pickle.dumps(harm, 0),
    "protocol 1": lambda harm: pickle.dumps(harm, 1),
    "protocol 2": lambda harm: pickle.dumps(harm, 2),
    "protocol 5": lambda harm: pickle.dumps(harm, 5),
    "gzip": lambda harm: gzip.compress(pickle.dumps(harm)),
    "zlib": lambda harm: zlib.compress(pickle.dumps(harm)),
    "bzip2": lambda harm: bz2.compress(pickle.dumps(harm)),
    "torch": lambda harm: torch_like(pickle.dumps(harm)),
    "a list": lambda harm: pickle.dumps([harm], 0),
}


@pytest.mark.parametrize("ending", ["pkl", "onnx", "txt", "json", "skops"])
@pytest.mark.parametrize("dress", PACKED)
def test_a_pickle_is_refused_whatever_it_is_called_and_never_loaded(tmp_path, dress, ending):
    mark = tmp_path / "harmed"
    path = tmp_path / f"model.{ending}"
    path.write_bytes(PACKED[dress](Harm(mark)))
    with pytest.raises(InvalidData, match=r"pickle") as told:
        foreign.identify(path)
    assert "ONNX" in told.value.remedy or "onnx" in told.value.remedy
    assert not mark.exists()
    pickle.loads(pickle.dumps(Harm(mark)))  # it would have
    assert mark.exists()


def test_an_import_of_a_pickle_leaves_nothing_behind(ctx):
    Path("model.onnx").write_bytes(pickle.dumps(Harm(ctx.root / "harmed")))
    with pytest.raises(InvalidData, match=r"model\.onnx is a pickle; loading a pickle runs whatever its author wrote"):
        registry.import_model(ctx, "model.onnx", check="rows.csv", target="y")
    assert not (ctx.root / "harmed").exists()
    assert registry.list(ctx) == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "no model of a kind that is known"),
        (b"hello", "no model of a kind that is known"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "HDF5"),
        (b"CBM1" + b"\0" * 100, "CatBoost"),
        (b'{"a": 1}', "no XGBoost model"),
        (b"\x93NUMPY\x01\0", "numpy array"),
        (torch_like(b"")[:60], "not a whole archive"),
        (b"\x08\x08" + b"\x3a\xff\xff\xff\xff\x07", r"claims 2,147,483,647 bytes where 0 are"),  # 2 GB of graph
        (b"\x08\x08\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "cut off"),
        (ONE[: len(ONE) // 2], "cut off|claims"),
    ],
    ids=["nothing", "words", "hdf5", "catboost", "json", "numpy", "half an archive", "two gigabytes", "a length without end", "half an onnx"],
)
def test_what_is_no_model_says_what_it_looks_like(tmp_path, body, told):
    path = tmp_path / "model.bin"
    path.write_bytes(body)
    with pytest.raises(InvalidData, match=told):
        foreign.identify(path)


def test_a_file_larger_than_any_model_is_refused_unread(tmp_path):
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(3_000_000_000)  # a hole; takes no room
    with pytest.raises(InvalidData, match="has 3,000,000,000 bytes"):
        foreign.identify(path)


# -- ONNX


def inside(kind: str, place: str) -> bytes:
    """An ONNX model that keeps a tensor in another file, somewhere in its graph."""
    tensor = elsewhere.outside("w", place)
    attribute = elsewhere.field(1, "value") + elsewhere.field(20, 4) + elsewhere.field(5, tensor)
    constant = elsewhere.node("Constant", [], "c", attribute)
    graph = elsewhere.field(2, "g") + elsewhere.field(1, constant)
    branch = elsewhere.node("If", ["x"], "o", elsewhere.field(1, "then_branch") + elsewhere.field(20, 5) + elsewhere.field(6, graph))
    sparse = elsewhere.field(1, tensor)
    more = {
        "initializer": elsewhere.field(5, tensor), "constant": elsewhere.field(1, constant), "branch": elsewhere.field(1, branch),
        "sparse": elsewhere.field(15, sparse),
    }  # fmt: skip
    return elsewhere.linear_onnx(np.ones((1, 1), np.float32), np.zeros(1, np.float32), more=more[kind])


@pytest.mark.parametrize("kind", ["initializer", "constant", "branch", "sparse"])
@pytest.mark.parametrize("place", ["../../../../etc/passwd", "/etc/passwd", "weights.bin"])
def test_onnx_that_points_at_another_file_is_refused_at_import_and_at_every_load(tmp_path, kind, place):
    path = tmp_path / "m.onnx"
    path.write_bytes(inside(kind, place))
    with pytest.raises(InvalidData, match="keeps its weights in another file"):
        foreign.identify(path)
    with pytest.raises(Corrupt, match="keeps its weights in another file"):
        onnx_file.read(path)


def test_graphs_nested_without_end_are_refused():
    graph = elsewhere.field(2, "g")
    for _ in range(200):
        attribute = elsewhere.field(1, "then_branch") + elsewhere.field(20, 5) + elsewhere.field(6, graph)
        graph = elsewhere.field(1, elsewhere.node("If", ["x"], "o", attribute))
    with pytest.raises(ValueError, match="more than 64 deep"):
        onnx_file.look(elsewhere.field(1, 8) + elsewhere.field(7, graph))


def test_a_changed_onnx_file_is_refused_in_words_or_taken_but_never_ends_this_process(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from kaizenml.registry import onnx_runtime

    rng = np.random.default_rng(0)
    told = []
    for _ in range(60):
        body = bytearray(ONE)
        for place in rng.integers(0, len(body), 3):
            body[place] = int(rng.integers(0, 256))
        (tmp_path / "m.onnx").write_bytes(bytes(body))
        try:
            onnx_runtime.open_session(tmp_path / "m.onnx")
        except Corrupt as error:
            told.append(str(error))
    assert len(told) > 20
    assert all(text.startswith("m.onnx") for text in told)


# -- skops


def archive_of(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return path


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = archive_of(tmp_path / "m.skops", {"schema.json": b"{}", "1.npy": b"\0" * 30_000_000})
    with pytest.raises(Corrupt, match=r"unpacks [\d,]+ bytes to 30,000,002, as a zip bomb does"):
        skops_file.look(path)


def test_a_member_that_claims_two_gigabytes_is_refused(tmp_path):
    path = archive_of(tmp_path / "m.skops", {"schema.json": b"{}", "1.npy": b"12345678"}, zipfile.ZIP_STORED)
    body = bytearray(path.read_bytes())
    at = body.rfind(b"PK\x01\x02")  # the last entry of the directory
    body[at + 24 : at + 28] = struct.pack("<I", 2_147_483_648)
    path.write_bytes(bytes(body))
    with pytest.raises(Corrupt, match="unpacks to 2,147,483,650 bytes"):
        skops_file.look(path)


@pytest.mark.parametrize("name", ["../../evil.npy", "/etc/cron.d/evil", "a\\..\\..\\evil", "C:evil"])
def test_a_member_whose_name_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(Corrupt, match="leads elsewhere"):
        skops_file.look(archive_of(tmp_path / "m.skops", {"schema.json": b"{}", name: b"x"}))


@pytest.mark.slow
def test_a_million_members_are_refused(tmp_path):
    members = {f"{number}.npy": b"" for number in range(skops_file.MOST_MEMBERS + 1)}
    with pytest.raises(Corrupt, match="20,001 members"):
        skops_file.look(archive_of(tmp_path / "m.skops", members, zipfile.ZIP_STORED))


@pytest.mark.slow
def test_types_that_run_something_are_forbidden_whatever_the_file_asks_for(ctx):
    skops = pytest.importorskip("skops.io", reason="skops is not installed")
    import os

    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    x = np.arange(4.0)[:, None]
    model = make_pipeline(FunctionTransformer(), LinearRegression()).fit(x, x[:, 0])
    model.steps[0][1].func = os.system
    skops.dump(model, "m.skops")
    with pytest.raises(InvalidData, match=r"m.*\.skops holds posix\.system, which no model is allowed to hold"):
        registry.import_model(ctx, "m.skops", check="rows.csv", target="y")
    skops.dump({"predict": 1}, "d.skops")
    with pytest.raises(InvalidData, match="which is no scikit-learn model"):
        registry.import_model(ctx, "d.skops", check="rows.csv", target="y")


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["deep", "text", "loader"])
def test_a_crafted_schema_is_refused_in_words(ctx, wrong):
    pytest.importorskip("skops.io", reason="skops is not installed")
    schema = {
        "deep": b'{"content":' * 50_000 + b"{}" + b"}" * 50_000,
        "text": b"not json",
        "loader": json.dumps({"__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "__id__": 1, "protocol": 2}).encode(),
    }[wrong]
    archive_of(ctx.root / "m.skops", {"schema.json": schema})
    with pytest.raises(InvalidData, match=r"cannot be loaded|not allowed|no model is allowed|ended with"):
        registry.import_model(ctx, "m.skops", check="rows.csv", target="y")


# -- trees


@pytest.fixture(scope="module")
def lightgbm_text() -> str:
    x, y, _ = elsewhere.table("regression")
    return lightgbm.train({"verbosity": -1, "num_threads": 1, "num_leaves": 4}, lightgbm.Dataset(x, y), 2).model_to_string()


@pytest.mark.parametrize(
    ("find", "put", "told"),
    [
        (r"left_child=(\S+)", "left_child=0", "leads to 0, which is no node after it"),  # for ever round and round
        (r"left_child=(\S+)", "left_child=99999999", "leads to 99999999"),
        (r"right_child=(\S+)", "right_child=-99", "leads to -99"),
        (r"split_feature=(\S+)", "split_feature=1000000", "asks for a feature that is not there"),
        (r"split_feature=(\S+)", "split_feature=-5", "asks for a feature that is not there"),
        (r"num_leaves=(\d+)", "num_leaves=2000000000", "of 2000000000 leaves"),
        (r"leaf_value=(\S+)", "leaf_value=", "other leaves than it says"),
        (r"max_feature_idx=(\d+)", "max_feature_idx=99", "names 10 features and uses 100"),
        (r"decision_type=(\d+)", "decision_type=1", "sets of categories|num_cat|cat_boundaries"),
    ],
)
def test_lightgbm_trees_that_point_outside_or_go_round_are_refused(lightgbm_text, find, put, told):
    assert trees.look_at_lightgbm(lightgbm_text).classes == 1
    changed, count = re.subn(find, put, lightgbm_text, count=1)
    assert count == 1
    with pytest.raises(ValueError, match=told):
        trees.look_at_lightgbm(changed)


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("left_children", 0, "was passed before"),
        ("right_children", 99_999_999, "leads to 99999999"),
        ("left_children", -7, "leads to -7"),
        ("split_indices", 1_000_000, "asks for a feature that is not there"),
    ],
)
def test_xgboost_trees_that_point_outside_or_go_round_are_refused(tmp_path, part, value, told):
    xgboost = pytest.importorskip("xgboost", reason="xgboost-cpu is not installed")
    x, y, _ = elsewhere.table("regression")
    booster = xgboost.train({"nthread": 1, "max_depth": 2}, xgboost.DMatrix(x, y), 2)
    document = json.loads(booster.save_raw("json"))
    trees.look_at_xgboost(document)
    document["learner"]["gradient_booster"]["model"]["trees"][0][part][0] = value
    with pytest.raises(ValueError, match=told):
        trees.look_at_xgboost(document)


@pytest.mark.slow
def test_a_file_that_ends_its_library_s_process_is_refused_and_ours_goes_on(ctx):
    xgboost = pytest.importorskip("xgboost", reason="xgboost-cpu is not installed")
    x, y, names = elsewhere.table("regression")
    xgboost.train({"nthread": 1}, xgboost.DMatrix(x, y), 2).save_model("m.ubj")
    elsewhere.write_rows(Path("rows.csv"), x[:5], names, y=y[:5])
    good = Path("m.ubj").read_bytes()
    rng = np.random.default_rng(0)
    for attempt in range(12):
        body = bytearray(good)
        if attempt == 0:  # a length of 2**60 where the first array's stands
            at = body.index(b"[$")
            at = body.index(b"#L", at) + 2
            body[at : at + 8] = struct.pack(">q", 1 << 60)
        else:
            for place in rng.integers(60, len(body), 4):
                body[place] = int(rng.integers(0, 256))
        Path("m.ubj").write_bytes(bytes(body))
        with pytest.raises(InvalidData):  # damaged, or whole and of other answers
            registry.import_model(ctx, "m.ubj", check="rows.csv", target="y")
    assert registry.list(ctx) == []
