"""The access log: a line for each request, off the hot path; rotated by several processes at once; losses are counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import serving_bundles as bundles
from in_process import running

from kaizenml.serving.client import Client
from kaizenml.serving.paths import template
from kaizenml.serving.telling.access_log import KEPT, Access, AccessLog
from kaizenml.settings import ServeSettings

GOOD = bundles.GOOD
LINE = Access(1.5, "POST", "/predict/{endpoint}", "shop", 200, "", 0.4321, 1, "shop@1", "127.0.0.1", "")


def _lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _until(path, count: int) -> list[dict]:
    deadline = time.monotonic() + 10
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return _lines(path)


def test_a_line_tells_how_a_request_ended_and_nothing_of_what_was_in_it(tmp_path):
    bundles.route(tmp_path, bundles.write_bundle(tmp_path))
    with running(tmp_path, ServeSettings(access_log="logs/access.jsonl")) as ask:
        parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
        ask("POST", "/predict/shop", {"inputs": [GOOD, GOOD], "unit": "secret-unit"}, traceparent=parent, authorization="Bearer secret")
        ask("POST", "/predict/shop", {"inputs": [GOOD | {"price": "secret-price"}]})
        ask("POST", "/v2/models/shop/versions/7/infer", {"inputs": []})
        ask("GET", "/secret-path")
        ask("GET", "/health/live")
        lines = _until(tmp_path / "logs/access.jsonl", 5)
    assert [(each["method"], each["path"], each["endpoint"], each["status"], each["code"]) for each in lines] == [
        ("POST", "/predict/{endpoint}", "shop", 200, None), ("POST", "/predict/{endpoint}", "shop", 422, "invalid_input"),
        ("POST", "/v2/models/{endpoint}/versions/{version}/infer", "shop", 404, "not_found"), ("GET", "other", None, 404, "not_found"),
        ("GET", "/health/live", None, 200, None),
    ]  # fmt: skip
    first = lines[0]
    assert set(first) == {"time", "method", "path", "endpoint", "status", "code", "ms", "rows", "release", "client", "trace", "pid"}
    assert (first["rows"], first["release"], first["client"], first["trace"], first["pid"]) == (2, "shop@1", "127.0.0.1", "ab" * 16, os.getpid())
    assert 0 < first["ms"] < 5000
    assert first["time"].endswith("Z")
    assert "secret" not in (tmp_path / "logs/access.jsonl").read_text()


def test_it_is_off_by_default(tmp_path):
    bundles.route(tmp_path, bundles.write_bundle(tmp_path))
    with running(tmp_path) as ask:
        ask("POST", "/predict/shop", {"inputs": [GOOD]})
        assert ask.app.observer._access is None


WRITER = """
import sys, time
from pathlib import Path
from kaizenml.serving.telling.access_log import Access, AccessLog
log = AccessLog(Path(sys.argv[1]), dropped=lambda lines: sys.exit(f"{lines} lines lost"), rotate_bytes=20_000)
for _ in range(8):
    for _ in range(20):
        log.add(Access(1.5, "POST", "/predict/{endpoint}", "shop", 200, "", 0.4321, 1, "shop@1", "127.0.0.1", ""))
    time.sleep(0.21)
log.close()
"""


@pytest.mark.slow
def test_processes_that_share_a_file_rotate_it_together_and_lose_no_line(tmp_path):
    path = tmp_path / "access.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    files = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, KEPT + 1))]
    lines = [line for file in files if file.exists() for line in _lines(file)]
    assert sum(file.exists() for file in files) > 2
    assert all(file.stat().st_size < 40_000 for file in files if file.exists())
    assert len(lines) == 320


def test_only_so_many_old_files_are_kept(tmp_path):
    path = tmp_path / "access.jsonl"
    log = AccessLog(path, dropped=lambda _: None, rotate_bytes=100)
    for _ in range(KEPT + 4):
        log._write([LINE])
    log.close()
    assert sorted(file.name for file in tmp_path.glob("access*")) == ["access.jsonl", *(f"access.jsonl.{number}" for number in range(1, KEPT + 1))]


def test_lines_that_find_no_room_are_counted_and_adding_never_waits(tmp_path):
    dropped: list[int] = []
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # reads nothing: the pipe fills up and the writer's thread hangs
    log = AccessLog(pipe, dropped=dropped.append, longest_queue=2000)
    begun = time.perf_counter()
    for _ in range(10_000):
        log.add(LINE)
    assert time.perf_counter() - begun < 0.5
    log.close(patience_s=0.5)
    os.close(reader)
    assert 7000 <= sum(dropped) <= 8100


def test_a_disk_that_cannot_be_written_costs_lines_and_no_answer(tmp_path):
    bundles.route(tmp_path, bundles.write_bundle(tmp_path))
    (tmp_path / "file").write_text("not a folder")
    with running(tmp_path, ServeSettings(access_log="file/access.jsonl")) as ask:
        assert ask("POST", "/predict/shop", {"inputs": [GOOD]}).status == 200
        deadline = time.monotonic() + 10
        while b"\nkaizen_access_log_dropped_total " not in (text := ask("GET", "/metrics").body):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert float(text.split(b"\nkaizen_access_log_dropped_total ")[1].split()[0]) >= 1


@pytest.mark.slow
def test_stderr_is_a_target_of_every_worker(tmp_path):
    state = tmp_path / ".kaizen"
    bundles.route(state, bundles.write_bundle(state))
    (tmp_path / "kaizen.toml").write_text(f'{bundles.TOML}\n[serve]\naccess_log = "stderr"\n')
    with bundles.served("--state", str(state), "--workers", "2", log=state / "log") as (_, url):
        for _ in range(12):
            with Client(url) as client:
                client.predict("shop", [GOOD])
    lines = [json.loads(line) for line in (state / "log").read_text().splitlines() if line.startswith("{")]
    assert len(lines) == 12
    assert {line["release"] for line in lines} == {"shop@1"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/predict/shop", ("/predict/{endpoint}", "shop")), ("/predict/shop/more", ("other", "")), ("/predict/", ("other", "")),
        ("/v2/models/shop", ("/v2/models/{endpoint}", "shop")), ("/v2/models/shop/versions/3", ("/v2/models/{endpoint}/versions/{version}", "shop")),
        ("/v2/models/shop/versions/3/infer", ("/v2/models/{endpoint}/versions/{version}/infer", "shop")), ("/v2/models/a/b", ("other", "")),
        ("/endpoints/shop/invocations", ("/endpoints/{endpoint}/invocations", "shop")), ("/metrics", ("/metrics", "")), ("/../etc", ("other", "")),
    ],
)  # fmt: skip
def test_paths_are_told_as_one_of_few_templates(path, expected):
    assert template(path) == expected
