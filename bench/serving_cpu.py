"""Processor time of a request: LightGBM, 200 trees of 31 leaves, 30 inputs; with lineage, journal and counters.

The client writes raw bytes on a few kept connections; what counts is the server's own processor time (user and system)
over the requests that it answered, which other programs on the machine hardly move. Beside it: the service that people
write first, which does none of that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

import _bundle
import _load
from _rows import OURS, options, report
from kaizenml.access import token as tokens
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.snapshot import EndpointRoute, Snapshot

BY_HAND = "starlette by hand"


def main() -> None:
    given = options(__doc__)
    seconds, runs = (0.3, 3) if given.quick else (2.0, 9)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ours, shadowed = (stack.enter_context(_ours(Path(folder) / name, releases)) for name, releases in (("one", 1), ("two", 2)))
        guarded = stack.enter_context(_ours(Path(folder) / "guarded", 1, KAIZEN_SERVE_AUTH="on"))
        free, rated = (_token(Path(folder) / "guarded", rate) for rate in (None, 1e6))
        theirs = stack.enter_context(_started(str(Path(__file__).with_name("_by_hand.py")), str(Path(folder) / "one/releases/bench/1/model/m.txt")))
        asked = [
            ("1 row", [(OURS, ours), (BY_HAND, theirs)], _request(1)),
            ("100 rows", [(OURS, ours), (BY_HAND, theirs)], _request(100)),
            ("1 row, a shadow", [(OURS, shadowed)], _request(1)),
            ("1 row, a token", [(OURS, guarded)], _request(1, free)),
            ("1 row, a token with a rate", [(OURS, guarded)], _request(1, rated)),
        ]
        made = []
        for number in range(runs + 1):
            run = [(case, name, "us", _cost(server, request, seconds)) for case, servers, request in asked for name, server in servers]
            run += [("memory", name, "MB", _memory(server)) for name, server in asked[0][1]]
            if number:  # the first one warms up
                made.append(run)
    report(made, given)


class Server(NamedTuple):
    """A server that listens."""

    port: int
    pid: int  # of the process that answers


@contextmanager
def _ours(state: Path, releases: int, **environ: str) -> Iterator[Server]:
    """Serve a release, and the others as its shadows."""
    routes = [_bundle.write(state, number) for number in range(1, releases + 1)]
    shadows = [msgspec.structs.replace(route, arm="shadow") for route in routes[1:]]
    endpoint = EndpointRoute(endpoint="bench", revision=1, arms=routes[:1], shadows=shadows)
    snapshot.write(state / "serving" / snapshot.FILE, Snapshot(revision=1, written_at=0.0, endpoints={"bench": endpoint}))
    with _started("-m", "kaizenml.serving", "--state", str(state), "--port", "0", **environ) as supervisor:
        (worker,) = _children(supervisor.pid)
        yield Server(supervisor.port, worker)


@contextmanager
def _started(*command: str, **environ: str) -> Iterator[Server]:
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ) as process:
        assert process.stdout is not None
        try:
            yield Server(json.loads(process.stdout.readline())["port"], process.pid)
        finally:
            process.terminate()


def _cost(server: Server, request: bytes, seconds: float) -> float:
    before = _cpu(server.pid)
    answered = _load.ask(server.port, [request], seconds).answered
    return (_cpu(server.pid) - before) / answered * 1e6


def _memory(server: Server) -> float:
    lines = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def _token(state: Path, rate: float | None) -> str:
    """Make a token that the servers of ``state`` know, beside those that there are; return its text."""
    path = state / "serving" / tokens.FILE
    known = tokens.read(path) if path.exists() else []
    identity, text = tokens.make([each.id for each in known])
    made = tokens.Token(name=f"bench-{len(known)}", id=identity, hash=tokens.digest(text), scopes=["predict"], rate=rate, created_at=0.0)
    tokens.write(path, [*known, made])
    return text


def _request(rows: int, token: str | None = None) -> bytes:
    rng = np.random.default_rng(9)
    inputs = [dict(zip(_bundle.NAMES, map(float, row), strict=True)) for row in rng.normal(size=(rows, len(_bundle.NAMES)))]
    return _load.request("/predict/bench", {"inputs": inputs}, f"authorization: Bearer {token}\r\n" if token else "")


def _children(parent: int) -> list[int]:
    return [int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()]


def _cpu(pid: int) -> float:
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
