"""The processes of a running project: started, watched, found again, and stopped in order."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.errors import KaizenError, Unavailable, from_document

RESTARTS = 8
"""So many starts of one part within a minute are tried, with growing pauses; then it is not going to get better by itself."""


class Part:
    """One child process. It says ``{"port", "pid"}`` on stdout when it listens; its log goes to a file below the state folder."""

    def __init__(self, name: str, command: list[str], log: Path, *, environ: dict[str, str] | None = None, listens: bool = True) -> None:
        self.name = name
        self.command = command
        self.log = log
        self.environ = environ or {}
        self.listens = listens
        self.document: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._started: list[float] = []

    def start(self) -> dict[str, Any]:
        """Start it and wait until it listens; return what it said."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._started = [*self._started, time.perf_counter()][-RESTARTS:]
        with self.log.open("ab") as log:
            before = log.tell()
            # a group of its own: Ctrl-C reaches only the parent, which then stops the parts in order
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, process_group=0, preexec_fn=_die_with_parent,  # noqa: PLW1509  (it makes one system call)
                env={**os.environ, **self.environ},
            )  # fmt: skip
        assert self.process.stdout is not None
        if self.listens:
            line = self.process.stdout.readline()
            self.document = _decoded(line)
            if "error" in self.document:
                self.stop()
                raise from_document(self.document["error"])
            if "port" not in self.document:
                ended = _ended(self.process)
                self.stop()
                raise _not_started(self, before, ended)
            self._pin("--port", int(self.document["port"]))
            if "grpc_port" in self.document:
                self._pin("--grpc-port", int(self.document["grpc_port"]))
        # what it says later is not for anybody, but a full pipe would stop it
        threading.Thread(target=_swallow, args=(self.process.stdout,), daemon=True).start()
        return self.document

    def revive(self) -> bool:
        """Start it again if it died; return whether it had. Raises Unavailable when that happens again and again."""
        if self.process is None or self.process.poll() is None:
            return False
        now = time.perf_counter()
        recent = sum(started > now - 60 for started in self._started)
        if recent >= RESTARTS:
            raise Unavailable(f"{self.name} ended {recent} times within a minute (exit code {self.process.returncode})", remedy=f"read {self.log}")
        if recent > 1 and now < self._started[-1] + 0.25 * 2**recent:
            return False
        try:
            self.start()
        except KaizenError:
            return False  # what a killed process held (its port) may take a moment to come free: the next try tells
        return True

    def _pin(self, option: str, port: int) -> None:
        """Keep the port that was found for 0: clients know it, so a restart must come back to it."""
        if option in self.command:
            self.command[self.command.index(option) + 1] = str(port)

    def stop(self, patience_s: float = 10.0) -> None:
        """Ask it to end, and make it end."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set; the second signal interrupts whatever still runs."""
    stop = threading.Event()

    def ask(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(pid: int, patience_s: float = 60.0) -> None:
    """Ask a process that is not our child to end, and wait until it has. Raises Unavailable."""
    deadline = time.perf_counter() + patience_s
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while _runs(pid):
            if time.perf_counter() > deadline:
                raise Unavailable(f"process {pid} does not end", remedy=f"kill -KILL {pid}, then start anew", values={"pid": pid})
            time.sleep(0.05)


def _runs(pid: int) -> bool:
    os.kill(pid, 0)
    with contextlib.suppress(OSError, IndexError):  # a zombie only waits for its parent to look
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return True


def check_port(host: str, port: int, *, option: str, what: str) -> None:
    """Raise Unavailable when another program listens there. Port 0 (any free one) always passes."""
    if port == 0:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            holder = holder_of(port)
            by = f" by {holder}" if holder else ""
            if isinstance(error, PermissionError):
                what_happened = f"port {port} for {what} needs more rights than this user has"
            elif error.errno == 98 or "in use" in str(error):
                what_happened = f"port {port} for {what} is taken{by}"
            else:
                what_happened = f"{host}:{port} for {what} cannot be used: {error.strerror}"
            raise Unavailable(
                what_happened, remedy=f"{option} {_free_port(host)}, or stop the other program", values={"host": host, "port": port, "holder": holder}
            ) from None


def holder_of(port: int) -> str | None:
    """Return ``name (pid N)`` of the program that listens on a port, where this can be seen (Linux, own processes)."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                cells = line.split()
                if cells[3] == "0A" and int(cells[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{cells[9]}]")
    if not inodes:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(handle) in inodes for handle in (folder / "fd").iterdir()):
                return f"{(folder / 'comm').read_text(encoding='utf-8').strip()} (pid {folder.name})"
    return None


def write_address(state: Path, document: dict[str, Any]) -> None:
    """Note where this project is served, for `kaizen predict` and `kaizen status`."""
    path = address_file(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.json.encode(document))
    os.replace(fresh, path)


def read_address(state: Path) -> dict[str, Any] | None:
    """Return where this project is served now, or None when what was noted is gone."""
    try:
        document = _decoded(address_file(state).read_bytes())
        os.kill(int(document["pid"]), 0)
    except PermissionError:
        return document
    except (OSError, KeyError, ValueError):
        return None
    return document


def address_file(state: Path) -> Path:
    """Return the file that says where the project is served."""
    return state / "serving" / "address.json"


def python(*arguments: str) -> list[str]:
    """Return the command that runs one of our modules."""
    return [sys.executable, "-m", *arguments]


def _decoded(line: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _ended(process: subprocess.Popen[bytes]) -> str:
    """Say how a process ended that has closed its stdout."""
    try:
        code = process.wait(2.0)
    except subprocess.TimeoutExpired:
        return "it said nothing"
    if code >= 0:
        return f"it ended with exit code {code}"
    return f"it was ended by {signal.Signals(-code).name}" if -code in {each.value for each in signal.Signals} else f"it was ended by signal {-code}"


def _not_started(part: Part, before: int, ended: str) -> KaizenError:
    with contextlib.suppress(OSError), part.log.open("rb") as log:
        log.seek(before)
        words = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        told = [line for line in words if line.startswith("error:")] or words[-1:]
        if told:
            return Unavailable(f"{part.name} did not start: {told[-1].removeprefix('error: ')[:300]}", remedy=f"read {part.log}")
    return Unavailable(f"{part.name} did not start: {ended}", remedy=f"kaizen up again; the log, if it said anything: {part.log}")


def _swallow(stream: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        while stream.read(4096):
            pass


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return 0
        return int(probe.getsockname()[1])


_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _PRCTL is not None:  # a killed parent leaves no server behind
        _PRCTL(1, signal.SIGTERM)
