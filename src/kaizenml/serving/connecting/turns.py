"""Requests for predictions that come in one turn of the event loop are answered together. Hot path.

Most requests ask one endpoint for a few rows, and their bodies come whole. For such a request ASGI's task and messages cost about as
much as the model. So a connection hands it over here as it is. When everything that had come is read, or when many wait, each is decided
in its turn, one write takes all their records to the journal, and only then do the answers leave. What is unlike that goes through ``App``,
which answers the same to the same.
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
        self._size = 0  # bytes of bodies that wait
        self._begun: float | None = None  # when the turn began; None: nothing has come in it yet
        self._answered: list[str] = []  # in this turn, by path

    def takes(self, scope: Scope, url: bytes) -> tuple[str, str | None, str | None] | None:
        """Return the endpoint, the caller's trace id, and the arm asked for, of a POST that can be answered here; None: let ``App`` answer."""
        endpoint = self.endpoint(url)
        if endpoint is None:
            return None
        try:
            trace, pinned, tabular = check_post(scope, self._app.limits, takes_tables=True)
        except KaizenError:
            return None
        return None if tabular else (endpoint, trace, pinned)

    def endpoint(self, url: bytes) -> str | None:
        """Return the endpoint of a path as it stands in a request; None: there is none."""
        return self._engine.routing.paths.get(url)

    @property
    def newest(self) -> Waiting | None:
        """The one that came last, where it still waits."""
        return self._waiting[-1] if self._waiting else None

    def add(self, waiting: Waiting) -> None:
        """Answer a request in this turn."""
        if self._begun is None:
            self._begun = time.perf_counter()
            asyncio.get_running_loop().call_soon(self._end_turn)
        # all that are read in one turn were there when it began, and waited since
        self._app.admission.arrive(waiting.scope, self._begun)
        self._waiting.append(waiting)
        self._size += len(waiting.body)

    def answer_many(self) -> None:
        """Answer those that wait where they are many, in the order in which they came."""
        if self._size >= _BYTES or len(self._waiting) >= _TOGETHER:
            self._answer()

    def answer(self) -> None:
        """Answer those that wait, in the order in which they came."""
        if self._waiting:
            self._answer()
            self._leave()  # who sends some ahead on one connection has one that waits

    def _end_turn(self) -> None:
        self._begun = None
        try:
            if self._waiting:
                self._answer()
        finally:
            self._leave()

    def _leave(self) -> None:
        answered, self._answered = self._answered, []
        for path in answered:
            self._app.admission.left(path)

    def _answer(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
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
            # each counts as waiting until the turn ends: those that are read after it were there before it was answered
            self._answered += [path for one in waiting if (path := self._app.admission.path_of(one.scope)) is not None]
        self._app.wake_shadows()

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
