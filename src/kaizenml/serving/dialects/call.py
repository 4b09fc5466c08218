"""What a dialect is given and what it gives back. Hot path."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import msgspec

from kaizenml.errors import InvalidInput, KaizenError
from kaizenml.features.signature import Signature
from kaizenml.serving.deciding import Answered
from kaizenml.serving.engine import Engine
from kaizenml.serving.protocol import Limits

JSON = b"application/json"
BINARY = b"application/octet-stream"
encode = msgspec.json.Encoder().encode


class Call(NamedTuple):
    """One request, its body read."""

    method: str
    path: str
    headers: dict[bytes, bytes]  # names in lower case; of several with one name, the last
    body: bytes
    trace: str | None = None

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")[:200]


class Reply(NamedTuple):
    """What goes back. ``endpoint`` and ``predicted`` are for the counters."""

    body: bytes
    kind: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    status: int = 200
    endpoint: str = ""
    predicted: bool = False


class Dialect(Protocol):
    """One way of asking."""

    def speaks(self, path: str) -> bool:
        """Tell whether a path belongs to this dialect."""
        ...

    def reply(self, engine: Engine, call: Call, limits: Limits) -> Reply:
        """Answer a call; raises KaizenError."""
        ...

    def explain(self, error: KaizenError) -> bytes:
        """Write an error in this dialect's form."""
        ...


def asked(signature: Signature) -> list[str]:
    """Return the columns of a request in the order in which a dialect without names sends them.

    These are the inputs that no feature view gives, then the views' entities that are no inputs themselves.
    """
    inputs = [field.name for field in signature.fields if field.view is None]
    return inputs + [name for name in dict.fromkeys(key for view in signature.views for key in view.entities) if name not in inputs]


def unjournaled(answered: Answered) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header that says of an answer that it has no record; none where it has one."""
    return () if answered.journaled else ((b"x-kaizen-journaled", b"false"),)


def decode(body: bytes, kind: Any, form: str) -> Any:
    """Decode JSON into ``kind``; what does not fit is an InvalidInput that shows ``form``."""
    if not body.strip():
        raise InvalidInput("the body is empty", remedy=f"send {form}", values={"field": None})
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = str(error)
        said = text[:300] if text.startswith("JSON") else f"{text[:1].lower()}{text[1:300]}"
        raise InvalidInput(f"the body does not fit: {said}", remedy=f"send {form}", values={"problem": text[:300]}) from None
