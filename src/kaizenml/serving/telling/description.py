"""What the data plane says of itself, made when somebody asks and kept until the routing changes."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

import msgspec

from kaizenml.serving.dialects.invocations import Invocations
from kaizenml.serving.protocol import Limits
from kaizenml.serving.routing import Routing
from kaizenml.serving.telling.docs_page import HEADERS, page
from kaizenml.serving.telling.openapi import document

__all__ = ["PAGE_HEADERS", "Description", "address_of"]
PAGE_HEADERS = HEADERS
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")


class Description:
    """The OpenAPI document and the page for people.

    Parameters
    ----------
    limits : how large a request may be.
    invocations : the dialect, which knows the paths that the environment gave it.
    root_path : the path prefix under which a proxy shows the server.
    auth : whether tokens are asked for.
    """

    def __init__(self, limits: Limits, invocations: Invocations, *, root_path: str = "", auth: bool = False) -> None:
        self._limits = limits
        self._root_path = root_path
        self._auth = auth
        self._invocations = invocations
        self._made: tuple[Routing, dict[str, Any], bytes] | None = None

    def document(self, routing: Routing) -> bytes:
        """Return ``/openapi.json``. Slow where there are many endpoints: never call it on the event loop."""
        return self._make(routing)[1]

    def page(self, routing: Routing, address: str) -> bytes:
        """Return ``/docs``, with commands for the address at which the reader came. As slow as ``document``."""
        return page(routing, self._make(routing)[0], address).encode()

    def _make(self, routing: Routing) -> tuple[dict[str, Any], bytes]:
        made = self._made
        if made is None or made[0] is not routing:
            found = document(routing, self._limits, root_path=self._root_path, auth=self._auth, invocations=self._invocations)
            made = self._made = (routing, found, msgspec.json.encode(found))
        return made[1:]


def address_of(scope: MutableMapping[str, Any], root_path: str = "") -> str:
    """Return the address at which a request reached this server, as its headers tell and no further than they can be believed."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1")
    if not _HOST.fullmatch(host):
        name, port = scope.get("server") or ("127.0.0.1", 8080)
        host = f"{name}:{port}"
    return f"{scope.get('scheme', 'http')}://{host}{root_path}"
