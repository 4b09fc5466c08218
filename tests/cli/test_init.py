"""``kaizen init``: everything is checked first, a whole project stands at the end, and nothing after an error."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from kaizenml import settings
from kaizenml.cli.application import run
from kaizenml.data import contract as contracts
from kaizenml.data import contract_file
from kaizenml.data.intake import sources
from kaizenml.scaffold import guess, installation


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return tmp_path


def left(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_project_stands_under_git_and_its_own_checks_pass(kaizen, orders, tmp_path):
    done = kaizen("init", "shop", "--data", "orders.csv", "--target", "returned", "--json")
    assert done.code == 0, done.err
    made = done.document
    assert (made["task"], made["dataset"], made["time"]["column"], made["key"]["column"]) == ("binary", "orders", "ordered_at", "order_id")
    shop = tmp_path / "shop"
    found, sources_of = settings.load(shop, {})
    assert found.task.source == "data/orders.csv"
    assert sources_of["task.time"] == "kaizen.toml"
    assert contract_file.read(contract_file.path_of(shop, "orders")).key == "order_id"
    listed = subprocess.run(["git", "ls-files"], cwd=shop, capture_output=True, text=True, check=True).stdout.split()
    assert set(listed) == set(made["files"]) - {"data/orders.csv"}
    assert subprocess.run(["git", "status", "--porcelain"], cwd=shop, capture_output=True, text=True, check=True).stdout == ""
    checked = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=shop, capture_output=True, text=True, check=False)
    assert "2 passed" in checked.stdout
    assert left(tmp_path) >= {"shop", "orders.csv"}
    assert not [name for name in left(tmp_path) if name.startswith(".shop")]


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv.gz"])
def test_any_kind_of_file_is_taken(orders, tmp_path, ending):
    table = sources.load(orders).to_pandas()
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        table.to_parquet(path)
    elif ending == "jsonl":
        table.to_json(path, orient="records", lines=True, date_format="iso")
    else:
        table.to_csv(path, index=False)
    assert run(["init", "shop", "--data", str(path), "--target", "returned"]) == 0
    assert (tmp_path / "shop" / "data" / path.name).read_bytes() == path.read_bytes()


def test_names_that_need_quoting_survive(tmp_path):
    rows = "\n".join(f"{i},{i * 3 % 7},{i % 2}" for i in range(60))
    (tmp_path / "odd.csv").write_text('row,"a ""quoted"" \\ name","tärget # = [x]"\n' + rows + "\n", encoding="utf-8")
    assert run(["init", "odd", "--data", "odd.csv", "--target", "tärget # = [x]"]) == 0
    document = tomllib.loads((tmp_path / "odd" / "kaizen.toml").read_text(encoding="utf-8"))
    assert document["task"]["target"] == "tärget # = [x]"


def csv_of(header: str, row: str, count: int = 60) -> str:
    return header + "\n" + "\n".join(row.replace("#", str(i)).replace("%", str(i % 2)) for i in range(count)) + "\n"


BAD = {
    "missing file": (None, [], "there is no file", ""),
    "empty file": (b"", [], "empty", ""),
    "header only": (b"a,returned\n", [], "no rows", ""),
    "ragged line": (b"a,returned\n1,2\n1,2,3\n", [], "line 3", ""),
    "wrong encoding": ("a,returned\nkäse,1\n".encode("cp1252"), [], "line 2", "iconv"),
    "unknown target": (csv_of("a,retuned", "#,%").encode(), [], "did you mean 'retuned'?", "--target retuned"),
    "constant target": (csv_of("a,returned", "#,1").encode(), [], "one value only", "another target"),
    "three rows": (csv_of("a,returned", "#,%", 3).encode(), [], "3 rows", "add rows to rows.csv"),
    "doubled column": (b"a,a,returned\n1,2,3\n", [], "'a'", ""),
    "a time that is none": (csv_of("a,when,returned", "#,blue,%").encode(), ["--time", "when"], "'when' is no date", ""),
    "a key that is none": (csv_of("a,id,returned", "#,%,%").encode(), ["--key", "id"], "does not identify", ""),
    "unknown time": (csv_of("a,when,returned", "#,blue,%").encode(), ["--time", "wen"], "did you mean 'when'?", ""),
    "time is the target": (csv_of("a,returned", "#,%").encode(), ["--time", "returned"], "is the target", "--time none"),
    "nothing to predict from": (csv_of("returned", "%").encode(), [], "nothing to predict", ""),
    "regression of texts": (csv_of("a,returned", "#,x%").encode(), ["--kind", "regression"], "no numbers", "--kind auto"),
    "a bad name": (csv_of("a,returned", "#,%").encode(), [], "not a name", ""),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_met_with_what_happened_and_nothing_is_left(tmp_path, capsys, case):
    content, more, says, remedy = BAD[case]
    if content is not None:
        (tmp_path / "rows.csv").write_bytes(content)
    before = left(tmp_path)
    assert run(["init", "../shop" if case == "a bad name" else "shop", "--data", "rows.csv", "--target", "returned", *more]) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("error: "), err
    assert says in err, err
    assert "  try: " in err, err
    assert remedy in err.partition("  try: ")[2], err
    assert left(tmp_path) == before


def test_a_stray_value_that_turns_numbers_into_text_is_told_and_can_be_set_aside(tmp_path, capsys):
    (tmp_path / "rows.csv").write_text(csv_of("a,b,returned", "#,1.5,%").replace("\n7,1.5,", "\n7,oops,"), encoding="utf-8")
    assert run(["init", "shop", "--data", "rows.csv", "--target", "returned"]) == 0
    out = capsys.readouterr().out
    assert "  note    b is text, because 'oops' on line 9 is no number; the other 59 values are\n" in out
    promise = tmp_path / "shop" / "contracts" / "rows.toml"
    assert f"or set the kind in {promise.relative_to(tmp_path / 'shop')}: rows that do not fit are then set aside" in out
    promise.write_text(promise.read_text(encoding="utf-8").replace('name = "b"\nkind = "category"', 'name = "b"\nkind = "number"'), encoding="utf-8")
    checked = contracts.check(sources.load(tmp_path / "rows.csv"), contract_file.read(promise))
    assert (checked.good.num_rows, checked.bad["_reason"].to_pylist()) == (59, ["b: 'oops' is not a number"])


def test_a_stray_value_in_a_target_of_numbers_is_named(tmp_path, capsys):
    rows = "".join(f"{i},{'oops' if i == 5 else i * 1.5}\n" for i in range(120))
    (tmp_path / "rows.csv").write_text("a,price\n" + rows, encoding="utf-8")
    for more in ([], ["--kind", "regression"]):
        assert run(["init", "shop", "--data", "rows.csv", "--target", "price", *more]) == 1
        err = capsys.readouterr().err
        assert "'oops' on line 7 is no number; the other 119 values are" in err
        assert "try: mend that value in rows.csv" in err
    assert left(tmp_path) == {"rows.csv"}


def test_a_folder_with_anything_in_it_is_refused_and_an_empty_one_is_taken(orders, tmp_path, capsys):
    (tmp_path / "shop").mkdir()
    assert run(["init", "shop", "--data", "orders.csv", "--target", "returned"]) == 0
    kept = (tmp_path / "shop" / "kaizen.toml").read_bytes()
    assert run(["init", "shop", "--data", "orders.csv", "--target", "returned"]) == 1
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "shop" / "kaizen.toml").read_bytes() == kept


def test_inside_a_repository_no_second_one_is_made(orders, tmp_path, capsys):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert run(["init", "shop", "--data", "orders.csv", "--target", "returned"]) == 0
    out = capsys.readouterr().out
    assert "inside the repository" in out
    assert not (tmp_path / "shop" / ".git").exists()
    # a repository runs the workflows at its root only, so this one must be moved there, and then know its folder
    command = out.partition("ci      runs when its file lies at the root: ")[2].splitlines()[0]
    subprocess.run(["bash", "-ec", command], check=True)
    text = (tmp_path / ".github" / "workflows" / "shop.yml").read_text(encoding="utf-8")
    assert 'working-directory: "shop"' in text
    assert not (tmp_path / "shop" / ".github" / "workflows" / "kaizen.yml").exists()


def test_what_ci_installs_is_this_kaizenml_wherever_it_came_from(tmp_path):
    web, source = {"url": "https://example.org/kaizenml-0.1.0-py3-none-any.whl"}, {"url": "https://me:secret@example.org/ml.git"}
    pinned = {"vcs_info": {"vcs": "git", "commit_id": "0a1b"}}
    assert installation.line_for(None, "0.1.0") == "kaizenml==0.1.0"
    assert installation.line_for({**web, "archive_info": {}}, "0.1.0") == f"kaizenml @ {web['url']}"
    assert (
        installation.line_for({**source, **pinned, "subdirectory": "a"}, "0.1.0") == "kaizenml @ git+https://example.org/ml.git@0a1b#subdirectory=a"
    )
    assert installation.line_for({"url": "ssh://git@example.org/ml", **pinned}, "0.1.0") == "kaizenml @ git+ssh://git@example.org/ml@0a1b"
    for only_here in ({"dir_info": {"editable": True}}, {"archive_info": {}}, pinned):
        assert installation.line_for({"url": "file:///somewhere", **only_here}, "0.1.0") is None


@pytest.mark.slow
def test_an_installation_that_only_this_machine_has_goes_along_as_a_wheel_that_runs_the_checks(kaizen, orders, tmp_path):
    done = kaizen("init", "shop", "--data", "orders.csv", "--target", "returned", "--json")
    wheel = next(path for path in done.document["files"] if path.endswith(".whl"))
    shop, unpacked = tmp_path / "shop", tmp_path / "unpacked"
    assert (shop / "requirements.txt").read_text(encoding="utf-8") == f"./{wheel}\npytest\n"
    workflow = (shop / ".github" / "workflows" / "kaizen.yml").read_text(encoding="utf-8")
    assert "run: pip install -r requirements.txt\n" in workflow
    assert "kaizen data check" in workflow.rpartition("hashFiles('data/")[2]
    assert f'python-version: "{sys.version_info.major}.{sys.version_info.minor}"' in workflow
    assert str(tmp_path) not in workflow
    with zipfile.ZipFile(shop / wheel) as packed:
        info = next(name for name in packed.namelist() if name.endswith(".dist-info/RECORD"))
        for path, digest, size in csv.reader(packed.read(info).decode().splitlines()):
            if path != info:
                content = packed.read(path)
                assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("="), path
                assert len(content) == int(size)
        assert {row[0] for row in csv.reader(packed.read(info).decode().splitlines())} == set(packed.namelist())
        assert not [name for name in packed.namelist() if "direct_url" in name or "__pycache__" in name]
        packed.extractall(unpacked)
    (unpacked / "conftest.py").write_text(f"import kaizenml\nassert kaizenml.__file__.startswith({str(unpacked)!r})\n", encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "conftest"]
    checked = subprocess.run(command, cwd=shop, env=environ, capture_output=True, text=True, check=False)
    assert "2 passed" in checked.stdout, checked.stdout + checked.stderr
    assert "kaizen = kaizenml.cli:main" in next(unpacked.glob("*.dist-info/entry_points.txt")).read_text(encoding="utf-8")


def test_without_git_the_project_stands_all_the_same(orders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["init", "shop", "--data", "orders.csv", "--target", "returned"]) == 0
    assert "not under version control: git is not installed" in capsys.readouterr().out


def test_git_is_quoted_when_it_refuses_and_leaves_no_half_repository(orders, tmp_path, capsys, monkeypatch):
    refusing = tmp_path / "bin" / "git"
    refusing.parent.mkdir()
    refusing.write_text(
        '#!/bin/sh\ncase "$1" in\n  rev-parse) exit 128;;\n  add) echo "fatal: No space left on device" >&2; exit 128;;\nesac\n'
        f'exec {shutil.which("git")} "$@"\n',
        encoding="utf-8",
    )
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{refusing.parent}:{os.environ['PATH']}")
    assert run(["init", "shop", "--data", "orders.csv", "--target", "returned"]) == 0
    assert "not under version control: git refused: No space left on device" in capsys.readouterr().out
    assert not (tmp_path / "shop" / ".git").exists()


def table(**columns):
    import pyarrow as pa

    return pa.table(columns)


def guessed(rule, **columns):
    made = table(**columns)
    return rule(made, contracts.infer(made), "target").column


def test_the_time_is_the_earliest_date_that_belongs_to_the_row():
    from datetime import datetime, timedelta

    day = [datetime(2025, 1, 1) + timedelta(days=i) for i in range(50)]
    later = [d + timedelta(days=3) for d in day]
    old = [d - timedelta(days=9000) for d in day]
    x = [float(i) for i in range(50)]
    assert guessed(guess.time, x=x, shipped=later, ordered=day, target=x) == "ordered"
    assert guessed(guess.time, x=x, date_of_birth=old, ordered=day, target=x) == "ordered"
    assert guessed(guess.time, x=x, ordered=[None, *day[1:]], target=x) is None
    assert guessed(guess.time, x=x, ordered=[day[0]] * 50, target=x) is None
    assert guessed(guess.time, x=x, target=day) is None
    scheduled = [d + timedelta(hours=9) for d in day]
    assert guessed(guess.time, x=x, date=day, scheduled=scheduled, target=x) == "scheduled"


def test_the_key_is_named_like_one_and_differs_in_every_row():
    ids = [f"o{i}" for i in range(50)]
    x = [float(i) for i in range(50)]
    assert guessed(guess.key, x=x, order_id=ids, target=x) == "order_id"
    assert guessed(guess.key, x=x, orderId=ids, target=x) == "orderId"
    assert guessed(guess.key, x=x, paid=ids, target=x) is None
    assert guessed(guess.key, x=x, order_id=["o1", *ids[1:]], target=x) is None
    assert guessed(guess.key, id=x, target=x) is None  # fractions identify nothing
