"""Releases that do not answer: they say afterwards what they would have answered. Hot path.

They run when the answers have left, one request at a time, and are the first that is dropped when there is too much to do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from kaizenml.errors import StorageFull
from kaizenml.serving.deciding import Answered, Features, Known, decide_alone, merged, without_strangers
from kaizenml.serving.journaling.journal import Journal
from kaizenml.serving.journaling.records import Answer, ShadowRecord
from kaizenml.serving.metrics import Counters
from kaizenml.serving.routing import LoadedRoute

log = logging.getLogger("kaizenml.serving")
SHADOW_ROWS = 20_000  # waiting to be run by shadows; more are shed
_ROWS_AT_ONCE, _AT_ONCE_S = 16, 0.0005  # before what has come meanwhile is answered
LookUp = Callable[[LoadedRoute, Sequence[dict[str, Any]], float], tuple[list[Features] | None, str | None]]


class Shadows:
    """The shadows of one process.

    Parameters
    ----------
    look_up : returns what a release's views know of some rows, or why that could not be read.
    ask : makes a call in which models that may take long are awaited.
    known : what such models have said so far to the call that is being made.
    """

    def __init__(
        self, journal: Journal, counters: Counters, *, look_up: LookUp, ask: Callable[[Callable[[], None]], Awaitable[None]],
        known: Callable[[], list[Known] | None],
    ) -> None:  # fmt: skip
        self._journal = journal
        self._counters = counters
        self._look_up = look_up
        self._ask = ask
        self._known = known
        self._waiting: deque[tuple[Answered, list[LoadedRoute]]] = deque()
        self._rows = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._encode_record = msgspec.msgpack.Encoder().encode

    def add(self, answered: Answered) -> None:
        """Let the releases that did not answer a request say what they would have answered, later."""
        endpoint, arm, rows = answered.endpoint, answered.arm, answered.rows
        runs = list(endpoint.shadows)
        if endpoint.route.paired and endpoint.route.killed is None:  # a killed endpoint's arms are not to be trusted with anything
            runs += [other for other in endpoint.arms if other is not arm]
        if not runs:
            return
        wanted = len(rows) * len(runs)
        if self._rows + wanted > SHADOW_ROWS:
            self._counters.add(f'kaizen_shadow_rows_total{{endpoint="{endpoint.route.endpoint}",outcome="shed"}}', wanted)
            return
        self._rows += wanted
        self._counters.set("kaizen_shadow_queue_rows", self._rows)
        self._waiting.append((answered, runs))

    def __bool__(self) -> bool:
        """Tell whether any wait."""
        return bool(self._waiting)

    def run_some(self) -> None:
        """Run the shadows of some answered requests: of one with many rows, of several with few, whose records then share a write."""
        ran: list[tuple[Answered, LoadedRoute, bytes]] = []
        rows, end = 0, time.perf_counter() + _AT_ONCE_S
        while self._waiting and rows < _ROWS_AT_ONCE and (not rows or time.perf_counter() < end):
            work, runs = self._waiting.popleft()
            rows += len(work.rows) * len(runs)
            for loaded in runs:
                if loaded.model is not None and loaded.model.blocks:
                    task = asyncio.get_running_loop().create_task(self._run_beside(work, loaded))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                    continue
                try:
                    ran.append((work, loaded, self._run(work, loaded)))
                except Exception as error:  # a shadow never disturbs what answers
                    self._done(work, loaded, error)
        together = len(ran) > 1 and self._journal.append_all([record for _, _, record in ran])
        for work, loaded, record in ran:
            try:
                if not together:
                    self._write(record)
                self._done(work, loaded, None)
            except Exception as error:
                self._done(work, loaded, error)

    async def settle(self) -> None:
        """Wait for the shadows that run beside the event loop."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run_beside(self, work: Answered, loaded: LoadedRoute) -> None:
        try:
            await self._ask(lambda: self._write(self._run(work, loaded)))
            self._done(work, loaded, None)
        except Exception as error:
            self._done(work, loaded, error)

    def _done(self, work: Answered, loaded: LoadedRoute, error: Exception | None) -> None:
        name, outcome, rows = work.endpoint.route.endpoint, "failed" if error else "run", len(work.rows)
        self._rows -= rows
        self._counters.set("kaizen_shadow_queue_rows", self._rows)
        if error:
            log.warning("shadow %s of %s failed: %s", loaded.route.release, name, error)
        self._counters.add(f'kaizen_shadow_rows_total{{endpoint="{name}",outcome="{outcome}"}}', rows)

    def _run(self, work: Answered, loaded: LoadedRoute) -> bytes:
        """Return the record of what a release says."""
        decision = work.decision
        if loaded.model is not work.arm.model or decision.rows is not None or decision.decided_by != "model":  # else it has just said it
            rows = without_strangers(work.rows, loaded, work.arm)
            known, lost = work.features, None
            if known is None or loaded.signature.given != work.arm.signature.given:
                known, lost = self._look_up(loaded, rows, work.at)
            decision = decide_alone(loaded, merged(rows, known), lost, None, said=self._known())
        answers = [
            Answer(i, value, chances, decision.decided_by, decision.reason)
            for i, (value, chances) in zip(work.ids, decision.predictions, strict=True)
        ]
        name = work.endpoint.route.endpoint
        return self._encode_record(ShadowRecord(work.at, name, loaded.route.release, loaded.route.arm, answers))

    def _write(self, record: bytes) -> None:
        if not self._journal.append(record):
            raise StorageFull("the disk that holds the journal is full", remedy="free some space")
