"""Connections: uvicorn's HTTP protocol with limits of its own, and a shorter way for most requests. Hot path.

Uvicorn reads headers of any length. Here they have limits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import MutableMapping
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from kaizenml.errors import KaizenError
from kaizenml.serving.admission import Bounds, Overloaded
from kaizenml.serving.connecting.heads import Head
from kaizenml.serving.connecting.patience import BadRequest, HeadersTooLarge, Patient
from kaizenml.serving.connecting.taking import Taking
from kaizenml.serving.connecting.turns import Waiting
from kaizenml.serving.headers import Headers

_SMALL_BYTES = 1_000_000  # a body that may come in parts and yet be answered in a turn


class _TooManyHeaders(Exception):
    """Ends the parsing."""


class _OtherProtocol(Exception):
    """Ends the parsing: the parser takes a body after such a wish for the other protocol's."""


class Connection(Patient):
    """One connection.

    Parameters
    ----------
    taking : who took it in.
    """

    # of a thousand connections each has left the processor's caches when its turn comes: what is looked at then lies together
    __slots__ = (
        "_asked_body", "_asked_scope", "_head_begun", "_head_bytes", "_held", "_in_turn", "_parts", "_stays", "_taken", "_wishes",
    )  # fmt: skip

    def __init__(self, taking: Taking) -> None:
        super().__init__(taking)
        self._head_bytes = 0
        self._head_begun = False  # by the bytes that are just being read
        self._taken: tuple[str, str | None, str | None] | None = None  # what is being read is for ``turns``: endpoint, trace id, arm
        self._asked_scope: dict[str, Any] = {}
        self._asked_body = b""
        self._parts: list[bytes] = []  # of a body that comes in parts
        self._held = 0  # bytes of memory that are set aside for it
        self._stays = True  # whether the connection stays open after the answer
        self._wishes = True  # whether the client wants that
        self._in_turn = False  # whether an answer of ``turns`` is still to come

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        begins = not self.in_head and self.awaited in ("idle", "header")
        if begins and self._is_known(data):
            self.taking.turns.answer_many()
            return
        if self.awaited == "idle":
            self.wait_for("header", self.bounds.header_s)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if not self.cycle.response_complete:
                self.end_after(self.cycle)  # what follows would be another protocol, which is not spoken here
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _TooManyHeaders):
                self.refuse(_too_many(self.bounds), "headers")
                return
            self.refuse(_malformed(error), "malformed")
            return
        if self._taken is not None and not self._held:  # there is more to come
            self._hold()
        if self.in_head:
            if not self._head_begun:  # else some of it belongs to the request before
                self._head_bytes += len(data)
            self._head_begun = False
            if self._head_bytes > self.bounds.header_bytes:
                self.refuse(_too_many(self.bounds), "headers")
        if self._in_turn:
            if begins:
                self._learn(data)
            self.taking.turns.answer_many()

    def _is_known(self, data: bytes) -> bool:
        """Take a request whose head has come before; tell whether it was one."""
        head = self.taking.heads.find(data)
        if head is None or not self._may_take():
            return False
        endpoint = self.taking.turns.endpoint(head.url)
        if endpoint is None:
            return False
        self._stays = head.stays and not self._takes_leave()
        scope = {"type": "http", "method": "POST", "path": head.path, "headers": head.headers, "client": self.client}
        self._ask(Waiting(self, scope, endpoint, None, head.pinned, data[len(data) - head.length :]))
        return True

    def _learn(self, data: bytes) -> None:
        asked = self.taking.turns.newest
        if asked is not None and asked.asker is self and asked.trace is None:  # which is another one each time
            self.taking.heads.learn(data, Head(self.url, asked.scope["path"], self.headers, asked.pinned, len(asked.body), self._wishes))

    def _may_take(self) -> bool:
        """Tell whether a request may be answered in a turn: nothing is being answered otherwise, and an answer can leave."""
        idle = self.cycle is None or self.cycle.response_complete
        return idle and not self.flow.write_paused and not self.transport.is_closing() and not self.taking.proxied

    def _ask(self, asked: Waiting) -> None:
        self._in_turn = True
        self.awaited, self.until = "answer", math.inf
        self.taking.turns.add(asked)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Tell the transport whether to stay open: a client that has said all it wants still gets its answer."""
        cycle = self.cycle
        if self._in_turn and not self.deaf and self.scheme != "https":
            self._stays = False
            return True
        if self.deaf or cycle is None or cycle.response_complete or cycle.more_body or self.scheme == "https":
            return None
        cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        if self._in_turn:  # answers leave in the order of the questions
            self.taking.turns.answer()
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self.in_head, self._head_bytes, self._head_begun = True, 0, True

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        self._head_bytes += len(name) + len(value)
        if len(self.headers) > self.bounds.headers or self._head_bytes > self.bounds.header_bytes:
            raise _TooManyHeaders

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() not in (b"GET", b"HEAD"):
            raise _OtherProtocol
        self.in_head = False
        self.wait_for("body", self.bounds.body_s)
        if (
            self.url.startswith(b"/predict/") and self.parser.get_method() == b"POST" and not self.expect_100_continue and self._may_take()
        ):  # fmt: skip
            self._asked_scope = {"type": "http", "method": "POST", "path": self.url.decode("latin-1"), "headers": self.headers, "client": self.client}
            self._taken = self.taking.turns.takes(self._asked_scope, self.url)
            if self._taken is not None:
                self._asked_body = b""
                self._wishes = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
                self._stays = self._wishes and not self._takes_leave()
                return
        self._begin()

    def _hold(self) -> None:
        """Set memory aside for the rest of a body; where that is more than a little, or there is none, the application reads it."""
        length = next((value for name, value in self.headers if name == b"content-length"), b"")
        if length.isdigit() and 0 < int(length) <= _SMALL_BYTES:
            with contextlib.suppress(Overloaded):
                self.admission.hold(int(length))
                self._held = int(length)
                self._parts = [self._asked_body] if self._asked_body else []
                return
        self._begin()

    def _let_go(self) -> None:
        self.admission.free(self._held)
        self._held = 0
        self._parts.clear()

    def _begin(self) -> None:
        """Let the application answer what has come, and perhaps is still coming."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers += headers
        super().on_headers_complete()
        if self._taken is not None:
            self._taken = None
            self.cycle.keep_alive = self._stays
            if self._asked_body:
                super().on_body(self._asked_body)
        elif self._takes_leave():
            self.cycle.keep_alive = False

    def _takes_leave(self) -> bool:
        """Tell whether this answer is one that ends its connection, so that others get in."""
        return self.taking.leaving or (self.taking.takes_turns and self.taking.turn())

    def on_body(self, body: bytes) -> None:
        if self._taken is None:
            super().on_body(body)
        elif self._held:
            self._parts.append(body)
        else:
            self._asked_body = self._asked_body + body if self._asked_body else body

    def on_message_complete(self) -> None:
        if self._taken is not None:
            endpoint, trace, pinned = self._taken
            if self._held:
                self._asked_body = b"".join(self._parts)
                self._let_go()
            self._taken = None
            self._ask(Waiting(self, self._asked_scope, endpoint, trace, pinned, self._asked_body))
            return
        super().on_message_complete()
        if not self.cycle.response_complete:
            self.admission.arrive(self.cycle.scope)
            self.awaited, self.until = "answer", math.inf
        elif self.awaited == "body":  # answered before its body had come
            self.rest()

    def answer(self, status: int, headers: Headers, body: bytes, scope: MutableMapping[str, Any]) -> None:
        """Send the answer to a request that ``turns`` took."""
        self._in_turn = False
        if status == 200 and self._stays:
            self.write(b"%bcontent-length: %d\r\n\r\n%b" % (self.taking.head, len(body), body))
        else:
            self._stays = self._stays and (b"connection", b"close") not in headers
            lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *headers) if header[0] != b"connection"]
            lines += [b"content-length: %d\r\n" % len(body), b"\r\n" if self._stays else b"connection: close\r\n\r\n", body]
            self.transport.write(STATUS_LINE[status] + b"".join(lines))
        if not self._stays:
            self.transport.close()
        self.server_state.total_requests += 1
        self.go_on(scope)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._held:
            self._let_go()
        super().connection_lost(exc)

    def refuse(self, error: KaizenError, reason: str) -> None:
        if self._in_turn:  # earlier ones are answered first
            self.taking.turns.answer()
        super().refuse(error, reason)

    def shutdown(self) -> None:
        """Close when nothing is to be answered any more."""
        if self._in_turn:
            self._stays = False
        else:
            super().shutdown()


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
