"""Move a project's state from embedded engines to servers while it goes on serving: copy what is large, then hold writers for the rest and switch."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import msgspec
import sqlalchemy as sa

from kaizenml import events, migrations, sqlite_file
from kaizenml import settings as settings_module
from kaizenml.adapters.online import open_online
from kaizenml.catalog import Catalog
from kaizenml.context import Context
from kaizenml.data import copying, tables
from kaizenml.data import store as datasets
from kaizenml.data.kinds import PART, VERSION
from kaizenml.errors import Conflict, Corrupt, NotFound, Unavailable, UsageError
from kaizenml.features import operations as features
from kaizenml.features.offline import frame
from kaizenml.features.windows.moments import keep_s, keeps_rows
from kaizenml.ports import OnlineStore
from kaizenml.project import open_project
from kaizenml.registry import objects
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases

_BATCH = 1000
Progress = Callable[[str, float], None]


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What was moved, as counted and compared at its new place."""

    catalog: bool
    """Whether the catalog and the settings were switched by this call (False: they had been)."""
    rows: dict[str, int]
    """Rows of each table of the catalog, equal on both sides."""
    events: int
    head: str
    """Of the chain of events, the same on both sides; ``kaizen audit verify --head`` checks it later."""
    parts: int
    """Parts of datasets, each compared with the hash of its rows."""
    folders: int
    """Models and releases, each compared with the hashes of its files."""
    online: int
    """Rows of the online store that were copied; where all was switched before: newer ones, and pushed rows that were put online once more."""


def migrate(
    root: Path, *, catalog: str | None = None, objects_at: str | None = None, online: str | None = None, actor: str | None = None,
    progress: Progress | None = None,
) -> Moved:  # fmt: skip
    """Copy a project's catalog, tables, models, releases and online features to servers, then switch kaizen.toml to them.

    Repeatable: killed anywhere, the same call goes on. What serves, goes on serving; whoever writes to the catalog waits for the last
    step, and is then refused until it is started anew. Call it once more after that, for feature values that came in between.

    Parameters
    ----------
    root : the project folder.
    catalog, objects_at, online : where to, as ``[project]`` will say (``objects_at``: its ``objects``); None leaves that part where it is.

    Raises
    ------
    UsageError : nothing is to be moved, or a part is at another place already.
    Conflict : there is another project in the new catalog.
    Corrupt : what arrived is not what was sent; nothing was switched.
    """
    wanted = {key: value for key, value in (("catalog", catalog), ("objects", objects_at), ("online", online)) if value is not None}
    if not wanted:
        raise UsageError("nothing says where to", remedy="kaizen migrate --catalog postgresql://... --objects s3://... --online redis://...")
    told = progress or (lambda _step, _share: None)
    if objects_at is not None and catalog is None:
        what = "the objects move only with the catalog: its move is what stops those who still write to the old place"
        raise UsageError(what, remedy="kaizen migrate --catalog postgresql://... --objects s3://...")
    old = open_project(root, actor=actor)
    standing = {key: getattr(old.settings.project, key) for key in wanted}
    if standing == wanted:  # switched before: only what came in between is left
        with closing_all(old):
            return _again(old, online)
    if taken := [key for key in wanted if standing[key] is not None]:
        remedy = "leave it out: migrate moves from this machine's files to servers; from server to server go by their own tools"
        raise UsageError(f"[project] {taken[0]} names a server already", remedy=remedy)
    project = msgspec.structs.replace(old.settings.project, **wanted)
    target = Catalog(catalog) if catalog else old.catalog
    new = Context(
        root=old.root, settings=msgspec.structs.replace(old.settings, project=project), catalog=target, clock=old.clock,
        online=open_online(project.online, old.state, project.name), actor=old.actor, sources=old.sources,
    )  # fmt: skip
    with closing_all(old), closing_all(new):
        target.create()
        parts, folders = _bulk(old, new, told)  # most of it, while everything goes on
        told("switch", 0.9)
        with _writers_held(old):
            parts, folders = _bulk(old, new, told)
            rows, count, head = _catalog(old, new)
            moved = _online(old, new.online) if online else 0
            _switch(old, wanted)
        told("done", 1.0)
    return Moved(catalog=True, rows=rows, events=count, head=head, parts=parts, folders=folders, online=moved)


@contextmanager
def closing_all(ctx: Context) -> Iterator[None]:
    """Close a project's engines at the end."""
    try:
        yield
    finally:
        ctx.online.close()
        ctx.catalog.close()


def _again(ctx: Context, online: str | None) -> Moved:
    with ctx.catalog.read() as connection:
        rows = {table.name: _count(connection, table) for table in migrations.tables().sorted_tables}
        count, head, wrong = events.verify(_chain(connection))
    if wrong:
        raise Corrupt(f"the audit trail is broken: {wrong}", remedy="restore the catalog from a backup")
    return Moved(catalog=False, rows=rows, events=count, head=head, parts=0, folders=0, online=_online_since(ctx) if online else 0)


@contextmanager
def _writers_held(ctx: Context) -> Iterator[None]:
    """Hold every dataset, so that no addition is between its table and the catalog, and the loop."""
    with ctx.catalog.read() as connection:
        names = datasets.names(connection)
    with ExitStack() as stack:
        for name in ("loop", *(f"data/{name}" for name in sorted(names))):
            if not stack.enter_context(ctx.hold(name, wait_s=60.0)):
                raise Unavailable(f"{name} is being worked on", remedy="wait until it is done, then repeat: what was copied stays")
        yield


def _bulk(old: Context, new: Context, told: Progress) -> tuple[int, int]:
    """Copy the parts and folders that the new place lacks; return how many are there."""
    if old.settings.project.objects == new.settings.project.objects:
        return 0, 0
    with old.catalog.read() as connection:
        known = {name: datasets.parts(connection, name) for name in datasets.names(connection)}
    parts = 0
    for place, (name, numbers) in enumerate(known.items()):
        told(f"dataset {name}", 0.8 * place / len(known))
        parts += copying.copy_parts(tables.folder(old, name), tables.folder(new, name), set(numbers), by=PART)
        copying.copy_parts(tables.quarantine_folder(old, name), tables.quarantine_folder(new, name), set(numbers), by=VERSION)
    folders = 0
    for model in registry.list(old):
        with suppress(NotFound):  # removed by somebody: there is nothing to copy
            objects.keep(new, registry.folder_of(old, registry.verify(old, model.ref)))
            folders += 1
    for release in releases.list(old):
        with suppress(NotFound):
            objects.keep(new, releases.folder_of(old, releases.verify(old, release.ref)))
            folders += 1
    return parts, folders


def _catalog(old: Context, new: Context) -> tuple[dict[str, int], int, str]:
    """Copy the whole catalog in one transaction, from one moment of the old one, and shut that for writers."""
    with old.catalog.read() as source:
        count, head, wrong = events.verify(_chain(source))
        if wrong:
            raise Corrupt(f"the audit trail is broken: {wrong}; it is not moved so", remedy="kaizen audit verify")
    found = migrations.tables().sorted_tables
    if new.catalog is old.catalog:
        with old.catalog.write() as source:
            old.record(source, "project.moved", old.settings.project.name, "kaizen migrate")
            count, head, wrong = events.verify(_chain(source))
            return {table.name: _count(source, table) for table in found}, count, head
    # at the end the target is committed first: no moment in which both take writes, and none in which neither holds all
    with old.catalog.write() as source, new.catalog.write() as target:
        source.exec_driver_sql("DROP TRIGGER IF EXISTS moved")  # of a call that was killed before it switched the settings
        old.record(source, "project.moved", old.settings.project.name, "kaizen migrate")
        if _count(target, events.events_table):
            if events.read(target, limit=1)[0].hash != events.read(source, limit=1)[0].hash:
                what = "there is another project in the new catalog"
                raise Conflict(what, remedy="name a database of this project's own", values={"database": new.catalog.engine.url.database})
            for table in reversed(found):  # of a call that was killed before it switched the settings
                target.execute(table.delete())
        rows = {table.name: _copied(source, target, table) for table in found}
        count, head, _ = events.verify(_chain(source))
        if events.verify(_chain(target)) != (count, head, None):
            raise Corrupt("the chain of events did not arrive as it was sent; nothing was switched", remedy="repeat", values={"head": head})
        source.exec_driver_sql(
            "CREATE TRIGGER moved BEFORE INSERT ON events BEGIN "
            "SELECT RAISE(ABORT, 'this catalog has moved: start the process anew, so that it reads kaizen.toml'); END"
        )
    return rows, count, head


def _copied(source: sa.Connection, target: sa.Connection, table: sa.Table) -> int:
    found = [dict(row) for row in source.execute(sa.select(table)).mappings()]
    for start in range(0, len(found), _BATCH):
        target.execute(table.insert(), found[start : start + _BATCH])
    if len(found) != _count(target, table):
        raise Corrupt(f"table {table.name} did not arrive as it was sent; nothing was switched", remedy="repeat")
    column = table.autoincrement_column
    if column is not None and found:  # the next number is the server's to give
        target.execute(
            sa.text("SELECT setval(pg_get_serial_sequence(:t, :c), :n) WHERE pg_get_serial_sequence(:t, :c) IS NOT NULL"),
            {"t": table.name, "c": column.name, "n": max(int(row[column.name]) for row in found)},
        )
    return len(found)


def _online(old: Context, target: OnlineStore) -> int:
    """Copy the rows of the embedded online store. What a call left there that was killed gives way: rows have been changed since, or forgotten."""
    kept = 0
    with _embedded(old) as (source, views):
        for view in views:
            target.drop(view)
        lasting = {view.ref: keep_s(view) for view in frame.ever_used(old, views)}
        # first the marks that tell how far views have come: one that is filled meanwhile must not look further on than its rows are
        for view in sorted(views, key=lambda name: not name.endswith("#")):
            for keys in _pages(source, view):
                found = source.read(view, keys)
                rows = [(key, row.at, row.values) for key, row in zip(keys, found, strict=True) if row]
                kept += target.write(view, rows, keep_s=lasting.get(view))
    return kept


def _online_since(ctx: Context) -> int:
    """Bring what came into the embedded online store since it was copied: pushed rows, and newest values that were kept nowhere else."""
    kept = 0
    with _embedded(ctx) as (source, views):
        # rows of windows are not taken from there: some may have been left out or forgotten since; those that were pushed wait for their dataset
        known = [view for view in frame.ever_used(ctx, views) if not keeps_rows(view)]
        for view in known:
            for keys in _pages(source, view.ref):
                found, there = source.read(view.ref, keys), ctx.online.read(view.ref, keys)
                both = zip(keys, found, there, strict=True)
                newer = [(key, row.at, row.values) for key, row, now in both if row and (now is None or row.at > now.at)]
                kept += ctx.online.write(view.ref, newer, keep_s=keep_s(view)) if newer else 0
    return kept + features.put_waiting(ctx)


@contextmanager
def _embedded(ctx: Context) -> Iterator[tuple[OnlineStore, list[str]]]:
    """Open the online store in the state folder; give the views it holds as well."""
    path, views = ctx.state / "online.db", []
    if path.exists():
        with closing(sqlite_file.connect(path, readonly=True)) as connection:
            views = [row[0] for row in connection.execute("SELECT DISTINCT view FROM online")]
    with closing(open_online(None, ctx.state, ctx.settings.project.name, readonly=True)) as source:
        yield source, views


def _pages(source: OnlineStore, view: str) -> Iterator[list[str]]:
    keys = list(source.keys(view))
    yield from (keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH))


def _switch(old: Context, wanted: dict[str, str]) -> None:
    """Write kaizen.toml anew, at once."""
    path = old.root / settings_module.FILE
    text = with_settings(path.read_text(encoding="utf-8"), wanted)
    aside = path.with_name(f".{path.name}.new")  # what a killed call left is written over
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def with_settings(text: str, wanted: dict[str, str]) -> str:
    """Return a kaizen.toml with these keys under ``[project]``; all else stays as people wrote it.

    >>> print(with_settings('[project] # ours\\nname = "shop"\\n[serve]\\nport = 1\\n', {"online": "redis://db/0"}), end="")
    [project] # ours
    online = "redis://db/0"
    name = "shop"
    [serve]
    port = 1
    """
    head = re.search(r"^\s*\[\s*project\s*\][^\n]*\n", text, flags=re.MULTILINE)
    if head is None:
        raise UsageError(f"{settings_module.FILE} has no [project] section", remedy=f"mend {settings_module.FILE}")
    lines = "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in wanted.items())
    made = text[: head.end()] + lines + text[head.end() :]
    tomllib.loads(made)
    return made


def _chain(connection: sa.Connection) -> Iterator[sa.Row[tuple[object, ...]]]:
    return iter(connection.execute(sa.select(events.events_table).order_by(events.events_table.c.seq)))


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0)
