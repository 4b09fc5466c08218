"""The taking of new connections, and the look after those that are open. Hot path.

Uvicorn takes any number. Here as many are open as may be; newcomers then wait in the kernel's queue, which costs nothing.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from kaizenml.serving.admission import Admission
from kaizenml.serving.app import JSON
from kaizenml.serving.connecting.heads import Heads
from kaizenml.serving.connecting.turns import Turns

log = logging.getLogger("kaizenml.serving")
_SWEEP_S = 0.25
_TAKEN_AT_ONCE = 8  # connections, before the other workers get their turn
_IDLE_S = 1.0  # an idle connection this old may be closed to let another in
_CLOSED_AT_ONCE = 64
_TURN = 20  # while newcomers wait, every twentieth answer ends its connection: nobody keeps a place for ever
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Taking:
    """Takes connections in, up to a number, and looks after those that are open.

    Parameters
    ----------
    config, server_state, app_state : uvicorn's.
    listening : a listening socket, perhaps shared with other workers.
    admission : what requests and connections are held to, and where it is counted.
    turns : what answers requests for predictions.
    connection : makes the protocol of one that was taken in.
    """

    def __init__(
        self, config: uvicorn.Config, server_state: Any, app_state: dict[str, Any], listening: socket.socket, *, admission: Admission, turns: Turns,
        connection: Callable[[Taking], asyncio.Protocol],
    ) -> None:  # fmt: skip
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.admission = admission
        self.turns = turns
        self.proxied = config.proxy_headers  # a client's address may be another one than its connection's: uvicorn's middleware finds out
        self.takes_turns = False
        self.leaving = False  # each answer ends its connection
        self._connection = connection
        self._listening = listening
        self._opening: set[asyncio.Task[Any]] = set()
        self._reading = False
        self._ended = False
        self.heads = Heads()
        self._turns = itertools.count(1)
        self._general: list[tuple[bytes, bytes]] | None = None
        self._head = b""
        self._loop = asyncio.get_running_loop()
        self._sweeping = self._loop.create_task(self._sweep())
        self._read()

    @property
    def head(self) -> bytes:
        """What an answer in JSON begins with."""
        if self._general is not self.server_state.default_headers:  # a new date, every second
            self._general = self.server_state.default_headers
            lines = [b"%b: %b\r\n" % header for header in (*self._general, JSON)]
            self._head = STATUS_LINE[200] + b"".join(lines)
        return self._head

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

    async def leave(self, patience_s: float) -> None:
        """Take who waits and no more, and end each connection by an answer. Who asks again comes to the server that takes this one's place."""
        self._ended = self.leaving = True
        while self._reading and self._accept():
            pass
        self._pause()
        self._listening.close()
        until = self._loop.time() + patience_s
        while self._open and self._loop.time() < until:
            await asyncio.sleep(0.01)
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

    def _accept(self) -> bool:
        """Take some newcomers; tell whether there may be more."""
        for _ in range(_TAKEN_AT_ONCE):
            if self._open >= self.admission.bounds.connections:
                self._wait()
                return False
            try:
                taken, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                self.takes_turns = False  # nobody waits any more
                return False
            except OSError as error:
                if error.errno in _SHORT:
                    log.error("no connection can be taken: %s", error.strerror)
                    self._wait()
                    return False
                continue  # gone again before it was taken
            taken.setblocking(False)
            task = self._loop.create_task(self._take(taken))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        return True

    def _wait(self) -> None:
        """Leave newcomers in the kernel's queue until there is room."""
        self._pause()
        self.takes_turns = True
        self.admission.counters.add("kaizen_connections_paused_total")

    async def _take(self, taken: socket.socket) -> None:
        secure = self.config.ssl
        patience = self.admission.bounds.header_s if secure else None
        try:
            await self._loop.connect_accepted_socket(lambda: self._connection(self), taken, ssl=secure, ssl_handshake_timeout=patience)
        except OSError as error:  # it left, or does not speak TLS
            log.debug("a connection did not come about: %s", error)
            taken.close()

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
        for connection in sorted(idle, key=lambda one: one.until)[:_CLOSED_AT_ONCE]:
            connection.close("made_room")
