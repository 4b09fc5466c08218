"""Too much to do: what is answered at three times the rate that can be borne, how late, what is refused, and whether memory grows.

Requests fall due at an even rate and are sent on the first free connection of a large pool, whatever became of those before them;
one that finds no connection free is not sent (its client would wait or give up). Peak is what the same server answers when a few
connections always have one request under way. Rates are told by the clock, and by the worker's own processor time, which other
programs on the machine hardly move: what it does for an answer, refusals and the reading of what is refused included. Every
accepted answer's id is looked for in the journal.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

import _bundle
from _rows import OURS, Measured, options, report
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.snapshot import EndpointRoute, Route, Snapshot
from kaizenml.serving.journaling import journal
from kaizenml.serving.journaling.records import PredictionRecord, Record

TIMES = 3
FEW, MANY = 32, 1000  # connections
_decode = msgspec.msgpack.Decoder(Record).decode


class Load(NamedTuple):
    """What a client saw."""

    offered: int
    sent: int
    answered: list[bytes]  # ids
    refused: int
    waits: list[float]  # of the answered, in seconds, from sending to the answer
    late: int  # answered after the time was over
    seconds: float


class Case(NamedTuple):
    """A way of asking."""

    name: str
    rows: int
    once: bool  # a connection for every request
    settings: dict[str, str]


CASES = [
    Case("1 row", 1, False, {}),
    Case("100 rows, max_wait 200ms", 100, False, {"KAIZEN_SERVE_MAX_WAIT": "200ms"}),
    Case("1 row, max_waiting 100", 1, False, {"KAIZEN_SERVE_MAX_WAITING": "100"}),
    Case("1 row, a connection each", 1, True, {"KAIZEN_SERVE_MAX_CONNECTIONS": "200"}),
]


def main() -> None:
    given = options(__doc__)
    seconds, runs, asked, cases = (0.3, 2, 2_400, CASES[::3]) if given.quick else (1.5, 5, 60_000, CASES)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard) if hard != resource.RLIM_INFINITY else 8192, hard))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        route = _bundle.write(Path(folder) / "made", 1)
        servers = [stack.enter_context(_served(Path(folder), route, number, case.settings)) for number, case in enumerate(cases)]
        remembering = stack.enter_context(_served(Path(folder), route, len(cases), {}))
        _growth(remembering, asked // 2)  # caches fill
        made = []
        for _ in range(runs):
            rows = [row for case, server in zip(cases, servers, strict=True) for row in _overloaded(server, case, seconds)]
            made.append(rows + _growth(remembering, asked))
    report(made, given)


class Server(NamedTuple):
    """A server that listens."""

    port: int
    worker: int  # the process that answers
    state: Path
    read: dict[Path, int]  # how far its journal was looked through


def _overloaded(server: Server, case: Case, seconds: float) -> list[Measured]:
    request = _request(case.rows, case.once)
    few = Client(server.port, request, FEW, case.once)
    few.ask(seconds / 4)
    before = _cpu(server.worker)
    peak = few.ask(seconds)
    peak_cost = (_cpu(server.worker) - before) / len(peak.answered)
    rate = len(peak.answered) / peak.seconds
    few.close()
    many = Client(server.port, request, MANY, case.once)
    many.ask(max(seconds / 2, 1.3), rate * TIMES)  # until it is as bad as it gets: refused connections rest for a second
    before = _cpu(server.worker)
    load = many.ask(seconds * 2, rate * TIMES)
    cost = (_cpu(server.worker) - before) / (len(load.answered) + load.late)
    many.close()
    noted = _noted(server)
    lost = [identity for identity in load.answered if identity not in noted]
    assert not lost, f"{len(lost)} answers have no record"
    at = f"at {TIMES}x"
    return [
        (f"{case.name}: peak", OURS, "answers/s", rate),
        (f"{case.name}: peak", OURS, "us of processor each", peak_cost * 1e6),
        (f"{case.name}: answered {at}", OURS, "% of peak", 100 * len(load.answered) / load.seconds / rate),
        (f"{case.name}: answered {at}", OURS, "% of peak for the processor", 100 * peak_cost / cost),
        (f"{case.name}: median wait {at}", OURS, "ms", statistics.median(load.waits) * 1000),
        (f"{case.name}: p99 wait {at}", OURS, "ms", float(np.quantile(load.waits, 0.99)) * 1000),
        (f"{case.name}: sent {at}", OURS, "% of due", 100 * load.sent / load.offered),
        (f"{case.name}: answered, not refused", OURS, "% of both", 100 * len(load.answered) / (len(load.answered) + load.refused)),
    ]


def _growth(server: Server, asked: int) -> list[Measured]:
    """Ask many times, each eighth on new connections."""
    levels = [_memory(server.worker)]
    for _ in range(8):
        client = Client(server.port, _request(1, False), FEW, False)
        client.ask(600.0, most=asked // 8)
        client.close()
        levels.append(_memory(server.worker))
    slope, deviation = _slope(np.arange(9) * (asked / 8 / 1e6), np.array(levels))
    return [
        (f"memory after {asked} more requests", OURS, "MB", levels[-1]),
        # a fall counts as the smallest growth that can be told
        ("memory growth, upper end of 95 %", OURS, "MB per 1M requests", max(slope + 2.36 * deviation, 0.001)),
    ]


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    spread = ((x - x.mean()) ** 2).sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread
    left = y - y.mean() - slope * (x - x.mean())
    return float(slope), float(np.sqrt((left**2).sum() / (len(x) - 2) / spread))


class Client:
    """A pool of connections that one program writes to and reads from."""

    def __init__(self, port: int, request: bytes, connections: int, once: bool) -> None:
        self._port = port
        self._request = request
        self._once = once
        self._waiting = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self._free: deque[int] = deque()
        self._sent: dict[int, float] = {}
        self._part: dict[int, bytes] = {}
        self._most = connections
        self._answered: list[bytes] = []
        self._waits: list[float] = []
        self._refused = 0
        if not once:
            for _ in range(connections):
                self._free.append(self._connect())

    def ask(self, seconds: float, rate: float | None = None, most: int = sys.maxsize) -> Load:
        """Ask for so long; ``rate`` a second, or without: always one request on each connection."""
        self._answered, self._waits, self._refused = [], [], 0
        begun = now = time.perf_counter()
        sent = offered = 0
        while now < begun + seconds and sent < most:
            room = self._most - len(self._sent) if self._once else len(self._free)
            due = sys.maxsize if rate is None else int((now - begun) * rate) - offered
            number = min(due, room, most - sent)
            for _ in range(number):
                self._send()
            sent += number
            offered += number if rate is None else due
            self._take(0.002)
            now = time.perf_counter()
        load = Load(offered, sent, list(self._answered), self._refused, list(self._waits), 0, now - begun)
        last = time.perf_counter() + 5
        while self._sent and time.perf_counter() < last:
            self._take(0.05)
        return load._replace(late=len(self._answered) - len(load.answered))

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()

    def _connect(self) -> int:
        connection = socket.socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._once:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", self._port))
        else:
            connection.connect(("127.0.0.1", self._port))
            connection.setblocking(False)
        number = connection.fileno()
        self._open[number] = connection
        self._waiting.register(number, select.EPOLLIN | (select.EPOLLOUT if self._once else 0))
        return number

    def _send(self) -> None:
        number = self._connect() if self._once else self._free.popleft()
        self._sent[number] = time.perf_counter()
        self._part[number] = b""
        if not self._once:
            self._open[number].send(self._request)

    def _take(self, patience: float) -> None:
        for number, event in self._waiting.poll(patience):
            if event & select.EPOLLOUT:
                self._waiting.modify(number, select.EPOLLIN)
                self._open[number].send(self._request)
            if not event & ~select.EPOLLOUT:
                continue
            try:
                have = self._part.get(number, b"") + self._open[number].recv(1 << 20)
            except OSError:
                have = b""
            self._look(number, have)

    def _look(self, number: int, have: bytes) -> None:
        head = have.find(b"\r\n\r\n")
        if head < 0 or len(have) < head + 4 + int(have[have.index(b"content-length: ") + 16 : head].split(b"\r\n")[0]):
            if have and have != self._part.get(number):
                self._part[number] = have
                return
            self._replace(number)  # ended without an answer: between two requests, or by a refusal before
            return
        wait = time.perf_counter() - self._sent.pop(number)
        if have.startswith(b"HTTP/1.1 200"):
            at = have.index(b'"id":"') + 6
            self._answered.append(have[at : at + 32])
            self._waits.append(wait)
        else:
            assert have.startswith(b"HTTP/1.1 503"), have[:300]
            self._refused += 1
        if self._once or b"connection: close" in have[:head]:
            self._replace(number)
        else:
            self._free.append(number)

    def _replace(self, number: int) -> None:
        self._waiting.unregister(number)
        self._open.pop(number).close()
        self._sent.pop(number, None)
        if not self._once:
            if number in self._free:
                self._free.remove(number)
            self._free.append(self._connect())


@contextmanager
def _served(folder: Path, route: Route, number: int, settings: dict[str, str]) -> Iterator[Server]:
    """Serve the model that was made, with a journal of its own."""
    project = folder / str(number)
    state = project / ".kaizen"
    shutil.copytree(folder / "made", state)
    (project / "kaizen.toml").write_text('[project]\nname = "bench"\n', encoding="utf-8")
    endpoint = EndpointRoute(endpoint="bench", revision=1, arms=[route])
    snapshot.write(state / "serving" / snapshot.FILE, Snapshot(revision=1, written_at=0.0, endpoints={"bench": endpoint}))
    command = [sys.executable, "-m", "kaizenml.serving", "--state", str(state), "--port", "0"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ) as process:
        assert process.stdout is not None
        try:
            port = json.loads(process.stdout.readline())["port"]
            tasks = Path(f"/proc/{process.pid}/task").iterdir()
            (worker,) = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
            yield Server(port, worker, state, {})
        finally:
            process.terminate()


def _request(rows: int, once: bool) -> bytes:
    rng = np.random.default_rng(9)
    inputs = [dict(zip(_bundle.NAMES, map(float, row), strict=True)) for row in rng.normal(size=(rows, len(_bundle.NAMES)))]
    body = msgspec.json.encode({"inputs": inputs})
    head = b"POST /predict/bench HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + (b"connection: close\r\n" if once else b"")
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def _noted(server: Server) -> set[bytes]:
    """Return the id of the first row of every record that is new in the journal."""
    found = set()
    for segment in journal.segments(server.state / journal.FOLDER):
        for end, payload in journal.read(segment.path, server.read.get(segment.path, 0)):
            server.read[segment.path] = end
            assert payload is not None
            record = _decode(payload)
            if isinstance(record, PredictionRecord):
                found.add(record.answers[0].id.encode())
    return found


def _memory(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def _cpu(pid: int) -> float:
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
