"""A serving worker with five releases loaded: its memory, and the time from its start to its first answer, by kind of model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

import _bundle
from _rows import OURS, Measured, options, report
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.snapshot import EndpointRoute, Route, Snapshot
from kaizenml.training import model_file
from kaizenml.training.model_file import Member

RELEASES = 5
ROW = json.dumps({"inputs": [dict.fromkeys(_bundle.NAMES, 0.5)]}).encode()
CODE = "def predict(rows):\n    return [0.5 for _ in rows]\n"


def main() -> None:
    given = options(__doc__)
    kinds: dict[str, Callable[[Path], Member]] = {"LightGBM": lambda _folder: Member(name="m", kind="lightgbm", file="m.txt", weight=1.0)}
    kinds |= {name: make for name, make in (("XGBoost", xgboost_member), ("ONNX", onnx_member)) if _installed(name)}
    kinds["Python, each in its own process"] = python_member
    with tempfile.TemporaryDirectory() as parent:
        for place, make in enumerate(kinds.values()):
            prepare(Path(parent) / str(place), make)
        report([one_run({name: Path(parent) / str(place) for place, name in enumerate(kinds)}) for _ in range(2 if given.quick else 7)], given)


def prepare(state: Path, make: Callable[[Path], Member]) -> None:
    """Write five releases of one kind (the same model five times, each loaded by itself) and a snapshot in which each answers an endpoint."""
    endpoints = {}
    first: Route = _bundle.write(state, 1)
    folder = state / first.bundle / "model"
    spec = model_file.read(folder)
    model_file.write(folder, msgspec.structs.replace(spec, format=model_file.FORMAT, members=[make(folder)]))
    for number in range(1, RELEASES + 1):
        route = msgspec.structs.replace(first, release=f"bench@{number}", bundle=f"releases/bench/{number}")
        if number > 1:
            shutil.copytree(state / first.bundle, state / route.bundle)
        endpoints[f"e{number}"] = EndpointRoute(endpoint=f"e{number}", revision=1, arms=[route])
    snapshot.write(state / "serving" / snapshot.FILE, Snapshot(revision=1, written_at=0.0, endpoints=endpoints))


def xgboost_member(folder: Path) -> Member:
    import xgboost

    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, len(_bundle.NAMES)))
    xgboost.train({"objective": "binary:logistic", "max_leaves": 31, "nthread": 1}, xgboost.DMatrix(x, x[:, 0] > 0), 200).save_model(folder / "m.ubj")
    return Member(name="m", kind="xgboost", file="m.ubj", weight=1.0)


def onnx_member(folder: Path) -> Member:
    import skl2onnx
    from sklearn.ensemble import GradientBoostingClassifier

    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, len(_bundle.NAMES))).astype(np.float32)
    learner = GradientBoostingClassifier(n_estimators=200, max_depth=4, subsample=0.5).fit(x, x[:, 0] > 0)
    made = skl2onnx.to_onnx(learner, x[:1], options={"zipmap": False})
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    return Member(name="m", kind="onnx", file="m.onnx", weight=1.0)


def python_member(folder: Path) -> Member:
    (folder / "code").mkdir()
    (folder / "code" / "m.py").write_text(CODE, encoding="utf-8")
    return Member(name="m", kind="python", file="code/m.py", weight=1.0, function="predict", timeout_s=1.0)


def one_run(states: dict[str, Path]) -> list[Measured]:
    found: list[Measured] = []
    for kind, state in states.items():
        begun = time.perf_counter()
        command = [sys.executable, "-m", "kaizenml.serving", "--port", "0", "--state", str(state)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
            _ask(url, 1)
            first = time.perf_counter() - begun
            for number in range(1, RELEASES + 1):
                _ask(url, number)
            (worker,) = [pid for pid in _below(process.pid) if "kaizenml.serving" in _command(pid)]
            found += [
                (f"{kind}: start to first answer", OURS, "s", first),
                (f"{kind}: processor time up to five answers", OURS, "s", _cpu(process.pid) + _cpu(worker)),
                (f"{kind}: worker, resident", OURS, "MB", _memory(worker, "Rss")),
                (f"{kind}: worker, proportional", OURS, "MB", _memory(worker, "Pss")),
            ]
            if children := _below(worker):
                found.append((f"{kind}: its {len(children)} processes, proportional", OURS, "MB", sum(_memory(pid, "Pss") for pid in children)))
        finally:
            process.terminate()
            process.wait(30)
    return found


def _ask(url: str, number: int) -> None:
    request = urllib.request.Request(f"{url}/predict/e{number}", ROW, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["predictions"][0]["decided_by"] == "model"


def _below(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _memory(pid: int, what: str) -> float:
    line = next(line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) / 1000


def _cpu(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _installed(name: str) -> bool:
    import importlib.util

    needed = {"XGBoost": ["xgboost"], "ONNX": ["onnxruntime", "skl2onnx"]}[name]
    return all(importlib.util.find_spec(each) for each in needed)


if __name__ == "__main__":
    main()
