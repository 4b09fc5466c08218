"""CPU a request of the data plane: LightGBM, 200 trees of 31 leaves, 30 inputs; lineage, journal and counters on.

Run: ``./x python bench/serving_cpu.py [--rows 1] [--shadow] [--seconds 3]``. The client writes raw bytes on a few kept
connections; what counts is the server's own CPU time (user and system) over the requests it answered, which other
programs on the machine hardly move. Peers' numbers beside it: docs and `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightgbm
import msgspec
import numpy as np

from kaizenml.features.encoder import EncodedColumn, Encoder
from kaizenml.features.signature import Field, Signature
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.snapshot import EndpointRoute, Lineage, Route, Snapshot
from kaizenml.training import model_file
from kaizenml.training.model_file import Member, ModelSpec, Naive

NAMES = [f"feature_{n}" for n in range(30)]
CONNECTIONS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--shadow", action="store_true", help="a second release runs beside the first")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / ".kaizen"
        routes = [_bundle(state, number) for number in ((1, 2) if given.shadow else (1,))]
        shadows = [msgspec.structs.replace(route, arm="shadow") for route in routes[1:]]
        endpoint = EndpointRoute(endpoint="bench", revision=1, arms=routes[:1], shadows=shadows)
        snapshot.write(state / "serving" / snapshot.FILE, Snapshot(revision=1, written_at=0.0, endpoints={"bench": endpoint}))
        command = [sys.executable, "-m", "kaizenml.serving", "--state", str(state), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        (worker,) = _children(process.pid)
        try:
            request = _request(given.rows)
            _ask(port, request, 0.5)
            before, start = _cpu(worker), time.perf_counter()
            answered = _ask(port, request, given.seconds)
            cpu, took = _cpu(worker) - before, time.perf_counter() - start
            memory = int(next(line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
        finally:
            process.terminate()
            process.wait()
    row = {
        "rows": given.rows,
        "requests": answered,
        "cpu_us": round(cpu / answered * 1e6, 1),
        "per_second": round(answered / took),
        "rss_mb": round(memory),
    }
    print(json.dumps(row) if given.json else "  ".join(f"{name} {value}" for name, value in row.items()))


def _bundle(state: Path, number: int) -> Route:
    rng = np.random.default_rng(number)
    x = rng.normal(size=(5000, len(NAMES))).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=5000) > 0).astype(float)
    folder = state / "releases" / "bench" / str(number) / "model"
    folder.mkdir(parents=True)
    parameters = {"objective": "binary", "num_leaves": 31, "verbosity": -1}
    lightgbm.train(parameters, lightgbm.Dataset(x, y), 200).save_model(str(folder / "m.txt"))
    signature = Signature(task="binary", target="y", classes=[False, True], fields=[Field(name=name, kind="number") for name in NAMES])
    encoder = Encoder(columns=[EncodedColumn(name=name, kind="number") for name in NAMES])
    members = [Member(name="boosted", kind="lightgbm", file="m.txt", weight=1.0)]
    model_file.write(folder, ModelSpec(signature=signature, encoder=encoder, members=members, naive=Naive(value=False, probabilities=[0.5, 0.5])))
    lineage = Lineage(model="bench@1", data="bench@1", features=[], code="0" * 40, hash="0" * 64)
    return Route(release=f"bench@{number}", bundle=f"releases/bench/{number}", weight=1000, arm="champion", lineage=lineage)


def _request(rows: int) -> bytes:
    rng = np.random.default_rng(9)
    inputs = [dict(zip(NAMES, map(float, row), strict=True)) for row in rng.normal(size=(rows, len(NAMES)))]
    body = msgspec.json.encode({"inputs": inputs})
    return b"POST /predict/bench HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def _ask(port: int, request: bytes, seconds: float) -> int:
    """Keep one request under way on each connection; return how many were answered."""
    waiting = selectors.DefaultSelector()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting.register(connection, selectors.EVENT_READ, bytearray())
        connection.sendall(request)
    answered, under_way, end = 0, CONNECTIONS, time.perf_counter() + seconds
    while under_way:
        for key, _ in waiting.select(1):
            connection, have = key.fileobj, key.data
            have += connection.recv(1 << 20)
            head = have.find(b"\r\n\r\n")
            if head < 0 or len(have) < head + 4 + int(have[have.index(b"content-length: ") + 16 : head].split(b"\r\n")[0]):
                continue
            assert have.startswith(b"HTTP/1.1 200"), bytes(have[:500])
            have.clear()
            answered += 1
            if time.perf_counter() < end:
                connection.sendall(request)
            else:
                under_way -= 1
    for connection in connections:
        connection.close()
    return answered


def _children(parent: int) -> list[int]:
    return [int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()]


def _cpu(pid: int) -> float:
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
