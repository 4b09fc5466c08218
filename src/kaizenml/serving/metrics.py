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
FOLDER = Path("serving") / "metrics"  # below the project's state folder
_NAMES_BYTES = 1 << 20
_SLOTS = 8192
_BYTES = _NAMES_BYTES + _SLOTS * 8
FAMILIES = {
    "kaizen_requests_total": ("counter", "Requests, by kind (predict, outcomes, other), endpoint and HTTP status."),
    "kaizen_errors_total": ("counter", "Requests refused or failed, by kind, endpoint and the error's code."),
    "kaizen_predictions_total": ("counter", "Rows answered, by endpoint, release, arm and who decided (model, fallback, kill)."),
    "kaizen_predict_seconds": ("histogram", "Seconds from the whole request to its answer, by endpoint and release."),
    "kaizen_shadow_rows_total": ("counter", "Rows for releases that do not answer, by endpoint and outcome (run, shed, failed)."),
    "kaizen_outcomes_total": ("counter", "Outcomes taken, by endpoint and state."),
    "kaizen_refused_total": ("counter", "Requests refused with 503, by endpoint and reason (queue_full, waited, memory)."),
    "kaizen_unjournaled_total": ("counter", "Requests answered without a journal record, by endpoint: the disk was full, and [serve] allows it."),
    "kaizen_connections_ended_total": ("counter", "Connections that the server ended, by reason."),
    "kaizen_connections_paused_total": ("counter", "Times that newcomers were left in the kernel's queue: as many as may be were open."),
    "kaizen_waiting_requests": ("gauge", "Requests of the worker that was asked that wait or are under way."),
    "kaizen_requests_in_flight": ("gauge", "Requests that are being answered, in all workers."),
    "kaizen_shadow_queue_rows": ("gauge", "Rows that wait for shadows, in all workers."),
    "kaizen_journal_waiting_bytes": ("gauge", "Bytes of the journal that are not drained yet."),
    "kaizen_journal_age_seconds": ("gauge", "Age of the oldest record that is not drained yet."),
    "kaizen_journal_segments": ("gauge", "Files of the journal."),
    "kaizen_ready": ("gauge", "1 when every endpoint can answer."),
    "kaizen_problems": ("gauge", "Releases and routes that do not load; /health/ready names them."),
    "kaizen_snapshot_revision": ("gauge", "Revision of the routing snapshot that the worker that was asked serves."),
    "kaizen_snapshot_age_seconds": ("gauge", "Seconds since that snapshot was written."),
    "kaizen_endpoint_killed": ("gauge", "1 while an endpoint is killed, by endpoint."),
    "kaizen_arm_weight": ("gauge", "Share of the traffic, by endpoint, arm and release; 0 for shadows."),
    "kaizen_access_log_dropped_total": ("counter", "Lines of the access log that found no room."),
    "kaizen_series_left": ("gauge", "Series that the fullest worker can still begin to count; at 0, new ones are lost."),
    "kaizen_workers": ("gauge", "Workers whose counts are summed here."),
}
"""Every metric: its type and what it tells."""


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
        self._histograms: dict[tuple[str, str], tuple[list[int], int, int]] = {}
        for name, slot in self._slots.items():
            if FAMILIES.get(_family(name), ("",))[0] == "gauge":  # the worker before has died in the middle of it
                self._values[slot] = 0.0

    def add(self, name: str, by: float = 1.0) -> None:
        """Count ``by`` on the series ``name`` (with its labels, as Prometheus writes it)."""
        slot = self._slots.get(name)
        if slot is None:
            slot = self._take(name)
        self._values[slot] += by

    def set(self, name: str, value: float) -> None:
        """Set this worker's part of a gauge; the sum over the workers is shown."""
        slot = self._slots.get(name)
        if slot is None:
            slot = self._take(name)
        self._values[slot] = value

    def time(self, endpoint: str, release: str, seconds: float) -> None:
        """Count one answered request into the latency histogram."""
        slots = self._histograms.get((endpoint, release))
        if slots is None:
            slots = self._histograms[endpoint, release] = self._histogram(f'endpoint="{endpoint}",release="{release}"')
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
        used = 0
        for raw in files:
            values = memoryview(raw)[_NAMES_BYTES:].cast("d")
            names = _names(raw)
            used = max(used, len(names))
            for slot, name in enumerate(names):
                sums[name] = sums.get(name, 0.0) + values[slot]
        _accumulate(sums)
        sums |= gauges | {"kaizen_workers": float(len(files)), "kaizen_series_left": float(max(_SLOTS - 1 - used, 0))}
        families: dict[str, list[str]] = {family: [] for family in FAMILIES}
        for name, value in sums.items():
            families[_family(name)].append(f"{name} {value:.15g}")
        lines: list[str] = []
        for family, (kind, text) in FAMILIES.items():
            lines += [f"# HELP {family} {text}", f"# TYPE {family} {kind}", *families[family]]
        return "\n".join(lines) + "\n"

    def _histogram(self, labels: str) -> tuple[list[int], int, int]:
        family = "kaizen_predict_seconds"
        buckets = [self._take(f'{family}_bucket{{{labels},le="{edge}"}}') for edge in [*map(str, BUCKETS), "+Inf"]]
        return buckets, self._take(f"{family}_sum{{{labels}}}"), self._take(f"{family}_count{{{labels}}}")

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
