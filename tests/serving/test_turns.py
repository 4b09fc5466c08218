"""Requests that are answered together in a turn of the event loop get what each would get alone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import serving_bundles as bundles

from kaizenml.serving.connecting.heads import Head, Heads
from kaizenml.serving.journaling import journal, records

GOOD = bundles.GOOD
ALONE = b"expect: 100-continue\r\n"  # such a request takes the long way, through the ASGI application


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path, int]]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "kaizen.toml").write_text(bundles.TOML)
    state = folder / ".kaizen"
    bundles.route(state, bundles.write_bundle(state))
    environ = {"KAIZEN_SERVE_MAX_ROWS": "50", "KAIZEN_SERVE_MAX_BODY_BYTES": "100000"}
    with bundles.served("--state", str(state), env=environ, log=state / "log") as (process, url):
        (worker,) = [int(pid) for task in Path(f"/proc/{process.pid}/task").iterdir() for pid in (task / "children").read_text().split()]
        yield url, state, worker
        assert "Traceback" not in (state / "log").read_text()


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def _request(body: bytes, more: bytes = b"", path: bytes = b"/predict/shop") -> bytes:
    kind = b"" if b"content-type" in more else b"content-type: application/json\r\n"
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%b%bcontent-length: %d\r\n\r\n%b" % (path, kind, more, len(body), body)


def _answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    found = b""
    while True:
        head, apart, body = found.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100") and apart:
            found = body
            continue
        length = re.search(rb"content-length: (\d+)", head)
        if apart and length and len(body) >= int(length[1]):
            lines = head.decode().split("\r\n")
            return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body
        part = connection.recv(65536)
        assert part, found
        found += part


def _asked(url: str, request: bytes) -> tuple[int, dict[str, str], object]:
    with _connected(url) as connection:
        connection.sendall(request)
        status, headers, body = _answer(connection)
    document = json.loads(body)
    for prediction in document.get("predictions", []):
        assert re.fullmatch(r"[0-9a-f]{32}", prediction.pop("id"))
    return status, {name: value for name, value in headers.items() if name != "content-length"}, document


BODIES = {
    "good": json.dumps({"inputs": [GOOD]}).encode(),
    "rows": json.dumps({"inputs": [GOOD] * 20, "unit": "u7"}).encode(),
    "too many rows": json.dumps({"inputs": [GOOD] * 51}).encode(),
    "no rows": b'{"inputs": []}',
    "nothing": b"",
    "no JSON": b'{"inputs": [',
    "a wrong type": json.dumps({"inputs": [GOOD | {name: [1] for name in GOOD}]}).encode(),
    "a stranger": json.dumps({"inputs": [GOOD | {"stranger": 1}]}).encode(),
    "no text": b'{"inputs": [{"a": "\xff"}]}',
    "too large": json.dumps({"inputs": [GOOD], "unit": "u" * 100_000}).encode(),
}


@pytest.mark.parametrize("more", [b"", b"x-kaizen-arm: champion\r\n", b"x-kaizen-arm: nobody\r\n", b"content-type: text/plain\r\n"])
def test_the_short_way_answers_like_the_long_one(server, more):
    url, _, _ = server
    for what, body in BODIES.items():
        alone = _asked(url, _request(body, more + ALONE))
        assert _asked(url, _request(body, more)) == alone, what
        assert _asked(url, _request(body, more)) == alone, f"{what}, its head known by now"


def test_a_head_that_has_come_before_serves_bodies_of_its_own_length_that_come_whole_and_alone():
    heads = Heads()
    request = _request(BODIES["good"])
    head = Head(b"/predict/shop", "/predict/shop", [], None, len(BODIES["good"]), True)
    heads.learn(request + b"POST", head)  # not one whole request
    assert heads.find(request) is None
    heads.learn(request, head)
    assert heads.find(request[: -len(BODIES["good"])] + b"x" * len(BODIES["good"])) is head
    for other in (request[:-1], request * 2, request + b"x", request.replace(b"host: x", b"host: y"), _request(BODIES["rows"]), b"", b"\r\n\r\n"):
        assert heads.find(other) is None, other


def test_requests_on_one_connection_follow_one_another_with_known_heads_and_new_ones(server):
    url, state, _ = server
    before = sum(1 for _ in _written(state))
    with _connected(url) as connection:
        for number, more in enumerate([b"", b"", b"x-kaizen-arm: champion\r\n", b"", ALONE, b"", b"traceparent: 00-1\r\n", b"traceparent: 00-2\r\n"]):
            body = json.dumps({"inputs": [GOOD], "unit": f"u{number}"}).encode()
            request = _request(body, more)
            parts = [request] if number != 3 else [request[:20], request[20:-9], request[-9:]]
            for part in parts:
                connection.sendall(part)
                time.sleep(0.05 if len(parts) > 1 else 0.0)
            assert _answer(connection)[0] == 200
        connection.sendall(_request(BODIES["good"], b"connection: close\r\n"))
        assert _answer(connection)[1]["connection"] == "close"
        assert connection.recv(1) == b""
    written = [*_written(state)][before:]
    assert [record.unit for record in written] == [*(f"u{number}" for number in range(8)), None]
    assert [record.trace for record in written][-3:] == ["00-1", "00-2", None]


def test_requests_of_many_connections_in_one_turn_are_each_answered_and_written_down(server):
    url, state, worker = server
    before = sum(1 for _ in _written(state))
    connections = [_connected(url) for _ in range(150)]  # more than are written at once
    time.sleep(0.3)
    os.kill(worker, signal.SIGSTOP)  # so that all are there when it looks
    try:
        for number, connection in enumerate(connections):
            body = b'{"inputs": [' if number % 10 == 3 else json.dumps({"inputs": [GOOD], "unit": f"u{number}"}).encode()
            connection.sendall(_request(body))
    finally:
        os.kill(worker, signal.SIGCONT)
    answers = [_answer(connection) for connection in connections]
    for connection in connections:
        connection.close()
    assert [status for status, _, _ in answers] == [422 if number % 10 == 3 else 200 for number in range(150)]
    said = {json.loads(body)["predictions"][0]["id"]: number for number, (status, _, body) in enumerate(answers) if status == 200}
    written = [*_written(state)][before:]
    assert {record.answers[0].id: record.unit for record in written} == {id_: f"u{number}" for id_, number in said.items()}


def test_requests_sent_ahead_by_both_ways_are_answered_in_order(server):
    url, _, _ = server
    kinds = [BODIES["good"], BODIES["no rows"], BODIES["rows"]]
    with _connected(url) as connection:
        connection.sendall(b"".join(_request(body, ALONE if place % 2 else b"") for place, body in enumerate(kinds * 3)))
        said = b""
        while said.count(b"HTTP/1.1 200") + said.count(b"HTTP/1.1 422") < 9:
            part = connection.recv(65536)
            assert part, said
            said += part
    assert re.findall(rb"HTTP/1.1 ([245]\d\d)", said) == [b"200", b"422", b"200"] * 3


@pytest.mark.slow
def test_a_client_that_is_gone_when_its_turn_comes_is_not_predicted_for(server):
    url, state, worker = server
    before = sum(1 for _ in _written(state))
    with _connected(url) as connection:
        time.sleep(0.2)
        os.kill(worker, signal.SIGSTOP)
        connection.sendall(_request(BODIES["good"])[:-5])  # it never ends
    os.kill(worker, signal.SIGCONT)
    assert _asked(url, _request(BODIES["good"]))[0] == 200
    assert sum(1 for _ in _written(state)) == before + 1


def _written(state: Path) -> Iterator[records.PredictionRecord]:
    for segment in journal.segments(state / journal.FOLDER):
        for found in journal.read(segment.path):
            assert found.payload is not None
            record = msgspec.msgpack.decode(found.payload, type=records.Record)
            assert isinstance(record, records.PredictionRecord)
            yield record
