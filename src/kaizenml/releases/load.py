"""The load gate: a server of its own on the bundle, real rows at a constant rate, and the clock that does not lie.

Open loop: requests start when they are due, whether or not earlier ones were answered, and latency counts from
the moment a request was due. A generator that waits for answers would stop asking just when the server stalls, and
miss what users would have felt (coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import httptools
import msgspec

from kaizenml.errors import Unavailable
from kaizenml.releases.release import GateResult
from kaizenml.settings import GateSettings

START_S = 60.0  # a server that has not said its port by then is not coming
END_S = 5.0
GRACE_S = 5.0  # after the last request was due, answers are awaited so long
WARM_UP = 20  # requests one after another
WARM_UP_S = 0.5  # and so long at the asked rate: connections, caches and clocks of a machine at rest come up under load only
ATTEMPTS = 3
PAUSE_S = 1.0
PATH = "/predict/release"  # how a server on a bundle calls its only endpoint
CONNECTIONS = 64
REACHED = 0.95  # of the asked rate

# The child dies with this process, however it dies (Linux: PR_SET_PDEATHSIG); elsewhere the finally below has to do.
_LAUNCH = """
import os, runpy, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 2, 0, 0, 0)
except (AttributeError, OSError):
    pass
if os.getppid() != int(os.environ.pop("KAIZEN_PARENT")):
    raise SystemExit(1)
runpy.run_module("kaizenml.serving", run_name="__main__", alter_sys=True)
"""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the generator saw. Latencies in milliseconds, from the moment a request was due."""

    asked_rate: float
    seconds: float
    requests: int
    answered: int
    errors: dict[str, int]
    reached_rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float  # by how much the generator itself was late: noise of the machine
    decided_by: dict[str, int]
    said: str = ""  # what the first refused request was told

    def complaints(self, p99_ms: float) -> list[str]:
        """Return what speaks against the release; [] when nothing does."""
        found = []
        if self.errors:
            found.append(", ".join(f"{count} x {what}" for what, count in self.errors.items()))
        if self.p99_ms > p99_ms:
            found.append(f"p99 {self.p99_ms:.1f} ms is over {p99_ms:g} ms")
        if self.reached_rate < REACHED * self.asked_rate:
            found.append(f"only {self.reached_rate:.0f} of {self.asked_rate:g} requests a second were answered")
        answers = sum(self.decided_by.values())
        if answers and self.decided_by.get("model", 0) < 0.5 * answers:
            found.append(f"the model decided only {self.decided_by.get('model', 0)} of {answers} answers")
        return found


def gate(
    port: Callable[[], int], rows: list[dict[str, Any]], settings: GateSettings, progress: Callable[[float], None] | None = None
) -> GateResult:
    """Ask a server on the bundle ``settings.rate`` times a second for ``settings.load_seconds``.

    A run that is only too slow is repeated, twice at most, because neighbours on the machine slow it too; every attempt is
    in the evidence, and errors are not excused.

    Parameters
    ----------
    port : of the server, see ``starting``.
    rows : inputs, one for each request, round and round.
    settings : rate, p99_ms and load_seconds.
    progress : told the share done, 0..1.
    """
    if not rows:
        return GateResult(name="load", passed=False, summary="the pinned data has no rows to ask with", evidence={})
    bodies = [msgspec.json.encode({"inputs": [row]}) for row in rows]
    attempts: list[Measured] = []
    try:
        at = port()
        run(at, PATH, bodies, rate=settings.rate, seconds=min(WARM_UP_S, settings.load_seconds))  # what it meets, the first attempt meets
        while True:
            attempts.append(run(at, PATH, bodies, rate=settings.rate, seconds=settings.load_seconds))
            if progress:
                progress(len(attempts) / ATTEMPTS)
            if len(attempts) == ATTEMPTS or attempts[-1].errors or not attempts[-1].complaints(settings.p99_ms):
                break
            time.sleep(PAUSE_S)
    except Unavailable as error:
        return GateResult(name="load", passed=False, summary=error.what, evidence=error.document())
    last = attempts[-1]
    complaints = last.complaints(settings.p99_ms)
    evidence = {"limit_p99_ms": settings.p99_ms, "attempts": [msgspec.to_builtins(attempt) for attempt in attempts]}
    if complaints and last.late_p99_ms > 0.5 * settings.p99_ms:
        complaints.append(f"the machine was busy: the asking itself was up to {last.late_p99_ms:.0f} ms late")
    again = f" (attempt {len(attempts)} of {ATTEMPTS})" if len(attempts) > 1 else ""
    measured = f"{last.reached_rate:.0f} requests a second, p50 {last.p50_ms:.1f} ms, p99 {last.p99_ms:.1f} ms (limit {settings.p99_ms:g}), no errors"
    return GateResult(name="load", passed=not complaints, summary=("; ".join(complaints) or measured) + again, evidence=evidence)


@contextlib.contextmanager
def starting(bundle: Path) -> Iterator[Callable[[], int]]:
    """Start a server on a bundle in a process of its own, and kill it in every case.

    It comes up while the caller does something else. What is handed out waits for its port, and raises Unavailable when it did
    not come up; the end of what it wrote is in the values.
    """
    ours = ("KAIZEN_CLOCK", "KAIZEN_TOKEN", "KAIZEN_SERVE_")  # meant for the server of the project
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment = kept | {"KAIZEN_PARENT": str(os.getpid())}
    command = [sys.executable, "-c", _LAUNCH, "--bundle", str(bundle), "--host", "127.0.0.1", "--port", "0"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True)
        try:
            yield lambda: _port(process, log)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server: it gets a moment to remove its scratch files, and no second one."""
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # with any process that it started
        process.wait()
        if process.stdout:
            process.stdout.close()


def run(port: int, path: str, bodies: list[bytes], *, rate: float, seconds: float) -> Measured:
    """Ask a server on this machine at a constant rate and measure.

    Parameters
    ----------
    port : on 127.0.0.1.
    path : of every request.
    bodies : JSON bodies, sent round and round.
    rate : requests a second, above 0.
    seconds : how long.
    """
    with ThreadPoolExecutor(1) as thread:  # of its own, for a notebook's thread runs an event loop already
        return thread.submit(lambda: asyncio.run(_Generator(port, path, bodies).measure(rate, seconds))).result()


def _port(process: subprocess.Popen[bytes], log: IO[bytes]) -> int:
    """Wait for the server's JSON line on stdout."""
    assert process.stdout is not None
    deadline, text = time.monotonic() + START_S, b""
    while b"\n" not in text:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not chunk:
            log.seek(0)
            said = log.read()[-2000:].decode(errors="replace")
            why = "did not come up" if ready else f"said nothing for {START_S:g} s"
            raise Unavailable(f"the server on the bundle {why}", remedy="see values.said, mend and release again", values={"said": said})
        text += chunk
    return int(msgspec.json.decode(text.split(b"\n")[0])["port"])


class _Generator:
    """Sends requests when they are due and notes when they were answered."""

    def __init__(self, port: int, path: str, bodies: list[bytes]) -> None:
        self._port = port
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: "
        self._requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._opening = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.latencies: list[float] = []
        self.answers: list[bytes] = []
        self.errors: Counter[str] = Counter()
        self.finished = 0
        self.ended = 0.0
        self._target = -1
        self._said = ""
        self._done = asyncio.Event()

    async def measure(self, rate: float, seconds: float) -> Measured:
        try:
            await self._warm_up()
            return await self._measured(rate, 0.0 if self.errors else seconds)  # refused before the start: one more tells enough
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for connection in list(self._open):
                connection.close()
            while self._open:  # until the loop has closed their sockets
                await asyncio.sleep(0)

    async def _warm_up(self) -> None:
        for number in range(WARM_UP):
            self._target, before = self.finished + 1, self.finished
            self._send(time.perf_counter(), self._requests[number % len(self._requests)])
            await self._wait(START_S)
            if self.finished == before or self.errors:
                break
        self.latencies.clear()
        self.answers.clear()
        self.finished = 0

    async def _measured(self, rate: float, seconds: float) -> Measured:
        count = max(1, round(rate * seconds))
        self._target = count
        self._done.clear()
        late = []
        begin = time.perf_counter() + 0.01
        sent = 0
        while sent < count:
            due = begin + sent / rate
            now = time.perf_counter()
            if now < due:
                await asyncio.sleep(due - now)
                continue
            late.append(now - due)
            self._send(due, self._requests[sent % len(self._requests)])
            sent += 1
            if sent % 32 == 0:
                await asyncio.sleep(0)  # answers are read also when sending is behind
        await self._wait(GRACE_S)
        missing = count - self.finished
        if missing:
            self.errors[f"no answer within {GRACE_S:g} s"] += missing
        took = max(self.ended - begin, count / rate)
        ordered = sorted(self.latencies) or [float("inf")]
        return Measured(
            asked_rate=rate,
            seconds=round(took, 4),
            requests=count,
            answered=len(self.latencies),
            errors=dict(self.errors),
            reached_rate=round(len(self.latencies) / took, 2),
            p50_ms=_quantile(ordered, 0.5),
            p99_ms=_quantile(ordered, 0.99),
            max_ms=_quantile(ordered, 1.0),
            late_p99_ms=_quantile(sorted(late), 0.99),
            decided_by=_deciders(self.answers),
            said=self._said,
        )

    async def _wait(self, limit_s: float) -> None:
        if self.finished < self._target:
            self._done.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), limit_s)

    def _send(self, due: float, request: bytes) -> None:
        if self._idle:
            self._idle.pop().ask(due, request)
            return
        self._waiting.append((due, request))
        if len(self._open) + self._opening < CONNECTIONS:
            self._opening += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        except OSError as error:
            if self._waiting:
                self._waiting.popleft()
                self.note(None, f"no connection: {error.strerror or error}", b"")
        finally:
            self._opening -= 1

    def opened(self, connection: _Connection) -> None:
        self._open.add(connection)
        self.free(connection)

    def closed(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def free(self, connection: _Connection) -> None:
        if self._waiting:
            connection.ask(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def note(self, due: float | None, error: str | None, body: bytes) -> None:
        now = time.perf_counter()
        if error or due is None:
            self.errors[error or "no answer"] += 1
            self._said = self._said or body[:1000].decode(errors="replace")
        else:
            self.latencies.append(now - due)
            self.answers.append(body)
            self.ended = now
        self.finished += 1
        if self.finished >= self._target:
            self._done.set()


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._due: float | None = None
        self._body: list[bytes] = []
        self._transport: Any = None
        self._parser: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._generator.opened(self)

    def ask(self, due: float, request: bytes) -> None:
        self._due, self._body = due, []
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError):  # not HTTP, or bytes that nobody asked for
            self._fail("not HTTP")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        due, self._due = self._due, None
        status = self._parser.get_status_code()
        self._generator.note(due, None if status == 200 else f"HTTP {status}", b"".join(self._body))
        if self._parser.should_keep_alive():
            self._generator.free(self)
        else:
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._generator.closed(self)
        if self._due is not None:
            self._due = None
            self._generator.note(None, "connection lost", b"")

    def close(self) -> None:
        self._due = None
        self._transport.abort()

    def _fail(self, why: str) -> None:
        if self._due is not None:
            self._due = None
            self._generator.note(None, why, b"")
        self._transport.abort()


def _quantile(ordered: list[float], share: float) -> float:
    """Return a quantile in milliseconds: the smallest value that so many are not above."""
    position = max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)
    return round(ordered[min(position, len(ordered) - 1)] * 1000.0, 3)


def _deciders(answers: list[bytes]) -> dict[str, int]:
    """Count who decided: a gate that only met fallbacks has measured nothing."""
    found: Counter[str] = Counter()
    for answer in answers:
        for prediction in msgspec.json.decode(answer).get("predictions", []):
            found[str(prediction.get("decided_by"))] += 1
    return dict(found)
