"""The rollout of an endpoint: which releases answer it."""

from __future__ import annotations

from typing import Literal

import msgspec


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """A challenger with its share of the traffic, in 1/1000."""

    release: str
    weight: int


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an endpoint. Changes only through the transitions below it; each raises ``revision`` by one."""

    endpoint: str
    revision: int
    champion: str  # release name@number
    challengers: list[Arm] = []
    shadows: list[str] = []  # releases that see all traffic and answer none
    killed: str | None = None  # why
    previous: list[str] = []  # former champions, newest first: where rollback goes

    @property
    def state(self) -> Literal["steady", "canary", "killed"]:
        return "killed" if self.killed else "canary" if self.challengers else "steady"
