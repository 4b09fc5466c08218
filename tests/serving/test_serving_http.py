"""Slow, broken and hostile clients: each is answered or cut off in time, never with a 500, and the others are served on."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import serving_bundles as bundles
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from kaizenml.serving.client import Client
from kaizenml.serving.journaling.journal import read, segments

GOOD = bundles.GOOD
BODY = json.dumps({"inputs": [GOOD]}).encode()
HEAD = b"POST /predict/shop HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
ASK = HEAD % len(BODY) + BODY
QUICK = {"KAIZEN_SERVE_HEADER_TIMEOUT": "600ms", "KAIZEN_SERVE_BODY_TIMEOUT": "900ms", "KAIZEN_SERVE_MAX_CONNECTIONS": "40"}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, int]]:
    state = _project(tmp_path_factory.mktemp("project"))
    with bundles.served("--state", str(state), env=QUICK, log=state / "log") as (process, url):
        (worker,) = _children(process.pid)
        yield url, worker
        text = (state / "log").read_text()
        assert "Traceback" not in text
        assert len(text) < 20_000, "hostile clients fill the log"


def _project(folder: Path) -> Path:
    (folder / "kaizen.toml").write_text(bundles.TOML)
    state = folder / ".kaizen"
    bundles.route(state, bundles.write_bundle(state))
    return state


def _children(parent: int) -> list[int]:
    return [int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()]


def _memory(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def _connected(url: str, timeout: float = 5.0) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=timeout)


def _all(connection: socket.socket) -> bytes:
    """Read until the server ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found


def _said(url: str, *parts: bytes, end: bool = False, timeout: float = 20.0) -> bytes:
    with _connected(url, timeout) as connection:
        with contextlib.suppress(OSError):  # it was cut off
            for part in parts:
                connection.sendall(part)
            if end:
                connection.shutdown(socket.SHUT_WR)
        return _all(connection)


def _answer(connection: socket.socket) -> bytes:
    """Read one answer."""
    found = b""
    while b"\r\n\r\n" not in found or len(found) < found.index(b"\r\n\r\n") + 4 + int(found.split(b"content-length: ")[1].split(b"\r\n")[0]):
        part = connection.recv(65536)
        assert part, found
        found += part
    return found


def _statuses(raw: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", raw)]


def _document(raw: bytes) -> dict:
    return json.loads(raw.rpartition(b"\r\n\r\n")[2])


def _busy_while(worker: int, connections: list[socket.socket], request: bytes) -> None:
    """Send a request on each connection while the worker has no time to read."""
    time.sleep(0.2)  # until all are taken in
    os.kill(worker, signal.SIGSTOP)
    try:
        for connection in connections:
            connection.sendall(request)
    finally:
        os.kill(worker, signal.SIGCONT)


def _metrics(url: str) -> dict[str, float]:
    with urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def _alive(url: str) -> None:
    with Client(url, timeout_s=10) as client:
        assert client.predict("shop", [GOOD])["predictions"][0]["decided_by"] == "model"


CLOSE = b"POST /predict/shop HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
        (b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", 400, "bad_request"),
        (b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n", 400, "bad_request"),
        (b"NONSENSE / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (CLOSE + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef", 400, "bad_request"),
        (CLOSE + b"content-length: -5\r\n\r\nabcdef", 400, "bad_request"),
        (CLOSE + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_request"),
        (CLOSE + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", 400, "bad_request"),
        (CLOSE + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc", 400, "bad_request"),
        (CLOSE + b"content-length: 20\r\n\r\n" + b"[" * 20, 422, "invalid_input"),
        (CLOSE + b"content-length: 10000\r\n\r\n" + b"[" * 10_000, 413, "too_large"),
        (CLOSE + b"content-length: 22\r\n\r\n" + b'{"inputs":[{"a":NaN}]}', 422, "invalid_input"),
        (CLOSE + b"content-length: 24\r\n\r\n" + b'{"inputs":[{"a":1e999}]}', 422, "invalid_input"),
        (CLOSE + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", 415, "unsupported_media"),
        (b"GET /%ff%00%c3%28 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404, "not_found"),
        (b"DELETE /predict/shop HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 405, "method_not_allowed"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 40_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /" + b"b" * 400_000, 431, "headers_too_large"),
        (CLOSE + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"t: v\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
    ],
)  # fmt: skip
def test_what_is_broken_or_too_much_is_told_and_ends_the_connection(server, raw, status, code):
    url, _ = server
    said = _said(url, raw)
    assert _statuses(said) == [status]
    error = _document(said)["error"]
    assert error["code"] == code
    assert error["remedy"]
    _alive(url)


def test_http_1_0_is_answered_and_closed(server):
    url, _ = server
    said = _said(url, ASK.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert _statuses(said) == [200]


def test_requests_sent_ahead_are_answered_in_order_and_a_broken_one_after_them_ends_the_connection(server):
    url, _ = server
    said = _said(url, ASK * 5 + b"BROKEN\r\n\r\n")
    assert _statuses(said) == [200] * 5 + [400]
    said = _said(url, ASK + ASK.replace(b"/predict/shop", b"/predict/no") + ASK.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nconnection: close\r\n"))
    assert _statuses(said) == [200, 404, 200]


def test_a_client_that_has_said_all_still_gets_its_answer(server):
    url, _ = server
    assert _statuses(_said(url, ASK, end=True)) == [200]
    assert _said(url, ASK[:-10], end=True) == b""  # and half a request is no request


def test_a_wish_for_another_protocol_is_passed_over_without_a_body_and_refused_with_one(server):
    url, _ = server
    wish = b"HTTP/1.1\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ\r\n"
    said = _said(url, ASK.replace(b"HTTP/1.1\r\n", wish))
    assert _statuses(said) == [400]
    assert "another protocol" in _document(said)["error"]["message"]
    assert _statuses(_said(url, b"GET /health/live " + wish + b"\r\n")) == [200]
    _alive(url)


@pytest.mark.parametrize(("begun", "awaited"), [(b"POST /predict/shop HTTP/1.1\r\nhost", "header"), (ASK[:-60], "body")])
def test_a_slow_client_is_told_so_after_its_time_and_cut_off_though_it_drips_on(server, begun, awaited):
    url, _ = server
    before = _metrics(url).get(f'kaizen_connections_ended_total{{reason="{awaited}_timeout"}}', 0.0)
    with _connected(url) as connection:
        connection.sendall(begun)
        at = time.monotonic()
        connection.settimeout(0.05)
        said = b""
        while time.monotonic() < at + 5:
            with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
                connection.sendall(b"x")
                part = connection.recv(1000)
                if not part:
                    break
                said += part
    assert _statuses(said) == [408]
    assert _document(said)["error"]["code"] == "too_slow"
    assert time.monotonic() - at < 4
    assert _metrics(url)[f'kaizen_connections_ended_total{{reason="{awaited}_timeout"}}'] == before + 1


@pytest.mark.slow
def test_a_client_is_not_late_because_the_server_was(server):
    url, worker = server
    with _connected(url) as connection:
        time.sleep(0.1)
        os.kill(worker, signal.SIGSTOP)
        try:
            connection.sendall(ASK)
            time.sleep(1.5)  # longer than it may take for its headers
        finally:
            os.kill(worker, signal.SIGCONT)
        assert _answer(connection).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_take_its_answers_is_cut_off(server):
    url, worker = server
    with _connected(url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1)
        many = json.dumps({"inputs": [GOOD] * 2000}).encode()
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 500:
                connection.sendall(HEAD % len(many) + many)
                sent += 1
        assert sent < 100  # it is not read on while it takes nothing
        deadline = time.monotonic() + 6
        while not (ended := _metrics(url).get('kaizen_connections_ended_total{reason="slow_reader"}')):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert ended >= 1
    assert _memory(worker) < 300


def test_where_as_many_connections_are_open_as_may_be_newcomers_get_their_turn(server):
    url, _ = server
    with contextlib.ExitStack() as stack:
        sleeping = [stack.enter_context(_connected(url)) for _ in range(60)]  # 20 more than may be open
        for connection in sleeping[:40]:
            connection.sendall(ASK)
        at = time.monotonic()
        _alive(url)
        assert time.monotonic() - at < 5  # those that send nothing, or nothing more, make room
        assert _metrics(url)["kaizen_connections_paused_total"] >= 1


def test_busy_connections_give_way_now_and_then(server):
    url, _ = server
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(_connected(url)) for _ in range(40)]
        waiting = stack.enter_context(_connected(url, timeout=20))
        waiting.sendall(ASK)
        answered, end = [], time.monotonic() + 10
        while busy and not answered and time.monotonic() < end:
            for connection in list(busy):
                try:
                    connection.sendall(ASK)
                    said = _answer(connection)  # it may come in pieces
                except (OSError, AssertionError):
                    said = b""  # it was ended
                assert not said or said.startswith(b"HTTP/1.1 200")
                if b"connection: close" in said or not said:
                    busy.remove(connection)
            if select.select([waiting], [], [], 0.001)[0]:
                answered = _statuses(_answer(waiting))
        assert answered == [200]
        assert len(busy) > 20  # few had to go


@pytest.mark.slow
def test_bodies_on_their_way_hold_no_more_memory_than_allowed(tmp_path):
    state = _project(tmp_path)
    with bundles.served("--state", str(state), env={"KAIZEN_SERVE_MAX_BUFFERED_BYTES": "10000000"}, log=state / "log") as (process, url):
        (worker,) = _children(process.pid)
        before = _memory(worker)
        with contextlib.ExitStack() as stack:
            refused = 0
            for _ in range(12):
                connection = stack.enter_context(_connected(url, timeout=0.3))
                with contextlib.suppress(OSError):
                    connection.sendall(HEAD % 7_000_000 + b" " * 3_000_000)
                with contextlib.suppress(OSError):
                    refused += b'"reason":"memory"' in _all(connection)
            assert refused >= 5
            assert _memory(worker) - before < 40
            _alive(url)
        assert _metrics(url)['kaizen_refused_total{endpoint="",reason="memory"}'] >= refused
        time.sleep(0.2)
        large = HEAD % 5_000_000 + b" " * (5_000_000 - len(BODY)) + BODY
        with _connected(url) as connection:
            connection.sendall(large)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")  # what left has given its room back


@pytest.mark.slow
def test_a_queue_that_is_full_refuses_with_the_reason_and_reads_on_after_the_second_it_named(tmp_path):
    state = _project(tmp_path)
    served = bundles.served("--state", str(state), env={"KAIZEN_SERVE_MAX_WAITING": "4"}, log=state / "log")
    with served as (process, url), contextlib.ExitStack() as stack:
        (worker,) = _children(process.pid)
        light = [stack.enter_context(_connected(url, timeout=20)) for _ in range(12)]
        _busy_while(worker, light, ASK)
        said = [_answer(connection) for connection in light]
        refused = [connection for connection, answer in zip(light, said, strict=True) if answer.startswith(b"HTTP/1.1 503")]
        assert len(refused) in (7, 8)  # it may have been reading the first one
        answer = said[light.index(refused[0])]
        assert b"retry-after: 1\r\n" in answer
        assert _document(answer)["error"]["values"]["reason"] == "queue_full"
        at = time.monotonic()
        refused[0].sendall(ASK)
        assert _answer(refused[0]).startswith(b"HTTP/1.1 200")
        assert 0.3 < time.monotonic() - at < 10
        assert _metrics(url)['kaizen_refused_total{endpoint="shop",reason="queue_full"}'] == len(refused)


@pytest.mark.slow
def test_what_has_waited_too_long_is_refused_before_it_is_looked_into_and_leaves_no_record(tmp_path):
    state = _project(tmp_path)
    many = json.dumps({"inputs": [GOOD] * 400}).encode()
    served = bundles.served("--state", str(state), env={"KAIZEN_SERVE_MAX_WAIT": "2ms"}, log=state / "log")
    with served as (process, url), contextlib.ExitStack() as stack:
        asking = [stack.enter_context(_connected(url, timeout=20)) for _ in range(10)]
        (worker,) = _children(process.pid)
        _busy_while(worker, asking, HEAD % len(many) + many)
        said = [_answer(connection) for connection in asking]
        statuses = [_statuses(answer)[0] for answer in said]
        assert set(statuses) == {200, 503}
        metrics = _metrics(url)
        assert metrics['kaizen_refused_total{endpoint="shop",reason="waited"}'] == statuses.count(503)
        assert metrics["kaizen_waiting_requests"] == 0
    records = [found for segment in segments(state / "journal") for found in read(segment.path)]
    assert len(records) == statuses.count(200)


@pytest.mark.slow
def test_large_and_odd_bodies_leave_no_memory_behind(server):
    url, worker = server
    keys = b'{"inputs":[{' + b",".join(b'"k%d":1' % n for n in range(600_000)) + b"}]}"
    bodies = [b"[" * 7_000_000, b'{"inputs":[' + b"[]," * 2_000_000 + b"[]]}", keys, b" " * 100_000_000, gzip.compress(bytes(50_000_000))]
    levels = []
    for _ in range(3):
        for body in bodies:
            said = _said(url, CLOSE + b"content-length: %d\r\n\r\n" % len(body), body, timeout=60.0)
            assert _statuses(said)[0] in (408, 413, 422)  # each sender gets to read what was wrong
            _alive(url)
        levels.append(_memory(worker))
    assert levels[2] < levels[1] + 30


PIECES = st.one_of(
    st.sampled_from([
        b"POST ", b"GET ", b"HEAD ", b"OPTIONS ", b"* ", b"/predict/shop ", b"/outcomes/shop ", b"/v2/models/shop/infer ", b"/invocations ",
        b"/health/ready ", b"/metrics ", b"HTTP/1.1\r\n", b"HTTP/1.0\r\n", b"HTTP/9.9\r\n", b"host: x\r\n", b"content-length: 3\r\n",
        b"content-length: 99999999999\r\n", b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n",
        b"expect: 100-continue\r\n", b"connection: close\r\n", b"connection: upgrade\r\nupgrade: websocket\r\n", b"content-encoding: br\r\n",
        b"content-type: application/json\r\n", b"inference-header-content-length: 7\r\n", b"\r\n", b"\r\n\r\n", b"3\r\n{}\n\r\n",
        b"0\r\n\r\n", b"{", b"}", b"[", BODY, b'{"inputs":', b"1e999", b"\x00", b"\xff", b"%ff", b"\n", b": ", b" " * 300, ASK, ASK[:-3],
    ]),
    st.binary(max_size=40),
)  # fmt: skip
ALLOWED = {100, 200, 400, 404, 405, 408, 413, 415, 422, 431}


def _fuzz(url: str, pieces: list[bytes], cut: int) -> None:
    raw = b"".join(pieces)
    cut %= len(raw) + 1
    said = _said(url, *[part for part in (raw[:cut], raw[cut:]) if part], end=True)
    assert set(_statuses(said)) <= ALLOWED, (raw, said)


@pytest.mark.slow
@seed(20261124)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(PIECES, max_size=12), cut=st.integers(0, 10_000))
def test_whatever_comes_over_the_wire_is_answered_or_cut_off(server, pieces, cut):
    _fuzz(server[0], pieces, cut)


@pytest.mark.slow
@seed(20261125)
@settings(max_examples=1500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(pieces=st.lists(PIECES, max_size=30), cut=st.integers(0, 100_000))
def test_whatever_comes_over_the_wire_is_answered_or_cut_off_in_long_draws(server, pieces, cut):
    _fuzz(server[0], pieces, cut)


@pytest.mark.slow
def test_after_all_of_it_the_worker_is_the_same_and_small(server):
    url, worker = server
    _alive(url)
    assert os.path.exists(f"/proc/{worker}")
    assert _memory(worker) < 300
    assert _metrics(url)["kaizen_waiting_requests"] == 0


