"""``kaizen up``: from a table to answers, found again by the other commands, stopped whole."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from made_once import made_once

pytestmark = pytest.mark.slow


@pytest.fixture
def project(kaizen, cancer, tmp_path, tmp_path_factory) -> Path:
    """A new project whose gates forgive a busy machine."""

    def make(folder: Path) -> None:
        done = kaizen("init", "ward", "--data", str(cancer), "--target", "target", cwd=folder)
        assert done.code == 0, done.err
        path = folder / "ward" / "kaizen.toml"
        calm = path.read_text().replace("rate = 200.0", "load_seconds = 0.5\nrate = 20.0").replace("p99_ms = 50.0", "p99_ms = 5000.0")
        path.write_text(calm, encoding="utf-8")

    return shutil.copytree(made_once(tmp_path_factory, "ward-new", make) / "ward", tmp_path / "ward")


@pytest.fixture
def deployed(kaizen, project, tmp_path, tmp_path_factory) -> Path:
    """The same with a release that serves."""

    def make(folder: Path) -> None:
        ward = shutil.copytree(project, folder / "ward")
        for done in (kaizen("train", "--budget", "2s", cwd=ward), kaizen("deploy", cwd=ward)):
            assert done.code == 0, done.err

    made = made_once(tmp_path_factory, "ward-deployed", make) / "ward"
    shutil.rmtree(project)
    return shutil.copytree(made, project)


@contextmanager
def up(project: Path, *more: str):
    """Run ``kaizen up --json`` and yield (process, its document)."""
    command = [sys.executable, "-m", "kaizenml.cli", "up", "--json", "--port", "0", "--console-port", "0", "--budget", "2s", *more]
    with (
        (project / "up.err").open("w") as errors,
        subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                process.kill()


def children(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(folder.name))
        except (OSError, IndexError):
            continue
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_three_commands_lead_from_a_table_to_answers(kaizen, project):
    header, first = (project / "data" / "cancer.csv").read_text().splitlines()[:2]
    row = {name: float(value) for name, value in zip(header.split(","), first.split(","), strict=True) if name != "target"}
    with up(project) as (process, document):
        assert "error" not in document, document
        assert document["release"] == "ward@1"
        done = kaizen("predict", "ward", json.dumps(row), "--json", cwd=project)
        assert done.code == 0, done.out + done.err
        answer = done.document
        assert answer["predictions"][0]["decided_by"] == "model"
        assert answer["release"] == "ward@1"
        missing = kaizen("predict", "ward", json.dumps({**row, "mean radius": "wide"}), cwd=project)
        assert missing.code == 1
        assert "mean radius" in missing.err
        status = kaizen("status", "--json", cwd=project).document
        assert status["served"]["ready"]
        now = status["endpoints"][0]  # who has just asked is not told that nobody did, whether the loop has looked yet or not
        assert (now["live"]["answered"] if now["live"] else now["unwatched"]) == 1
        assert "live     1 prediction, no" in kaizen("status", cwd=project).out
        assert [(e["endpoint"], e["champion"]) for e in status["endpoints"]] == [("ward", "ward@1")]
        assert kaizen("kill", "--why", "drill", cwd=project).code == 0
        time.sleep(1)
        killed = kaizen("predict", "ward", json.dumps(row), "--json", cwd=project).document
        assert killed["predictions"][0]["decided_by"] == "kill"
        assert kaizen("status", "--check", cwd=project).code == 4
        assert kaizen("revive", "ward", cwd=project).code == 0
        parts = children(process.pid)
        assert len(parts) == 3
        os.kill(next(p for p in parts if b"kaizenml.serving" in Path(f"/proc/{p}/cmdline").read_bytes()), signal.SIGKILL)
        deadline = time.perf_counter() + 60
        while len(children(process.pid)) < 3 or kaizen("predict", "ward", json.dumps(row), cwd=project).code:
            assert time.perf_counter() < deadline, "a killed server was not started again"
        parts = children(process.pid)
    assert process.returncode == 0, (project / "up.err").read_text()
    assert not [pid for pid in parts if alive(pid)]
    assert kaizen("status", "--json", cwd=project).document["served"] is None
    started = time.perf_counter()
    with up(project, "--no-loop") as (_process, document):  # the release is there: nothing is trained again
        assert (document["release"], document["loop"]) == ("ward@1", None)
        print(f"second start: {time.perf_counter() - started:.1f} s")
    verified = kaizen("audit", "verify", "--json", cwd=project)
    assert verified.document["events"] > 5


def test_a_taken_port_is_told_before_any_training(kaizen, project):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for option in ("--port", "--console-port"):
            arguments = {"--port": "0", "--console-port": "0"} | {option: port}
            done = kaizen("up", *[word for pair in arguments.items() for word in pair], cwd=project)
            assert done.code == 1
            assert f"port {port}" in done.err
            assert f"(pid {os.getpid()})" in done.err
            assert f"try: {option} " in done.err
    assert kaizen("training", "list", "--json", cwd=project).document == []


def test_a_killed_up_leaves_no_server_behind(kaizen, deployed):
    with up(deployed) as (process, document):
        assert "error" not in document, document
        parts = children(process.pid)
        process.kill()
        process.wait()
        deadline = time.perf_counter() + 20
        while any(alive(pid) for pid in parts):
            assert time.perf_counter() < deadline
            time.sleep(0.1)
    assert kaizen("status", "--json", cwd=deployed).document["served"] is None


def test_training_again_on_the_same_rows_is_not_held_against_a_champion_that_remembers_them(kaizen, deployed):
    again = kaizen("train", "--budget", "2s", "--json", cwd=deployed)
    assert again.code == 0, again.out
    gate = next(gate for gate in again.document["release"]["gates"] if gate["name"] == "champion")
    assert gate["summary"].startswith("skipped")


def test_after_a_refusal_by_load_only_the_load_is_measured_again(kaizen, project):
    path = project / "kaizen.toml"
    calm = path.read_text(encoding="utf-8")
    path.write_text(calm.replace("p99_ms = 5000.0", "p99_ms = 0.01"), encoding="utf-8")
    refused = kaizen("up", "--port", "0", "--console-port", "0", "--budget", "2s", cwd=project)
    assert refused.code == 3
    assert "only the load is measured again" in refused.err
    path.write_text(calm, encoding="utf-8")
    with up(project, "--no-loop") as (_process, document):
        assert document["release"] == "ward@2"
    assert len(kaizen("training", "list", "--json", cwd=project).document) == 1


def test_one_takes_the_place_of_another_and_no_request_is_refused(deployed):
    names = (deployed / "data" / "cancer.csv").read_text(encoding="utf-8").partition("\n")[0].strip().split(",")
    body = json.dumps({"inputs": [{name: 1.0 for name in names if name != "target"}]})
    wrong: list[object] = []
    answered, done = {"kept": 0, "new": 0}, threading.Event()

    def ask(port: int, which: str) -> None:
        """Ask on one connection for as long as the server keeps it, or on a new one each time."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while not done.is_set():
            try:
                kept = {} if which == "kept" else {"connection": "close"}
                connection.request("POST", "/predict/ward", body, {"content-type": "application/json", **kept})
                answer = connection.getresponse()
                decided = json.loads(answer.read())["predictions"][0]["decided_by"]
                assert (answer.status, decided) == (200, "model")
                answered[which] += 1
            except Exception as error:
                wrong.append(error)
                connection.close()
            done.wait(0.01)
        connection.close()

    with up(deployed, "--no-loop") as (first, document):
        port = int(document["predict"].split(":")[2].partition("/")[0])
        asking = [threading.Thread(target=ask, args=(port, which)) for which in answered]
        for thread in asking:
            thread.start()
        try:
            with up(deployed, "--no-loop", "--replace", "--port", str(port)) as (second, taken):
                assert first.wait(20) == 0
                before = dict(answered)
                assert taken["predict"] == document["predict"]
                assert json.loads((deployed / ".kaizen" / "serving" / "address.json").read_bytes())["pid"] == second.pid
                deadline = time.perf_counter() + 20
                while any(answered[which] < before[which] + 20 for which in answered):
                    assert time.perf_counter() < deadline
                    time.sleep(0.05)
                done.set()
                for thread in asking:
                    thread.join()
        finally:
            done.set()
    assert wrong == []
    assert min(before.values()) > 20
