"""Several workers on one port: what a request costs as they become more, how evenly they share, what the machine answers in all.

Workers share nothing that they write, so a request must cost the same however many there are; that is what a machine with few cores
can show, and each cost is compared with that of one worker. Answers a second rise only as far as there are cores: the client needs
one too, so what it took is a row as well. Shares are those of the worker that has most, in per cent of an even share (100 is best): of
connections that are opened one after the other and stay, and of the work under load.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import _load
import _servers
import _subjects
from _load import Load
from _rows import OURS, Measured, options, report
from _servers import Server
from kaizenml.rollouts.snapshot import Route

WORKERS = (1, 2, 4)
OPENED = 64  # connections for each worker
EACH = "1 row, a connection each"
_RPC = re.compile(rb'"grpc_port": ?(\d+)')
Drive = Callable[[int, Sequence[bytes], float, int], Load]


class Running(NamedTuple):
    """A server, and its workers' process ids."""

    server: Server
    grpc_port: int
    workers: list[int]

    @property
    def name(self) -> str:
        return OURS if len(self.workers) == 1 else f"{OURS}, {len(self.workers)} workers"


def main() -> None:
    given = options(__doc__)
    _servers.end_with_us()
    seconds, runs, workers = (0.1, 2, WORKERS[:2]) if given.quick else (3.0, 5, WORKERS)
    with tempfile.TemporaryDirectory(prefix="kzb-") as name, ExitStack() as stack:
        folder = Path(name)
        model, (champion, _) = _subjects.train(folder, folder / "model")
        cases: dict[str, tuple[list[bytes], Drive]] = {
            case: ([_load.request("/predict/bench", _subjects.named(rows)) for rows in asked], _load.ask) for case, asked in model.rows.items()
        }
        cases[EACH] = (cases["1 row"][0], _one_by_one)
        servers = [stack.enter_context(_up(folder, champion, number, cases["1 row"][0][0])) for number in workers]
        made: list[list[Measured]] = []
        for number in range(runs if given.quick else runs + 1):
            print(f"bench: round {number} (of {runs})", file=sys.stderr, flush=True)
            run = [row for case, (asked, drive) in cases.items() for running in servers for row in _asked(running, case, asked, drive, seconds)]
            run += [row for running in servers for row in _opened(running)]
            if number or given.quick:  # the first one warms up
                made.append(run)
            for path in folder.glob("*/.kaizen/journal/*.journal"):
                path.unlink()
    report(made, given)


@contextmanager
def _up(folder: Path, champion: Route, workers: int, first: bytes) -> Iterator[Running]:
    state = folder / f"{workers}" / ".kaizen"
    state.mkdir(parents=True)
    (state / "releases").symlink_to(folder / "releases")
    _subjects.route(state, champion)
    (port,) = _servers.free_ports(1)
    command, log = _servers.ours(state, port, workers), folder / f"{workers}.log"
    command = command._replace(arguments=[*command.arguments, "--grpc-port", "0"])
    with _servers.started(command, port, _servers.answering(first), log, sorted(os.sched_getaffinity(0))) as server:
        while (told := _RPC.search(log.read_bytes())) is None:  # said once all workers are there
            time.sleep(0.01)
        found = [pid for pid in _servers.family(server.pid, server.mark) if pid != server.pid]
        assert len(found) == workers, f"{len(found)} processes instead of {workers}"
        yield Running(server, int(told[1]), found)


def _asked(running: Running, case: str, requests: list[bytes], drive: Drive, seconds: float) -> list[Measured]:
    before, mine = [_servers.cpu_of(pid) for pid in running.workers], time.process_time()
    # as many for each worker: requests of one turn are answered together, and turns are to be alike
    load = drive(running.server.port, requests, seconds, _load.CONNECTIONS * len(running.workers))
    mine = time.process_time() - mine
    running.server.calm()
    spent = [_servers.cpu_of(pid) - was for pid, was in zip(running.workers, before, strict=True)]
    return [
        (f"{case}: processor time of all workers", running.name, "us/request", sum(spent) / load.answered * 1e6),
        (f"{case}: the client's", running.name, "us of the client", mine / load.answered * 1e6),
        (f"{case}: answered", running.name, "1/s", load.answered / load.seconds),
        (f"{case}: work of the busiest worker", running.name, "% of even", max(spent) / sum(spent) * len(spent) * 100),
    ]


def _one_by_one(port: int, requests: Sequence[bytes], seconds: float, _connections: int) -> Load:
    """Ask for so long, each time on a new connection, when the answer before has come."""
    begun, latencies = time.perf_counter(), []
    while (now := time.perf_counter()) - begun < seconds:
        _load.once(port, requests[len(latencies) % len(requests)])
        latencies.append(time.perf_counter() - now)
    return Load(len(latencies), time.perf_counter() - begun, sorted(latencies))


def _opened(running: Running) -> list[Measured]:
    each = f"{OPENED} connections a worker, one by one: those of the worker with most"
    return [
        (f"HTTP, {each}", running.name, "% of even", _most(running, running.server.port)),
        (f"gRPC, {each}", running.name, "% of even", _most(running, running.grpc_port)),
    ]


def _most(running: Running, port: int) -> float:
    had = [_sockets(pid) for pid in running.workers]
    with ExitStack() as stack:
        for _ in range(OPENED * len(had)):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            time.sleep(0.002)
        end = time.perf_counter() + 5
        while (more := [_sockets(pid) - was for pid, was in zip(running.workers, had, strict=True)]) and sum(more) < OPENED * len(had):
            assert time.perf_counter() < end, f"{sum(more)} of {OPENED * len(had)} connections were taken"
            time.sleep(0.01)
    while sum(_sockets(pid) for pid in running.workers) > sum(had) and time.perf_counter() < end + 5:
        time.sleep(0.01)
    return max(more) / OPENED * 100


def _sockets(pid: int) -> int:
    number = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            number += os.readlink(path).startswith("socket:")
    return number


if __name__ == "__main__":
    main()
