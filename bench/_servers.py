"""Servers as they run: started on their own core, their processes found, their processor time and memory read."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import _load

START_S = 150.0
_MARK = "KAIZEN_BENCH_SERVER"  # in the environment of every process of a server, also of those that left its family
_CALM = {
    "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "BENTOML_DO_NOT_TRACK": "True",
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120", "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
}  # fmt: skip


class Failed(Exception):
    """A server that cannot be measured, and why."""


class Command(NamedTuple):
    """How a server is started on a port."""

    arguments: Sequence[str]
    environ: Mapping[str, str] = {}
    folder: Path | None = None


class Server(NamedTuple):
    """A server that has answered."""

    port: int
    pid: int
    mark: str
    start: float  # seconds from its start to its first answer

    def cpu(self) -> float:
        """Return the seconds of processor time, user and system, of all its processes so far."""
        return sum(cpu_of(pid) for pid in family(self.pid, self.mark))

    def calm(self) -> float:
        """Return the same once what was left to do after the answers is done (waiting 5 seconds at most)."""
        end, before = time.perf_counter() + 5, self.cpu()
        while time.perf_counter() < end:
            time.sleep(0.05)
            now = self.cpu()
            if now - before < 0.02:
                return now
            before = now
        return before

    def memory(self) -> float:
        """Return the megabytes that all its processes hold; what they share is counted once (PSS)."""
        return sum(_memory(pid) for pid in family(self.pid, self.mark)) / 1024


def cores() -> tuple[int, int]:
    """Return the core for the server and the one for the client; the same one where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def end_with_us() -> None:
    """Let a SIGTERM end this program as an exception does: with what it has started."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(number)]


def ours(state: Path, port: int, workers: int = 1) -> Command:
    """Serve a project's state."""
    command = [sys.executable, "-m", "kaizenml.serving", "--state", str(state), "--port", str(port), "--workers", str(workers)]
    return Command(command)


@contextmanager
def started(command: Command, port: int, unanswered: Callable[[int], str | None], log: Path, on: Sequence[int] | None = None) -> Iterator[Server]:
    """Start a server, wait for its first answer, and end all its processes at last.

    Parameters
    ----------
    unanswered : told the port, says why there is no answer yet; None: there is one.
    log : where its words go.
    on : the cores for it; the first by default.

    Raises
    ------
    Failed : it ended, or did not answer in time; with its last words.
    """
    mark = f"{os.getpid()}.{port}"
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on or cores()[:1])  # inherited by all its processes
    begun = time.perf_counter()
    environ = {**os.environ, **_CALM, **command.environ, _MARK: mark}
    try:
        with log.open("wb") as words:
            process = subprocess.Popen(
                command.arguments, stdin=subprocess.DEVNULL, stdout=words, stderr=words, env=environ, cwd=command.folder, start_new_session=True
            )
    except OSError as error:
        raise Failed(f"{command.arguments[0]} does not start: {error.strerror}") from None
    finally:
        os.sched_setaffinity(0, here)
    try:
        while problem := unanswered(port):
            if process.poll() is not None:
                raise Failed(f"it ended with {process.returncode}: {last_words(log)}")
            if time.perf_counter() - begun > START_S:
                raise Failed(f"no answer within {START_S:g} s: {problem}; its last words: {last_words(log)}")
            time.sleep(0.005)
        yield Server(port, process.pid, mark, time.perf_counter() - begun)
    finally:
        _end(process, mark)


def answering(asked: bytes) -> Callable[[int], str | None]:
    """Return what asks a server this, and says why it does not answer."""

    def unanswered(port: int) -> str | None:
        try:
            _load.once(port, asked)
        except (OSError, ValueError, _load.Refused) as error:
            return str(error).partition("\r\n")[0] or type(error).__name__
        return None

    return unanswered


def last_words(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line[:200] for line in reversed(lines) if line), "it said nothing")


def family(root: int, mark: str) -> list[int]:
    """Return a server's processes: the first, its descendants, and whoever carries the mark."""
    parents = {pid: parent for pid in _pids() if (parent := _parent(pid)) is not None}
    found = {root} & parents.keys()
    found |= {pid for pid in parents if _marked(pid, mark)}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found)


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    known = set(family(process.pid, mark))
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    for pid in known | set(family(process.pid, mark)):
        if _marked(pid, mark):  # by now its number may be another's
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()
    end = time.perf_counter() + 5
    while family(process.pid, mark) and time.perf_counter() < end:  # the next one is to have the core to itself
        time.sleep(0.01)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _parent(pid: int) -> int | None:
    parts = _stat(pid)
    return None if parts is None or parts[0] in "ZX" else int(parts[1])


def _marked(pid: int, mark: str) -> bool:
    try:
        return f"{_MARK}={mark}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def cpu_of(pid: int) -> float:
    """Return the seconds of processor time of one process so far."""
    parts = _stat(pid)
    # with that of its children that have ended, or a process that ends would take its time along
    return sum(map(int, parts[11:15])) / os.sysconf("SC_CLK_TCK") if parts else 0.0


def _memory(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return float(next((line.split()[1] for line in lines if line.startswith("Pss:")), 0))
