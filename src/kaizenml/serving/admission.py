"""Which requests begin: how many of an endpoint may wait, how long, and how much memory bodies may take. Hot path.

Between reading from its sockets a worker answers what it has read, in order, so a request waits for those before it. One that
has waited too long is refused rather than answered late, which is what keeps a worker useful under too much load: its client may
be gone, and those behind it would get late as well. A refusal is a 503 that says why and when to come again, and is counted.
"""

from __future__ import annotations

import time
from collections.abc import Container
from typing import Any, NamedTuple

from kaizenml.clock import format_duration
from kaizenml.errors import Unavailable
from kaizenml.serving.metrics import Counters

ARRIVED = "kaizen.arrived"  # key of a request's scope: when it was there as a whole (monotonic seconds)
REFUSED = "kaizen.refused"  # key: it was told to come again later
_PATH = "kaizen.counted"  # key: the path under which it is counted
RETRY_S = 1  # what a refused client is told to wait
_FULL = -1.0


class Overloaded(Unavailable):
    """More to do than can be done in time; nothing was done, and the same request may be sent again."""

    code = "overloaded"


class Bounds(NamedTuple):
    """What the clients of one worker may do; sizes in bytes, times in seconds."""

    connections: int = 2000  # open at once
    waiting: int = 1000  # requests of one endpoint that wait or are under way at once; one more is refused when it arrives
    wait_s: float = 2.0  # for a request to begin
    buffered_bytes: int = 256_000_000  # in memory at once, of bodies that come in parts
    headers: int = 100
    header_bytes: int = 32_768
    header_s: float = 10.0  # from a request's first byte, or the connection's beginning, to the end of its headers
    body_s: float = 30.0  # for the body, and for taking the answer
    idle_s: float = 75.0  # between two requests


class Admission:
    """What one worker's requests wait for.

    Parameters
    ----------
    counters : where refusals are counted.
    bounds : what they are held to.
    """

    def __init__(self, counters: Counters, bounds: Bounds | None = None) -> None:
        self.counters = counters
        self.bounds = bounds or Bounds()
        self._waiting: dict[str, int] = {}  # by path, gone at nothing: as bounded as the number of connections
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """How many requests wait or are under way."""
        return sum(self._waiting.values())

    def arrive(self, scope: Any, at: float | None = None) -> None:
        """Note that a request is there as a whole. Those that only look (health, metrics) are never refused.

        Parameters
        ----------
        at : since when (``time.perf_counter``); default now.
        """
        if scope["method"] != "POST":
            return
        path = scope["path"]
        waiting = self._waiting.get(path, 0)
        if waiting >= self.bounds.waiting:
            scope[ARRIVED] = _FULL
            return
        self._waiting[path] = waiting + 1
        scope[_PATH] = path
        scope[ARRIVED] = time.perf_counter() if at is None else at

    def leave(self, scope: Any) -> None:
        """Note that a request is done with, however it ended."""
        path = self.path_of(scope)
        if path is not None:
            self.left(path)

    def path_of(self, scope: Any) -> str | None:
        """Return the path under which a request is counted; the caller tells ``left`` when it is done with."""
        path: str | None = scope.pop(_PATH, None)
        return path

    def left(self, path: str) -> None:
        """Note that a request of this path is done with."""
        left = self._waiting[path] - 1
        if left:
            self._waiting[path] = left
        else:
            del self._waiting[path]

    def begin(self, scope: Any, endpoints: Container[str]) -> None:
        """Let a request begin, its body read and not yet looked into.

        Parameters
        ----------
        endpoints : those that there are, for the counters: whatever is asked for, their labels stay bounded.

        Raises
        ------
        Overloaded : too many wait, or it has waited too long.
        """
        arrived = scope.get(ARRIVED)
        if arrived is None:
            return
        if arrived < 0:
            values = {"reason": "queue_full", "limit": self.bounds.waiting, "retry_after_s": RETRY_S}
            what = f"{self.bounds.waiting:,} requests wait for this endpoint, which is the most"
            self._refuse(what, "repeat in a second; add workers, or raise max_waiting under [serve]", scope, endpoints, values)
        waited = time.perf_counter() - arrived
        if waited > self.bounds.wait_s:
            values = {"reason": "waited", "waited_s": round(waited, 3), "limit_s": self.bounds.wait_s, "retry_after_s": RETRY_S}
            what = f"the request waited {format_duration(waited)} for its turn; the limit is {format_duration(self.bounds.wait_s)}"
            self._refuse(what, "repeat in a second; add workers, or raise max_wait under [serve]", scope, endpoints, values)

    def hold(self, size: int) -> None:
        """Take room for a part of a body that comes in parts; the caller gives it back with ``free``.

        Raises
        ------
        Overloaded : bodies under way hold all that they may.
        """
        if self._bytes + size > self.bounds.buffered_bytes:
            values = {"reason": "memory", "limit": self.bounds.buffered_bytes, "retry_after_s": RETRY_S}
            what = f"bodies under way hold {self._bytes:,} bytes; the limit is {self.bounds.buffered_bytes:,}"
            self._refuse(what, "repeat in a second, or raise max_buffered_bytes under [serve]", None, (), values)
        self._bytes += size

    def free(self, size: int) -> None:
        """Give room back."""
        self._bytes -= size

    def _refuse(self, what: str, remedy: str, scope: Any, endpoints: Container[str], values: dict[str, Any]) -> None:
        endpoint = ""
        if scope is not None:
            scope[REFUSED] = True
            endpoint = next((part for part in scope["path"].split("/") if part in endpoints), "")
        self.counters.add(f'kaizen_refused_total{{endpoint="{endpoint}",reason="{values["reason"]}"}}')
        raise Overloaded(what, remedy=remedy, values=values)
