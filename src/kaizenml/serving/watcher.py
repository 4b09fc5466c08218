"""Keeps a worker's routing at what the snapshot file says, without a restart. Hot path."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.clock import Clock, format_duration
from kaizenml.rollouts import snapshot as snapshots
from kaizenml.rollouts.rules import describe
from kaizenml.rollouts.snapshot import Snapshot
from kaizenml.serving.engine import Engine
from kaizenml.serving.journaling.journal import Journal
from kaizenml.serving.routing import FIRST_PATIENCE_S, PATIENCE_S, Routing, load

log = logging.getLogger("kaizenml.serving")
EVERY_S = 0.2
TURN_S = 1.0  # the journal is looked after
RETRY_S = 2.0  # a route that did not load is tried again: its files may have been mended


class Watcher:
    """Looks at ``serving/snapshot.json`` five times a second and swaps in what it asks for.

    Parameters
    ----------
    state : the project's state folder.
    engine : whose routing is kept true.
    journal, clock : the engine's.
    fixed : a snapshot that never changes, instead of the file (for a single bundle).
    catalog : the catalog's file where it is one; serving never opens it, but says when it is gone.
    """

    def __init__(
        self, state: Path, engine: Engine, journal: Journal, clock: Clock, *, fixed: Snapshot | None = None, catalog: Path | None = None
    ) -> None:
        self._state = state
        self._path = state / "serving" / snapshots.FILE
        self._engine = engine
        self._journal = journal
        self._clock = clock
        self._fixed = fixed
        self._catalog = catalog
        self._had_catalog = False
        self._away: str | None = None
        self._seen: tuple[int, int, int] | None = (-1, -1, -1)
        self.written_at = 0.0
        """When the snapshot that is served was written, seconds since 1970; 0: none, or one that never changes."""
        self._from_copy = False
        self._retry_in = self._turn_in = 0.0
        self._problem: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load what there is, and begin to watch."""
        self._look_for_catalog()
        await self._look()
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def state(self) -> tuple[bool, dict[str, Any]]:
        """Return whether every endpoint can answer, and the document that says so."""
        routing = self._engine.routing
        journal = self._journal
        problems = [problem for problem in (self._problem, self._away) if problem]
        if self.age_s is not None:
            written = f" (revision {routing.revision}, written {format_duration(max(self.age_s, 0.0))} ago)"
            problems = [problem + written for problem in problems]
        problems += routing.problems + ([journal.trouble] if journal.trouble else [])
        stuck = journal.trouble is not None and journal.full == "refuse"
        ready = routing.revision >= 0 and not routing.unavailable and not stuck
        endpoints = {
            name: {
                "revision": endpoint.route.revision,
                "champion": endpoint.arms[0].route.release,
                "arms": {arm.route.arm: arm.route.release for arm in endpoint.arms},
                "shadows": [arm.route.release for arm in endpoint.shadows],
                "killed": endpoint.route.killed,
                "rules": [describe(rule) for rule in endpoint.route.rules],
            }
            for name, endpoint in routing.endpoints.items()
        }
        document = {"ready": ready, "revision": routing.revision, "endpoints": endpoints, "unavailable": routing.unavailable}
        document["snapshot"] = {"age_s": self.age_s, "from_copy": self._from_copy}
        document["journal"] = {"full": journal.full, "trouble": journal.trouble, "left_out": journal.left_out}
        return ready, document | {"problems": problems}

    @property
    def age_s(self) -> float | None:
        """Seconds since the snapshot in force was written; None where there is none, or one that never changes."""
        return round(self._clock.timestamp() - self.written_at, 3) if self.written_at else None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self._retry_in -= EVERY_S
            self._turn_in -= EVERY_S
            try:
                await self._look()
                if self._turn_in <= 0:
                    self._turn_in = TURN_S
                    self._look_for_catalog()
                    self._journal.turn()
            except Exception:
                log.exception("the routing could not be looked at")

    async def _look(self) -> None:
        mark = self._mark()
        before = self._engine.routing
        retry = (bool(before.problems) and self._retry_in <= 0) or before.started
        if mark == self._seen and not retry:
            return
        self._retry_in = RETRY_S
        self._seen = mark
        wanted = self._read()
        if wanted is None:
            return
        patience_s = None if self._fixed else PATIENCE_S if before.endpoints else FIRST_PATIENCE_S
        routing = await asyncio.to_thread(load, self._state, wanted, before, patience_s=patience_s)
        self.written_at = wanted.written_at
        self._swap(routing)

    def _look_for_catalog(self) -> None:
        """Note whether rollouts can be changed: where the catalog is a file of this machine by looking, else as the loop has found."""
        there = self._catalog is not None and self._catalog.exists()
        self._had_catalog = self._had_catalog or there
        try:
            why = self._path.with_name(snapshots.AWAY).read_text(encoding="utf-8")[:300]
        except (OSError, UnicodeDecodeError):
            why = f"{self._catalog} is gone" if self._had_catalog and not there else ""
        before, self._away = self._away, f"the catalog is away: {why}; the last snapshot stays in force" if why else None
        if self._away and self._away != before:
            log.error(self._away)

    def _mark(self) -> tuple[int, int, int] | None:
        if self._fixed is not None:
            return (0, 0, 0)
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ino, found.st_size)

    def _read(self) -> Snapshot | None:
        if self._fixed is not None:
            return self._fixed
        try:
            wanted = snapshots.read(self._path)
        except FileNotFoundError:
            return self._last("the routing snapshot is gone")
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            return self._last(f"the routing snapshot cannot be read ({error})")
        if wanted.format > snapshots.FORMAT:
            return self._last(f"the routing snapshot has format {wanted.format}, this server reads up to {snapshots.FORMAT}")
        self._problem, self._from_copy = None, False
        return wanted

    def _last(self, problem: str) -> Snapshot | None:
        """Stay with the last snapshot; a worker that has just started takes the copy beside the file."""
        if self._engine.routing.revision >= 0:
            self._tell(f"{problem}; the last one stays in force" if not self._from_copy else f"{problem}; its copy is in force")
            return None
        try:
            wanted = snapshots.read(self._path.with_name(snapshots.COPY))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            wanted = None
        if wanted is None or wanted.format > snapshots.FORMAT:
            if problem.endswith("gone"):
                self._problem = "nothing is deployed yet"
            else:
                self._tell(problem)
                self._engine.routing = Routing(lost=problem)
            return None
        self._tell(f"{problem}; its copy is in force")
        self._from_copy = True
        return wanted

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            log.error(problem)
        self._problem = problem

    def _swap(self, routing: Routing) -> None:
        before = self._engine.routing
        self._engine.routing = routing
        self._engine.last = None  # it would keep a release that has left, and its process
        for problem in routing.problems:
            if problem not in before.problems:
                log.error(problem)
        if routing.revision != before.revision:
            told = ", ".join(f"{name} by {endpoint.arms[0].route.release}" for name, endpoint in routing.endpoints.items())
            log.info("serving revision %d: %s", routing.revision, told)
