"""Which online store a project has: SQLite in its state folder, or the server that ``[project] online`` names. Hot path."""

from __future__ import annotations

from pathlib import Path

from kaizenml.errors import InvalidSettings
from kaizenml.ports import OnlineStore, Stream

_SERVERS = ("redis://", "rediss://", "unix://")


def open_online(location: str | None, state: Path, project: str, *, readonly: bool = False) -> OnlineStore:
    """Open the online store.

    Parameters
    ----------
    location : the setting ``project.online``; None: SQLite.
    state : the project's state folder.
    project : its name, under which a shared server keeps its rows.
    readonly : for serving processes, which never write.

    Raises
    ------
    InvalidSettings : no engine is known for the location.
    MissingExtra : the client of the engine is not installed.
    """
    if location is None:
        from kaizenml.adapters.sqlite_online import SqliteOnlineStore

        return SqliteOnlineStore(state / "online.db", readonly=readonly)
    if location.startswith(_SERVERS):
        from kaizenml.adapters.redis_online import RedisOnlineStore

        return RedisOnlineStore(location, project, readonly=readonly)
    raise _unknown(location, "online store", 'write online = "redis://host:6379/0" under [project], or leave it out for SQLite')


def open_stream(location: str, name: str, reader: str) -> Stream:
    """Open a stream of rows.

    Parameters
    ----------
    location : ``redis://...``, as for the online store, or ``kafka://...``.
    name : the stream's.
    reader : who reads; what was given to it before and not confirmed comes again.
    """
    if location.startswith(_SERVERS):
        from kaizenml.adapters.redis_stream import RedisStream

        return RedisStream(location, name, reader)
    if location.startswith("kafka://"):
        from kaizenml.adapters.kafka_stream import KafkaStream

        return KafkaStream(location, name, reader)
    raise _unknown(location, "stream", "--url redis://host:6379/0, or kafka://host:9092")


def _unknown(location: str, what: str, remedy: str) -> InvalidSettings:
    scheme = location.partition("://")[0][:20]
    values = {"setting": "project.online", "found": scheme, "known": [known.rstrip(":/") for known in _SERVERS]}
    return InvalidSettings(f"project.online: there is no {what} for {scheme!r}", remedy=remedy, values=values)
