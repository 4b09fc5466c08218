"""The data plane as a raw ASGI application: paths, bodies, errors, health and metrics. Hot path: no framework."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec

from kaizenml.clock import Clock
from kaizenml.errors import KaizenError, NotFound, nearest
from kaizenml.features.online.taking import Receiver, read_rows
from kaizenml.features.view import Pushed
from kaizenml.serving.admission import Admission
from kaizenml.serving.deciding import Answered
from kaizenml.serving.dialects import tables
from kaizenml.serving.dialects.call import Call, Dialect
from kaizenml.serving.dialects.invocations import Invocations
from kaizenml.serving.dialects.oip import OpenInference
from kaizenml.serving.door import Door
from kaizenml.serving.engine import Engine
from kaizenml.serving.headers import DISCARDED_BYTES, Headers, call_of, check_post, error_headers, too_large
from kaizenml.serving.metrics import Counters
from kaizenml.serving.outcomes import OutcomeStore, Taken
from kaizenml.serving.protocol import Limits, MethodNotAllowed, check_rows, read_outcomes
from kaizenml.serving.telling.description import PAGE_HEADERS, Description, address_of
from kaizenml.serving.telling.observer import Observer
from kaizenml.serving.watcher import Watcher

Message = MutableMapping[str, Any]
T = TypeVar("T")
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("kaizenml.serving")
JSON = (b"content-type", b"application/json")
_HTML = (b"content-type", b"text/html; charset=utf-8")
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
IN_FLIGHT = "kaizen_requests_in_flight"
_METHODS = {"/health/live": "GET", "/health/ready": "GET", "/metrics": "GET", "/openapi.json": "GET", "/docs": "GET"}
_PATHS = [
    "/predict/{endpoint}", "/outcomes/{endpoint}", "/features/{view}", "/v2/models/{endpoint}/infer", "/endpoints/{endpoint}/invocations", *_METHODS,
]  # fmt: skip
MISTAKE = KaizenError("the server made a mistake; the request may be fine", remedy="look at the server's log")


class App:
    """One worker's application. ``watcher`` keeps the engine's routing true while it runs."""

    def __init__(
        self, *, engine: Engine, watcher: Watcher, outcomes: OutcomeStore, counters: Counters, clock: Clock, limits: Limits,
        observer: Observer, receiver: Receiver | None = None, sync: Callable[[], None] | None = None, door: Door | None = None, root_path: str = "",
        admission: Admission | None = None,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.admission = admission or Admission(counters)
        self.watcher = watcher
        self._outcomes = outcomes
        self._receiver = receiver
        self.counters = counters
        self._clock = clock
        self.limits = self._limits = limits
        self.observer = observer
        self._sync = sync
        self.door = door
        """Who may ask; None: everybody who can reach the port."""
        self._root_path = root_path
        self._shadowing = False
        # outcomes and pushed features wait for a lock and the disk: beside the loop, in one thread that owns the connections
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="outcomes")
        invocations = Invocations()
        self._dialects: list[Dialect] = [OpenInference(), invocations]
        self._description = Description(limits, invocations, root_path=root_path, auth=door is not None)
        self._tasks: list[asyncio.Task[None]] = []
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.counters.add(IN_FLIGHT)
            try:
                await self._http(scope, receive, send)
            finally:
                self.counters.add(IN_FLIGHT, -1.0)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        path = self._within(scope) if self._root_path else str(scope["path"])
        start = time.perf_counter()
        status, kind, body, place, endpoint, code = 200, JSON, b"", "other", "", ""
        headers: Headers = ()
        trace: str | None = None
        answered: Answered | None = None
        dialect: Dialect | None = None
        try:
            known = self.door is None or self.door.admit(scope, path)
            if path.startswith("/predict/"):
                place, endpoint = "predict", path[9:]
                trace, pinned, tabular = check_post(scope, self._limits, takes_tables=True)
                raw = await self._body(scope, receive)
                if raw is None:
                    return  # the client went away
                call = Call("POST", path, dict(scope["headers"]) if tabular else {}, raw, trace)
                kind, body, headers = await self._asked(partial(self._predict, endpoint, call, pinned, tabular))
                answered = self.engine.last
            elif path.startswith(("/outcomes/", "/features/")):
                place, endpoint = ("outcomes", path[10:]) if path[1] == "o" else ("features", "")
                trace, _, _ = check_post(scope, self._limits)
                raw = await self._body(scope, receive)
                if raw is None:
                    return
                body = await (self._take_outcomes(endpoint, raw) if place == "outcomes" else self._take_features(path[10:], raw))
            elif path in _METHODS:
                status, kind, body, headers = await self._other(scope, path, known)
            else:
                dialect = self._dialect(path)
                if dialect is None:
                    raise _nowhere(path)
                call = call_of(scope, self._limits)
                trace = call.trace
                raw = await self._body(scope, receive)
                if raw is None:
                    return
                reply = await self._asked(partial(dialect.reply, self.engine, call._replace(body=raw), self._limits))
                if reply.predicted:
                    place, endpoint, answered = "predict", reply.endpoint, self.engine.last
                status, kind, body, headers = reply.status, (b"content-type", reply.kind), reply.body, reply.headers
        except KaizenError as error:
            status, code, headers, dialect = error.status, error.code, error_headers(error), dialect or self._dialect(path)
            body = dialect.explain(error) if dialect is not None else self._encode({"error": error.document()})
        except Exception:
            log.exception("unexpected error at %s", path[:200])
            status, code, body = 500, MISTAKE.code, self._encode({"error": MISTAKE.document()})
        await send({"type": "http.response.start", "status": status, "headers": [kind, (b"content-length", b"%d" % len(body)), *headers]})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        self.observer.told(
            scope, place=place, endpoint=endpoint, status=status, code=code, seconds=time.perf_counter() - start, answered=answered, traceparent=trace
        )
        self.wake_shadows()

    def _predict(self, endpoint: str, call: Call, pinned: str | None, tabular: bool) -> tuple[tuple[bytes, bytes], bytes, Headers]:
        if not tabular:
            return JSON, self.engine.predict(endpoint, call.body, call.trace, pinned), ()
        reply = tables.predict(self.engine, endpoint, call, self._limits, pinned)
        return (b"content-type", reply.kind), reply.body, reply.headers

    def settle(self, name: str, error: KaizenError | None, endpoint: str, start: float, headers: Mapping[str, str | bytes]) -> None:
        """Tell of a call over gRPC, and let its shadows run.

        Parameters
        ----------
        name : the call's.
        error : what it was refused with.
        endpoint : who answered; "" when nobody did.
        start : when it began, by ``time.perf_counter``.
        headers : its metadata.
        """
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": name, "headers": [], "client": None}
        trace = headers.get("traceparent")
        self.observer.told(
            scope, place="predict" if name.endswith("/ModelInfer") else "other", endpoint=endpoint, status=error.status if error else 200,
            code=error.code if error else "", seconds=time.perf_counter() - start, answered=self.engine.last if endpoint else None,
            traceparent=trace[:100] if isinstance(trace, str) else None,
        )  # fmt: skip
        self.wake_shadows()

    def wake_shadows(self) -> None:
        """Let the shadows run where any wait."""
        if not self._shadowing and self.engine.shadows:
            self._shadowing = True
            asyncio.get_running_loop().call_soon(self._run_shadows)

    def _within(self, scope: MutableMapping[str, Any]) -> str:
        """Return the path without the prefix of a proxy in front, which may have taken it off already."""
        path, prefix = str(scope["path"]), self._root_path
        if path == prefix or path.startswith(f"{prefix}/"):
            path = scope["path"] = path[len(prefix) :] or "/"
        return path

    def _dialect(self, path: str) -> Dialect | None:
        return next((one for one in self._dialects if one.speaks(path)), None)

    async def _asked(self, question: Callable[[], T]) -> T:
        """Let the engine answer, beside the event loop where a model may take long."""
        return await self.engine.ask(question) if self.engine.routing.waits else question()

    async def _body(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes | None:
        """Read the body, and let the request begin; None when the client went away."""
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body: bytes | None = message.get("body", b"")
        if message.get("more_body"):
            body = await self._parts(body or b"", receive)
        if body is None:
            return None
        if len(body) > self._limits.body_bytes:
            raise too_large(len(body), self._limits.body_bytes)
        self.admission.begin(scope, self.engine.routing.endpoints)
        return body

    async def _parts(self, body: bytes, receive: Receive) -> bytes | None:
        parts, size, held, more = [body], len(body), 0, True
        try:
            while more:
                self.admission.hold(len(body))
                held += len(body)
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body, more = message.get("body", b""), message.get("more_body", False)
                size += len(body)
                if size <= self._limits.body_bytes:
                    parts.append(body)
                elif size > self._limits.body_bytes + DISCARDED_BYTES:
                    break
                else:  # read on, keep nothing
                    parts.clear()
                    self.admission.free(held)
                    held, body = 0, b""
        finally:
            self.admission.free(held)
        if size > self._limits.body_bytes:
            raise too_large(size, self._limits.body_bytes)
        return b"".join(parts)

    async def _take_outcomes(self, name: str, body: bytes) -> bytes:
        endpoint = self.engine.endpoint(name)
        now = self._clock.timestamp()

        def take() -> Taken:
            return self._outcomes.take(name, read_outcomes(body, self._limits), endpoint.signatures, now)

        taken = await asyncio.get_running_loop().run_in_executor(self._beside, take)
        for state in ("accepted", "late", "early", "duplicate", "conflicting", "unknown"):
            if number := getattr(taken, state):
                self.counters.add(f'kaizen_outcomes_total{{endpoint="{name}",state="{state}"}}', number)
        return self._encode(taken)

    async def _take_features(self, view: str, body: bytes) -> bytes:
        if self._receiver is None:
            raise NotFound("no features can be pushed here: there is no project behind this server", remedy="kaizen features push VIEW ROWS")

        def take(receiver: Receiver) -> Pushed:
            rows = read_rows(body)
            check_rows(len(rows), self._limits, "rows")
            return receiver.take(view, rows)

        taken = await asyncio.get_running_loop().run_in_executor(self._beside, take, self._receiver)
        for state in ("kept", "late"):
            if number := getattr(taken, state):
                self.counters.add(f'kaizen_features_pushed_total{{view="{view}",state="{state}"}}', number)
        return self._encode(taken)

    async def _other(self, scope: MutableMapping[str, Any], path: str, known: bool) -> tuple[int, tuple[bytes, bytes], bytes, Headers]:
        if scope["method"] not in ("GET", "HEAD"):
            values = {"method": scope["method"], "expected": "GET, HEAD"}
            raise MethodNotAllowed(f"{path} does not take {scope['method']}", remedy=f"GET {path}", values=values)
        if path == "/health/live":
            return 200, JSON, b'{"live":true}', ()
        if path == "/health/ready":
            ready, document = self.watcher.state()
            if not known:
                document = {"ready": ready}  # what is served, and what is wrong with it, is for those who may ask
            elif self.door is not None and self.door.problem:
                document["problems"].append(self.door.problem)
            return 200 if ready else 503, JSON, self._encode(document), ()
        if path == "/openapi.json":
            return 200, JSON, await asyncio.to_thread(self._description.document, self.engine.routing), ()
        if path == "/docs":
            return 200, _HTML, await asyncio.to_thread(self._description.page, self.engine.routing, address_of(scope, self._root_path)), PAGE_HEADERS
        ready, document = self.watcher.state()
        gauges = self.observer.gauges(len(document["problems"]), ready, self.watcher.written_at)
        gauges["kaizen_waiting_requests"] = float(self.admission.waiting)
        return 200, _TEXT, self.counters.render(gauges).encode(), ()

    def _run_shadows(self) -> None:
        """Run some shadows, then let whatever came in go first."""
        if self.engine.shadows:
            self.engine.shadows.run_some()
        if self.engine.shadows:
            asyncio.get_running_loop().call_soon(self._run_shadows)
        else:
            self._shadowing = False

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.watcher.start()
                if self.door is not None:
                    self._tasks.append(asyncio.create_task(self.door.watch()))
                if self._sync is not None:
                    self._tasks.append(asyncio.create_task(self._syncing(self._sync)))
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _syncing(self, sync: Callable[[], None]) -> None:
        told = ""
        while True:
            await asyncio.sleep(0.1)
            try:
                await asyncio.to_thread(sync)
                told = ""
            except OSError as error:
                if str(error) != told:  # once, and not ten times a second
                    told = str(error)
                    log.error("the journal cannot be brought to the disk: %s", error)

    async def _stop(self) -> None:
        while self.engine.shadows:  # what was answered is also compared
            self.engine.shadows.run_some()
        await self.engine.shadows.settle()
        for task in self._tasks:
            task.cancel()
        await self.watcher.stop()
        self._beside.shutdown()
        if self._receiver is not None:
            self._receiver.close()
        await asyncio.to_thread(self.observer.close)


def _nowhere(path: str) -> NotFound:
    close = nearest(path, _PATHS)
    values = {"path": path[:200], "nearest": close, "known": _PATHS}
    return NotFound(f"there is no {path[:100]!r} here", remedy=f"{_METHODS.get(close or '', 'POST')} {close or _PATHS[0]}", values=values)
