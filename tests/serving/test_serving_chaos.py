"""What goes on when the disk fills up, the catalog is away, files are damaged, the clock jumps and everything is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec
import pytest
import serving_bundles as bundles
from in_process import running

from kaizenml.catalog import Catalog
from kaizenml.clock import SimulatedClock, SystemClock
from kaizenml.errors import KaizenError, StorageFull, Unavailable
from kaizenml.project import open_project
from kaizenml.rollouts import publishing, snapshot
from kaizenml.rollouts.snapshot import EndpointRoute, Snapshot
from kaizenml.serving.client import Client
from kaizenml.serving.journaling import predictions
from kaizenml.serving.journaling.drain import drain

GOOD = bundles.GOOD


def _children(parent: int) -> list[int]:
    return [int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()]


def _ready(url: str) -> tuple[bool, dict[str, Any]]:
    try:
        with urlopen(f"{url}/health/ready", timeout=5) as answer:
            return True, msgspec.json.decode(answer.read())
    except HTTPError as error:
        return False, msgspec.json.decode(error.read())


def _until(said, seconds: float = 20.0):
    deadline = time.monotonic() + seconds
    while not (found := said()):
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)
    return found


def _metric(url: str, name: str) -> float:
    with urlopen(f"{url}/metrics", timeout=5) as answer:
        return sum(float(line.rsplit(" ", 1)[1]) for line in answer.read().decode().splitlines() if line.startswith(name))


def _write(state: Path, *routes, revision: int, **more) -> None:
    """Write the snapshot as publishing does, with its time."""
    endpoint = EndpointRoute(endpoint="shop", revision=revision, arms=list(routes), **more)
    document = Snapshot(revision=revision, written_at=SystemClock().timestamp(), endpoints={"shop": endpoint})
    snapshot.write(state / "serving" / snapshot.FILE, document)


@contextlib.contextmanager
def _no_room(pid: int):
    """No file of the process may grow beyond what a few records need, as on a full disk."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def _journaled(ctx) -> set[str]:
    drain(ctx)
    found = predictions.read(ctx, "shop", columns=["id"])["id"].to_pylist()
    assert len(found) == len(set(found))
    return set(found)


def test_on_a_full_disk_requests_are_refused_until_there_is_room_again(ctx):
    bundles.route(ctx.state, bundles.write_bundle(ctx.state))
    with bundles.served("--state", str(ctx.state), log=ctx.state / "log") as (process, url), Client(url) as client:
        (worker,) = _children(process.pid)
        answered = {client.predict("shop", [GOOD])["predictions"][0]["id"]}
        with _no_room(worker):
            with pytest.raises(StorageFull, match="not answered"):
                client.predict("shop", [GOOD] * 500)
            ready, document = _ready(url)
            assert not ready
            assert "full" in document["journal"]["trouble"]
            assert document["problems"]
        assert _until(lambda: _ready(url)[0])  # nobody has to ask for it to find out
        answered.add(client.predict("shop", [GOOD])["predictions"][0]["id"])
    assert _journaled(ctx) == answered


@pytest.mark.slow
def test_on_a_full_disk_answers_go_on_where_that_is_wanted_and_say_that_they_have_no_record(ctx):
    bundles.route(ctx.state, bundles.write_bundle(ctx.state))
    with bundles.served("--state", str(ctx.state), env={"KAIZEN_SERVE_JOURNAL_FULL": "answer"}, log=ctx.state / "log") as (process, url):
        (worker,) = _children(process.pid)
        kept = set()
        with Client(url) as client:
            kept |= {said["id"] for said in client.predict("shop", [GOOD])["predictions"]}
            with _no_room(worker):
                answer = client.predict("shop", [GOOD] * 500)
                assert answer["journaled"] is False
                assert len(answer["predictions"]) == 500
                ready, document = _ready(url)
                assert ready
                assert document["journal"]["left_out"] == 1
                assert "full" in document["problems"][0]
                assert _metric(url, "kaizen_unjournaled_total") == 1
                body = msgspec.json.encode({"dataframe_records": [GOOD] * 500})
                with urlopen(Request(f"{url}/invocations", body, {"content-type": "application/json"})) as said:
                    assert said.headers["x-kaizen-journaled"] == "false"
                    said.read()
            answer = client.predict("shop", [GOOD] * 500)
            assert "journaled" not in answer
            kept |= {said["id"] for said in answer["predictions"]}
            assert _ready(url)[1]["problems"] == []
    assert _journaled(ctx) == kept


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["gone", "cut", "rubbish", "newer"])
def test_without_catalog_settings_and_snapshot_workers_go_on_and_a_new_one_starts_from_the_copy(ctx, damage):
    _write(ctx.state, bundles.write_bundle(ctx.state), revision=7)
    path = ctx.state / "serving" / snapshot.FILE
    with bundles.served("--state", str(ctx.state), log=ctx.state / "log") as (process, url), Client(url) as client:
        assert _ready(url)[1]["snapshot"]["from_copy"] is False
        for file in ctx.state.glob("catalog*"):
            file.unlink()
        (away,) = _until(lambda: _ready(url)[1]["problems"])
        assert "catalog.db is gone; the last snapshot stays in force (revision 7, written" in away
        with pytest.raises(Unavailable, match=r"the catalog .* is gone, and servers follow"):
            open_project(ctx.root)
        (ctx.state.parent / "kaizen.toml").write_text("[serve\nnonsense")  # somebody edits it just now
        whole = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            harm = {"cut": whole[:-40], "rubbish": b"\xff\x00" * 100, "newer": whole.replace(b'"format":1', b'"format":9')}
            path.write_bytes(harm[damage])
        _until(lambda: _ready(url)[1]["problems"][0].startswith("the routing snapshot"))
        ready, document = _ready(url)
        assert ready
        assert "the last one stays in force (revision 7, written" in document["problems"][0]
        assert client.predict("shop", [GOOD])["release"] == "shop@1"
        (worker,) = _children(process.pid)
        os.kill(worker, signal.SIGKILL)
        _until(lambda: _children(process.pid) not in ([], [worker]))
        ready, document = _ready(url)
        assert ready
        assert "its copy is in force (revision 7, written" in document["problems"][0]
        assert document["snapshot"]["from_copy"] is True
        assert 0 <= document["snapshot"]["age_s"] < 60
        with Client(url) as other:
            assert other.predict("shop", [GOOD])["release"] == "shop@1"
        _write(ctx.state, bundles.write_bundle(ctx.state, number=2), revision=8)  # mended
        _until(lambda: _ready(url)[1]["revision"] == 8)
        assert _ready(url)[1]["problems"] == []


def test_what_the_loop_finds_of_a_catalog_elsewhere_is_told_by_the_workers(ctx):
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'kaizenml[postgres]'")
    _write(ctx.state, bundles.write_bundle(ctx.state), revision=7)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    elsewhere = dataclasses.replace(ctx, catalog=Catalog(f"postgresql://nobody@127.0.0.1:{port}/shop"))
    with running(ctx.state) as ask:
        for where, there in ((elsewhere, False), (ctx, True)):
            publishing.tell_of_catalog(where)
            ask.app.watcher._look_for_catalog()
            answer = ask("GET", "/health/ready")
            assert answer.status == 200
            problems = answer.document["problems"]
            assert problems == [] if there else "the catalog is away: the catalog does not answer" in problems[0]


@pytest.mark.slow
def test_a_worker_that_finds_neither_snapshot_nor_copy_says_so_and_takes_the_next_one(ctx):
    _write(ctx.state, bundles.write_bundle(ctx.state), revision=1)
    for name in (snapshot.FILE, snapshot.COPY):
        (ctx.state / "serving" / name).write_bytes(b"{")
    with bundles.served("--state", str(ctx.state), log=ctx.state / "log") as (_, url):
        ready, document = _ready(url)
        assert not ready
        assert "cannot be read" in document["problems"][0]
        with Client(url) as client, pytest.raises(Unavailable, match="no endpoint can answer: the routing snapshot cannot be read"):
            client.predict("shop", [bundles.GOOD])
        _write(ctx.state, bundles.write_bundle(ctx.state, number=2), revision=2)
        _until(lambda: _ready(url)[0])


class Asker(threading.Thread):
    """Asks a few hundred times a second; keeps every answer and every failure."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.said: list[dict[str, Any]] = []
        self.failed: list[KaizenError] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        with Client(self.url, timeout_s=10) as client:
            while not self.stopped.is_set():
                try:
                    self.said.append(client.predict("shop", [GOOD]))
                    time.sleep(0.004)
                except KaizenError as error:
                    self.failed.append(error)
                    time.sleep(0.02)

    def end(self) -> None:
        self.stopped.set()
        self.join()


_PUBLISHER = """
import sys, msgspec, time
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from test_serving_chaos import _write
from kaizenml.rollouts.snapshot import Route
first, second = msgspec.json.decode(sys.argv[2].encode(), type=list[Route])
shadow = msgspec.structs.replace
for n in range(500):
    kind = n % 5
    champion, other = (first, second) if n % 2 else (second, first)
    if kind == 0:
        routes, more = [champion], {}
    elif kind == 1:
        routes = [shadow(champion, weight=500), shadow(other, weight=500, arm="challenger-1", slots=[(0, 500)])]
        more = {"paired": True}
    elif kind == 2:
        routes, more = [champion], {"shadows": [shadow(other, weight=0, arm="shadow")]}
    elif kind == 3:
        routes, more = [champion], {"killed": "a test"}
    else:
        routes, more = [champion], {}
    _write(Path(sys.argv[1]), *routes, revision=int(sys.argv[4]) + 2 * n, **more)
    time.sleep(0.008)
"""


@pytest.mark.slow
def test_a_thousand_changes_by_two_writers_under_load_leave_no_wrong_and_no_failed_answer(ctx):
    routes = [bundles.write_bundle(ctx.state), bundles.write_bundle(ctx.state, number=2, seed=5)]
    _write(ctx.state, routes[0], revision=0)
    log = ctx.state / "log"
    with bundles.served("--state", str(ctx.state), "--workers", "2", log=log) as (_, url):
        expected = {}
        for route in routes:
            _write(ctx.state, route, revision=int(route.release[-1]))
            with Client(url) as client:
                time.sleep(0.7)
                said = client.predict("shop", [GOOD])
                assert said["release"] == route.release
                expected[route.release] = said["predictions"][0]["probabilities"]
        assert expected["shop@1"] != expected["shop@2"]
        askers = [Asker(url), Asker(url)]
        for asker in askers:
            asker.start()
        arguments = [str(ctx.state), msgspec.json.encode(routes).decode(), str(Path(__file__).parent)]
        writers = [subprocess.Popen([sys.executable, "-c", _PUBLISHER, *arguments, str(start)]) for start in (10, 11)]
        assert [writer.wait() for writer in writers] == [0, 0]
        time.sleep(0.5)
        for asker in askers:
            asker.end()
        assert [error.what for asker in askers for error in asker.failed] == []
        said = [answer for asker in askers for answer in asker.said]
        seen = set()
        for answer in said:
            (one,) = answer["predictions"]
            assert answer["lineage"]["hash"] == f"hash-of-{answer['release']}"
            assert answer["lineage"]["model"] == answer["release"]
            if one["decided_by"] == "kill":
                assert one["probabilities"] == [0.5, 0.5]
            else:
                assert one["probabilities"] == expected[answer["release"]]
            seen.add((answer["release"], one["arm"], one["decided_by"]))
        assert len(seen) >= 4  # both releases, as champions at least, killed and not
    ids = {answer["predictions"][0]["id"] for answer in said}
    drain(ctx)
    table = predictions.read(ctx, "shop", columns=["id", "release", "role"]).to_pylist()
    live = {row["id"]: row["release"] for row in table if row["role"] == "live"}
    assert all(live[answer["predictions"][0]["id"]] == answer["release"] for answer in said)
    assert ids <= live.keys()


@pytest.mark.slow
def test_a_clock_that_jumps_back_and_forth_changes_no_answer_and_no_id_comes_twice(ctx, tmp_path):
    bundles.route(ctx.state, bundles.write_bundle(ctx.state))
    clock = SimulatedClock(tmp_path / "clock", datetime(2026, 3, 1, tzinfo=UTC))
    environ = {"KAIZEN_CLOCK": str(tmp_path / "clock"), "KAIZEN_SERVE_SEGMENT_AGE": "300ms"}
    with bundles.served("--state", str(ctx.state), env=environ, log=ctx.state / "log") as (_, url):
        asker = Asker(url)
        asker.start()
        for jump in (timedelta(days=400), timedelta(days=-800), timedelta(seconds=-1), timedelta(hours=3), timedelta(days=397)):
            time.sleep(0.4)
            clock.advance(jump)
            drain(ctx)
        asker.end()
        assert asker.failed == []
        assert _ready(url)[0]
    ids = [answer["predictions"][0]["id"] for answer in asker.said]
    assert len(ids) == len(set(ids)) > 50
    assert set(ids) == _journaled(ctx)
    assert len({tuple(answer["predictions"][0]["probabilities"]) for answer in asker.said}) == 1
    assert not list((ctx.state / "journal").glob("*.journal"))


@pytest.mark.slow
def test_the_parent_killed_under_load_frees_the_port_at_once_and_a_restart_goes_on(ctx):
    bundles.route(ctx.state, bundles.write_bundle(ctx.state))
    process = bundles.start("--state", str(ctx.state), "--workers", "2", log=ctx.state / "log")
    url = bundles.address(process)
    workers = _children(process.pid)
    askers = [Asker(url) for _ in range(3)]
    for asker in askers:
        asker.start()
    time.sleep(0.6)
    process.kill()
    process.communicate()
    command = [sys.executable, "-m", "kaizenml.serving", "--state", str(ctx.state), "--port", url.rpartition(":")[2]]
    began = time.monotonic()
    with (ctx.state / "log").open("ab") as log:
        again = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        assert bundles.address(again) == url
        took = time.monotonic() - began
        _until(lambda: not any(Path(f"/proc/{pid}").exists() and ") Z" not in Path(f"/proc/{pid}/stat").read_text() for pid in workers))
        reached = [len(asker.said) for asker in askers]
        _until(lambda: all(len(asker.said) > number for asker, number in zip(askers, reached, strict=True)))
        for asker in askers:
            asker.end()
    finally:
        again.terminate()
        again.communicate()
    assert took < 10
    assert all(isinstance(error, Unavailable) for asker in askers for error in asker.failed)
    assert {answer["predictions"][0]["id"] for asker in askers for answer in asker.said} <= _journaled(ctx)
