"""A connection's patience: how long its client has for what comes next, and how it is told that it took too long. Hot path.

Uvicorn waits for the rest of a request for ever. Here each connection carries the moment until which its client has to do the next
thing; a look at all of them four times a second costs less than a timer for each request.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import MutableMapping
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from kaizenml.clock import format_duration
from kaizenml.errors import KaizenError, TooLarge, UsageError
from kaizenml.serving.admission import REFUSED, RETRY_S
from kaizenml.serving.connecting.taking import Taking

_LINGER_S = 2.0  # for a client to read the last answer before its connection is cut


class BadRequest(UsageError):
    """What came is not HTTP."""

    code = "bad_request"


class TooSlow(UsageError):
    """The client did not send its request in time."""

    code, status = "too_slow", 408


class HeadersTooLarge(TooLarge):
    """More or longer headers than the limit."""

    code, status = "headers_too_large", 431


class Patient(HttpToolsProtocol):
    """What a connection does about time: its limits, its end, and what follows an answer.

    Parameters
    ----------
    taking : who took it in.
    """

    __slots__ = ("_handle", "_running", "admission", "awaited", "bounds", "deaf", "gone", "in_head", "taken_until", "taking", "until")

    def __init__(self, taking: Taking) -> None:
        super().__init__(taking.config, taking.server_state, taking.app_state)
        self.taking = taking
        self.admission = taking.admission
        self.bounds = taking.admission.bounds
        self.until = math.inf
        """When its client is too late with what comes next (the loop's time)."""
        self.awaited = "header"
        """What comes next: header, body, answer (ours, whenever it is there), idle, held, gone."""
        self.taken_until = math.inf
        """When it is too late with taking what was sent to it."""
        self._handle = -1  # of its socket, where what is written goes out as it is
        self._running: RequestResponseCycle | None = None  # ``cycle`` is the one that came last
        self.deaf = False
        """Whether what still comes is thrown away, so that the last answer is not lost to a reset."""
        self.in_head = False
        """Whether a request has begun whose headers are not all there."""
        self.gone = False
        """Whether its client has left."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.scheme == "http":
            self._handle = transport.get_extra_info("socket").fileno()
        self.wait_for("header", self.bounds.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        for cycle, _ in self.pipeline:  # asked, and never begun
            self.admission.leave(cycle.scope)
        self.taking.left()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self.go_on(cast(MutableMapping[str, Any], self.cycle.scope))

    def go_on(self, scope: MutableMapping[str, Any]) -> None:
        """Wait for the next request after an answer."""
        if self.awaited != "answer" or self.transport.is_closing():
            return
        if REFUSED in scope:
            # it was told when to come again; until then reading its next request would only be work for another refusal
            self.flow.pause_reading()
            self.wait_for("held", RETRY_S)
        else:
            self.rest()

    def write(self, data: bytes) -> None:
        """Write at once what the transport would write when all has been read."""
        transport = self.transport
        if self._handle >= 0 and not transport.get_write_buffer_size() and not transport.is_closing():
            try:
                written = os.write(self._handle, data)
            except OSError:  # no room, or nobody reads it: the transport knows what to do
                written = 0
            if written == len(data):
                return
            data = data[written:]
        transport.write(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.taken_until = self.loop.time() + self.bounds.body_s

    def resume_writing(self) -> None:
        super().resume_writing()
        self.taken_until = math.inf

    def late(self) -> None:
        """Do what is due when ``until`` or ``taken_until`` has passed."""
        if self.taken_until <= self.loop.time():
            self.taking.count("slow_reader")
            self.transport.abort()
        elif self.awaited == "idle" or (self.awaited == "header" and not self.in_head):
            self.close("idle")
        elif self.awaited in ("header", "body"):
            limit = self.bounds.header_s if self.awaited == "header" else self.bounds.body_s
            what = f"the request's {self.awaited} was not there after {format_duration(limit)}"
            remedy = f"send faster, or raise {self.awaited}_timeout under [serve]"
            self.refuse(TooSlow(what, remedy=remedy, values={"limit_s": limit}), f"{self.awaited}_timeout")
        elif self.awaited == "held":
            self.rest()
            self.flow.resume_reading()
        else:
            self.transport.abort()

    def close(self, reason: str) -> None:
        """End an idle connection, and count it with the reason."""
        self.taking.count(reason)
        self.transport.close()
        self.wait_for("gone", _LINGER_S)  # what its client does not take by then is cut off

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        task = self.loop.create_task(self._answer(cycle, app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _answer(self, cycle: RequestResponseCycle, app: Any) -> None:
        try:
            await cycle.run_asgi(app)
        finally:
            self.admission.leave(cycle.scope)

    def wait_for(self, what: str, seconds: float) -> None:
        """Give the client so long for what comes next."""
        self.awaited = what
        self.until = self.loop.time() + seconds

    def rest(self) -> None:
        """Wait for the next request, of which a part may be there already."""
        if self.in_head:
            self.wait_for("header", self.bounds.header_s)
        else:
            self.wait_for("idle", self.bounds.idle_s)

    def end_after(self, cycle: RequestResponseCycle) -> None:
        """Answer what was asked up to here, and read no more."""
        cycle.keep_alive = False
        self.deaf = True
        self.awaited, self.until = "answer", math.inf

    def refuse(self, error: KaizenError, reason: str) -> None:
        """Answer what cannot be read on, and end the connection once its client has had the time to see why."""
        self.taking.count(reason)
        if self.transport.is_closing():
            return
        newest: RequestResponseCycle | None = self.cycle
        if self.pipeline and self.cycle.more_body:  # broken, and not begun yet
            self.pipeline.popleft()
            newest = self.pipeline[0][0] if self.pipeline else self._running
        if newest is not None and not newest.response_complete:
            if not newest.more_body:  # earlier ones are answered first, and the broken one not at all
                self.end_after(newest)
                return
            if newest.response_started:
                self.transport.abort()
                return
            newest.disconnected = True  # the application stops waiting for the rest
            newest.message_event.set()
        body = msgspec.json.encode({"error": error.document()})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self.deaf = True
        self.wait_for("gone", _LINGER_S)
        if self.transport.can_write_eof():
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()
