"""The client: raw bytes on a few kept connections, one request under way on each, on the loopback only; it ends by itself."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

CONNECTIONS = 16
PATIENCE_S = 20.0  # with a server that stops answering


class Refused(Exception):
    """What came back is not an answer."""


class Load(NamedTuple):
    """What a server did in a while."""

    answered: int
    seconds: float
    latencies: list[float]  # seconds, sorted

    def latency(self, part: float) -> float:
        """Return the latency that ``part`` of the answers kept below, in seconds."""
        return self.latencies[min(int(part * len(self.latencies)), len(self.latencies) - 1)]


def request(path: str, document: Any, headers: str = "") -> bytes:
    """Return a POST of a document as it goes over the wire; more ``headers`` are whole lines."""
    body = json.dumps(document, separators=(",", ":")).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def ask(port: int, requests: Sequence[bytes], seconds: float, connections: int = CONNECTIONS) -> Load:
    """Send the requests in turn, for so long; wait for the answers that are still under way then.

    Raises
    ------
    Refused : an answer without status 200, or a connection that was closed.
    TimeoutError : the server stopped answering.
    """
    opened = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) for _ in range(connections)]
    try:
        return _drive({one.fileno(): one for one in opened}, requests, seconds)
    finally:
        for one in opened:
            one.close()


def _drive(opened: dict[int, socket.socket], requests: Sequence[bytes], seconds: float) -> Load:
    waiting, clock = select.epoll(), time.perf_counter
    have: dict[int, bytes] = dict.fromkeys(opened, b"")
    sent: dict[int, float] = {}
    latencies: list[float] = []
    number, under_way, begun = 0, len(opened), clock()
    for handle, connection in opened.items():
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting.register(handle, select.EPOLLIN)
        sent[handle] = clock()
        connection.sendall(requests[number % len(requests)])
        number += 1
    while under_way:
        ready = waiting.poll(PATIENCE_S)
        if not ready:
            raise TimeoutError(f"no answer for {PATIENCE_S:g} s")
        for handle, _ in ready:
            connection = opened[handle]
            came = connection.recv(1 << 20)
            if not came:
                raise Refused("the connection was closed without an answer")
            text = have[handle] + came
            if whole(text) is None:
                have[handle] = text
                continue
            if not text.startswith(b"HTTP/1.1 200"):
                raise Refused(text[:300].decode("latin-1"))
            have[handle] = b""
            now = clock()
            latencies.append(now - sent[handle])
            if now - begun < seconds:
                sent[handle] = now
                connection.sendall(requests[number % len(requests)])
                number += 1
            else:
                under_way -= 1
    took = clock() - begun
    waiting.close()
    return Load(len(latencies), took, sorted(latencies))


def once(port: int, asked: bytes, timeout: float = PATIENCE_S) -> Any:
    """Send one request; return the document that came back.

    Raises
    ------
    Refused : an answer without status 200, or none.
    OSError : nobody listens, or it takes too long.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(asked)
        text = b""
        while (body := whole(text)) is None:
            came = connection.recv(1 << 20)
            if not came:
                raise Refused("the connection was closed without an answer")
            text += came
    if not text.startswith(b"HTTP/1.1 200"):
        raise Refused(text[:300].decode("latin-1"))
    return json.loads(body)


def whole(text: bytes) -> bytes | None:
    """Return an answer's body once all of it is there."""
    end = text.find(b"\r\n\r\n")
    if end < 0:
        return None
    place = text.find(b"content-length: ", 0, end)
    if place < 0:
        head = text[: end + 2].lower()
        place = head.find(b"content-length: ")
        if place < 0:
            if b"transfer-encoding: chunked" not in head:
                raise Refused(f"an answer without a length: {text[:300].decode('latin-1')}")
            return _chunks(text[end + 4 :])
    length = int(text[place + 16 : text.index(b"\r\n", place)])
    return text[end + 4 :] if len(text) >= end + 4 + length else None


def _chunks(text: bytes) -> bytes | None:
    if not text.endswith(b"0\r\n\r\n"):
        return None
    parts, place = [], 0
    while True:
        end = text.find(b"\r\n", place)
        if end < 0:
            return None
        length = int(text[place:end].split(b";")[0], 16)
        if length == 0:
            return b"".join(parts)
        parts.append(text[end + 2 : end + 2 + length])
        place = end + 2 + length + 2
