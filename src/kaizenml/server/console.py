"""The console's pages and forms. A page is a template filled with what the rooms' operations say; a form does one operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from kaizenml import events
from kaizenml.context import Context
from kaizenml.errors import Forbidden, KaizenError
from kaizenml.server import actions
from kaizenml.server.pages import audit, data, difference, endpoint, features, models, overview, tokens
from kaizenml.server.rendering import Pages
from kaizenml.server.security import Guard

Values = dict[str, Any]


def routes(ctx: Context, pages: Pages, guard: Guard) -> list[BaseRoute]:
    """Return the routes of the console."""

    def page(path: str, template: str, fill: Callable[[Request], Values]) -> Route:
        def show(request: Request) -> Response:  # not async: it reads files, so it runs in a thread
            return pages.render(request, template, **fill(request))

        return Route(path, show)

    def confirm(request: Request, error: KaizenError | None = None, given: dict[str, str] | None = None) -> Response:
        name, verb = request.path_params["endpoint"], request.path_params["verb"]
        given = given if given is not None else dict(request.query_params)
        question = actions.ask(ctx, name, verb, given)
        return pages.render(
            request, "confirm.html", status=error.status if error else 200, error=error, why=given.get("why", ""), back=f"/endpoints/{name}",
            target=f"/endpoints/{name}/{verb}", **question._asdict(),
        )  # fmt: skip

    def do(request: Request, given: dict[str, str]) -> Response:
        name, verb = request.path_params["endpoint"], request.path_params["verb"]
        if not guard.form_fits(given.get("form_token", "")):
            raise Forbidden("this form is from before the console was restarted", remedy="open the page again and repeat")
        try:
            actions.act(ctx, name, verb, given)
        except KaizenError as error:
            return confirm(request, error, given)
        with ctx.catalog.read() as connection:
            done = events.read(connection, subject=name, limit=1, newest_first=True)
        return RedirectResponse(f"{request.scope.get('root_path', '')}/endpoints/{name}?done={done[0].seq if done else 0}", 303)

    async def act(request: Request) -> Response:
        if request.method != "POST":
            return await run_in_threadpool(confirm, request)
        form = await request.form(max_files=0, max_fields=20)
        return await run_in_threadpool(do, request, {key: str(value) for key, value in form.items()})

    return [
        page("/", "overview.html", lambda _: overview.values(ctx)),
        page("/endpoints/{name}", "endpoint.html", lambda r: endpoint.values(ctx, r.path_params["name"], done=r.query_params.get("done", ""))),
        Route("/endpoints/{endpoint}/{verb}", act, methods=["GET", "POST"]),
        page("/models", "models.html", lambda _: models.values(ctx)),
        page("/releases/{ref}", "release.html", lambda r: models.release_values(ctx, r.path_params["ref"])),
        page("/runs/{run}", "run.html", lambda r: models.run_values(ctx, r.path_params["run"])),
        page("/data", "data.html", lambda _: data.values(ctx)),
        page("/data/{name}", "dataset.html", lambda r: data.dataset_values(ctx, r.path_params["name"])),
        page("/data/{name}/compare", "difference.html", lambda r: difference.values(ctx, r.path_params["name"], dict(r.query_params))),
        page("/features", "features.html", lambda r: features.values(ctx, dict(r.query_params))),
        page("/features/{name}", "view.html", lambda r: features.view_values(ctx, r.path_params["name"])),
        page("/tokens", "tokens.html", lambda _: tokens.values(ctx)),
        page("/audit", "audit.html", lambda r: audit.values(ctx, dict(r.query_params))),
    ]
