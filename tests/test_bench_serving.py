"""The parts of ``./x bench serving`` do what its rows rest on: wrong answers are refused, all processes are counted, failures become rows."""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return what imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCH))
    return __import__


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """Answer every request on every connection with these bytes, one piece after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection:
                while connection.recv(1 << 16):
                    for piece in answers:
                        connection.sendall(piece)
                        time.sleep(0.001)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def read(document: Any) -> tuple[str, list[float]]:
    return "bench@1", document["predictions"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"predictions": [0.1, 0.2]}, None),
        ({"predictions": [0.1, 0.2000005]}, None),
        ({"predictions": [0.1, 0.200002]}, "0.200002 instead of 0.2 for row 1"),
        ({"predictions": [0.2, 0.1]}, "0.2 instead of 0.1 for row 0"),
        ({"predictions": [0.1]}, "1 predictions instead of 2"),
        ({"predictions": [0.1, float("nan")]}, "nan instead of 0.2 for row 1"),
        ({"predictions": [0.1, None]}, "it cannot be read: TypeError"),
        ({"error": "no"}, "it cannot be read: KeyError('predictions')"),
    ],
)
def test_an_answer_that_is_not_the_models_is_told(load: Callable[[str], ModuleType], answer: Any, problem: str | None) -> None:
    told = load("_subjects").difference(read, answer, {"bench@1": [0.1, 0.2]})
    assert told == problem if problem is None else told.startswith(problem)


def test_an_answer_is_held_against_the_release_that_gave_it(load: Callable[[str], ModuleType]) -> None:
    subjects = load("_subjects")
    said = {"release": "bench@2", "predictions": [{"probabilities": [0.7, 0.3], "decided_by": "model"}]}
    assert subjects.difference(subjects.read_ours, said, {"bench@1": [0.9], "bench@2": [0.3]}) is None
    assert subjects.difference(subjects.read_ours, said, {"bench@1": [0.3], "bench@2": [0.9]}) == "0.3 instead of 0.9 for row 0"
    said["predictions"][0]["decided_by"] = "fallback"  # not the model's: it counts as none
    assert subjects.difference(subjects.read_ours, said, {"bench@2": [0.3]}) == "0 predictions instead of 1"


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[1]",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[", b"1]"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n", b"2\r\n1]\r\n0\r\n\r\n"),
    ],
)
def test_the_client_counts_whole_answers_however_they_come(load: Callable[[str], ModuleType], pieces: tuple[bytes, ...]) -> None:
    client = load("_load")
    with answering(*pieces) as port:
        assert client.once(port, client.request("/", {})) == [1]
        done = client.ask(port, [client.request("/", {})], 0.1, connections=3)
    assert done.answered == len(done.latencies) >= 3
    assert done.seconds >= 0.1
    assert 0 < done.latency(0.5) <= done.latency(0.99) <= done.latencies[-1]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno", b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[1]"])
def test_the_client_takes_nothing_else_for_an_answer(load: Callable[[str], ModuleType], answer: bytes) -> None:
    client = load("_load")
    with answering(answer) as port, pytest.raises(client.Refused, match=r"503 Busy|without a length"):
        client.ask(port, [client.request("/", {})], 0.1, connections=1)


def test_time_and_memory_of_all_of_a_servers_processes_count_and_none_is_left(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    servers = load("_servers")
    done = tmp_path / "done"
    burn = "import os, time\nif os.fork() == 0:\n os.setsid()\n while time.process_time() < 0.3: pass\n"
    burn += f" open({str(done)!r}, 'w').close()\ntime.sleep(60)"
    command = servers.Command([sys.executable, "-c", burn])

    def unanswered(_port: int) -> str | None:
        return None if done.exists() else "it burns"

    with servers.started(command, 1, unanswered, tmp_path / "log") as server:
        family = servers.family(server.pid, server.mark)
        assert len(family) == 2
        assert server.cpu() > 0.25  # counted in hundredths
        assert server.memory() > 1
    assert servers.family(server.pid, server.mark) == []


def test_a_server_that_ends_at_once_is_told_with_its_last_words(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    servers = load("_servers")
    command = servers.Command([sys.executable, "-c", "raise SystemExit('there is no model')"])
    with (
        pytest.raises(servers.Failed, match="it ended with 1: there is no model"),
        servers.started(command, 1, lambda _port: "nobody listens", tmp_path / "log"),
    ):
        pass
    with (
        pytest.raises(servers.Failed, match="does not start: No such file"),
        servers.started(servers.Command([str(tmp_path / "absent")]), 1, lambda _port: None, tmp_path / "log"),
    ):
        pass


def test_a_peer_that_cannot_be_installed_says_why(load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("_peers")
    monkeypatch.setattr(peers, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(peers, "ROOT", tmp_path)  # no uv is kept there
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(peers.Failed, match="there is no uv"):
        peers.environment(peers.USERS)


def test_the_rate_of_a_slower_server_has_a_ratio_above_one(load: Callable[[str], ModuleType]) -> None:
    rows = load("_rows").summed_up([[("1 row, answered", "kaizenml", "1/s", 400.0), ("1 row, answered", "other", "1/s", 100.0)]])
    assert [row["ratio"] for row in rows] == [1.0, 4.0]


@pytest.mark.slow
def test_ours_beside_a_peer_that_lies_and_one_that_does_not_start(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    serving, subjects, servers = load("serving"), load("_subjects"), load("_servers")
    model, made = serving._prepare(tmp_path, {})
    us = made[0]
    liar = us._replace(name="liar", read=lambda document: (document["release"], [1 - chance for chance in us.read(document)[1]]))
    absent = us._replace(name="absent", command=lambda _folder, _port: servers.Command([sys.executable, "-c", "raise SystemExit('no')"]))
    failed: dict[str, str] = {}
    runs = serving.measure(tmp_path, model, [*made, liar, absent], 2, 0.1, failed)
    assert list(failed) == ["liar", "absent"]
    assert failed["liar"].startswith("wrong answer to 1 row, request 0: ")
    assert failed["absent"] == "it ended with 1: no"
    rows = load("_rows").summed_up([run + serving._over_ours(run) for run in runs])
    assert {row["subject"] for row in rows} == {us.name, subjects.BOTH_ARMS}
    assert {(row["case"], row["unit"]) for row in rows} == {
        *((f"{size}, {what}", unit) for size in ("1 row", "100 rows") for what, unit in
          (("CPU", "us"), ("CPU over ours", "x"), ("answered", "1/s"), ("p50", "ms"), ("p99", "ms"))),
        ("memory", "MB"), ("start to first answer", "s"),
    }  # fmt: skip
    assert all(row["value"] > 0 and row["runs"] == 2 for row in rows)
    table = serving.side_by_side(rows)
    assert table.count(f"| {us.name} |") == table.count(f"| {subjects.BOTH_ARMS} |") == 2
    assert json.dumps(serving._absent("absent", failed["absent"])).startswith('{"case": "not measured", "subject": "absent", "value": null')


def test_its_options_name_the_peers(load: Callable[[str], ModuleType]) -> None:
    parser = argparse.ArgumentParser()
    load("serving")._more(parser)
    assert parser.parse_args(["--only", "mlflow", "ray"]).only == ["mlflow", "ray"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--only", "mlflwo"])


def test_a_benchmark_that_is_terminated_takes_its_servers_along(tmp_path: Path) -> None:
    sleeper = f"_servers.Command([{sys.executable!r}, '-c', 'import time; time.sleep(60)'])"
    program = f"import sys, time; sys.path.insert(0, {str(BENCH)!r}); import pathlib, _servers; _servers.end_with_us()\n"
    program += f"with _servers.started({sleeper}, 1, lambda port: None, pathlib.Path({str(tmp_path / 'log')!r})) as server:\n"
    program += " print(server.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.terminate()
        assert process.wait(20) == 143
    assert not Path(f"/proc/{pid}").exists()
