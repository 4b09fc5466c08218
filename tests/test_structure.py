"""The shape of the code: ceilings, names, what the hot path may load."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kaizenml

SOURCE = Path(kaizenml.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
FILE_LINES, FUNCTION_LINES, CLASS_METHODS, INHERITANCE = 600, 60, 20, 2
HEAVY = ("pandas", "scipy", "sklearn", "lightgbm", "pyarrow", "sqlalchemy", "deltalake", "duckdb", "matplotlib")
HOT = [
    "kaizenml",
    "kaizenml.serving.app", "kaizenml.serving.worker", "kaizenml.serving.journaling.journal", "kaizenml.serving.outcomes", "kaizenml.serving.client",
    "kaizenml.features.encoding.encoder", "kaizenml.features.online.reading", "kaizenml.features.online.taking",
    "kaizenml.registry.runtimes", "kaizenml.rollouts.assign", "kaizenml.rollouts.snapshot", "kaizenml.training.model_file",
    "kaizenml.training.linear", "kaizenml.adapters.online", "kaizenml.adapters.sqlite_online", "kaizenml.adapters.redis_online",
]  # fmt: skip


@functools.cache
def trees() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in FILES]


def shown(path: Path) -> str:
    return str(path.relative_to(SOURCE.parent))


def run_python(code: str, **environ: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60, env={**os.environ, **environ})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_file_is_longer_than_its_ceiling():
    long = {shown(path): lines for path in FILES if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES}
    assert not long


def test_no_function_is_longer_than_its_ceiling():
    long = {}
    for path, tree in trees():
        if path.parent.name == "versions":  # a revision is written by Alembic, and never changed again
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node, clean=False)
                lines = (node.end_lineno or node.lineno) - node.lineno + 1 - (len(text.splitlines()) if text else 0)
                if lines > FUNCTION_LINES:
                    long[f"{shown(path)}:{node.lineno} {node.name}"] = lines
    assert not long


def test_no_class_has_more_methods_than_its_ceiling():
    wide = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) for item in node.body)
                if methods > CLASS_METHODS:
                    wide[f"{shown(path)} {node.name}"] = methods
    assert not wide


def test_inheritance_among_our_classes_stays_flat():
    bases: dict[str, list[str]] = {}
    for _path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base).rpartition(".")[2] for base in node.bases]

    def depth(name: str) -> int:
        return 1 + max((depth(base) for base in bases[name] if base in bases and base != name), default=0)

    # the tree of errors is three deep on purpose: a refused contract is invalid data is an error
    deep = {name: depth(name) for name in bases if depth(name) > INHERITANCE and not _is_error(name, bases)}
    assert not deep


def _is_error(name: str, bases: dict[str, list[str]]) -> bool:
    return name == "KaizenError" or any(_is_error(base, bases) for base in bases.get(name, []) if base in bases and base != name)


def test_no_module_is_a_drawer_for_everything():
    vague = [shown(path) for path in FILES if path.stem in {"utils", "util", "helpers", "helper", "common", "misc"}]
    assert not vague


def test_only_the_clock_asks_the_machine_for_the_time():
    asking = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(utc)?now\(|\bdate\.today\(")
    found = []
    for path in FILES:
        if path.name == "clock.py":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if asking.search(line) and "not the project's time" not in line:
                found.append(f"{shown(path)}:{number}: {line.strip()}")
    assert not found


def test_every_module_says_what_it_is_for():
    mute = [shown(path) for path, tree in trees() if path.stat().st_size and not ast.get_docstring(tree)]
    assert not mute


def test_every_operation_is_documented():
    from kaizenml import operations

    poor = []
    for name, operation in operations.all().items():
        if not operation.summary.endswith("."):
            poor.append(f"{name}: no summary line")
        poor += [f"{name}: {p.name} is not described" for p in operation.parameters if not p.help]
    assert not poor


def test_no_secret_door_into_pickle():
    loads = re.compile(r"\bpickle\.load|\bjoblib\.load|\bcloudpickle|\bmarshal\.load|\bshelve\b")
    found = [shown(path) for path in FILES if loads.search(path.read_text(encoding="utf-8"))]
    assert not found


@pytest.mark.parametrize("module", HOT)
def test_the_hot_path_loads_no_data_stack(module: str):
    code = f"import {module}, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}} & set({HEAVY!r})))"
    assert run_python(code).split() == []


def test_a_look_at_a_project_loads_neither_learners_nor_data_frames():
    code = f"import kaizenml.loop.operations, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}} & set({HEAVY!r})))"
    assert run_python(code).split() == ["deltalake", "pyarrow", "sqlalchemy"]


def test_importing_kaizenml_is_quick_and_light():
    code = "import sys; before = set(sys.modules); import kaizenml; print(len([m for m in set(sys.modules) - before if m.startswith('kaizenml')]))"
    assert run_python(code).strip() == "1"
    timed = "import time; t = time.perf_counter(); import kaizenml; print(time.perf_counter() - t)"
    best = min(float(run_python(timed)) for _ in range(5))
    print(f"import kaizenml: {best * 1000:.0f} ms (budget 150)")


def test_help_loads_neither_the_data_stack_nor_the_rooms():
    code = (
        "import sys; from kaizenml.cli.application import run\n"
        "assert run(['--help']) == 0 and run(['rollouts', '--help']) == 0 and run(['rollouts', 'promote', '--help']) == 0\n"
        f"print('loaded:', *sorted({{name.partition('.')[0] for name in sys.modules}} & set({HEAVY!r})))"
    )
    assert run_python(code).splitlines()[-1] == "loaded:"


def test_the_public_names_are_what_they_say():
    for name in kaizenml._WHERE:
        assert getattr(kaizenml, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kaizenml.nothing
