"""init, up, predict, outcomes, status on two real tables, with real processes and the gates as they come."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest
from sklearn.datasets import load_diabetes, load_wine

from kaizenml.serving.client import Client

pytestmark = pytest.mark.slow


def wine(folder: Path) -> Path:
    found = load_wine(as_frame=True)
    table = found.frame.assign(target=found.frame["target"].map(lambda place: str(found.target_names[place])))
    table.to_parquet(folder / "wine.parquet")
    return folder / "wine.parquet"


def diabetes(folder: Path) -> Path:
    load_diabetes(as_frame=True).frame.to_csv(folder / "diabetes.csv", index=False)
    return folder / "diabetes.csv"


def rows_of(path: Path) -> list[dict[str, object]]:
    table = pyarrow.parquet.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    return table.to_pylist()


@pytest.mark.parametrize(("make", "task", "metric"), [(wine, "multiclass", "log_loss"), (diabetes, "regression", "rmse")])
def test_from_a_table_to_live_accuracy(kaizen, tmp_path, make, task, metric):
    path = make(tmp_path)
    asked = rows_of(path)[::7]
    truths = [row.pop("target") for row in asked]
    done = kaizen("init", "mine", "--data", path.name, "--target", "target", "--json")
    assert (done.code, done.document["task"]) == (0, task), done.err
    folder = tmp_path / "mine"
    started = time.perf_counter()
    command = [sys.executable, "-m", "kaizenml.cli", "up", "--json", "--port", "0", "--console-port", "0"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("KAIZEN_", "GIT_"))} | {"KAIZEN_LOOP_EVERY": "4s"}
    with (
        (folder / "up.err").open("w") as errors,
        subprocess.Popen(command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            document = json.loads(process.stdout.readline())
            print(f"up after {time.perf_counter() - started:.1f} s")
            assert document.get("release") == "mine@1", (document, (folder / "up.err").read_text())
            again = kaizen("up", "--port", "0", "--console-port", "0", cwd=folder)  # one for a project
            assert (again.code, "served already" in again.err) == (1, True), again.err
            answer = kaizen("predict", "mine", json.dumps(asked), "--json", cwd=folder)
            assert answer.code == 0, answer.out
            said = answer.document["predictions"]
            assert [each["decided_by"] for each in said] == ["model"] * len(asked)
            told = kaizen("predict", json.dumps(asked[0]), cwd=folder)
            assert told.code == 0, told.err
            assert "by model" in told.out
            with Client(document["outcomes"].rpartition("/outcomes/")[0]) as client:
                taken = client.outcomes("mine", [{"id": each["id"], "value": truth} for each, truth in zip(said, truths, strict=True)])
            assert (taken["accepted"], taken["unknown"]) == (len(asked), 0)
            deadline = time.perf_counter() + 150  # the loop looks every four seconds
            live = None
            while (live and (live["rows"], live["answered"])) != (len(asked), len(asked) + 1):
                assert time.perf_counter() < deadline, (live, (folder / ".kaizen" / "logs" / "loop.log").read_text())
                time.sleep(2)
                live = kaizen("status", "--json", cwd=folder).document["endpoints"][0]["live"]
            estimate = live["metrics"][metric]
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
            assert estimate["value"] < live["naive"]["value"]  # it has seen these rows
            status = kaizen("status", cwd=folder)
            assert status.code == 0
            assert f"on {len(asked)} outcomes of {len(asked) + 1} predictions" in status.out
            trace = kaizen("serving", "trace", said[0]["id"], "--json", cwd=folder).document
            assert (trace["release"], trace["outcome"]) == ("mine@1", truths[0])
            assert kaizen("audit", "verify", cwd=folder).code == 0
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                process.kill()
    assert process.returncode == 0, (folder / "up.err").read_text()
    assert kaizen("status", "--json", cwd=folder).document["served"] is None
