"""The benchmarks run, and what they print can be read by a program. What they measure is no test."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
BENCHES = sorted(path.stem for path in (ROOT / "bench").glob("[!_]*.py"))


@pytest.fixture
def x() -> ModuleType:
    spec = importlib.util.spec_from_loader("x", SourceFileLoader("x", str(ROOT / "x")))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# `serving` installs other servers: test_bench_serving.py runs its parts
RUN = [pytest.param(name, marks=pytest.mark.slow) for name in BENCHES if name != "serving"]
ALONE = {"features": ["--only"]}  # without the others, which would have to be installed


@pytest.mark.parametrize("name", RUN)
def test_a_benchmark_prints_one_document_of_rows(name: str) -> None:
    command = [sys.executable, str(ROOT / "bench" / f"{name}.py"), "--quick", "--json", *ALONE.get(name, [])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    document = json.loads(done.stdout)
    assert list(document) == ["bench", "machine", "rows"]
    assert document["bench"] == name
    assert list(document["machine"]) == ["system", "cpu", "cores", "python"]
    cases = {}
    for row in document["rows"]:
        assert {field: type(value) for field, value in row.items()} == {
            "case": str, "subject": str, "value": float, "unit": str, "ratio": float, "spread": float, "runs": int,
        }  # fmt: skip
        assert row["value"] > 0
        assert row["spread"] >= 0
        assert row["runs"] > 1
        cases.setdefault(row["case"], {})[row["subject"]] = row["ratio"]
    assert cases
    for ratios in cases.values():
        assert ratios["kaizenml"] == 1.0
        assert all(ratio > 0 for ratio in ratios.values())


def test_without_a_name_the_benchmarks_are_listed(x: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert x.bench([]) == 0
    listed = capsys.readouterr().out
    for name in BENCHES:
        assert f"\n  {name} " in listed


def test_an_unknown_benchmark_is_answered_with_the_nearest(x: ModuleType) -> None:
    with pytest.raises(x.Problem, match="'servng_cpu'") as caught:
        x.bench(["servng_cpu"])
    assert caught.value.remedy == "./x bench serving_cpu"
