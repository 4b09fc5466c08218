"""Rows out of a Kafka topic, each message's value a row as JSON, read by the consumer group ``kaizen``.

What cannot be taken goes to the topic ``NAME.refused``, with the reason in its headers. Offsets are committed by us, up to the first
message that is not confirmed: what a reader that died was given goes to another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from kaizenml.errors import Conflict, InvalidSettings, MissingExtra, NotFound, Unavailable
from kaizenml.ports import Entry

GROUP = "kaizen"
_PATIENCE_S = 15.0
_JOIN_S = 60.0  # a group that waits for a reader that died gives nothing out meanwhile
_POLL_S = 0.1
_OURS = {"enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "earliest", "enable.partition.eof": True}
T = TypeVar("T")


class KafkaStream:
    """One reader of a topic. Parameters as of ``adapters.online.open_stream``.

    The URL is ``kafka://[user:password@]host[:9092][,host...]``, with any setting of librdkafka after a ``?``
    (``?group.id=spend&security.protocol=SSL``). With a user, SASL/PLAIN over TLS is the default. It is never shown: it may hold a password.
    """

    def __init__(self, url: str, name: str, reader: str) -> None:
        try:
            import confluent_kafka
        except ImportError:
            raise MissingExtra("the client for Kafka is not installed here", remedy='pip install "kaizenml[kafka]"') from None
        self._kafka: Any = confluent_kafka
        self.place, settings = _read(url)
        self.name = name
        self._given: dict[str, Entry] = {}  # and not confirmed
        self._after: dict[int, int] = {}  # by partition, the offset after all that were given
        self._behind: set[int] | None = None  # partitions whose end was not reached; None: the group has given out none yet
        self._producer: Any = None
        self._settings = {**settings, "client.id": reader, "logger": _quiet}
        try:
            self._consumer: Any = confluent_kafka.Consumer({"group.id": GROUP, **self._settings, **_OURS})
        except (confluent_kafka.KafkaException, TypeError, ValueError) as error:
            remedy = "--url kafka://host:9092, with settings of librdkafka after a ?"
            raise InvalidSettings(f"{self.place}: {_said(error)}", remedy=remedy) from None
        try:
            self._look()
            self._consumer.subscribe([name], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        except BaseException:
            self._consumer.close()
            raise

    def read(self, most: int, wait_s: float) -> list[Entry]:
        if self._given:
            return list(self._given.values())[:most]
        until = time.monotonic() + wait_s
        latest = time.monotonic() + _JOIN_S
        while True:
            messages = self._asked(lambda: self._consumer.consume(most, max(min(until - time.monotonic(), _POLL_S), 0.0)))
            for message in messages:
                if (error := message.error()) is not None:
                    if error.code() != self._kafka.KafkaError._PARTITION_EOF:
                        raise self._away(error.str())
                    (self._behind or set()).discard(message.partition())
                    continue
                entry = Entry(f"{message.partition()}:{message.offset()}", message.value())
                self._given[entry.id] = entry
                self._after[message.partition()] = message.offset() + 1
            if self._given:
                return list(self._given.values())
            # nothing is a sign that there is nothing only where the ends of all partitions were reached
            if time.monotonic() >= (until if self._behind is not None and not self._behind else latest):
                self._look()
                return []

    def confirm(self, entries: Sequence[str]) -> None:
        held = [self._given.pop(entry) for entry in entries if entry in self._given]
        waiting: dict[int, int] = {}
        for partition, offset in map(_place, self._given):
            waiting[partition] = min(offset, waiting.get(partition, offset))
        ready = {partition: waiting.get(partition, self._after[partition]) for partition, _ in (_place(entry.id) for entry in held)}
        offsets = [self._kafka.TopicPartition(self.name, partition, offset) for partition, offset in ready.items()]
        if len(held) < len(entries):
            raise Conflict("the group has given these entries to another reader meanwhile", remedy="nothing: it finds that they were taken")
        if offsets:
            try:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            except self._kafka.KafkaException as error:
                codes = self._kafka.KafkaError
                if error.args[0].code() in (codes.ILLEGAL_GENERATION, codes.UNKNOWN_MEMBER_ID, codes.REBALANCE_IN_PROGRESS, codes.FENCED_INSTANCE_ID):
                    raise Conflict("the group has given these entries to another reader meanwhile", remedy="nothing: it finds them taken") from error
                self._given |= {entry.id: entry for entry in held}
                raise self._away(_said(error)) from error

    def refuse(self, entry: Entry, why: str) -> None:
        if self._producer is None:
            self._producer = self._kafka.Producer({**self._settings, "enable.idempotence": True, "message.timeout.ms": round(_PATIENCE_S * 1000)})
        failed: list[str] = []

        def delivered(error: Any, _message: Any) -> None:
            if error is not None:
                failed.append(error.str())

        headers = {"entry": entry.id.encode(), "why": why.encode()}
        self._producer.produce(f"{self.name}.refused", entry.row, headers=headers, on_delivery=delivered)
        if self._producer.flush(_PATIENCE_S) or failed:
            raise self._away(failed[0] if failed else "it took no message in time")
        with suppress(Conflict):  # whoever has it now refuses it too
            self.confirm([entry.id])

    def close(self) -> None:
        self._consumer.close()

    def _look(self) -> None:
        """Ask whether the server and the topic are there."""
        found = self._asked(lambda: self._consumer.list_topics(self.name, timeout=_PATIENCE_S)).topics[self.name]
        if found.error is not None or not found.partitions:
            raise NotFound(
                f"there is no topic {self.name!r} on {self.place}",
                remedy=f"kafka-topics.sh --create --topic {self.name}",
                values={"topic": self.name, "server": self.place},
            )

    def _assigned(self, _consumer: Any, partitions: Sequence[Any]) -> None:
        self._behind = {each.partition for each in partitions}

    def _revoked(self, _consumer: Any, partitions: Sequence[Any]) -> None:
        gone = {each.partition for each in partitions}
        self._given = {name: entry for name, entry in self._given.items() if _place(name)[0] not in gone}

    def _asked(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except self._kafka.KafkaException as error:
            raise self._away(_said(error)) from error

    def _away(self, why: str) -> Unavailable:
        what = f"the topic {self.name!r} on {self.place} does not answer: {why}"
        return Unavailable(what, remedy="start the server; then consume again", values={"server": self.place})


def _read(url: str) -> tuple[str, dict[str, Any]]:
    """Return the servers that a URL names, and librdkafka's settings."""
    parts = urlsplit(url)
    who, _, hosts = parts.netloc.rpartition("@")
    servers = ",".join(host if host.rpartition(":")[2].isdigit() else f"{host}:9092" for host in hosts.split(",") if host)
    if not servers:
        raise InvalidSettings("the URL names no Kafka server", remedy="--url kafka://host:9092")
    settings: dict[str, Any] = {"bootstrap.servers": servers}
    if who:
        user, _, password = who.partition(":")
        settings |= {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": unquote(user), "sasl.password": unquote(password)}
    return servers, settings | dict(parse_qsl(parts.query))


def _place(entry: str) -> tuple[int, int]:
    partition, _, offset = entry.partition(":")
    return int(partition), int(offset)


def _said(error: Exception) -> str:
    first = error.args[0] if error.args else error
    return str(first.str() if hasattr(first, "str") else first)


class _Quiet:
    """librdkafka's log: what matters is told by errors; its own lines would stand between ours."""

    def log(self, *_: Any) -> None:
        pass


_quiet = _Quiet()
