"""Models that answer beside the event loop: slow, dying or wrong, they hold nobody up, and every row is answered and journaled once."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import serving_bundles as bundles

from kaizenml.errors import InvalidInput
from kaizenml.features.encoding.encoder import EncodedColumn, Encoder
from kaizenml.features.signature import Field, Signature
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.snapshot import EndpointRoute, Route, Rule, Snapshot
from kaizenml.serving.client import Client
from kaizenml.serving.journaling import journal
from kaizenml.serving.journaling.drain import _decode
from kaizenml.serving.journaling.records import PredictionRecord, ShadowRecord
from kaizenml.serving.routing import Routing, load
from kaizenml.training import model_file
from kaizenml.training.model_file import Member, ModelSpec, Naive

CODE = """
import time
def predict(rows):
    if any(row["do"] == "wait" for row in rows):
        time.sleep(0.4)
    if any(row["do"] == "hang" for row in rows):
        time.sleep(60)
    if any(row["do"] == "raise" for row in rows):
        raise ValueError("one of %d rows" % len(rows))
    return [row["a"] + 1000 * len(rows) for row in rows]
"""
"""Says how many rows it was asked at once: 1000 for each."""


def python_bundle(state: Path, number: int = 1, timeout_s: float = 1.0) -> Route:
    folder = state / "releases" / "own" / str(number) / "model"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "m.py").write_text(CODE)
    encoder = Encoder(columns=[EncodedColumn(name="a", kind="number"), EncodedColumn(name="do", kind="category")], accepts=["price"])
    fields = [Field(name="a", kind="number"), Field(name="do", kind="category")]
    member = Member(name="m", kind="python", file="code/m.py", weight=1.0, function="predict", timeout_s=timeout_s)
    signature = Signature(task="regression", target="y", classes=[], fields=fields)
    model_file.write(folder, ModelSpec(format=2, signature=signature, encoder=encoder, members=[member], naive=Naive(value=-7.0)))
    ref = f"own@{number}"
    return Route(release=ref, bundle=f"releases/own/{number}", weight=1000, arm="champion", lineage=bundles.lineage(ref))


def publish(state: Path, revision: int = 1, **arms: tuple[list[Route], list[Route]]) -> None:
    """Write the snapshot: for each endpoint its arms and its shadows."""
    endpoints = {
        name: EndpointRoute(endpoint=name, revision=revision, arms=champions, shadows=shadows, paired=len(champions) > 1)
        for name, (champions, shadows) in arms.items()
    }
    snapshot.write(state / "serving" / snapshot.FILE, Snapshot(revision=revision, written_at=0.0, endpoints=endpoints))


def records(state: Path) -> list[PredictionRecord | ShadowRecord]:
    return [_decode(found.payload) for segment in journal.segments(state / "journal") for found in journal.read(segment.path)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    state = tmp_path_factory.mktemp("project") / ".kaizen"
    trees, shadow = bundles.write_bundle(state), msgspec.structs.replace(python_bundle(state, 2), arm="shadow")
    own = python_bundle(state)
    publish(state, own=([own], []), shop=([trees], []), watched=([own], [shadow]))
    with bundles.served("--state", str(state), log=state / "log") as (process, url):
        yield url, state, process


def one(client: Client, a: float, do: str | None = None, endpoint: str = "own") -> dict:
    return client.predict(endpoint, [{"a": a, "do": do}])["predictions"][0]


def child_of(server: int) -> int:
    """The process of the model `own@1`, below the server's."""
    parents, models = {}, []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
            if b"own_process_child" in (path.parent / "cmdline").read_bytes() and "own/1/" in os.readlink(path.parent / "cwd") + "/":
                models.append(int(path.parent.name))
    (found,) = [pid for pid in models if parents.get(pid) == server or parents.get(parents.get(pid, 0)) == server]
    return found


def answers_again(client: Client) -> None:
    until = time.monotonic() + 20
    while one(client, 1.0)["decided_by"] != "model":
        assert time.monotonic() < until
        time.sleep(0.02)


def test_every_form_of_asking_gets_the_answer_of_a_model_beside_the_loop(server):
    with Client(server[0]) as client:
        assert one(client, 2.0) | {"id": ""} == {
            "id": "", "value": 1002.0, "probabilities": None, "decided_by": "model", "reason": None, "arm": "champion",
        }  # fmt: skip
        with pytest.raises(InvalidInput, match=r"inputs\[1\]\.a: 'x' is not a number"):
            client.predict("own", [{"a": 1.0, "do": None}, {"a": "x", "do": None}])
    connection = http.client.HTTPConnection(urlsplit(server[0]).netloc, timeout=20)
    tensors = [{"name": "a", "shape": [1], "datatype": "FP64", "data": [3.0]}, {"name": "do", "shape": [1], "datatype": "BYTES", "data": [None]}]
    for path, body in (
        ("/v2/models/own/infer", {"inputs": tensors}),
        ("/endpoints/own/invocations", {"dataframe_records": [{"a": 3.0, "do": None}]}),
    ):
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200
        assert b"1003.0" in answer.read()
    connection.close()


def test_a_model_that_takes_its_time_holds_up_nobody_else(server):
    with ThreadPoolExecutor(1) as threads, Client(server[0]) as slow, Client(server[0]) as quick:
        waiting = threads.submit(one, slow, 1.0, "wait")
        time.sleep(0.1)
        answered = 0
        while not waiting.done():
            quick.predict("shop", [bundles.GOOD])
            answered += 1
        assert waiting.result()["value"] == 1001.0
        assert answered >= 10  # a single one, if the loop had waited


def test_what_comes_in_while_a_model_is_busy_is_asked_together_and_each_gets_its_own_answer(server):
    with ThreadPoolExecutor(20) as threads, Client(server[0]) as slow:
        clients = [Client(server[0]) for _ in range(20)]
        busy = threads.submit(one, slow, 0.0, "wait")
        time.sleep(0.1)
        found = [answer["value"] for answer in threads.map(lambda numbered: one(numbered[1], float(numbered[0])), enumerate(clients[1:]))]
        busy.result()
        for client in clients:
            client.close()
    assert [value % 1000 for value in found] == [float(number) for number in range(19)]
    assert max(value // 1000 for value in found) >= 10


def test_one_that_makes_the_model_raise_does_not_spoil_those_asked_with_it(server):
    with ThreadPoolExecutor(8) as threads:
        clients = [Client(server[0]) for _ in range(8)]
        busy = threads.submit(one, clients[0], 0.0, "wait")
        time.sleep(0.1)
        does = [None, None, None, "raise", None, None, None]
        found = list(threads.map(one, clients[1:], map(float, range(7)), does))
        busy.result()
        for client in clients:
            client.close()
    assert [answer["decided_by"] for answer in found] == ["model"] * 3 + ["fallback"] + ["model"] * 3
    assert found[3]["reason"] == "the model raised ValueError: one of 1 rows"
    assert found[3]["value"] == -7.0


def test_a_call_that_hangs_is_answered_naively_in_time_and_the_model_is_back_soon(server):
    with Client(server[0]) as client:
        start = time.monotonic()
        hung = one(client, 1.0, "hang")
        assert time.monotonic() - start < 4
        assert (hung["decided_by"], hung["value"]) == ("fallback", -7.0)
        assert hung["reason"] == "the model's own process is lost: it did not answer a row within 1 s"
        answers_again(client)


@pytest.mark.slow
def test_killing_the_model_s_process_under_load_costs_no_answer_and_no_record(server):
    url, state, process = server
    answered: list[dict] = []
    stop = threading.Event()

    def asks() -> None:
        with Client(url) as client:
            number = 0.0
            while not stop.is_set():
                answered.append(one(client, number))
                number += 1

    threads = [threading.Thread(target=asks) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with Client(url) as client:
            for _ in range(3):
                time.sleep(0.3)
                answers_again(client)
                os.kill(child_of(process.pid), signal.SIGKILL)
            time.sleep(0.2)
            answers_again(client)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    by = {"model": [a for a in answered if a["decided_by"] == "model"], "fallback": [a for a in answered if a["decided_by"] == "fallback"]}
    assert len(by["model"]) + len(by["fallback"]) == len(answered)
    assert by["model"]
    assert by["fallback"]
    assert all("the model's own process is" in answer["reason"] for answer in by["fallback"])
    kept = [answer.id for record in records(state) if isinstance(record, PredictionRecord) for answer in record.answers]
    assert len(kept) == len(set(kept))
    assert {answer["id"] for answer in answered} <= set(kept)


@pytest.mark.slow
def test_a_shadow_beside_the_loop_is_journaled_and_delays_no_answer(server):
    url, state, _ = server
    with Client(url) as client:
        said = one(client, 5.0, endpoint="watched")
    until = time.monotonic() + 10
    while not (shadows := [r for r in records(state) if isinstance(r, ShadowRecord) and r.answers[0].id == said["id"]]):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert [(r.release, r.answers[0].value, r.answers[0].decided_by) for r in shadows] == [("own@2", 1005.0, "model")]


@pytest.mark.slow
def test_a_shadow_beside_the_loop_sees_what_a_model_of_trees_answers_from_its_records(tmp_path):
    state = tmp_path / ".kaizen"
    trees, own = bundles.write_bundle(state), msgspec.structs.replace(python_bundle(state), arm="shadow")
    folder = state / own.bundle / "model"
    (folder / "code" / "m.py").write_text("def predict(rows):\n    return [0.25 if row['size'] == 'M' else 0.75 for row in rows]\n")
    theirs, spec = model_file.read(state / trees.bundle / "model"), model_file.read(folder)
    model_file.write(folder, msgspec.structs.replace(theirs, format=2, members=spec.members))
    bundles.route(state, trees, shadows=[own])
    with bundles.served("--state", str(state), log=tmp_path / "log") as (_, url), Client(url) as client:
        client.predict("shop", [bundles.GOOD, bundles.GOOD | {"size": "L"}])
        client.predict("shop", [bundles.GOOD])
    shadows = [[answer.probabilities for answer in r.answers] for r in records(state) if isinstance(r, ShadowRecord)]
    assert shadows == [[[0.75, 0.25], [0.25, 0.75]], [[0.75, 0.25]]]


@pytest.mark.slow
def test_rules_may_lend_rows_to_a_release_that_answers_beside_the_loop(tmp_path):
    state = tmp_path / ".kaizen"
    newer, older = python_bundle(state), python_bundle(state, 2)
    rules = [Rule(when="a > 100", answer="release", release="own@2"), Rule(when="a < 0", answer="constant", value=5.0)]
    bundles.route(state, newer, endpoint="own", rules=rules, others=[older])
    with bundles.served("--state", str(state), log=tmp_path / "log") as (_, url), Client(url) as client:
        rows = [{"a": a, "do": None} for a in (1.0, 101.0, -1.0, 2.0, 102.0, 103.0)]
        said = client.predict("own", rows)["predictions"]
    # two rows to the one, three to the other, one to nobody: each asked once for its own
    assert [each["value"] for each in said] == [2001.0, 3101.0, 5.0, 2002.0, 3102.0, 3103.0]
    assert [each["decided_by"] for each in said] == ["model", "model", "fallback", "model", "model", "model"]
    (record,) = records(state)
    assert [answer.value for answer in record.answers] == [each["value"] for each in said]


@pytest.mark.slow
def test_a_killed_endpoint_does_not_ask_the_model_at_all(tmp_path):
    state = tmp_path / ".kaizen"
    bundles.route(state, python_bundle(state), endpoint="own", killed="wrong prices")
    with bundles.served("--state", str(state), log=tmp_path / "log") as (_, url), Client(url) as client:
        start = time.monotonic()
        said = one(client, 1.0, "hang")
        assert (said["decided_by"], said["reason"], said["value"]) == ("kill", "wrong prices", -7.0)
        assert time.monotonic() - start < 0.9
        with pytest.raises(InvalidInput):
            client.predict("own", [{"a": "x", "do": None}])


@pytest.mark.slow
def test_a_release_that_leaves_takes_its_process_along(tmp_path):
    state = tmp_path / ".kaizen"
    own, trees = python_bundle(state), bundles.write_bundle(state)
    publish(state, own=([own], []), shop=([trees], []))
    with bundles.served("--state", str(state), log=tmp_path / "log") as (process, url), Client(url) as client:
        assert one(client, 1.0)["value"] == 1001.0
        child = child_of(process.pid)
        publish(state, revision=2, shop=([trees], []))
        until = time.monotonic() + 10
        while Path(f"/proc/{child}").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        client.predict("shop", [bundles.GOOD])


def _started_by(state: Path, number: int, code: str) -> Route:
    """A bundle whose process runs ``code`` when it starts."""
    route = python_bundle(state, number)
    path = state / route.bundle / "model" / "code" / "m.py"
    path.write_text(code + CODE)
    return route


def _loaded(state: Path, current: Routing, patience_s: float, killed: str | None = None, revision: int = 1, **champions: Route) -> Routing:
    routes = {name: EndpointRoute(endpoint=name, revision=revision, arms=[route], killed=killed) for name, route in champions.items()}
    return load(state, Snapshot(revision=revision, written_at=0.0, endpoints=routes), current, patience_s=patience_s)


def _until_started(routing: Routing) -> None:
    until = time.monotonic() + 30
    while not routing.started:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
def test_models_in_processes_of_their_own_start_side_by_side_and_one_that_fails_does_not_hinder_the_others(tmp_path):
    state, here = tmp_path / ".kaizen", tmp_path / "here"
    here.mkdir()
    # each of three is ready only when all three are there
    meet = "import os, time\nopen({0!r} + '/{1}', 'w').close()\nwhile len(os.listdir({0!r})) < 3:\n    time.sleep(0.01)\n"
    routes = {f"e{number}": _started_by(state, number, meet.format(str(here), number)) for number in (1, 2, 3)}
    routes["failing"] = _started_by(state, 4, "raise LookupError('no licence')\n")
    routes["trees"] = bundles.write_bundle(state)
    routing = _loaded(state, Routing(), 30.0, **routes)
    assert [endpoint.arms[0].model is not None for endpoint in routing.endpoints.values()] == [True, True, True, False, True]
    (problem,) = routing.problems
    assert "endpoint failing answers with own@4 alone and naively" in problem
    assert "no licence" in problem
    assert not routing.unavailable
    assert not routing.starting


@pytest.mark.slow
def test_a_model_that_hangs_at_its_start_holds_up_no_change_and_comes_in_when_it_is_ready(tmp_path):
    state, go = tmp_path / ".kaizen", tmp_path / "go"
    hang = f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.01)\n"
    hanging, first = _started_by(state, 2, hang), bundles.write_bundle(state)
    fresh = _loaded(state, Routing(), 0.1, own=hanging, shop=first)
    assert fresh.endpoints["shop"].arms[0].model is not None
    assert "own@2 does not load: it is still being started" in fresh.problems[0]
    assert fresh.endpoints["own"].arms[0].broken
    # where another release answers, that one goes on, and can be killed
    before = _loaded(state, Routing(), 30.0, own=first)
    waiting = _loaded(state, before, 0.1, revision=2, own=hanging)
    assert waiting.endpoints["own"].arms[0].route.release == "shop@1"
    killed = _loaded(state, waiting, 0.1, revision=3, killed="look at this", own=hanging)
    assert killed.endpoints["own"].route.killed == "look at this"
    assert killed.endpoints["own"].arms[0].route.release == "shop@1"
    assert list(killed.starting.values()) == list(waiting.starting.values())  # it was not started once more
    go.touch()
    _until_started(killed)
    ready = _loaded(state, killed, 0.1, revision=4, own=hanging)
    assert ready.endpoints["own"].arms[0].route.release == "own@2"
    assert ready.problems == []
    # nobody waits for the other one any more: its process ends when it is ready
    (future,) = fresh.starting.values()
    _loaded(state, fresh, 0.1, revision=2, shop=first)
    process = future.result(timeout=30).model._learners[0]
    until = time.monotonic() + 10
    while process.pid is not None:
        assert time.monotonic() < until
        time.sleep(0.01)
