"""What every operation is handed: an open project, without the knowledge of which engines stand behind it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kaizenml import events
from kaizenml.catalog import Catalog
from kaizenml.clock import Clock
from kaizenml.ports import FrameEngine, OnlineStore, Stream
from kaizenml.settings import Settings


@dataclass(frozen=True)
class Context:
    """An open project. Built by ``kaizenml.project.open_project``, the only place that names adapters."""

    root: Path
    """The project folder (holds kaizen.toml)."""
    settings: Settings
    catalog: Catalog
    clock: Clock
    online: OnlineStore
    actor: str
    """Who acts: a user name, ``loop``, or a token's name."""
    sources: dict[str, str] = field(default_factory=dict)
    """Where each setting that is not a default came from."""
    open_stream: Callable[[str, str, str], Stream] | None = None
    """Opens a stream by location, name and reader."""
    open_frames: Callable[[str, Path], FrameEngine] | None = None
    """Opens an engine that computes features, by name, with a folder for what it needs on the way."""

    @cached_property
    def state(self) -> Path:
        """The folder for all of the project's files (``.kaizen``)."""
        return self.root / self.settings.project.state

    @contextmanager
    def hold(self, name: str, *, wait_s: float = 0.0) -> Iterator[bool]:
        """Hold a name against every other process of the project, until the block or this process ends, however that ends.

        Parameters
        ----------
        name : what is held, such as ``data/orders``; where the catalog is of this machine alone, also a file in the state folder (``.lock``).
        wait_s : how long to try.

        Returns
        -------
        Whether it is held: False when another process has it for longer than ``wait_s``.
        """
        if self.catalog.shared:
            with self.catalog.hold(name, wait_s=wait_s) as held:
                yield held
            return
        path = self.state / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.perf_counter() + wait_s
        with path.open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held = True
                except BlockingIOError:
                    held = False
                if held or time.perf_counter() > deadline:
                    break
                time.sleep(0.02)
            yield held

    def acting_as(self, actor: str) -> Context:
        """Return the same project for another actor."""
        return replace(self, actor=actor)

    def record(self, connection: sa.Connection, kind: str, subject: str, why: str = "", **data: Any) -> events.Event:
        """Append an event in the caller's transaction, signed by this actor, at this project's time."""
        return events.append(connection, at=self.clock.timestamp(), actor=self.actor, kind=kind, subject=subject, why=why, **data)
