"""Rows out of a real Redis stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from view_settings import TOML

from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.errors import Unavailable, UsageError
from kaizenml.features import operations
from kaizenml.features.online.buffer import buffer_of

client = pytest.importorskip("redis", reason="the client for Redis is not installed: pip install 'kaizenml[redis]'")

CONSUMER = """
    import sys
    from kaizenml.features import operations
    from kaizenml.project import open_project
    ctx = open_project(sys.argv[1])
    print("ready", flush=True)
    operations.consume(ctx, "weather", "observed", progress=lambda said, _share: print(said, flush=True))
"""


@pytest.fixture
def ctx(reopen: Callable[..., Context], redis: str) -> Iterator[Context]:
    ctx = reopen(TOML.replace('name = "flights"', f'name = "flights"\nonline = "{redis}"'))
    data.add(ctx, "weather", table=pa.Table.from_pylist([observed(0) | {"at": "2013-01-01T00:00:00Z"}]))
    yield ctx
    ctx.online.close()
    ctx.catalog.close()
    buffer_of(ctx.state).close()


@pytest.fixture
def server(redis: str) -> Iterator[Any]:
    with client.Redis.from_url(redis) as server:
        yield server


def observed(number: int) -> dict[str, Any]:
    at = f"2013-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z"
    return {"origin": "JFK", "at": at, "temp": float(number), "sky": "clear", "gusts": False, "seen": number}


def tell(server: Any, *rows: Any) -> None:
    with server.pipeline(transaction=False) as pipe:
        for row in rows:
            pipe.xadd("observed", {"row": json.dumps(row)})
        pipe.execute()


def test_rows_are_online_and_in_the_dataset_and_what_does_not_fit_is_put_aside(ctx: Context, server: Any) -> None:
    tell(server, observed(1), observed(2) | {"temp": "hot"}, [1], observed(3))
    server.xadd("observed", {"other": "x"})
    done = operations.consume(ctx, "weather", "observed", idle="50ms")
    assert (done.rows, done.again, done.refused) == (2, 0, 3)
    assert operations.get(ctx, "weather", "JFK").values["temp"] == 3.0
    operations.flush(ctx, "weather")
    assert tables.read(ctx, "weather", ["seen"])["seen"].to_pylist() == [0, 1, 3]
    (_, first), *_ = server.xrange("observed:refused")
    assert first[b"why"].decode() == "rows[0].temp: 'hot' is not a number"
    assert server.xpending("observed", "kaizen")["pending"] == 0
    assert operations.consume(ctx, "weather", "observed", idle="1ms").rows == 0


def test_what_was_taken_but_not_confirmed_is_not_taken_twice(ctx: Context, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(server, observed(1), observed(2))

    def broken(*_: object) -> None:
        raise Unavailable("the line broke")

    from kaizenml.adapters.redis_stream import RedisStream

    with monkeypatch.context() as patched:
        patched.setattr(RedisStream, "confirm", broken)
        with pytest.raises(Unavailable, match="the line broke"):
            operations.consume(ctx, "weather", "observed", idle="50ms")
    tell(server, observed(3))
    done = operations.consume(ctx, "weather", "observed", idle="50ms")
    assert (done.rows, done.again) == (1, 2)
    operations.flush(ctx, "weather")
    assert tables.read(ctx, "weather", ["seen"])["seen"].to_pylist() == [0, 1, 2, 3]


def test_without_a_server_it_is_said_what_to_name(reopen: Callable[..., Context]) -> None:
    ctx = reopen()
    with pytest.raises(UsageError, match="was not said"):
        operations.consume(ctx, "weather", "observed")
    with pytest.raises(Unavailable, match="does not answer"):
        operations.consume(ctx, "weather", "observed", url="redis://:secret@127.0.0.1:9/0")
    ctx.online.close()
    ctx.catalog.close()


@pytest.mark.slow
def test_kill_9_of_the_consumer_neither_loses_nor_doubles_a_row(ctx: Context, server: Any) -> None:
    number, rounds = 0, 3
    for _ in range(rounds):
        consumer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(CONSUMER), str(ctx.root)], stdout=subprocess.PIPE, text=True)
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == "ready\n"
        for _ in range(40):
            tell(server, *(observed(number := number + 1) for _ in range(25)))
        consumer.stdout.readline()
        os.kill(consumer.pid, signal.SIGKILL)
        consumer.communicate()
    operations.consume(ctx, "weather", "observed", idle="200ms")
    operations.flush(ctx, "weather")
    assert tables.read(ctx, "weather", ["seen"])["seen"].to_pylist() == list(range(number + 1))
    assert operations.get(ctx, "weather", "JFK").values["seen"] == number
