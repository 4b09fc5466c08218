"""Who may ask a worker: reads the tokens when their file changes, without a restart. Hot path.

The file is derived from the catalog; while the catalog is away, or the file cannot be read, the last state holds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from kaizenml.access import buckets, owner, token
from kaizenml.access.buckets import Buckets
from kaizenml.access.token import Keyring, Scope, Token
from kaizenml.clock import SystemClock
from kaizenml.errors import Corrupt, Unauthorized

log = logging.getLogger("kaizenml.serving")
EVERY_S = 0.2
_TELL_EVERY_S = 1.0
_HEALTH = ("/health/live", "/health/ready", "/ping", "/v2/health/live", "/v2/health/ready")
Mark = tuple[int, int, int] | None


class Door:
    """Lets in who shows a valid token.

    Parameters
    ----------
    state : the project's state folder.
    fixed : one more token with every scope, as text.
    """

    def __init__(self, state: Path, *, fixed: str | None = None) -> None:
        self._state = state
        self._path = state / "serving" / token.FILE
        self._fixed = {"KAIZEN_TOKEN": fixed} if fixed else {}
        self._clock = SystemClock()  # never a simulated one: these are real doors
        self._rates = Buckets(state / "serving" / buckets.FILE)
        self._open = {*_HEALTH, os.environ.get("AIP_HEALTH_ROUTE", "/ping")}
        self._tokens: list[Token] = []
        self._seen: tuple[Mark, Mark] | None = None
        self._told_at, self._refused = float("-inf"), 0
        self.keyring = Keyring([])
        self.problem: str | None = None
        self.look()

    def admit(self, scope: MutableMapping[str, Any], path: str) -> bool:
        """Let a request in, or raise; return whether it showed a token.

        Whoever only wants to know whether the process is well needs none.
        """
        shown = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), "")
        if not shown and path in self._open:
            return False
        try:
            self.check(shown, _scope(scope, path))
        except Unauthorized:
            self._tell(scope)
            raise
        return True

    def check(self, shown: str, scope: Scope | None) -> str:
        """Return the name of the token in an ``Authorization`` header's value, or raise as ``Keyring.check`` does."""
        return self.keyring.check(shown, scope, now=self._clock.timestamp(), tick=time.monotonic())

    def look(self) -> None:
        """Read the files that have changed."""
        seen = (_mark(self._path), _mark(self._state / "serving" / owner.FILE))
        if seen == self._seen:
            return
        self._seen = seen
        problem = None
        try:
            self._tokens = token.read(self._path)
        except FileNotFoundError:
            problem = "the file of tokens is gone; those it held last stay in force" if self._tokens else None
        except (OSError, Corrupt) as error:
            problem = f"{error.what if isinstance(error, Corrupt) else error}; the tokens read last stay in force"
        if problem and problem != self.problem:
            log.error(problem)
        self.problem = problem
        own = owner.read(self._state)
        self.keyring = Keyring(self._tokens, fixed=self._fixed | ({"owner": own} if own else {}), rates=self._rates)

    async def watch(self) -> None:
        """Look five times a second, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                self.look()
            except Exception:
                log.exception("the tokens could not be looked at")

    def _tell(self, scope: MutableMapping[str, Any]) -> None:
        """Write refusals to the log, a line a second at most: it is not to be flooded from outside."""
        self._refused += 1
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            client = scope.get("client") or ("an unknown address",)
            log.warning("%d request(s) without a valid token, the last from %s", self._refused, client[0])
            self._told_at, self._refused = now, 0


def _scope(scope: MutableMapping[str, Any], path: str) -> Scope | None:
    if path.startswith("/outcomes/"):
        return "outcomes"
    if path.startswith("/features/"):
        return "features"
    return "predict" if scope["method"] == "POST" else None


def _mark(path: Path) -> Mark:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_size)
