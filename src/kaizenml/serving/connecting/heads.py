"""Heads of requests that have come before, letter by letter: what they say is known, and need not be read again. Hot path.

A client sends the same head with nearly every request, and reading it costs more than the trees of a small model. What is kept was
read by the parser once; a request that differs in one letter, or has not come whole and alone, goes to the parser.
"""

from __future__ import annotations

from typing import NamedTuple

_END = b"\r\n\r\n"
_MOST = 500
_LONGEST = 2000  # bytes


class Head(NamedTuple):
    """What a head says."""

    url: bytes
    path: str
    headers: list[tuple[bytes, bytes]]
    pinned: str | None  # the arm that is asked for
    length: int  # of the body that follows
    stays: bool  # whether the client wants the connection to stay open


class Heads:
    """What one worker has read."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def find(self, data: bytes) -> Head | None:
        """Return the head of a request that is all that has come; None where it is not known, or the request is not whole."""
        end = data.find(_END)
        head = self._known.get(data[:end])
        return head if head is not None and len(data) == end + len(_END) + head.length else None

    def learn(self, data: bytes, head: Head) -> None:
        """Keep what the parser has read of ``data``, where that was one whole request."""
        end = data.find(_END)
        if end <= _LONGEST and len(data) == end + len(_END) + head.length and data.startswith(b"POST "):
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[data[:end]] = head
