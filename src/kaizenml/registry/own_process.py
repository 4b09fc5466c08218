"""A model that runs Python of its own (a callable, a scikit-learn model): in a process of its own, so that it cannot hurt the one that serves.

What it loads, leaks, prints or breaks stays there. A call has so long; then the process is ended and a fresh one started beside
the traffic, and until that is ready every call says so at once (the engine answers naively with that reason). Rows go there
and outputs come back as MessagePack, each message with its length in front, over a pair of sockets. Hot path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaizenml.errors import Corrupt, InvalidInput, KaizenError, Unavailable, from_document
from kaizenml.registry.runtime import Takes
from kaizenml.training.model_file import Member, ModelSpec

log = logging.getLogger("kaizenml.serving")
START_S = 60.0  # for loading what the model needs
LONGEST_PAUSE_S = 10.0  # between two starts, when one after the other fails
TIMEOUT_S = 1.0
_LENGTH = struct.Struct(">I")
_LARGEST = 1 << 30
_CHILD = "kaizenml.registry.own_process_child"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is to do; its first message."""

    kind: str
    file: str
    function: str
    columns: list[str]
    task: str
    classes: list[Any]
    memory_bytes: int


class OwnProcess:
    """A model in a process of its own, behind the runtimes' protocol. Calls from several threads take turns.

    Raises
    ------
    Corrupt : the process could not load the model; its own words are in the message.
    MissingExtra : a library it needs is not installed.
    """

    takes: Takes = "rows"
    blocks = True
    batches = True  # the way there and back costs as much as most answers

    def __init__(self, path: Path, member: Member, spec: ModelSpec) -> None:
        columns = [column.name for column in spec.encoder.columns]
        signature = spec.signature
        self._job = Job(
            kind=member.kind, file=str(path.resolve()), function=member.function, columns=columns, task=signature.task, classes=signature.classes,
            memory_bytes=member.memory_bytes,
        )  # fmt: skip
        self._outputs = 1 if signature.task == "regression" else len(signature.classes)
        self._columns = columns
        self._timeout_s = member.timeout_s or TIMEOUT_S
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._down = ""
        self._failures = 0
        self._closed = threading.Event()
        self._child = _Child(self._job)

    @property
    def pid(self) -> int | None:
        """The process that answers now; None while there is none."""
        child = self._child
        return child.pid if child else None

    def one(self, given: Mapping[str, Any]) -> list[float]:
        found: list[float] = self.many([given])[0].tolist()
        return found

    def many(self, given: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Return (rows, outputs).

        Raises
        ------
        Unavailable : the process ran out of time, died, or is being started again.
        InvalidInput : the model itself said that a row does not fit.
        KaizenError : it raised, or answered what is no answer.
        """
        with self._lock:
            child = self._child
            if child is None:
                raise Unavailable(f"the model's own process is being started again: {self._down}", remedy="ask again in a moment")
            try:
                answer = child.ask([[row.get(name) for name in self._columns] for row in given], self._timeout_s)
            except TimeoutError:
                raise self._lost(child, f"it did not answer {_rows(len(given))} within {self._timeout_s:g} s") from None
            except OSError as error:
                raise self._lost(child, f"it ended with {child.ending()}" if child.ended() else f"it broke off: {error}") from None
            except msgspec.DecodeError:
                raise self._lost(child, "it sent what is no answer") from None
            self._failures = 0
        if isinstance(answer, dict):
            raise _told(answer)
        return self._checked(answer, len(given))

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            child, self._child = self._child, None
        if child:
            child.end()

    def _checked(self, answer: Any, rows: int) -> NDArray[np.float64]:
        scores = np.frombuffer(answer, np.float64) if isinstance(answer, bytes) else np.empty(0)
        if scores.size != rows * self._outputs:
            raise KaizenError(f"the model answered {scores.size} numbers for {_rows(rows)}, expected {rows * self._outputs}", remedy="mend the model")
        if not np.isfinite(scores).all():
            raise KaizenError("the model answered what is no number", remedy="mend the model")
        return scores.reshape(rows, self._outputs)

    def _lost(self, child: _Child, why: str) -> Unavailable:
        """End the process and have another one started, beside whoever asks. Holds the lock."""
        self._child, self._down = None, why
        child.end()
        log.warning("the process of %s is started again: %s", Path(self._job.file).name, why)
        threading.Thread(target=self._start_again, name="model-start", daemon=True).start()
        return Unavailable(f"the model's own process is lost: {why}", remedy="ask again in a moment")

    def _start_again(self) -> None:
        while not self._closed.is_set():
            self._failures += 1
            # at once at first: a model that now and then takes too long should not be away for longer than it must
            if self._failures > 1 and self._closed.wait(min(0.1 * 2**self._failures, LONGEST_PAUSE_S)):
                return
            try:
                child = _Child(self._job)
            except (KaizenError, OSError) as error:
                self._down = error.what if isinstance(error, KaizenError) else str(error)
                log.warning("the process of %s did not start: %s", Path(self._job.file).name, self._down)
                continue
            with self._lock:
                if not self._closed.is_set():
                    self._child, self._down = child, ""
                    return
            child.end()

    def __del__(self) -> None:
        if getattr(self, "_child", None):
            self.close()


class _Child:
    """One process, ready to answer once this is made."""

    def __init__(self, job: Job) -> None:
        ours, theirs = socket.socketpair()
        # the process reads the pipe's other end: whatever ends us closes it, and ends that process too
        self._alive_reader, self._alive = os.pipe()
        command = [sys.executable, "-m", _CHILD, str(theirs.fileno()), str(self._alive_reader)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._socket = ours
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(theirs.fileno(), self._alive_reader), env=environment
            )
        except OSError:
            os.close(self._alive)
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(self._alive_reader)
        self.pid = self._process.pid
        try:
            hello = self.ask(msgspec.structs.asdict(job), START_S)
        except (OSError, TimeoutError, msgspec.DecodeError) as error:
            why = f"was not ready within {START_S:g} s" if isinstance(error, TimeoutError) else f"ended with {self.ending()}"
            self.end()
            raise _not_loaded(job, why) from None
        if hello is not None:
            self.end()
            found = _told(hello)
            raise found if found.code in ("missing_extra", "corrupt") else _not_loaded(job, f"said: {found.what}")

    def ask(self, message: Any, timeout_s: float) -> Any:
        """Send a message and return the answer. TimeoutError when it does not come in time, OSError when the process is gone."""
        deadline = time.monotonic() + timeout_s
        self._socket.settimeout(timeout_s)
        body = msgspec.msgpack.encode(message)
        self._socket.sendall(_LENGTH.pack(len(body)) + body)
        (length,) = _LENGTH.unpack(self._receive(_LENGTH.size, deadline))
        if length > _LARGEST:
            raise OSError(f"an answer of {length:,} bytes")
        return msgspec.msgpack.decode(self._receive(length, deadline))

    def _receive(self, size: int, deadline: float) -> bytes:
        parts = []
        while size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            part = self._socket.recv(min(size, 1 << 20))
            if not part:
                raise ConnectionResetError("the process is gone")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def ended(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        return self._process.returncode is not None

    def ending(self) -> str:
        """Say how the process ended, in words."""
        if not self.ended():
            return "nothing said"
        code = self._process.returncode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._socket.close()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1


def _not_loaded(job: Job, why: str) -> Corrupt:
    name = Path(job.file).name
    return Corrupt(f"{name} could not be loaded in a process of its own: it {why}", remedy="mend the model", values={"file": job.file})


def _told(document: Any) -> KaizenError:
    if not isinstance(document, dict):
        return KaizenError("the model's process answered what is no answer", remedy="mend the model")
    found = from_document(document)
    if isinstance(found, InvalidInput):
        return found
    return found


def _rows(count: int) -> str:
    return "a row" if count == 1 else f"{count} rows"
