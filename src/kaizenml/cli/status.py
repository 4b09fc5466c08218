"""What ``kaizen status`` says: one document, and the same in a few calm lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaizenml import operations
from kaizenml.cli import processes, reaching
from kaizenml.cli.output import cell
from kaizenml.errors import KaizenError, StorageFull

if TYPE_CHECKING:
    import ssl

    from kaizenml.context import Context

_FEWEST = 20
"""Outcomes from which an interval is shown."""
_COLOUR = {"steady": "green", "canary": "cyan", "killed": "red"}


def document(ctx: Context, root: Path) -> dict[str, Any]:
    """Return how the project is: its endpoints with traffic, live accuracy, open alerts and the loop, and where it is served."""
    from kaizenml.loop import operations as loop
    from kaizenml.monitoring import operations as monitoring
    from kaizenml.rollouts import operations as rollouts
    from kaizenml.rollouts import publishing

    ruled = publishing.in_force(ctx)
    loops = {status.endpoint: status for status in loop.status(ctx)}
    endpoints = []
    for now in rollouts.list(ctx):
        live = [window for window in monitoring.accuracy(ctx, now.endpoint, by="all") if window.release is None]
        rest = 1000 - sum(arm.weight for arm in now.challengers)
        arms = [{"release": now.champion, "arm": "champion", "share": rest / 1000}]
        arms += [{"release": arm.release, "arm": f"challenger-{arm.number}", "share": arm.weight / 1000} for arm in now.challengers]
        endpoints.append(
            {
                "endpoint": now.endpoint, "state": now.state, "killed": now.killed, "champion": now.champion, "traffic": arms, "shadows": now.shadows,
                "live": operations.to_builtins(live[-1]) if live else None, "unwatched": None if live else _answered(ctx, now.endpoint),
                "alerts": operations.to_builtins(monitoring.alerts(ctx, endpoint=now.endpoint, open_only=True)),
                "loop": operations.to_builtins(loops.get(now.endpoint)),
                "rules": {"in_force": ruled[now.endpoint][0], "problem": ruled[now.endpoint][1]} if now.endpoint in ruled else None,
            }
        )  # fmt: skip
    running = processes.read_address(ctx.state)
    served = {**running, "ready": answers(str(running["predict"]), reaching.believed(root, ctx.settings.serve))} if running else None
    return {"project": ctx.settings.project.name, "folder": str(root), "endpoints": endpoints, "served": served}


def _answered(ctx: Context, endpoint: str) -> int | None:
    """Count the answers that monitoring has not looked at yet, for nobody who has just asked shall read that nobody did."""
    from kaizenml.serving import operations as serving

    try:
        return int(serving.counts(ctx, endpoint)["rows"])
    except StorageFull:  # the journal keeps them; a full disk must not hide how the endpoints are
        return None


def text(found: dict[str, Any]) -> str:
    """Return the document in words."""
    lines = []
    served = found["served"]
    if served:
        lines.append(f"{found['project']}: served at {served['predict']}" + ("" if served["ready"] else ", which does not answer yet"))
    else:
        lines.append(f"{found['project']}: not served now; kaizen up, or kaizen serve")
    for endpoint in found["endpoints"]:
        lines += _endpoint(endpoint)
    if not found["endpoints"]:
        lines.append("no endpoint yet: kaizen up")
    return "\n".join(lines)


def _endpoint(endpoint: dict[str, Any]) -> list[str]:
    state = click.style(endpoint["state"], fg=_COLOUR.get(endpoint["state"]), bold=True)
    lines = [f"\n{click.style(endpoint['endpoint'], bold=True)}  {state}" + (f": {endpoint['killed']}" if endpoint["killed"] else "")]
    lines.append("  traffic  " + ", ".join(f"{arm['release']} {arm['share'] * 100:g} % ({arm['arm']})" for arm in endpoint["traffic"]))
    if endpoint["shadows"]:
        lines.append(f"  shadows  {', '.join(endpoint['shadows'])}")
    if (rules := endpoint.get("rules")) and (rules["in_force"] or rules["problem"]):
        problem = f" (the last good ones: {rules['problem']})" if rules["problem"] else ""
        lines.append(f"  rules    {'; '.join(rules['in_force']) or 'none'}{problem}")
    lines.append(f"  live     {_live(endpoint['live'], endpoint['unwatched'])}")
    mark = click.style("alert", fg="red", bold=True)
    lines += [f"  {mark}    {alert['label']}: {alert['cause']}" for alert in endpoint["alerts"]] or ["  alerts   none"]
    lines.append(f"  loop     {_loop(endpoint['loop'])}")
    return lines


def _live(live: dict[str, Any] | None, unwatched: int | None) -> str:
    if not live:
        return f"{_predictions(unwatched)}, not looked at yet" if unwatched else "no predictions yet"
    if not live["answered"]:
        return f"{_predictions(live['without_model'])}, all without the model" if live["without_model"] else "no predictions yet"
    if not live["rows"]:
        return f"{_predictions(live['answered'])}, no outcomes yet"
    name, value = next(iter(live["metrics"].items()), ("", None))
    naive = live["naive"]
    few = live["rows"] < _FEWEST
    if few:  # the spread of so few rows says nothing, and must not look as if it did
        value, naive = (estimate and estimate["value"] for estimate in (value, naive))
    outcomes = f"{live['rows']:,} outcome{'s' if live['rows'] != 1 else ''} of {_predictions(live['answered'])}"
    return (
        f"{name} {cell('', value)} on {outcomes}"
        + (f"; naive {cell('', naive)}" if naive is not None else "")
        + (f"; an interval needs {_FEWEST} outcomes" if few else "")
    )


def _predictions(count: int) -> str:
    return f"{count:,} prediction{'s' if count != 1 else ''}"


def _loop(status: dict[str, Any] | None) -> str:
    if not status:
        return "has not looked yet"
    if status["held"]:
        return f"holds: {status['held']}"
    now = status["improvement"]
    if now is None:
        return "watching; nothing to improve so far" if not status["asked"] else f"asked to improve: {status['asked']}"
    how = now["result"] if now["step"] == "done" else now["step"]
    return f"improvement {now['number']}: {how}" + (f" ({now['outcome']})" if now.get("outcome") else "")


def answers(url: str, tls: ssl.SSLContext | None = None) -> bool:
    """Tell whether a server is ready there."""
    from kaizenml.serving.client import Client

    try:
        with Client(url, timeout_s=2, tls=tls) as client:
            client.ready()
    except KaizenError:
        return False
    return True
