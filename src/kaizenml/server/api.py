"""The control API: ``/api/{noun}/{verb}`` for every operation, with its errors as they are."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kaizenml import operations
from kaizenml.context import Context
from kaizenml.errors import KaizenError, UsageError
from kaizenml.server.security import ACTOR

log = logging.getLogger("kaizenml.server")


def routes(ctx: Context) -> list[BaseRoute]:
    """Return the routes of the API."""

    async def index(_request: Request) -> Response:
        return reply({"operations": [operations.to_builtins(operation) for operation in operations.all().values()]})

    async def call(request: Request) -> Response:
        try:
            operation = operations.find(request.path_params["noun"], request.path_params["verb"])
            if request.method == "GET":
                if not operation.reads:
                    raise UsageError(f"{operation.name} changes something, so it is not done by GET", remedy="send the same as POST with a JSON body")
                arguments: dict[str, Any] = dict(request.query_params)
                strict = False
            else:
                arguments, strict = await _body(request), True
            actor = request.scope.get(ACTOR)
            return reply(await run_in_threadpool(operation.call, ctx.acting_as(actor) if actor else ctx, arguments, strict=strict))
        except Exception as error:
            return failure(error)

    return [Route("/api", index), Route("/api/{noun}/{verb}", call, methods=["GET", "POST"]), Route("/health", _health)]


def reply(value: Any, status: int = 200) -> Response:
    """Return a value as JSON."""
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def failure(error: Exception) -> Response:
    """Return an error as ``{"error": {...}}`` with its own status; what is not ours is logged, and not shown outside."""
    if not isinstance(error, KaizenError):
        log.error("the operation failed", exc_info=error)
        error = unexpected(error)
    return reply({"error": error.document()}, error.status)


def unexpected(error: Exception) -> KaizenError:
    """Return what may be shown of an error that is a fault of ours."""
    return KaizenError(f"an unexpected {type(error).__name__}; the console's log has the details", remedy="look at the log of kaizen console")


async def _health(_request: Request) -> Response:
    return reply({"live": True})


async def _body(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # also keeps other sites' forms out: they cannot send this type unasked
        raise UsageError(f"the body is {kind or 'of no type'}", remedy="send JSON with 'Content-Type: application/json'", values={"found": kind})
    raw = await request.body()
    if not raw:
        return {}
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"the body is not JSON: {error}", remedy='send an object such as {"endpoint": "shop"}') from None
    if not isinstance(found, dict):
        raise UsageError("the body is not an object", remedy='send an object such as {"endpoint": "shop"}', values={"found": type(found).__name__})
    return found
