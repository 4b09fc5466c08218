"""OpenTelemetry spans of requests, sent by OTLP. Off, and not even imported, unless the environment names a collector.

Everything is configured by the standard ``OTEL_*`` variables. A span is made when its answer has left, and sent by the SDK's
own thread from a bounded queue: a collector that is away costs spans, never answers.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

log = logging.getLogger("kaizenml.serving")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PATIENCE_S = 2.0  # at the end, for spans that are still queued


class Tracer:
    """Makes a span for each request. Built by ``open_tracer``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": "kaizenml"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._start = self._provider.get_tracer("kaizenml.serving").start_span
        self._extract = TraceContextTextMapPropagator().extract
        self._server = trace.SpanKind.SERVER
        self._failed = trace.StatusCode.ERROR

    def record(self, *, method: str, path: str, status: int, end_s: float, seconds: float, parent: str | None, attributes: dict[str, Any]) -> None:
        """Make the span of a request that was answered.

        Parameters
        ----------
        path : the template of the path.
        end_s, seconds : when it ended (since 1970), and how long it took.
        parent : the caller's ``traceparent``.
        attributes : what else is known of it.
        """
        end = int(end_s * 1e9)
        known = {"http.request.method": method, "http.route": path, "http.response.status_code": status, **attributes}
        context = self._extract({"traceparent": parent}) if parent else None
        span = self._start(f"{method} {path}", context, self._server, known, start_time=end - int(seconds * 1e9))
        if status >= 500:
            span.set_status(self._failed)
        span.end(end)

    def close(self) -> None:
        """Send what is queued, and wait for it no longer than a moment."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(_PATIENCE_S)


def open_tracer(environ: Mapping[str, str] = os.environ) -> Tracer | None:
    """Return what makes spans, or None when no collector is named, or the packages are missing (which is said once)."""
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    if off or not any(environ.get(name) for name in _ENDPOINTS):
        return None
    if protocol != "http/protobuf":
        log.warning("no traces are sent: OTLP by %r is not spoken here; set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", protocol[:50])
        return None
    try:
        return Tracer(environ)
    except ImportError as error:
        log.warning("no traces are sent: %s is not installed; try: pip install 'kaizenml[otel]'", error.name)
    except Exception as error:  # a variable of OpenTelemetry's holds nonsense: no reason not to serve
        log.warning("no traces are sent: %s", error)
    return None
