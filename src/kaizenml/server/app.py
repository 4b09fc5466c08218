"""The control plane: the API for every operation, and the console for people. Loopback by default; a token anywhere else."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from kaizenml.context import Context
from kaizenml.errors import KaizenError, NotFound, Unavailable, UsageError
from kaizenml.server import api
from kaizenml.server.rendering import HERE, Pages, chart_css
from kaizenml.server.security import COOKIE, Guard, Protect, guard_for
from kaizenml.serving.connecting.front import TOKEN
from kaizenml.serving.door import Door

log = logging.getLogger("kaizenml.server")


def create(ctx: Context, guard: Guard | None = None) -> Starlette:
    """Build the ASGI application of an open project.

    Parameters
    ----------
    ctx : the open project; what is done here is recorded under its actor.
    guard : who may ask; default: this machine only, or with ``KAIZEN_TOKEN`` whoever shows that token.
    """
    from kaizenml.server import console  # loads every room, so not before the port and the guard are known to be right

    guard = guard or guard_for("127.0.0.1", token=os.environ.get(TOKEN))
    pages = Pages(ctx, guard.form_token())
    routes = [
        *api.routes(ctx),
        Route("/static/charts.css", _chart_css),
        Mount("/static", StaticFiles(directory=HERE / "static")),
        Route("/login", _Login(pages, guard), methods=["GET", "POST"]),
        *console.routes(ctx, pages, guard),
    ]

    def failed(request: Request, error: Exception) -> Response:
        return _failed(pages, request, error)

    return Starlette(
        routes=routes,
        middleware=[Middleware(Protect, guard=guard)],
        exception_handlers={KaizenError: failed, 404: failed, 405: failed, Exception: failed},
    )


def serve(
    ctx: Context,
    *,
    host: str | None = None,
    port: int | None = None,
    root_path: str = "",
    public_hosts: Iterable[str] = (),
    ready: Callable[[int], Any] | None = None,
) -> None:
    """Run the control plane until it is interrupted.

    Parameters
    ----------
    host, port : where to listen; default the settings of ``[console]``. Port 0 takes a free one.
    root_path : the path prefix under which a proxy shows the console, for example ``/kaizen``.
    public_hosts : names by which a proxy is asked; a token is then required.
    ready : called with the port when the server listens.

    Raises
    ------
    Unavailable : the port is taken.
    UsageError : it could be reached from outside and ``KAIZEN_TOKEN`` is not set.
    """
    where = host or ctx.settings.console.host
    number = ctx.settings.console.port if port is None else port
    guard = guard_for(
        where, token=os.environ.get(TOKEN), names=public_hosts, max_body_bytes=ctx.settings.serve.max_body_bytes, admits=_admits(ctx)
    )
    listener = _listen(where, number)
    config = uvicorn.Config(create(ctx, guard), root_path=root_path, log_level="warning", access_log=False, server_header=False, lifespan="off")
    _Announced(config, lambda: ready(listener.getsockname()[1]) if ready else None).run(sockets=[listener])


def _admits(ctx: Context) -> Callable[[str], str]:
    """Return what lets the owners of admin tokens in."""
    door = Door(ctx.state)

    def admits(shown: str) -> str:
        door.look()
        return door.check(shown, "admin")

    return admits


class _Announced(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, say: Callable[[], Any]) -> None:
        super().__init__(config)
        self.say = say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.say()


class _Login:
    """The page that takes the token and gives a cookie for it."""

    def __init__(self, pages: Pages, guard: Guard) -> None:
        self.pages, self.guard = pages, guard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        home = f"{scope.get('root_path', '')}/"
        response: Response
        if self.guard.token is None:
            response = RedirectResponse(home, 303)
        elif request.method == "GET":
            response = self.pages.render(request, "login.html", wrong=False)
        elif self.guard.token_fits(str((await request.form()).get("token", "")).strip()):
            response = RedirectResponse(home, 303)
            response.set_cookie(COOKIE, self.guard.session(), path=home, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        else:
            response = self.pages.render(request, "login.html", wrong=True, status=401)
        await response(scope, receive, send)


async def _chart_css(_request: Request) -> Response:
    return Response(chart_css(), media_type="text/css", headers={"Cache-Control": "public, max-age=86400"})


def _failed(pages: Pages, request: Request, error: Exception) -> Response:
    known, status = error, getattr(error, "status_code", 500)
    if not isinstance(error, KaizenError):
        if status == 404:
            known = NotFound(f"there is no page {request.url.path!r}", remedy="start from the overview")
        elif status == 405:
            known = UsageError(f"{request.method} is not for {request.url.path!r}", remedy="GET to read, POST to change")
        else:
            log.error("the page failed", exc_info=error)
            known = api.unexpected(error)
    assert isinstance(known, KaizenError)
    status = 405 if status == 405 else known.status
    if request.url.path.removeprefix(request.scope.get("root_path", "")).startswith("/api"):
        return api.reply({"error": known.document()}, status)
    return pages.render(request, "error.html", status=status, error=known)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        what = f"port {port} is taken" if taken else f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise Unavailable(what, remedy=f"kaizen console --port {port + 1}", values={"host": host, "port": port}) from error
    listener.set_inheritable(False)
    return listener
