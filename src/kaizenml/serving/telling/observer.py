"""What is told of every request when it has been answered: counters, the access log, traces. Hot path."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from kaizenml.clock import Clock
from kaizenml.serving.deciding import Answered
from kaizenml.serving.engine import Engine
from kaizenml.serving.journaling.backlog import backlog as look_at_backlog
from kaizenml.serving.metrics import Counters
from kaizenml.serving.paths import template
from kaizenml.serving.telling.access_log import Access, AccessLog
from kaizenml.serving.telling.tracing import Tracer

_QUIET = frozenset({"/health/live", "/health/ready", "/ping", "/v2/health/live", "/v2/health/ready", "/metrics"})
"""Asked every few seconds by machines: no traces of them."""


class Observer:
    """Told of every request once. What it counts has bounded labels, whatever is asked for.

    Parameters
    ----------
    engine : whose endpoints are known names.
    journal : its folder.
    access, tracer : None where they are off.
    """

    def __init__(
        self, engine: Engine, counters: Counters, clock: Clock, *, journal: Path, access: AccessLog | None = None, tracer: Tracer | None = None
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._counters = counters
        self._clock = clock
        self._access = access
        self._tracer = tracer
        self._series: dict[tuple[str, str, int], str] = {}

    def told(
        self, scope: MutableMapping[str, Any], *, place: str, endpoint: str, status: int, code: str, seconds: float, answered: Answered | None,
        traceparent: str | None,
    ) -> None:  # fmt: skip
        """Count a request, and put it into the log and the trace.

        Parameters
        ----------
        place : ``predict``, ``outcomes``, ``features`` or ``other``.
        endpoint : the name that was asked for, which may be none of ours.
        code : the error's; empty when there was none.
        seconds : from the whole request to the answer.
        answered : what was predicted.
        """
        path = ""
        if status >= 400 and not endpoint:
            path, endpoint = template(scope["path"][:300])
            place = "predict" if path.endswith(("/infer", "invocations")) else place
        known = endpoint if endpoint in self._engine.routing.endpoints else ""
        series = self._series.get((place, known, status))
        if series is None:
            series = f'kaizen_requests_total{{kind="{place}",endpoint="{known}",status="{status}"}}'
            self._series[place, known, status] = series
        self._counters.add(series)
        if code:
            self._counters.add(f'kaizen_errors_total{{kind="{place}",endpoint="{known}",code="{code}"}}')
        elif answered is not None:
            self._counters.time(known, answered.arm.route.release, seconds)
        if self._access is not None or self._tracer is not None:
            self._tell(
                scope, path=path or template(scope["path"][:300])[0], endpoint=known, status=status, code=code, seconds=seconds, answered=answered,
                traceparent=traceparent,
            )  # fmt: skip

    def close(self) -> None:
        if self._access is not None:
            self._access.close()
        if self._tracer is not None:
            self._tracer.close()

    def _tell(
        self, scope: MutableMapping[str, Any], *, path: str, endpoint: str, status: int, code: str, seconds: float, answered: Answered | None,
        traceparent: str | None,
    ) -> None:  # fmt: skip
        now, method = self._clock.timestamp(), scope["method"][:20]
        rows, release = (len(answered.ids), answered.arm.route.release) if answered is not None else (0, "")
        if self._access is not None:
            client = scope.get("client")
            trace = traceparent.split("-")[1] if traceparent is not None and traceparent.count("-") >= 3 else ""
            self._access.add(Access(now, method, path, endpoint, status, code, seconds * 1e3, rows, release, client[0] if client else "", trace))
        if self._tracer is not None and path not in _QUIET:
            attributes: dict[str, Any] = {"kaizen.endpoint": endpoint} if endpoint else {}
            if answered is not None:
                arm, by = answered.arm.route.arm, answered.decision.decided_by
                attributes |= {"kaizen.release": release, "kaizen.arm": arm, "kaizen.decided_by": by, "kaizen.rows": rows}
            if code:
                attributes["error.type"] = code
            self._tracer.record(
                method=method, path=path, status=status, end_s=now, seconds=seconds, parent=traceparent, attributes=attributes
            )

    def gauges(self, problems: int, ready: bool, written_at: float) -> dict[str, float]:
        """Return what is not counted but looked up when somebody asks for it.

        Parameters
        ----------
        problems, ready : of the routing.
        written_at : when the routing snapshot was written, seconds since 1970; 0: it never changes.
        """
        if self._access is not None:
            self._access.flush_lost()
        routing, now = self._engine.routing, self._clock.timestamp()
        found = {"kaizen_ready": float(ready), "kaizen_problems": float(problems), "kaizen_snapshot_revision": float(routing.revision)}
        if written_at:
            found["kaizen_snapshot_age_seconds"] = max(now - written_at, 0.0)
        backlog = look_at_backlog(self._journal)
        found |= {"kaizen_journal_waiting_bytes": float(backlog.bytes), "kaizen_journal_segments": float(backlog.segments)}
        found["kaizen_journal_age_seconds"] = 0.0 if backlog.oldest_at is None else max(now - backlog.oldest_at, 0.0)
        for name, endpoint in routing.endpoints.items():
            found[f'kaizen_endpoint_killed{{endpoint="{name}"}}'] = float(endpoint.route.killed is not None)
            for loaded in (*endpoint.arms, *endpoint.shadows):
                route, share = loaded.route, 0.0 if loaded in endpoint.shadows else loaded.route.weight / 1000
                found[f'kaizen_arm_weight{{endpoint="{name}",arm="{route.arm}",release="{route.release}"}}'] = share
        return found
