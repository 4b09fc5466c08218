"""The parent of the serving processes: binds the port, starts the workers, replaces one that dies, ends them all.

Where the system spreads connections over sockets of one port (Linux), each worker has a socket of its own, so that all get their share;
elsewhere they share one. This process keeps them all open: a connection that waits in a queue outlives the worker that dies.
Standard library only: the parent stays small and never runs a model.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from kaizenml.errors import MissingExtra, Unavailable, UsageError

_PATIENCE_S = 15.0  # for workers to end after SIGTERM, then SIGKILL
_QUICK_S = 5.0  # a worker that dies younger than this has something wrong with it
_MOST_QUICK = 5  # such deaths in a row before giving up


def bind(host: str, port: int, *, patience_s: float = 1.0, option: str = "--port", shared: bool = False) -> socket.socket:
    """Return a listening socket.

    Parameters
    ----------
    port : 0 takes any free one.
    shared : another server of this user may listen there, whose place this one takes.
    patience_s : how long to wait for a former server that is just ending.
    option : what another port can be asked for with.

    Raises
    ------
    Unavailable : the port is taken; names who holds it where that can be found out.
    UsageError : the address cannot be one of this machine's.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _bind(host, port, shared=shared)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                holder = _holder(port)
                by = f" by {holder[1]} (process {holder[0]})" if holder else ""
                pid, program = holder or (None, None)
                values = {"host": host, "port": port, "pid": pid, "program": program}
                raise Unavailable(f"port {port} of {host} is taken{by}", remedy=f"{option} {port + 1}, or end that process", values=values) from None
            if error.errno == errno.EACCES:
                raise UsageError(f"port {port} needs more rights than this user has", remedy=f"{option} 8080", values={"port": port}) from None
            values = {"host": host, "port": port}
            raise UsageError(f"{host}:{port} cannot be listened on: {error}", remedy="--host 127.0.0.1", values=values) from None
        except OverflowError:
            raise UsageError(f"{port} is not a port", remedy=f"{option} 8080; from 0 (any free one) to 65535", values={"port": port}) from None


def hold(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket that keeps a port for workers who listen on it by themselves, as gRPC does; nothing comes in by this one.

    Parameters
    ----------
    shared : as for ``bind``.

    Raises
    ------
    MissingExtra : there is no gRPC here.
    Unavailable, UsageError : as ``bind``.
    """
    check_grpc()
    with bind(host, port, option="--grpc-port", shared=shared) as probe:  # sharing is only among ourselves: the port must be free before
        family, (address, found, *_) = probe.family, probe.getsockname()
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((address, found))
    return held


def spread(listening: socket.socket, workers: int) -> list[socket.socket]:
    """Return the socket that each worker takes connections from.

    Workers that wait on one socket race for each newcomer, and the same one mostly wins: on an idle machine the busiest of four had twice
    its share, and what stays open stays there. Linux spreads newcomers over sockets of one port by itself.
    """
    if sys.platform != "linux":
        return [listening] * workers
    # only now: the port was taken for us alone. From here on a server that takes the place of this one may listen beside it.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    host, port = listening.getsockname()[:2]
    return [listening, *(_bind(host, port, shared=True) for _ in range(workers - 1))]


def check_grpc() -> None:
    """Raise MissingExtra where gRPC is not installed."""
    if importlib.util.find_spec("grpc") is None or importlib.util.find_spec("google.protobuf") is None:
        raise MissingExtra("gRPC is not installed here, and a grpc_port is asked for", remedy="pip install 'kaizenml[grpc]'")


def _bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
        listening.listen(2048)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


@dataclass
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    started: float
    ready: int  # reading end of its pipe: one byte when it takes requests


class Supervisor:
    """Starts ``workers`` processes on ``listening`` and keeps them running until SIGTERM or SIGINT.

    ``told`` is said beside the port in the line that tells that it listens. ``held`` keeps the port for gRPC.
    """

    def __init__(
        self, command: list[str], listening: socket.socket, workers: int, told: dict[str, Any] | None = None, held: socket.socket | None = None
    ) -> None:
        self._command = command if held is None else [*command, "--grpc", address(held)]
        self._listening = spread(listening, workers)
        self._held = held
        self._count = workers
        self._told = told or {}
        self._workers: dict[int, _Worker] = {}
        self._ending = False
        self._quick = 0
        # workers hold the reading end: it closes when this process is gone, however it went
        self._alive_read, self._alive_write = os.pipe()

    def run(self) -> int:
        """Run until told to end; return the exit code."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        try:
            for number in range(self._count):
                self._start(number)
            if not self._await_ready():
                return 0 if self._ending else 1
            host, port = self._listening[0].getsockname()[:2]
            told = {**self._told, **told_of(self._held)}
            print(json.dumps({"port": port, "pid": os.getpid(), "host": host, "workers": self._count, **told}), flush=True)
            return self._watch()
        finally:
            self._stop()

    def _start(self, number: int) -> None:
        reading, writing = os.pipe()
        listening = self._listening[number].fileno()
        command = [
            *self._command, "--worker", str(number), "--socket", str(listening),
            "--ready", str(writing), "--parent", str(self._alive_read),
        ]  # fmt: skip
        handles = (listening, writing, self._alive_read)
        process = subprocess.Popen(command, pass_fds=handles, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        os.close(writing)
        self._workers[number] = _Worker(number, process, time.monotonic(), reading)

    def _await_ready(self) -> bool:
        with selectors.DefaultSelector() as waiting:
            for worker in self._workers.values():
                waiting.register(worker.ready, selectors.EVENT_READ, worker)
            while waiting.get_map() and not self._ending:
                for key, _ in waiting.select(0.1):
                    waiting.unregister(key.fd)
                    if not os.read(key.fd, 1):  # closed without a word: it died, and has said why
                        return False
        return not self._ending

    def _watch(self) -> int:
        while not self._ending:
            time.sleep(0.05)
            for worker in list(self._workers.values()):
                code = worker.process.poll()
                if code is None or self._ending:
                    continue
                os.close(worker.ready)
                self._quick = self._quick + 1 if time.monotonic() - worker.started < _QUICK_S else 1
                print(f"worker {worker.number} (process {worker.process.pid}) ended with {code}; starting another", file=sys.stderr, flush=True)
                if self._quick >= _MOST_QUICK:
                    print("workers keep dying: giving up; the reason stands above", file=sys.stderr, flush=True)
                    del self._workers[worker.number]
                    return 1
                self._start(worker.number)
        return 0

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self._ending = True

    def _stop(self) -> None:
        for listening in self._listening:
            listening.close()  # first: nobody is to connect to a server that is ending
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                worker.process.terminate()
        deadline = time.monotonic() + _PATIENCE_S
        for worker in self._workers.values():
            try:
                worker.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


def address(held: socket.socket) -> str:
    """Return where a socket is bound, as ``host:port``."""
    host, port = held.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def told_of(held: socket.socket | None) -> dict[str, int]:
    """Return what is said of the port for gRPC when the server listens."""
    return {} if held is None else {"grpc_port": held.getsockname()[1]}


def _holder(port: int) -> tuple[int, str] | None:
    """Find out who listens on a port, where the machine tells (Linux, own processes)."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                parts = line.split()
                if int(parts[1].rpartition(":")[2], 16) == port and parts[3] == "0A":
                    inodes.add(f"socket:[{parts[9]}]")
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for handle in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(handle) in inodes:
                        return int(process.name), (process / "comm").read_text().strip()
    return None
