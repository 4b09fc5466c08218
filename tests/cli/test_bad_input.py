"""Every bad input, run for real: it says what happened, with the value and line, and what to try; and nothing is half-written."""

from __future__ import annotations

import http.client
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sklearn.datasets import load_wine

from kaizenml.cli.application import run
from kaizenml.project import open_project

WINE = load_wine(as_frame=True).frame
WINE["target"] = WINE["target"].map({0: "barolo", 1: "grignolino", 2: "barbera"})
TEXT = WINE.to_csv(index=False)
HEADER, *LINES = TEXT.splitlines()
ROW = {name: float(value) for name, value in WINE.drop(columns="target").iloc[0].items()}


def lines(*found: str) -> bytes:
    return ("\n".join(found) + "\n").encode()


def with_column(name: str, value: str | Callable[[int], str]) -> bytes:
    return lines(f"{HEADER},{name}", *(f"{line},{value if isinstance(value, str) else value(place)}" for place, line in enumerate(LINES)))


def tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")}


TABLES: dict[str, tuple[bytes | None, list[str], list[str], str]] = {
    # the file, more of the command line, what is said, what to try
    "missing file": (None, [], ["there is no file wine.csv"], "check the path"),
    "empty file": (b"", [], ["is empty (0 bytes)"], "a file with a header and rows"),
    "header only": (lines(HEADER), [], ["has a header but no rows"], "at least one row"),
    "ragged line": (lines(HEADER, *LINES[:50], "1,2,3", *LINES[50:]), [], ["line 52", "3 fields, the header has 14"], "mend line 52"),
    "wrong encoding": (lines(HEADER, *LINES[:9]) + "café".encode("cp1252") + lines(LINES[9][2:]), [], ["0xe9", "line 11"], "iconv -f CP1252"),
    "unknown target": (TEXT.replace("target", "traget").encode(), [], ["'target'", "did you mean 'traget'?"], "--target traget"),
    "constant target": (lines(HEADER, *(f"{line.rpartition(',')[0]},7" for line in LINES)), [], ["one value only in all 178 rows"], "another target"),
    "one class only": (lines(HEADER, *LINES[:50]), [], ["one value only in all 50 rows"], "add rows where it differs"),
    "a class of one row": (lines(HEADER, *LINES[:59], LINES[100]), [], ["'grignolino'", "has 1 row only"], "add more of them"),
    "3 rows": (lines(HEADER, *LINES[::60][:3]), [], ["3 rows have the target", "at least 30"], "add rows to wine.csv"),
    "duplicate column names": (TEXT.replace("ash,", "alcohol,", 1).encode(), [], ["columns 1 and 3 are both named 'alcohol'"], "rename one"),
    "a date that is none": (
        with_column("day", lambda place: "soon" if place in (98, 120) else f"2026-{1 + place // 28:02d}-{1 + place % 28:02d}"), [],
        ["'day' looks like the time of a row", "'soon' on line 100 is no date or time", "nor is 1 other of 178"], "--time day to set such rows aside",
    ),
    "dates of two readings": (
        with_column("day", lambda place: f"{1 + place % 12:02d}/{1 + place % 11:02d}/2026"), [],
        ["'day'", "'01/01/2026' on line 2 can be read as day-month or month-day"], "write its dates as 2026-11-23, or --time none",
    ),
    "a date column that is not one": (with_column("day", "blue"), ["--time", "day"], ["'day' is no date or time", "'blue'"], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_cannot_be_taken(tmp_path, monkeypatch, capsys, case):
    content, more, says, remedy = TABLES[case]
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "wine.csv").write_bytes(content)
    before = tree(tmp_path)
    arguments = ["init", "wine", "--data", "wine.csv", "--target", "target", *more]
    assert run(arguments) in (1, 2)
    out, err = capsys.readouterr()
    what, mark, to_try = err.partition("\n  try: ")
    assert (out, what[:7], bool(mark)) == ("", "error: ", True), err
    for part in says:
        assert part in what, err
    assert remedy in to_try, err
    assert tree(tmp_path) == before
    assert run([*arguments, "--json"]) in (1, 2)
    out, err = capsys.readouterr()
    document = json.loads(out)["error"]
    assert (err, document["message"], document["remedy"]) == ("", what[7:], to_try.strip())


# -- the same file, gone bad later: `kaizen train` and `kaizen up` meet it


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "wine.csv").write_text(TEXT, encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("KAIZEN_", "GIT_"))}
    command = [sys.executable, "-m", "kaizenml.cli", "init", "wine", "--data", "wine.csv", "--target", "target"]
    subprocess.run(command, cwd=folder, env={**environ, "HOME": str(folder)}, check=True, capture_output=True, timeout=100)
    return folder / "wine"


@pytest.fixture
def project(made, monkeypatch) -> Iterator[Path]:
    monkeypatch.chdir(made)
    data = made / "data" / "wine.csv"
    kept = data.read_bytes()
    yield made
    data.write_bytes(kept)


LATER: dict[str, tuple[bytes, list[str], str]] = {
    "emptied": (b"", ["is empty"], "a file with a header"),
    "cut off in a line": (lines(HEADER, *LINES[:20], "13.1,2"), ["line 22", "2 fields"], "mend line 22"),
    "a column is gone": (TEXT.replace("alcohol,", "spirit,", 1).encode(), ["column 'alcohol' is gone"], "contracts/wine.toml"),
    "3 rows left": (lines(HEADER, *LINES[::60][:3]), ["3 rows have the target"], "add rows to data/wine.csv"),
}


@pytest.mark.parametrize("verb", ["train", "up"])
@pytest.mark.parametrize("case", LATER)
def test_a_projects_file_that_went_bad(project, capsys, case, verb):
    content, says, remedy = LATER[case]
    (project / "data" / "wine.csv").write_bytes(content)
    assert run([verb, *(["--port", "0", "--console-port", "0"] if verb == "up" else [])]) == (3 if "gone" in case else 1)  # 3: the contract refused
    out, err = capsys.readouterr()
    what, _mark, to_try = err[err.index("error: ") :].partition("\n  try: ")
    for part in says:
        assert part in what, err
    assert remedy in to_try, err
    assert out == ""
    ctx = open_project(project)
    try:
        from kaizenml.releases import operations as releases
        from kaizenml.training import operations as training

        assert (training.list(ctx), releases.list(ctx)) == ([], [])
    finally:
        ctx.catalog.close()
        ctx.online.close()
    assert not [name for name in tree(project / ".kaizen") if ".new" in name or "error-" in name]


def test_a_taken_port(project, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["up", "--port", str(port), "--console-port", "0"]) == 1
    err = capsys.readouterr().err
    assert f"port {port} for predictions is taken by" in err
    assert "try: --port " in err


def test_a_project_that_is_not_served(project, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = (project / "kaizen.toml").read_text(encoding="utf-8")
    (project / "kaizen.toml").write_text(text.replace("port = 8080", f"port = {port}"), encoding="utf-8")
    assert run(["predict", "wine", json.dumps(ROW)]) == 1
    (project / "kaizen.toml").write_text(text, encoding="utf-8")
    err = capsys.readouterr().err
    assert f"wine is not served now: nothing answers at http://127.0.0.1:{port}" in err
    assert "try: kaizen up" in err


# -- a full disk: files that may not grow (the system says so in another word than for a disk, at the same places)


def with_room(kilobytes: int | None, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        if kilobytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    environ = {**os.environ, "TMPDIR": str(folder)}
    command = [sys.executable, "-B", "-m", "kaizenml.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, preexec_fn=limited, timeout=100, check=False)


def check_said(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: the disk is full" in done.stderr or "may not grow any more" in done.stderr, done.stderr
    assert "try: free some space" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [0, 2, 40])
def test_no_room_for_a_project(tmp_path, kilobytes):
    (tmp_path / "wine.csv").write_text(TEXT, encoding="utf-8")
    before = tree(tmp_path)
    check_said(with_room(kilobytes, tmp_path, "init", "wine", "--data", "wine.csv", "--target", "target"))
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_room_for_a_project_and_none_for_its_catalog(tmp_path):
    (tmp_path / "wine.csv").write_text(TEXT, encoding="utf-8")
    done = with_room(None, tmp_path, "init", "wine", "--data", "wine.csv", "--target", "target")
    assert done.returncode == 0, done.stderr
    check_said(with_room(40, tmp_path, "train", "--project", "wine"))
    assert not [name for name in tree(tmp_path) if "error-" in name or ".new" in name]


# -- requests


@pytest.fixture(scope="module")
def served(made) -> Iterator[tuple[Path, str]]:
    """A release of wine behind a real server."""
    from kaizenml.data import operations as data
    from kaizenml.registry import operations as registry
    from kaizenml.releases import operations as releases
    from kaizenml.rollouts import operations as rollouts
    from kaizenml.training import operations as training

    ctx = open_project(made)
    data.add(ctx, "wine", str(made / "data" / "wine.csv"), mode="replace")
    model = registry.register(ctx, training.train(ctx, budget="2s").id, name="wine")
    release = releases.create(ctx, model.ref, skip=["load"], why="the load is not what is tested")
    rollouts.deploy(ctx, "wine", release.ref)
    command = [sys.executable, "-m", "kaizenml.serving", "--state", str(ctx.state), "--host", "127.0.0.1", "--port", "0", "--workers", "1"]
    ctx.catalog.close()
    ctx.online.close()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield made, f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.terminate()
            process.wait(20)


def changed(**more: Any) -> str:
    return json.dumps({**ROW, **more})


REQUESTS: dict[str, tuple[str, str, int, list[str], str]] = {
    # endpoint, row, exit code, what is said, what to try
    "an endpoint that does not exist": ("wne", changed(), 1, ["'wne'", "did you mean 'wine'?"], "kaizen status"),
    "a wrong type": ("wine", changed(alcohol="wide"), 1, ["inputs[0].alcohol", "'wide' is not a number"], "send a number, or null"),
    "a truth value for a number": ("wine", changed(alcohol=True), 1, ["inputs[0].alcohol", "is not a number"], "send a number"),
    "a missing column": ("wine", json.dumps({k: v for k, v in ROW.items() if k != "hue"}), 1, ["inputs[0].hue is absent"], "send 'hue', as null"),
    "an extra column": ("wine", changed(colour=1), 1, ["inputs[0].colour is not an input"], "leave it out"),
    "a slip in a column": ("wine", changed().replace('"hue"', '"heu"'), 1, ["inputs[0].hue is absent", "'heu'"], "send 'hue'"),
    "NaN": ("wine", changed(alcohol=float("nan")), 2, ["the row holds NaN"], "write null"),
    "Infinity": ("wine", changed(alcohol=float("-inf")), 2, ["the row holds -Infinity"], "write null"),
    "beyond a double": ("wine", changed().replace("14.23", "1e999"), 2, ["beyond what a double can hold"], "write null"),
    "no JSON": ("wine", "{alcohol: 14}", 2, ["the row is not JSON", "{alcohol: 14}"], "quote it for the shell"),
    "no row": ("wine", "[]", 2, ["'[]' holds no row"], '{"column": 1}'),
    "a file that is not there": ("wine", "@rows.json", 1, ["there is no file 'rows.json'"], "@FILE"),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_a_prediction_that_cannot_be_made(served, capsys, case):
    endpoint, row, code, says, remedy = REQUESTS[case]
    project, url = served
    assert run(["predict", endpoint, row, "--url", url, "--project", str(project)]) == code
    out, err = capsys.readouterr()
    what, _mark, to_try = err.partition("\n  try: ")
    assert (out, what[:7]) == ("", "error: "), err
    for part in says:
        assert part in what, err
    assert remedy in to_try, err


BODIES: dict[str, tuple[str, bytes, int, str]] = {
    "10 MB": ("/predict/wine", b" " * 10_000_000, 413, "10,000,000 bytes or more; the limit is 8,000,000"),
    "NaN": ("/predict/wine", json.dumps({"inputs": [{**ROW, "hue": float("nan")}]}).encode(), 422, "NaN, which is not JSON"),
    "Infinity": ("/predict/wine", json.dumps({"inputs": [{**ROW, "hue": float("inf")}]}).encode(), 422, "Infinity, which is not JSON"),
    "no such endpoint": ("/predict/vine", b"{}", 404, "did you mean 'wine'?"),
    "outcomes for no such endpoint": ("/outcomes/vine", b'{"outcomes": [{"id": "x", "value": 1}]}', 404, "did you mean 'wine'?"),
    "an outcome that is no class": ("/outcomes/wine", b'{"outcomes": [{"id": "x", "value": "port"}]}', 422, "none of the classes"),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_request_that_cannot_be_answered(served, case):
    path, body, status, says = BODIES[case]
    connection = http.client.HTTPConnection(urlsplit(served[1]).netloc, timeout=20)
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    document = json.loads(answer.read())["error"]
    connection.close()
    assert answer.status == status
    assert says in document["message"]
    assert document["remedy"]


@pytest.mark.slow
def test_what_was_refused_is_in_no_journal(served, capsys):
    project, url = served
    journal = project / ".kaizen" / "journal"
    before = tree(journal)
    assert run(["predict", "wine", changed(alcohol="wide"), "--url", url, "--project", str(project)]) == 1
    assert tree(journal) == before
    assert run(["predict", "wine", changed(), "--url", url, "--project", str(project), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["decided_by"] == "model"
    assert tree(journal) != before
