"""Processor time of telling of a request: counters, access log, trace; beside it prometheus_client over several processes.

What is told is the same request again and again: one row that was answered. The time is this process's own, background
threads included (they write the log, and send spans to a collector that is not there).
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import _bundle
from _rows import OURS, options, report

COLLECTOR = "http://127.0.0.1:9"  # nobody listens there


def main() -> None:
    given = options(__doc__)
    calls, runs = (2_000, 3) if given.quick else (20_000, 9)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # before it is loaded
        logging.disable(logging.CRITICAL)
        told = _ours(Path(folder) / "state")
        told.insert(1, ("counters", "prometheus_client", _theirs()))
        made = []
        for number in range(runs + 1):
            run = [(case, subject, "us", _cost(tell, calls)) for case, subject, tell in told]
            if number:  # the first one warms up
                made.append(run)
        report(made, given)
    sys.stdout.flush()
    os._exit(0)  # the collector that is not there is waited for by nobody


def _ours(state: Path) -> list[tuple[str, str, Callable[[], Any]]]:
    from kaizenml.rollouts.snapshot import EndpointRoute, Snapshot
    from kaizenml.serving import worker
    from kaizenml.serving.routing import Routing, load
    from kaizenml.serving.telling.access_log import AccessLog
    from kaizenml.serving.telling.observer import Observer
    from kaizenml.serving.telling.tracing import open_tracer
    from kaizenml.settings import ServeSettings

    snapshot = Snapshot(revision=1, written_at=0.0, endpoints={"bench": EndpointRoute(endpoint="bench", revision=1, arms=[_bundle.write(state, 1)])})
    app = worker.build(state, ServeSettings(), fixed=snapshot)
    engine, counters, clock = app.engine, app.counters, app._clock
    engine.routing = load(state, snapshot, Routing())
    engine.predict("bench", msgspec.json.encode({"inputs": [dict.fromkeys(_bundle.NAMES, 0.5)]}))
    scope = {"type": "http", "method": "POST", "path": "/predict/bench", "client": ("127.0.0.1", 50_000)}
    answered = engine.last
    assert answered is not None
    series = 'kaizen_predictions_total{endpoint="bench",release="bench@1",arm="champion",decided_by="model"}'

    def telling(**more: Any) -> Callable[[], None]:
        observer = Observer(engine, counters, clock, journal=state / "journal", **more)

        def tell() -> None:
            counters.add("kaizen_requests_in_flight")
            counters.add(series)
            observer.told(scope, place="predict", endpoint="bench", status=200, code="", seconds=4e-4, answered=answered, traceparent=None)
            counters.add("kaizen_requests_in_flight", -1.0)

        return tell

    log = AccessLog(state / "access.jsonl", dropped=lambda _: None, longest_queue=1_000_000)
    tracer = open_tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": os.environ.setdefault("OTEL_EXPORTER_OTLP_ENDPOINT", COLLECTOR)})
    return [
        ("counters", OURS, telling()),
        ("counters and access log", OURS, telling(access=log)),
        ("counters and trace", OURS, telling(tracer=tracer)),
    ]


def _theirs() -> Callable[[], None]:
    from prometheus_client import Counter, Gauge, Histogram

    flight = Gauge("in_flight", "requests", multiprocess_mode="livesum")
    predictions = Counter("predictions", "rows", ["endpoint", "release", "arm", "decided_by"])
    requests = Counter("requests", "requests", ["kind", "endpoint", "status"])
    seconds = Histogram("seconds", "time", ["endpoint", "release"])

    def tell() -> None:
        flight.inc()
        predictions.labels("bench", "bench@1", "champion", "model").inc()
        requests.labels("predict", "bench", "200").inc()
        seconds.labels("bench", "bench@1").observe(4e-4)
        flight.dec()

    return tell


def _cost(tell: Callable[[], Any], calls: int) -> float:
    gc.collect()
    before = time.process_time()
    for _ in range(calls):
        tell()
    time.sleep(0.5)  # for the threads that write and send
    return (time.process_time() - before) / calls * 1e6


if __name__ == "__main__":
    main()
