"""Processes of serving: killed, ended, orphaned; what was answered is never lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import msgspec
import pytest
import serving_bundles as bundles

from kaizenml.errors import Unavailable
from kaizenml.serving.client import Client
from kaizenml.serving.journaling import predictions
from kaizenml.serving.journaling.drain import drain

GOOD = bundles.GOOD


def _workers(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


class Asker(threading.Thread):
    """Asks without pause and writes down every id that was answered."""

    def __init__(self, url: str, rows: int = 1) -> None:
        super().__init__()
        self.url, self.rows = url, rows
        self.answered: list[str] = []
        self.broken = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        with Client(self.url, timeout_s=5) as client:
            while not self.stopped.is_set():
                try:
                    self.answered += [said["id"] for said in client.predict("shop", [GOOD] * self.rows)["predictions"]]
                except Unavailable:
                    self.broken += 1
                    time.sleep(0.02)


def _deploy(ctx):
    state = ctx.state
    second = msgspec.structs.replace(bundles.write_bundle(state, number=2, seed=1), arm="shadow")
    bundles.route(state, bundles.write_bundle(state), shadows=[second])
    return state


@pytest.mark.slow
def test_workers_killed_under_load_are_replaced_and_no_answered_prediction_is_lost(ctx):
    state = _deploy(ctx)
    with bundles.served("--state", str(state), "--workers", "2", log=state / "log") as (process, url):
        askers = [Asker(url), Asker(url, rows=7)]
        for asker in askers:
            asker.start()
        killed = []
        for _ in range(3):
            time.sleep(0.5)
            (victim, *_) = (pid for pid in _workers(process.pid) if pid not in killed)
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)
            drain(ctx)
        time.sleep(0.7)
        before = sum(len(asker.answered) for asker in askers)
        time.sleep(0.3)
        for asker in askers:
            asker.stopped.set()
            asker.join()
        answered = [identity for asker in askers for identity in asker.answered]
        assert len(answered) > before  # served again after the last kill
        assert len(set(_workers(process.pid)) - set(killed)) == 2
        with Client(url) as client:
            lines = client.request("GET", "/openapi.json")["paths"]
        assert "/predict/shop" in lines
    drain(ctx)
    found = predictions.read(ctx, "shop", columns=["id", "role"])
    live = [row["id"] for row in found.to_pylist() if row["role"] == "live"]
    assert len(live) == len(set(live))
    assert set(answered) <= set(live)
    assert len(live) - len(answered) <= sum(asker.rows for asker in askers) * (len(killed) + 1)  # at most what was in flight


@pytest.mark.slow
def test_the_whole_server_killed_loses_nothing_and_leaves_no_worker(ctx):
    state = _deploy(ctx)
    process = bundles.start("--state", str(state), log=state / "log")
    asker = Asker(bundles.address(process))
    asker.start()
    time.sleep(0.5)
    workers = _workers(process.pid)
    process.kill()
    process.communicate()
    asker.stopped.set()
    asker.join()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its supervisor"
        time.sleep(0.05)
    drain(ctx)
    assert asker.answered
    assert set(asker.answered) <= set(predictions.read(ctx, "shop", columns=["id"])["id"].to_pylist())


def _sockets(pid: int) -> int:
    handles = Path(f"/proc/{pid}/fd").iterdir()
    return sum(os.readlink(handle).startswith("socket:") for handle in handles if handle.is_symlink())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads connections over sockets of one port")
def test_newcomers_are_spread_over_the_workers_and_where_theirs_is_killed_the_next_one_answers(ctx):
    state = _deploy(ctx)
    with bundles.served("--state", str(state), "--workers", "2", log=state / "log") as (process, url), contextlib.ExitStack() as stack:
        workers = _workers(process.pid)
        had = [_sockets(pid) for pid in workers]
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        for _ in range(128):
            stack.enter_context(socket.create_connection(address))
        deadline = time.monotonic() + 10
        while sum(more := [_sockets(pid) - before for pid, before in zip(workers, had, strict=True)]) < 128:
            assert time.monotonic() < deadline, f"{sum(more)} of 128 connections were taken"
            time.sleep(0.02)
        assert min(more) > 32  # an even share is 64 ± 6
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        waiting = [stack.enter_context(socket.create_connection(address, timeout=15)) for _ in range(16)]
        for connection in waiting:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        assert [connection.recv(12) for connection in waiting] == [b"HTTP/1.1 200"] * 16


@pytest.mark.slow
def test_ending_answers_what_is_in_flight_and_runs_the_shadows(ctx):
    state = _deploy(ctx)
    process = bundles.start("--state", str(state), log=state / "log")
    asker = Asker(bundles.address(process), rows=500)
    asker.start()
    time.sleep(0.4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    asker.stopped.set()
    asker.join()
    process.communicate()
    drain(ctx)
    table = predictions.read(ctx, "shop", columns=["id", "role"]).to_pylist()
    live = {row["id"] for row in table if row["role"] == "live"}
    assert live == set(asker.answered)  # nothing journaled without its answer: the last request was answered, not cut
    assert live == {row["id"] for row in table if row["role"] == "shadow"}
    assert not list((state / "journal").glob("*.journal"))


@pytest.mark.slow
@pytest.mark.parametrize("fsync", ["tick", "request"])
def test_the_disk_itself_can_be_waited_for(ctx, fsync):
    state = _deploy(ctx)
    with bundles.served("--state", str(state), env={"KAIZEN_SERVE_FSYNC": fsync}, log=state / "log") as (_, url), Client(url) as client:
        assert client.predict("shop", [GOOD])["predictions"]
    drain(ctx)
    assert predictions.read(ctx, "shop", role="live").num_rows == 1


@pytest.mark.slow
def _counted(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


@pytest.mark.slow
def test_counters_are_summed_over_workers_and_another_server_of_the_project_counts_for_itself(ctx):
    state = _deploy(ctx)
    by_model = 'kaizen_predictions_total{endpoint="shop",release="shop@1",arm="champion",decided_by="model"}'
    with bundles.served("--state", str(state), "--workers", "2", log=state / "log") as (_, url):
        for _ in range(12):
            with Client(url) as client:
                client.predict("shop", [GOOD])
        with bundles.served("--state", str(state), log=state / "log") as (_, other), Client(other) as client:
            client.predict("shop", [GOOD])
            assert [_counted(other)[name] for name in (by_model, "kaizen_workers")] == [1, 1]
        counted = _counted(url)
    assert [counted[name] for name in (by_model, "kaizen_workers")] == [12, 2]
    assert counted['kaizen_predict_seconds_count{endpoint="shop",release="shop@1"}'] == 12
