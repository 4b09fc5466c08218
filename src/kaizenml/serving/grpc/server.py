"""The gRPC server of one worker, on the event loop that answers HTTP as well: the engine is for one thread.

Each worker listens on the same port by itself (SO_REUSEPORT) and the system spreads connections over them. Compressed messages
are refused: gRPC unpacks them whole before anybody can look at their size.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from kaizenml.access.token import Scope
from kaizenml.errors import KaizenError, Unavailable
from kaizenml.serving.dialects.tensors import explained
from kaizenml.serving.engine import Engine
from kaizenml.serving.grpc.messages import SERVICE
from kaizenml.serving.grpc.service import Answer, Metadata, Service
from kaizenml.serving.protocol import Limits

log = logging.getLogger("kaizenml.serving")
Check = Callable[[str, Scope | None], Any]
"""Lets a call in by its ``authorization`` and scope (None: a question about the server), or raises."""
Settle = Callable[[str, KaizenError | None, str, float, Metadata], None]
"""Told of each call when it is answered: its name, what it was refused with, endpoint, when it began, metadata."""

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND, 409: grpc.StatusCode.FAILED_PRECONDITION, 413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT, 429: grpc.StatusCode.RESOURCE_EXHAUSTED, 501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE, 507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip
_OPEN = ("ServerLive", "ServerReady")  # who only wants to know whether the process is well needs no token
_SCOPES: dict[str, Scope] = {"ModelInfer": "predict", "RepositoryModelLoad": "predict", "RepositoryModelUnload": "predict"}
_AT_ONCE = 1000  # calls under way in one worker; more are refused by gRPC itself
_ROOM = 64_000_000  # beyond max_body_bytes a message is still read, so that its sender hears what to do about it


class Server:
    """Answers gRPC calls beside HTTP.

    Parameters
    ----------
    address : host and port to listen on; the port is held by the supervisor.
    engine, limits : as for HTTP.
    settle : counts a call, and lets the shadows run.
    check : who may call; None: everybody who reaches the port.
    tls : certificate chain and key as PEM; None: in the clear.
    """

    def __init__(
        self, address: str, engine: Engine, limits: Limits, *, settle: Settle, check: Check | None = None, tls: tuple[bytes, bytes] | None = None
    ) -> None:
        self._address = address
        self._engine = engine
        self._limits = limits
        self._settle = settle
        self._check = check
        self._tls = tls
        self._calls = Service(engine, limits).calls
        self._server: Any = None

    async def start(self) -> None:
        """Begin to listen."""
        options = [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", self._limits.body_bytes + _ROOM),
            ("grpc.max_send_message_length", -1),
            ("grpc.compression_enabled_algorithms_bitset", 1),  # none
            ("grpc.max_metadata_size", 16_384),
            ("grpc.http2.max_ping_strikes", 2),
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_AT_ONCE)
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._behaviour(name)) for name in self._calls}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            if self._tls is None:
                self._server.add_insecure_port(self._address)
            else:
                chain, key = self._tls
                self._server.add_secure_port(self._address, grpc.ssl_server_credentials([(key, chain)]))
        except RuntimeError as error:
            raise Unavailable(f"{self._address} cannot be listened on: {error}", remedy="--grpc-port N with another port") from None
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and answer those under way."""
        await self._server.stop(grace_s)

    def _behaviour(self, name: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        call, scope = self._calls[name], _SCOPES.get(name)
        path, engine = f"/{SERVICE}/{name}", self._engine

        async def behave(body: bytes, context: Any) -> bytes:
            start = time.perf_counter()
            headers: Metadata = dict(context.invocation_metadata() or ())
            try:
                if self._check is not None and name not in _OPEN:
                    shown = headers.get("authorization", "")
                    self._check(shown if isinstance(shown, str) else "", scope)
                asked = partial(call, body, headers)
                answer: Answer = await engine.ask(asked) if engine.routing.waits else asked()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if not isinstance(error, KaizenError):
                    log.exception("unexpected error at %s", name)
                    error = KaizenError("the server made a mistake; the request may be fine", remedy="look at the server's log")
                self._settle(path, error, "", start, headers)
                await context.abort(_CODES.get(error.status, grpc.StatusCode.INTERNAL), explained(error), (("x-kaizen-code", error.code),))
                raise AssertionError("abort raises") from None
            self._settle(path, None, answer.endpoint, start, headers)
            return answer.body

        return behave
