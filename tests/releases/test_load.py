from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from bundle_servers import servers

from kaizenml.context import Context
from kaizenml.errors import Unavailable
from kaizenml.features.offline import frame
from kaizenml.registry.model import ModelVersion
from kaizenml.releases import load, rows
from kaizenml.settings import GateSettings
from kaizenml.training import model_file

GOOD = b'HTTP/1.1 200 OK\r\ncontent-length: 42\r\n\r\n{"predictions": [{"decided_by": "model"}]}'
BAD = b"HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\nouch"[:-1]


@contextlib.contextmanager
def server(answer: Callable[[int], bytes | float | None]) -> Iterator[int]:
    """A real server on a real socket: for the n-th request it sends bytes, hangs up (None), or stalls the whole server (seconds)."""
    loop = asyncio.new_event_loop()
    count = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                count += 1
                reply = answer(count)
                if isinstance(reply, float):
                    time.sleep(reply)
                    reply = GOOD
                if reply is None:
                    break
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    started = loop.run_until_complete(asyncio.start_server(handle, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield started.sockets[0].getsockname()[1]
    finally:

        async def stop() -> None:
            started.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.01)  # the loop closes what was aborted

        asyncio.run_coroutine_threadsafe(stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.slow
def test_requests_go_out_at_the_asked_rate() -> None:
    with server(lambda _: GOOD) as port:
        measured = load.run(port, "/", [b"{}"], rate=200.0, seconds=1.0)
    assert (measured.requests, measured.answered, measured.errors) == (200, 200, {})
    assert measured.reached_rate <= 201
    assert measured.reached_rate > 150 or measured.late_p99_ms > 100.0  # unless the machine kept the asking itself from being on time
    assert measured.decided_by == {"model": 200}
    assert measured.p50_ms <= measured.p99_ms <= measured.max_ms


def test_a_notebook_whose_thread_runs_an_event_loop_can_measure_too() -> None:
    async def cell(port: int) -> load.Measured:
        return load.run(port, load.PATH, [b"{}"], rate=50, seconds=0.1)

    with server(lambda _: GOOD) as port:
        measured = asyncio.run(cell(port))
    assert (measured.answered, measured.errors) == (5, {})


@pytest.mark.slow
def test_a_stall_counts_for_every_request_that_was_due_meanwhile() -> None:
    stall_s = 0.6
    with server(lambda number: stall_s if number == load.WARM_UP + 50 else GOOD) as port:
        measured = load.run(port, "/", [b"{}"], rate=100.0, seconds=1.5)
    assert measured.errors == {}
    # 60 of 150 requests were due during the stall; a closed loop would have met it once
    assert measured.max_ms >= stall_s * 900
    assert measured.p99_ms > stall_s * 500
    assert measured.complaints(p99_ms=50.0)


@pytest.mark.parametrize(("reply", "told"), [(BAD, "HTTP 500"), (None, "connection lost"), (b"not http at all\r\n\r\n", "not HTTP")])
def test_errors_are_counted_and_told(reply: bytes | None, told: str) -> None:
    with server(lambda number: GOOD if number < load.WARM_UP + 10 else reply) as port:
        measured = load.run(port, "/", [b"{}"], rate=200.0, seconds=0.2)
    assert measured.errors.get(told), measured.errors
    assert any(told in complaint for complaint in measured.complaints(p99_ms=1000.0))


@pytest.mark.slow
def test_a_server_that_cannot_keep_up_misses_the_rate() -> None:
    with server(lambda _: 0.02) as port:  # 50 requests a second at most
        measured = load.run(port, "/", [b"{}"], rate=200.0, seconds=0.5)
    assert measured.reached_rate < 60
    assert any("of 200 requests a second" in complaint for complaint in measured.complaints(p99_ms=1e9))


def test_a_server_that_only_falls_back_has_not_been_measured() -> None:
    fallback = GOOD.replace(b'"model"', b'"none!"')
    with server(lambda _: fallback) as port:
        measured = load.run(port, "/", [b"{}"], rate=100.0, seconds=0.1)
    assert "the model decided only 0 of 10 answers" in measured.complaints(p99_ms=1000.0)


@pytest.mark.slow
def test_the_gate_serves_a_bundle_and_leaves_no_process(ctx: Context, model: ModelVersion, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(folder)
    requests = rows.requests(frame.training_frame(ctx, "cells").slice(0, 20), model_file.read(folder).signature)
    settings = GateSettings(rate=100.0, p99_ms=2000.0, load_seconds=0.5)
    with load.starting(tmp_path) as port:
        result = load.gate(port, requests, settings)
    assert result.passed, result.summary
    with load.starting(tmp_path) as port:
        impatient = load.gate(port, requests, msgspec.structs.replace(settings, p99_ms=0.01))
    assert not impatient.passed
    assert "attempt 3 of 3" in impatient.summary
    assert len(impatient.evidence["attempts"]) == load.ATTEMPTS
    with load.starting(tmp_path) as port:
        refused = load.gate(port, [{**requests[0], "no such input": 1}], settings)
    assert not refused.passed
    assert "HTTP 422" in refused.summary
    assert "no such input" in refused.evidence["attempts"][0]["said"]
    assert len(refused.evidence["attempts"]) == 1  # errors are not excused
    assert servers(tmp_path) == []


@pytest.mark.slow
def test_a_bundle_that_does_not_come_up_fails_with_what_it_said(tmp_path: Path) -> None:
    with load.starting(tmp_path) as port:
        result = load.gate(port, [{}], GateSettings())
    assert not result.passed
    assert "did not come up" in result.summary
    assert "no bundle" in result.evidence["values"]["said"]
    with load.starting(tmp_path) as port, pytest.raises(Unavailable):
        port()
    assert servers(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is signalled by Linux only")
def test_the_server_dies_with_the_process_that_measures_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(folder)
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from kaizenml.releases import load
        with load.starting(Path(sys.argv[1])) as port:
            print(port(), flush=True)
            time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) > 0
        assert len(servers(tmp_path)) == 1
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while servers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert servers(tmp_path) == []
