"""Counters and a latency histogram in Prometheus' text format, summed over all workers.

Each worker counts in a small file of its own that is mapped into memory: counting is one addition, a killed worker loses
nothing, its successor goes on with the same file, and any worker can sum them all. Labels are endpoints, arms and fixed
words: bounded. Hot path: imports only the standard library.
"""

from __future__ import annotations

import errno
import mmap
import os
from bisect import bisect_left
from pathlib import Path

BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds
_NAMES_BYTES = 1 << 18
_SLOTS = 4096
_BYTES = _NAMES_BYTES + _SLOTS * 8
_HELP = {
    "kaizen_requests_total": ("counter", "Requests by path kind, endpoint and HTTP status."),
    "kaizen_predictions_total": ("counter", "Rows answered, by endpoint, arm and who decided."),
    "kaizen_shadow_rows_total": ("counter", "Rows run by releases that do not answer, by endpoint and outcome (run, shed, failed)."),
    "kaizen_outcomes_total": ("counter", "Outcomes taken, by endpoint and state."),
    "kaizen_predict_seconds": ("histogram", "Time from the whole request to the answer, by endpoint."),
    "kaizen_refused_total": ("counter", "Requests refused with 503, by endpoint and reason (queue_full, waited, memory)."),
    "kaizen_unjournaled_total": ("counter", "Requests answered without a journal record, by endpoint: the disk was full, and [serve] allows it."),
    "kaizen_connections_ended_total": ("counter", "Connections that the server ended, by reason."),
    "kaizen_connections_paused_total": ("counter", "Times that newcomers were left in the kernel's queue: as many as may be were open."),
    "kaizen_waiting_requests": ("gauge", "Requests of this worker that wait or are under way."),
    "kaizen_snapshot_age_seconds": ("gauge", "Time since the routing snapshot that this worker serves was written."),
    "kaizen_snapshot_revision": ("gauge", "Revision of the routing snapshot that this worker serves."),
    "kaizen_workers": ("gauge", "Worker files summed here."),
}


class Counters:
    """One worker's counters.

    Parameters
    ----------
    folder : where the workers' files lie.
    worker : this worker's number; its file is continued when it exists.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        mapped = _mapped(folder / f"worker-{worker}.counters")
        self._alone = mapped is None  # on a full disk: what is counted is shown by this worker only, and answering goes on
        self._memory = mmap.mmap(-1, _BYTES) if mapped is None else mapped
        self._values = memoryview(self._memory)[_NAMES_BYTES:].cast("d")
        names = _names(self._memory)
        self._slots = {name: slot for slot, name in enumerate(names)}
        self._end = sum(len(name.encode()) + 1 for name in names)
        self._histograms: dict[str, tuple[list[int], int, int]] = {}

    def add(self, name: str, by: float = 1.0) -> None:
        """Count ``by`` on the series ``name`` (with its labels, as Prometheus writes it)."""
        slot = self._slots.get(name)
        if slot is None:
            slot = self._take(name)
        self._values[slot] += by

    def time(self, endpoint: str, seconds: float) -> None:
        """Count one answered request of ``endpoint`` into the latency histogram."""
        slots = self._histograms.get(endpoint)
        if slots is None:
            slots = self._histograms[endpoint] = self._histogram(endpoint)
        buckets, total, count = slots
        values = self._values
        values[buckets[bisect_left(BUCKETS, seconds)]] += 1.0
        values[total] += seconds
        values[count] += 1.0

    def render(self, gauges: dict[str, float]) -> str:
        """Return the sum of all workers' series, and this worker's ``gauges``, in Prometheus' text format."""
        sums: dict[str, float] = {}
        files = [raw for path in sorted(self.folder.glob("worker-*.counters")) if (raw := _read(path))]
        if self._alone:
            files.append(bytes(self._memory))
        for raw in files:
            values = memoryview(raw)[_NAMES_BYTES:].cast("d")
            for slot, name in enumerate(_names(raw)):
                sums[name] = sums.get(name, 0.0) + values[slot]
        _accumulate(sums)
        sums |= gauges | {"kaizen_workers": float(len(files))}
        lines: list[str] = []
        for family, (kind, text) in _HELP.items():
            lines += [f"# HELP {family} {text}", f"# TYPE {family} {kind}"]
            lines += [f"{name} {value:.10g}" for name, value in sums.items() if _family(name) == family]
        return "\n".join(lines) + "\n"

    def _histogram(self, endpoint: str) -> tuple[list[int], int, int]:
        family = "kaizen_predict_seconds"
        edges = [*map(str, BUCKETS), "+Inf"]
        buckets = [self._take(f'{family}_bucket{{endpoint="{endpoint}",le="{edge}"}}') for edge in edges]
        return buckets, self._take(f'{family}_sum{{endpoint="{endpoint}"}}'), self._take(f'{family}_count{{endpoint="{endpoint}"}}')

    def _take(self, name: str) -> int:
        if name in self._slots:
            return self._slots[name]
        text = name.encode() + b"\n"
        slot = len(self._slots)
        if slot >= _SLOTS - 1 or self._end + len(text) > _NAMES_BYTES - 1:
            return _SLOTS - 1  # no room: counted, but not shown; labels are bounded, so this is never seen
        self._memory[self._end : self._end + len(text)] = text
        self._end += len(text)
        self._slots[name] = slot
        return slot


def _mapped(path: Path) -> mmap.mmap | None:
    """Map a worker's file into memory; None where the disk has no room for it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # written, not left sparse: a page that finds no room when it is first counted in ends the process without a word (SIGBUS)
        while (size := os.fstat(handle).st_size) < _BYTES:
            os.pwrite(handle, bytes(_BYTES - size), size)
        return mmap.mmap(handle, _BYTES)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(handle)


def _read(path: Path) -> bytes | None:
    """Return a worker's file; None when it has just gone, or is being made."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    return raw if len(raw) == _BYTES else None


def _names(raw: bytes | mmap.mmap) -> list[str]:
    head = raw[:_NAMES_BYTES]
    return head[: head.index(b"\0")].decode().split("\n")[:-1]


def _family(name: str) -> str:
    base = name.partition("{")[0]
    return "kaizen_predict_seconds" if base.startswith("kaizen_predict_seconds_") else base


def _accumulate(sums: dict[str, float]) -> None:
    """Make each bucket count what is at most its edge, as the format wants; in the files each counts its own."""
    running: dict[str, float] = {}
    for name in list(sums):
        if name.startswith("kaizen_predict_seconds_bucket"):  # in order of their edges: so they were taken
            series = name.partition(',le="')[0]
            running[series] = sums[name] = running.get(series, 0.0) + sums[name]
