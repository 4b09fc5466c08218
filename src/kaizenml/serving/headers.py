"""What a request's headers alone tell, and which headers an error brings. Hot path."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from kaizenml.errors import KaizenError, RateLimited, TooLarge, Unauthorized, Unavailable
from kaizenml.serving.admission import Overloaded
from kaizenml.serving.dialects import tables
from kaizenml.serving.dialects.call import Call
from kaizenml.serving.protocol import Limits, MethodNotAllowed, UnsupportedMedia

DISCARDED_BYTES = 128_000_000  # of a too large body, so that its sender gets to read the answer
Headers = tuple[tuple[bytes, bytes], ...]


def call_of(scope: MutableMapping[str, Any], limits: Limits) -> Call:
    """Return the call, its body still to be read; refuse what its headers alone tell."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    _check_length(headers.get(b"content-length", b""), limits)
    _check_encoding(headers.get(b"content-encoding", b"identity"))
    trace = headers.get(b"traceparent")
    return Call(scope["method"], scope["path"], headers, b"", trace.decode("latin-1")[:100] if trace else None)


def _check_length(value: bytes, limits: Limits) -> None:
    if value.isdigit() and int(value) > limits.body_bytes + DISCARDED_BYTES:  # too much to read on for politeness
        raise too_large(int(value), limits.body_bytes)


def _check_encoding(value: bytes) -> None:
    if value.lower() != b"identity":
        shown = value.decode("latin-1")[:100]
        raise UnsupportedMedia(f"a body encoded as {shown!r} is not understood here", remedy="send it as it is", values={"found": shown})


def check_post(scope: MutableMapping[str, Any], limits: Limits, *, takes_tables: bool = False) -> tuple[str | None, str | None, bool]:
    """Refuse what cannot be read from its headers alone; return the caller's trace id, the arm that is asked for, and whether it is about tables."""
    if scope["method"] != "POST":
        path, values = scope["path"][:100], {"method": scope["method"], "expected": "POST"}
        raise MethodNotAllowed(f"{path} does not take {scope['method']}", remedy=f"POST {path}", values=values)
    trace = pinned = None
    tabular = False
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value != b"application/json" and not _is_json(value):
                if takes_tables and tables.form(value):
                    tabular = True
                    continue
                shown = value.decode("latin-1")[:100]
                remedy = "send JSON with the header 'content-type: application/json'"
                remedy += f", or {' or '.join(one.decode() for one in tables.FORMS)}" if takes_tables else ""
                raise UnsupportedMedia(f"{shown!r} is not understood here", remedy=remedy, values={"found": shown, "expected": "application/json"})
        elif name == b"content-length":
            _check_length(value, limits)
        elif name == b"content-encoding":
            _check_encoding(value)
        elif name == b"traceparent":
            trace = value.decode("latin-1")[:100]
        elif name == b"x-kaizen-arm":
            pinned = value.decode("latin-1")[:100]
        elif name == b"accept" and takes_tables and tables.form(value):
            tabular = True
    return trace, pinned, tabular


def _is_json(value: bytes) -> bool:
    kind = value.partition(b";")[0].strip().lower()
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))


def too_large(size: int, limit: int) -> TooLarge:
    remedy = "send fewer rows at once, or raise max_body_bytes under [serve] in kaizen.toml"
    return TooLarge(f"the body has {size:,} bytes or more; the limit is {limit:,}", remedy=remedy, values={"bytes": size, "limit": limit})


def error_headers(error: KaizenError) -> Headers:
    if isinstance(error, MethodNotAllowed):
        return ((b"allow", str(error.values.get("expected", "POST")).encode()),)
    if isinstance(error, Unauthorized):
        return ((b"www-authenticate", b"Bearer"),)
    if isinstance(error, RateLimited):
        return ((b"retry-after", str(error.values.get("retry_after_s", 1)).encode()),)
    if isinstance(error, Overloaded) and error.values["reason"] == "memory":  # the rest of its body is not read
        return ((b"retry-after", b"1"), (b"connection", b"close"))
    if isinstance(error, Unavailable):
        return ((b"retry-after", b"1"),)
    if isinstance(error, TooLarge):
        return ((b"connection", b"close"),)
    return ()
