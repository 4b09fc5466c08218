"""What every operation is handed: an open project, without the knowledge of which engines stand behind it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kaizenml import events
from kaizenml.catalog import Catalog
from kaizenml.clock import Clock
from kaizenml.ports import OnlineStore
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

    @property
    def state(self) -> Path:
        """The folder for all of the project's files (``.kaizen``)."""
        return self.root / self.settings.project.state

    def acting_as(self, actor: str) -> Context:
        """Return the same project for another actor."""
        return replace(self, actor=actor)

    def record(self, connection: sa.Connection, kind: str, subject: str, why: str = "", **data: Any) -> events.Event:
        """Append an event in the caller's transaction, signed by this actor, at this project's time."""
        return events.append(connection, at=self.clock.timestamp(), actor=self.actor, kind=kind, subject=subject, why=why, **data)
