"""Connections: uvicorn's HTTP protocol with limits and time-outs of its own, and the taking of new ones. Hot path.

Uvicorn reads headers of any length, waits for the rest of a request for ever, and takes any number of connections. Here each
connection carries the moment until which its client has to do the next thing; a look at all of them four times a second costs
less than a timer for each request. Where as many are open as may be, newcomers wait in the kernel's queue, which costs nothing.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import math
import socket
from typing import Any

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from kaizenml.clock import format_duration
from kaizenml.errors import KaizenError, TooLarge, UsageError
from kaizenml.serving.admission import REFUSED, RETRY_S, Admission, Bounds

log = logging.getLogger("kaizenml.serving")
_SWEEP_S = 0.25
_LINGER_S = 2.0  # for a client to read the last answer before its connection is cut
_TAKEN_AT_ONCE = 8  # connections, before the other workers get their turn
_IDLE_S = 1.0  # an idle connection this old may be closed to let another in
_CLOSED_AT_ONCE = 64
_TURN = 20  # while newcomers wait, every twentieth answer ends its connection: nobody keeps a place for ever
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class BadRequest(UsageError):
    """What came is not HTTP."""

    code = "bad_request"


class TooSlow(UsageError):
    """The client did not send its request in time."""

    code, status = "too_slow", 408


class HeadersTooLarge(TooLarge):
    """More or longer headers than the limit."""

    code, status = "headers_too_large", 431


class _TooManyHeaders(Exception):
    """Ends the parsing."""


class _OtherProtocol(Exception):
    """Ends the parsing: the parser takes a body after such a wish for the other protocol's."""


class Connection(HttpToolsProtocol):
    """One connection.

    Parameters
    ----------
    taking : who took it in.
    """

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
        self._running: RequestResponseCycle | None = None  # ``cycle`` is the one that came last
        self._deaf = False  # what still comes is thrown away, so that the last answer is not lost to a reset
        self._in_head = False
        self._head_bytes = 0
        self._head_begun = False  # by the bytes that are just being read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await("header", self.bounds.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        for cycle, _ in self.pipeline:  # asked, and never begun
            self.admission.leave(cycle.scope)
        self.taking.left()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self.awaited == "idle":
            self._await("header", self.bounds.header_s)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if not self.cycle.response_complete:
                self._end_after(self.cycle)  # what follows would be another protocol, which is not spoken here
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _TooManyHeaders):
                self._refuse(_too_many(self.bounds), "headers")
                return
            self._refuse(_malformed(error), "malformed")
            return
        if self._in_head:
            if not self._head_begun:  # else some of it belongs to the request before
                self._head_bytes += len(data)
            self._head_begun = False
            if self._head_bytes > self.bounds.header_bytes:
                self._refuse(_too_many(self.bounds), "headers")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Tell the transport whether to stay open: a client that has said all it wants still gets its answer."""
        cycle = self.cycle
        if self._deaf or cycle is None or cycle.response_complete or cycle.more_body or self.scheme == "https":
            return None
        cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes, self._head_begun = True, 0, True

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if len(self.headers) > self.bounds.headers or self._head_bytes > self.bounds.header_bytes:
            raise _TooManyHeaders

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() not in (b"GET", b"HEAD"):
            raise _OtherProtocol
        self._in_head = False
        self._await("body", self.bounds.body_s)
        super().on_headers_complete()
        if self.taking.takes_turns and self.taking.turn():
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if not self.cycle.response_complete:
            self.admission.arrive(self.cycle.scope)
            self.awaited, self.until = "answer", math.inf
        elif self.awaited == "body":  # answered before its body had come
            self._rest()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self.awaited == "answer":
            if REFUSED in self.cycle.scope:
                # it was told when to come again; until then reading its next request would only be work for another refusal
                self.flow.pause_reading()
                self._await("held", RETRY_S)
            else:
                self._rest()

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
        elif self.awaited == "idle" or (self.awaited == "header" and not self._in_head):
            self.close("idle")
        elif self.awaited in ("header", "body"):
            limit = self.bounds.header_s if self.awaited == "header" else self.bounds.body_s
            what = f"the request's {self.awaited} was not there after {format_duration(limit)}"
            remedy = f"send faster, or raise {self.awaited}_timeout under [serve]"
            self._refuse(TooSlow(what, remedy=remedy, values={"limit_s": limit}), f"{self.awaited}_timeout")
        elif self.awaited == "held":
            self._rest()
            self.flow.resume_reading()
        else:
            self.transport.abort()

    def close(self, reason: str) -> None:
        """End an idle connection, and count it with the reason."""
        self.taking.count(reason)
        self.transport.close()
        self._await("gone", _LINGER_S)  # what its client does not take by then is cut off

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

    def _await(self, what: str, seconds: float) -> None:
        self.awaited = what
        self.until = self.loop.time() + seconds

    def _rest(self) -> None:
        """Wait for the next request, of which a part may be there already."""
        if self._in_head:
            self._await("header", self.bounds.header_s)
        else:
            self._await("idle", self.bounds.idle_s)

    def _end_after(self, cycle: RequestResponseCycle) -> None:
        """Answer what was asked up to here, and read no more."""
        cycle.keep_alive = False
        self._deaf = True
        self.awaited, self.until = "answer", math.inf

    def _refuse(self, error: KaizenError, reason: str) -> None:
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
                self._end_after(newest)
                return
            if newest.response_started:
                self.transport.abort()
                return
            newest.disconnected = True  # the application stops waiting for the rest
            newest.message_event.set()
        body = msgspec.json.encode({"error": error.document()})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self._deaf = True
        self._await("gone", _LINGER_S)
        if self.transport.can_write_eof():
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()


class Taking:
    """Takes connections in, up to a number, and looks after those that are open.

    Parameters
    ----------
    config, server_state, app_state : uvicorn's.
    listening : a listening socket, perhaps shared with other workers.
    admission : what requests and connections are held to, and where it is counted.
    """

    def __init__(
        self, config: uvicorn.Config, server_state: Any, app_state: dict[str, Any], listening: socket.socket, admission: Admission
    ) -> None:  # fmt: skip
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.admission = admission
        self.takes_turns = False
        self._listening = listening
        self._opening: set[asyncio.Task[Any]] = set()
        self._reading = False
        self._ended = False
        self._turns = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self._sweeping = self._loop.create_task(self._sweep())
        self._read()

    def turn(self) -> bool:
        """Tell whether this answer is one that ends its connection, so that others get in."""
        return next(self._turns) % _TURN == 0

    def count(self, reason: str) -> None:
        """Count a connection that was ended from here."""
        self.admission.counters.add(f'kaizen_connections_ended_total{{reason="{reason}"}}')

    def left(self) -> None:
        """Note that a connection is gone."""
        if not self._reading and self._open < self.admission.bounds.connections:
            self._read()

    def end(self) -> None:
        """Take no more."""
        self._ended = True
        self._pause()
        self._sweeping.cancel()

    @property
    def _open(self) -> int:
        return len(self.server_state.connections) + len(self._opening)

    def _read(self) -> None:
        if not self._ended:
            self._reading = True
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._listening.fileno())

    def _accept(self) -> None:
        for _ in range(_TAKEN_AT_ONCE):
            if self._open >= self.admission.bounds.connections:
                self._wait()
                return
            try:
                taken, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                self.takes_turns = False  # nobody waits any more
                return
            except OSError as error:
                if error.errno in _SHORT:
                    log.error("no connection can be taken: %s", error.strerror)
                    self._wait()
                    return
                continue  # gone again before it was taken
            taken.setblocking(False)
            task = self._loop.create_task(self._take(taken))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _wait(self) -> None:
        """Leave newcomers in the kernel's queue until there is room."""
        self._pause()
        self.takes_turns = True
        self.admission.counters.add("kaizen_connections_paused_total")

    async def _take(self, taken: socket.socket) -> None:
        secure = self.config.ssl
        patience = self.admission.bounds.header_s if secure else None
        try:
            await self._loop.connect_accepted_socket(self._connection, taken, ssl=secure, ssl_handshake_timeout=patience)
        except OSError as error:  # it left, or does not speak TLS
            log.debug("a connection did not come about: %s", error)
            taken.close()

    def _connection(self) -> Connection:
        return Connection(self)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            # where the whole process had no time, what has come meanwhile is read before anybody is found to be late
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            now = self._loop.time()
            for connection in list(self.server_state.connections):
                if connection.until <= now or connection.taken_until <= now:
                    try:
                        connection.late()
                    except Exception:
                        log.exception("a connection could not be ended")
                        connection.transport.abort()
            if not self._reading:
                self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Look whether there is room again; while there is none, end those that have been idle longest."""
        if self._open < self.admission.bounds.connections:
            self._read()
            return
        oldest = now + self.admission.bounds.idle_s - _IDLE_S
        idle = [one for one in self.server_state.connections if one.awaited == "idle" and one.until < oldest]
        for connection in sorted(idle, key=_until)[:_CLOSED_AT_ONCE]:
            connection.close("made_room")


def _malformed(error: httptools.HttpParserError) -> BadRequest:
    if isinstance(error.__context__, _OtherProtocol):
        what, remedy = "the request asks for another protocol, which is not spoken here", "send it without 'connection: upgrade' (curl --http1.1)"
        return BadRequest(what, remedy=remedy)
    text = "its first line names no path" if isinstance(error, httptools.HttpParserCallbackError) else str(error)[:200]
    return BadRequest(f"this is not HTTP: {text}", remedy="send HTTP/1.1 as RFC 9112 writes it", values={"problem": text})


def _too_many(bounds: Bounds) -> HeadersTooLarge:
    what = f"more than {bounds.headers} headers, or more than {bounds.header_bytes:,} bytes of them"
    remedy = "send fewer, or raise max_headers or max_header_bytes under [serve]"
    return HeadersTooLarge(what, remedy=remedy, values={"limit": {"headers": bounds.headers, "bytes": bounds.header_bytes}})


def _until(connection: Connection) -> float:
    return connection.until
