"""Requests for predictions that come in one turn of the event loop are answered together. Hot path.

Most requests ask one endpoint for a few rows, and their bodies come whole. For such a request ASGI's task and messages cost about as
much as the model. So a connection hands it over here as it is. When everything that had come is read, each is decided in its turn,
one write takes all their records to the journal, and only then do the answers leave. What is unlike that goes through ``App``, which
answers the same to the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import MutableMapping
from typing import Any, NamedTuple, Protocol

import msgspec

from kaizenml.errors import KaizenError
from kaizenml.serving.app import IN_FLIGHT, JSON, MISTAKE, App
from kaizenml.serving.deciding import Answered, Asked, Decision
from kaizenml.serving.headers import Headers, check_post, error_headers, too_large
from kaizenml.serving.protocol import read_predict

log = logging.getLogger("kaizenml.serving")
_TOGETHER = 64  # records in one write, and answers that wait for each other
_BYTES = 32_000  # of bodies, likewise: where they are large the system call is a trifle, and the processor's caches are not
_encode = msgspec.json.Encoder().encode
Scope = MutableMapping[str, Any]


class Asker(Protocol):
    """A connection that waits for one answer."""

    gone: bool
    """Whether nobody will read it."""

    def answer(self, status: int, headers: Headers, body: bytes, scope: Scope) -> None:
        """Send the answer, and go on with whatever comes next."""
        ...


class Waiting(NamedTuple):
    """A request that is there as a whole."""

    asker: Asker
    scope: Scope
    endpoint: str
    trace: str | None
    pinned: str | None
    body: bytes


class _Decided(NamedTuple):
    waiting: Waiting
    start: float
    asked: Asked | None  # None: it was refused
    decision: Decision | None
    record: bytes
    error: KaizenError | None


class Turns:
    """Answers for one worker.

    Parameters
    ----------
    app : what it answers as.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._engine = app.engine
        self._waiting: list[Waiting] = []

    def takes(self, scope: Scope, url: bytes) -> tuple[str, str | None, str | None] | None:
        """Return the endpoint, the caller's trace id, and the arm asked for, of a POST that can be answered here; None: let ``App`` answer."""
        endpoint = self._engine.routing.paths.get(url)
        if endpoint is None:
            return None
        try:
            trace, pinned, tabular = check_post(scope, self._app.limits, takes_tables=True)
        except KaizenError:
            return None
        return None if tabular else (endpoint, trace, pinned)

    def add(self, waiting: Waiting) -> None:
        """Answer a request in this turn."""
        self._app.admission.arrive(waiting.scope)
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.answer)
        self._waiting.append(waiting)

    def answer(self) -> None:
        """Answer those that wait, in the order in which they came."""
        waiting, self._waiting = self._waiting, []
        together: list[Waiting] = []
        size = 0
        for one in waiting:
            together.append(one)
            size += len(one.body)
            if size >= _BYTES or len(together) == _TOGETHER:
                self._answer(together)
                together, size = [], 0
        if together:
            self._answer(together)
        self._app.wake_shadows()

    def _answer(self, waiting: list[Waiting]) -> None:
        counters = self._app.counters
        counters.add(IN_FLIGHT, len(waiting))
        try:
            all_decided = [self._decide(one) for one in waiting if not one.asker.gone]
            written = [decided.record for decided in all_decided if decided.error is None]
            journaled = not written or self._engine.journal.append_all(written)
            for decided in all_decided:
                self._end(decided, journaled)
        finally:
            counters.add(IN_FLIGHT, -len(waiting))
            for one in waiting:
                self._app.admission.leave(one.scope)

    def _decide(self, waiting: Waiting) -> _Decided:
        start, app, engine = time.perf_counter(), self._app, self._engine
        try:
            if app.door is not None:
                app.door.admit(waiting.scope, waiting.scope["path"])
            if len(waiting.body) > app.limits.body_bytes:
                raise too_large(len(waiting.body), app.limits.body_bytes)
            app.admission.begin(waiting.scope, engine.routing.endpoints)
            endpoint = engine.endpoint(waiting.endpoint)
            request = read_predict(waiting.body, app.limits, endpoint.read_records)
            asked, decision = engine.decide(endpoint, request, waiting.pinned)
            return _Decided(waiting, start, asked, decision, engine.record(asked, decision, request, waiting.body, waiting.trace), None)
        except KaizenError as error:
            return _Decided(waiting, start, None, None, b"", error)
        except Exception:
            log.exception("unexpected error at %s", waiting.scope["path"][:200])
            return _Decided(waiting, start, None, None, b"", MISTAKE)

    def _end(self, decided: _Decided, journaled: bool) -> None:
        waiting, _, asked, decision, record, error = decided
        answered: Answered | None = None
        headers: Headers = (JSON,)
        if asked is not None and decision is not None:
            try:
                answered = self._engine.conclude(asked, decision, journaled or self._engine.journal.append(record))
            except KaizenError as refused:
                error = refused
        if answered is not None:
            status, code, body = 200, "", self._engine.say(answered)
        else:
            assert error is not None  # else there would be an answer
            status, headers, code = error.status, (JSON, *error_headers(error)), error.code
            body = _encode({"error": error.document()})
        waiting.asker.answer(status, headers, body, waiting.scope)
        self._app.observer.told(
            waiting.scope, place="predict", endpoint=waiting.endpoint, status=status, code=code, seconds=time.perf_counter() - decided.start,
            answered=answered, traceparent=waiting.trace,
        )  # fmt: skip
