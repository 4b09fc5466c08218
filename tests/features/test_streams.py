"""Rows out of streams: a real Redis, and Kafka's protocol."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from view_settings import TOML

from kaizenml.context import Context
from kaizenml.data import keys, tables
from kaizenml.data import operations as data
from kaizenml.data.people import left_out
from kaizenml.errors import InvalidSettings, Unavailable, UsageError
from kaizenml.features import operations
from kaizenml.features.online.buffer import buffer_of

CONSUMER = """
    import sys
    from kaizenml.features import operations
    from kaizenml.project import open_project
    ctx = open_project(sys.argv[1])
    print("ready", flush=True)
    operations.consume(ctx, "weather", "observed", url=sys.argv[2], progress=lambda said, _share: print(said, flush=True))
"""


class Redis:
    """A stream on a real Redis server."""

    def __init__(self, url: str) -> None:
        client = pytest.importorskip("redis", reason="the client for Redis is not installed: pip install 'kaizenml[redis]'")
        self.url, self.client = url, client.Redis.from_url(url)

    def tell(self, *entries: bytes | None) -> None:
        with self.client.pipeline(transaction=False) as pipe:
            for entry in entries:
                pipe.xadd("observed", {"other": "x"} if entry is None else {"row": entry})
            pipe.execute()

    def refused(self) -> list[str]:
        return [fields[b"why"].decode() for _, fields in self.client.xrange("observed:refused")]

    def waiting(self) -> int:
        return int(self.client.xpending("observed", "kaizen")["pending"])

    def close(self) -> None:
        self.client.close()


class Kafka:
    """A topic on librdkafka's own mock broker: it speaks the protocol to whoever connects."""

    def __init__(self) -> None:
        self.kafka = pytest.importorskip("confluent_kafka", reason="the client for Kafka is not installed: pip install 'kaizenml[kafka]'")
        self.broker = self.kafka.Producer({"test.mock.num.brokers": 1, "logger": _silent})
        (broker,) = self.broker.list_topics(timeout=15).brokers.values()
        self.at = f"{broker.host}:{broker.port}"
        self.url = f"kafka://{self.at}?session.timeout.ms=6000"
        self.broker.list_topics("observed", timeout=15)  # which makes it

    def tell(self, *entries: bytes | None) -> None:
        for number, entry in enumerate(entries):
            self.broker.produce("observed", value=entry, partition=number % 2)
        assert self.broker.flush(15) == 0

    def refused(self) -> list[str]:
        with closing(self._consumer()) as consumer:
            topic = consumer.list_topics("observed.refused", timeout=15).topics["observed.refused"]
            consumer.assign([self.kafka.TopicPartition("observed.refused", partition, 0) for partition in topic.partitions])
            found: list[Any] = []
            until = time.monotonic() + 15
            while len(found) < 3 and time.monotonic() < until:
                found += consumer.consume(10, 0.2)
        return [dict(message.headers())["why"].decode() for message in found]

    def waiting(self) -> int:
        with closing(self._consumer()) as consumer:
            parts = [self.kafka.TopicPartition("observed", partition) for partition in (0, 1)]
            committed = consumer.committed(parts, timeout=15)
            return sum(consumer.get_watermark_offsets(part, timeout=15)[1] - max(part.offset, 0) for part in committed)

    def _consumer(self) -> Any:
        return self.kafka.Consumer({"bootstrap.servers": self.at, "group.id": "kaizen", "auto.offset.reset": "earliest", "logger": _silent})

    def close(self) -> None:
        self.broker.flush(1)


_silent = logging.getLogger("kafka.silent")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


@pytest.fixture(params=["redis", pytest.param("kafka", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest) -> Iterator[Redis | Kafka]:
    found = Redis(request.getfixturevalue("redis")) if request.param == "redis" else Kafka()
    yield found
    found.close()


@pytest.fixture
def ctx(reopen: Callable[..., Context]) -> Iterator[Context]:
    ctx = reopen()
    data.add(ctx, "weather", table=pa.Table.from_pylist([observed(0) | {"at": "2013-01-01T00:00:00Z"}]))
    yield ctx
    ctx.online.close()
    ctx.catalog.close()
    buffer_of(ctx.state).close()


def observed(number: int) -> dict[str, Any]:
    at = f"2013-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z"
    return {"origin": "JFK", "at": at, "temp": float(number), "sky": "clear", "gusts": False, "seen": number}


def sent(*rows: Any) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def seen(ctx: Context) -> list[int]:
    operations.flush(ctx, "weather")
    return sorted(tables.read(ctx, "weather", ["seen"])["seen"].to_pylist())


def test_rows_are_online_and_in_the_dataset_and_what_does_not_fit_is_put_aside(ctx: Context, server: Redis | Kafka) -> None:
    server.tell(*sent(observed(1), observed(2) | {"temp": "hot"}, [1], observed(3)), None)
    done = operations.consume(ctx, "weather", "observed", url=server.url, idle="50ms")
    assert (done.rows, done.again, done.refused) == (2, 0, 3)
    assert operations.get(ctx, "weather", "JFK").values["temp"] == 3.0
    assert seen(ctx) == [0, 1, 3]
    refused = server.refused()
    assert len(refused) == 3
    assert "rows[0].temp: 'hot' is not a number" in refused
    assert server.waiting() == 0
    assert operations.consume(ctx, "weather", "observed", url=server.url, idle="1ms").rows == 0


def test_what_was_taken_but_not_confirmed_is_not_taken_twice(ctx: Context, server: Redis | Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    server.tell(*sent(observed(1), observed(2)))

    def broken(*_: object) -> None:
        raise Unavailable("the line broke")

    from kaizenml.adapters.kafka_stream import KafkaStream
    from kaizenml.adapters.redis_stream import RedisStream

    with monkeypatch.context() as patched:
        patched.setattr(RedisStream if isinstance(server, Redis) else KafkaStream, "confirm", broken)
        with pytest.raises(Unavailable, match="the line broke"):
            operations.consume(ctx, "weather", "observed", url=server.url, idle="50ms")
    server.tell(*sent(observed(3)))
    done = operations.consume(ctx, "weather", "observed", url=server.url, idle="50ms")
    assert done.rows + done.again == 3
    assert done.again >= 1  # a topic's partitions need not come at once
    assert seen(ctx) == [0, 1, 2, 3]
    assert server.waiting() == 0


def test_who_is_forgotten_while_a_stream_is_read_is_left_out(ctx: Context, server: Redis | Kafka, reopen: Callable[..., Context]) -> None:
    server.tell(*sent(observed(1)))
    told: list[str] = []

    def forget(said: str, _share: float) -> None:
        if not told:
            other = reopen()  # as another process has the project open
            with other.catalog.write() as connection:
                left_out.keep(connection, keys.open_keys(other.state), 1, [("origin", ["JFK"])])
            other.catalog.close()
            server.tell(*sent(observed(2), observed(3) | {"origin": "LGA"}))
        told.append(said)

    until = time.monotonic() + 30  # a topic's partitions need not come at once
    while (operations.read(ctx, "weather", ["LGA"])[0].at is None or server.waiting()) and time.monotonic() < until:
        operations.consume(ctx, "weather", "observed", url=server.url, idle="50ms", progress=forget)
    assert operations.get(ctx, "weather", "JFK").values["seen"] == 1
    assert operations.get(ctx, "weather", "LGA").values["seen"] == 3
    assert server.waiting() == 0


def test_the_stream_may_be_beside_the_online_store(reopen: Callable[..., Context], redis: str) -> None:
    ctx = reopen(TOML.replace('name = "flights"', f'name = "flights"\nonline = "{redis}"'))
    data.add(ctx, "weather", table=pa.Table.from_pylist([observed(0) | {"at": "2013-01-01T00:00:00Z"}]))
    with closing(Redis(redis)) as server:
        server.tell(*sent(observed(1)))
    assert operations.consume(ctx, "weather", "observed", idle="50ms").rows == 1
    ctx.online.close()
    ctx.catalog.close()
    buffer_of(ctx.state).close()


def test_without_a_server_it_is_said_what_to_name(reopen: Callable[..., Context]) -> None:
    ctx = reopen()
    with pytest.raises(UsageError, match="was not said"):
        operations.consume(ctx, "weather", "observed")
    with pytest.raises(Unavailable, match="does not answer"):
        operations.consume(ctx, "weather", "observed", url="redis://:secret@127.0.0.1:9/0")
    with pytest.raises(InvalidSettings, match="no stream for 'nats'"):
        operations.consume(ctx, "weather", "observed", url="nats://127.0.0.1")
    ctx.online.close()
    ctx.catalog.close()


def test_of_a_kafka_server_it_is_said_what_is_wrong(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("confluent_kafka", reason="the client for Kafka is not installed: pip install 'kaizenml[kafka]'")
    from kaizenml.adapters import kafka_stream

    monkeypatch.setattr(kafka_stream, "_PATIENCE_S", 0.2)
    with pytest.raises(Unavailable, match=r"'observed' on 127\.0\.0\.1:9 does not answer") as caught:
        operations.consume(ctx, "weather", "observed", url="kafka://me:secret@127.0.0.1:9?security.protocol=SASL_PLAINTEXT")
    assert "secret" not in str(caught.value) + repr(caught.value.values)
    with pytest.raises(InvalidSettings, match=r"no\.such\.setting"):
        operations.consume(ctx, "weather", "observed", url="kafka://127.0.0.1?no.such.setting=1")
    with pytest.raises(InvalidSettings, match="names no Kafka server"):
        operations.consume(ctx, "weather", "observed", url="kafka://")


@pytest.mark.slow
def test_kill_9_of_the_consumer_neither_loses_nor_doubles_a_row(ctx: Context, server: Redis | Kafka) -> None:
    number, rounds = 0, 3 if isinstance(server, Redis) else 1
    for _ in range(rounds):
        command = [sys.executable, "-c", textwrap.dedent(CONSUMER), str(ctx.root), server.url]
        consumer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == "ready\n"
        for _ in range(40):
            server.tell(*sent(*(observed(number := number + 1) for _ in range(25))))
        consumer.stdout.readline()
        os.kill(consumer.pid, signal.SIGKILL)
        consumer.communicate()
    operations.consume(ctx, "weather", "observed", url=server.url, idle="200ms")
    assert seen(ctx) == list(range(number + 1))
    assert operations.get(ctx, "weather", "JFK").values["seen"] == number
