"""Which online store a project has: SQLite in its state folder, or the server that ``[project] online`` names. Hot path."""

from __future__ import annotations

from pathlib import Path

from kaizenml.errors import InvalidSettings
from kaizenml.ports import OnlineStore

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
    scheme = location.partition("://")[0][:20]
    raise InvalidSettings(
        f"project.online: there is no online store for {scheme!r}",
        remedy='write online = "redis://host:6379/0" under [project], or leave it out for SQLite',
        values={"setting": "project.online", "found": scheme, "known": [scheme.rstrip(":/") for scheme in _SERVERS]},
    )
