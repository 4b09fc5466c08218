"""Traces: a span for each request, sent by OTLP to a collector that really listens, or is really away."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import serving_bundles as bundles

from kaizenml.serving.client import Client
from kaizenml.serving.journaling import journal
from kaizenml.serving.journaling.drain import _decode
from kaizenml.serving.telling import tracing

GOOD = bundles.GOOD
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(http.server.ThreadingHTTPServer):
    """An OTLP receiver over HTTP that keeps the spans it gets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiving)
        self.spans: list = []
        self.resources: list[dict] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def wait(self, count: int) -> list:
        deadline = time.monotonic() + 20
        while len(self.spans) < count:
            assert time.monotonic() < deadline, f"{len(self.spans)} of {count} spans arrived"
            time.sleep(0.02)
        return self.spans


class _Receiving(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        import gzip

        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["content-length"]))
        found = ExportTraceServiceRequest.FromString(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
        self.server.headers.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        for resource in found.resource_spans:
            self.server.resources.append(_plain(resource.resource.attributes))
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _plain(attributes) -> dict:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="OpenTelemetry is not installed: pip install 'kaizenml[otel]'")
    with Collector() as collector:
        listening = threading.Thread(target=collector.serve_forever, args=(0.05,))
        listening.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            listening.join()


def _served(state, **environ):
    return bundles.served("--state", str(state), env={"OTEL_BSP_SCHEDULE_DELAY": "100", **environ}, log=state / "log")


@pytest.mark.slow
def test_a_span_for_each_request_under_its_callers_with_what_is_known_of_it(tmp_path):
    state = tmp_path / ".kaizen"
    bundles.route(state, bundles.write_bundle(state))
    with collecting() as collector:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_RESOURCE_ATTRIBUTES": "team=shop", "OTEL_EXPORTER_OTLP_HEADERS": "x-key=abc"}
        with _served(state, **environ) as (_, url), Client(url) as client:
            client.ready()  # of this there is no span
            client._headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
            client.predict("shop", [GOOD, GOOD])
            del client._headers["traceparent"]
            with pytest.raises(Exception, match="not a number"):
                client.predict("shop", [GOOD | {"price": "far"}])
            answered, refused = collector.wait(2)[:2]
    assert (answered.name, answered.trace_id.hex(), answered.parent_span_id.hex()) == ("POST /predict/{endpoint}", TRACE, PARENT)
    assert _plain(answered.attributes) == {
        "http.request.method": "POST", "http.route": "/predict/{endpoint}", "http.response.status_code": 200, "kaizen.endpoint": "shop",
        "kaizen.release": "shop@1", "kaizen.arm": "champion", "kaizen.decided_by": "model", "kaizen.rows": 2,
    }  # fmt: skip
    assert 0 < answered.end_time_unix_nano - answered.start_time_unix_nano < 5e9
    assert refused.parent_span_id == b""
    assert _plain(refused.attributes) | {"error.type": "invalid_input", "http.response.status_code": 422} == _plain(refused.attributes)
    assert collector.resources[0] | {"service.name": "kaizenml", "team": "shop"} == collector.resources[0]
    assert (collector.headers[0]["path"], collector.headers[0]["x-key"]) == ("/v1/traces", "abc")
    records = [_decode(found.payload) for segment in journal.segments(state / "journal") for found in journal.read(segment.path)]
    assert records[0].trace == f"00-{TRACE}-{PARENT}-01"


@pytest.mark.slow
def test_a_callers_choice_not_to_sample_is_kept(tmp_path):
    state = tmp_path / ".kaizen"
    bundles.route(state, bundles.write_bundle(state))
    with collecting() as collector, _served(state, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as (_, url), Client(url) as client:
        client._headers["traceparent"] = f"00-{TRACE}-{PARENT}-00"
        client.predict("shop", [GOOD])
        client._headers["traceparent"] = f"00-{TRACE[::-1]}-{PARENT}-01"
        client.predict("shop", [GOOD])
        (span,) = collector.wait(1)
        assert span.trace_id.hex() == TRACE[::-1]


@pytest.mark.slow
def test_a_collector_that_is_away_or_hangs_delays_no_answer_and_no_end(tmp_path):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="OpenTelemetry is not installed: pip install 'kaizenml[otel]'")
    import socket

    state = tmp_path / ".kaizen"
    bundles.route(state, bundles.write_bundle(state))
    with socket.socket() as deaf:  # connections are taken by the system, and never answered
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{deaf.getsockname()[1]}", "OTEL_BSP_MAX_QUEUE_SIZE": "50"}
        environ |= {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
        with _served(state, **environ) as (process, url), Client(url) as client:
            slowest = 0.0
            for _ in range(400):  # many more than the queue holds
                begun = time.perf_counter()
                client.predict("shop", [GOOD])
                slowest = max(slowest, time.perf_counter() - begun)
            begun = time.perf_counter()
            process.terminate()
            assert process.wait(20) == 0
            assert time.perf_counter() - begun < 10
    assert slowest < 2


@pytest.mark.parametrize(
    "environ",
    [
        {}, {"OTEL_SERVICE_NAME": "shop"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)  # fmt: skip
def test_tracing_is_off_unless_a_collector_is_named(environ):
    assert tracing.open_tracer(environ) is None


def test_nonsense_in_a_variable_costs_the_traces_and_not_the_server(monkeypatch, caplog):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="OpenTelemetry is not installed: pip install 'kaizenml[otel]'")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    assert tracing.open_tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}) is None
    assert "no traces are sent: " in caplog.text


@pytest.mark.slow
def test_serving_loads_nothing_of_it_while_it_is_off_and_says_what_is_missing_when_it_is_not_installed():
    off = "import sys, kaizenml.serving.worker; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", off], capture_output=True, text=True, check=True).stdout == "[]\n"
    without = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from kaizenml.serving.telling.tracing import open_tracer
print(open_tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}))
"""
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    assert "pip install 'kaizenml[otel]'" in done.stderr
