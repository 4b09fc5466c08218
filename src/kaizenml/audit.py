"""The record of who did what, when and why: look at it, and prove that nobody changed it."""

from __future__ import annotations

import builtins

import msgspec
import sqlalchemy as sa

from kaizenml import events
from kaizenml.context import Context
from kaizenml.errors import Corrupt

__all__ = ["list", "settings", "verify"]


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The result of walking the whole chain. Keep ``head`` elsewhere to prove later that nothing before it changed."""

    events: int
    head: str


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting, its value and where that came from: ``default``, ``kaizen.toml`` or the environment variable's name."""

    name: str
    value: object
    source: str


def list(
    ctx: Context, *, kind: str | None = None, subject: str | None = None, after: int = 0, limit: int = 50, newest_first: bool = True
) -> builtins.list[events.Event]:
    """List events, the newest first.

    Parameters
    ----------
    kind : one kind (``rollouts.promoted``), or a room's (``rollouts.``).
    subject : one reference, such as ``shop`` or ``shop@3``.
    after : only events with a higher number than this.
    limit : at most so many.
    newest_first : False lists them in the order they happened.

    Returns
    -------
    Events with number, time (seconds UTC), actor, kind, subject, why and data.

    Examples
    --------
    kaizen audit list --kind rollouts. --limit 10
    """
    with ctx.catalog.read() as connection:
        return events.read(connection, after=after, kind=kind, subject=subject, limit=limit, newest_first=newest_first)


def verify(ctx: Context, *, head: str | None = None) -> Verified:
    """Verify the chain of events: none changed, none missing, none put in between.

    Parameters
    ----------
    head : a head hash noted earlier; it must still be in the chain (an attacker who can write the database could
        rewrite the whole chain, but not a hash that you keep elsewhere).

    Returns
    -------
    How many events there are, and the hash of the newest.

    Raises
    ------
    Corrupt : the chain is broken, or the noted head is not in it; says at which event.

    Examples
    --------
    kaizen audit verify --json
    """
    table = events.events_table
    with ctx.catalog.read() as connection:
        count, last, wrong = events.verify(iter(connection.execute(sa.select(table).order_by(table.c.seq))))
        if wrong is None and head is not None and head != last:
            found = connection.execute(sa.select(table.c.seq).where(table.c.hash == head)).first()
            wrong = None if found else f"no event has the noted head {head[:12]}..."
    if wrong is not None:
        raise Corrupt(
            f"the audit trail is broken: {wrong}; the {count} events before it are whole",
            remedy="restore the catalog from a backup, and find out who can write to it",
            values={"whole": count, "head": last, "wrong": wrong},
        )
    return Verified(events=count, head=last)


def settings(ctx: Context) -> builtins.list[Setting]:
    """List every setting with its value and where the value came from.

    Examples
    --------
    kaizen audit settings
    """
    flat: builtins.list[Setting] = []

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif prefix not in ("project.catalog", "project.online") or value is None:  # the URL of a database may hold a password
            flat.append(Setting(name=prefix, value=value, source=ctx.sources.get(prefix, "default")))
        else:
            flat.append(Setting(name=prefix, value=sa.make_url(str(value)).render_as_string(), source=ctx.sources.get(prefix, "default")))

    walk("", msgspec.to_builtins(ctx.settings))
    return flat
