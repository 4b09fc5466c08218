"""Features of a subject, and features that a subject's rows had a part in: pushed rows and the online store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pyarrow as pa

from kaizenml.context import Context
from kaizenml.errors import KaizenError
from kaizenml.features import operations as features
from kaizenml.features import store
from kaizenml.features.online import buffer
from kaizenml.features.view import FeatureView, key_of
from kaizenml.governance.forgetting import sqlite, subject
from kaizenml.governance.forgetting.wish import Wish

_BATCH = 5_000
_decode = msgspec.msgpack.Decoder(list[dict[str, Any]]).decode
_encode = msgspec.msgpack.Encoder().encode
Wanted = Mapping[str, Iterable[str]]
"""Values to look for by column: of requests, of pushed rows."""


def views(ctx: Context) -> list[FeatureView]:
    """Return every definition whose values may be online: those of today, and those that releases may still read."""
    with ctx.catalog.read() as connection:
        known = {view.ref: view for view in store.every(connection)}
    return list((known | {state.ref: state.view for state in features.list(ctx)}).values())


def look_pushed(ctx: Context, wanted: Wanted) -> int:
    """Return how many pushed rows of the subjects wait to be flushed."""
    path = ctx.state / buffer.FILE
    if not path.exists():
        return 0
    with sqlite.opened(path) as connection:
        bodies = [body for (body,) in connection.execute("SELECT body FROM pushed")]
    return sum(subject.in_row(row, wanted) for body in bodies for row in _decode(body))


def purge_pushed(ctx: Context, wanted: Wanted) -> None:
    """Take the subjects' rows out of the buffer of pushed rows. A batch that is on its way keeps its name."""
    path = ctx.state / buffer.FILE
    if not path.exists():
        return
    with sqlite.opened(path) as connection:
        for seq, body in connection.execute("SELECT seq, body FROM pushed").fetchall():
            rows = _decode(body)
            left = [row for row in rows if not subject.in_row(row, wanted)]
            if not left:
                connection.execute("DELETE FROM pushed WHERE seq = ?", (seq,))
            elif len(left) < len(rows):
                connection.execute("UPDATE pushed SET rows = ?, body = ? WHERE seq = ?", (len(left), _encode(left), seq))
        # a sealed batch without any row would never be handed on, and hold back all that come after it
        connection.execute("DELETE FROM sealed WHERE NOT EXISTS (SELECT 1 FROM pushed WHERE pushed.view = sealed.view AND seq <= sealed.last)")


def entities_of(view: FeatureView, rows: pa.Table) -> list[str]:
    """Return the keys of a view's entities among rows of its dataset."""
    if any(name not in rows.column_names for name in view.entities):
        return []
    found = {key_of(values) for values in zip(*(rows[name].to_pylist() for name in view.entities), strict=True)}
    return sorted(key for key in found if key is not None)


def look_online(ctx: Context, view: FeatureView, wanted: Wanted) -> list[str]:
    """Return the keys under which the online store holds something of the subjects in a view."""
    own = [name for name in view.entities if name in wanted]
    told = [name for name in view.columns if name in wanted]
    if len(view.entities) == 1 and own and not told:
        keys = [form for value in wanted[own[0]] for form in subject.alike(value)]
        return [key for key, row in zip(keys, ctx.online.read(view.ref, keys), strict=True) if row is not None]
    if not own and not told:
        return []
    found = []
    for key in list(ctx.online.keys(view.ref)):
        parts = dict(zip(view.entities, _parts(key) if len(view.entities) > 1 else [key], strict=False))
        row = ctx.online.read(view.ref, [key])[0] if told else None
        if subject.in_row(parts, wanted) or (row is not None and subject.in_row(row.values, wanted)):
            found.append(key)
    return found


def there(ctx: Context, view: FeatureView, keys: list[str]) -> list[str]:
    """Return those of the keys for which a view has a row online."""
    found = []
    for start in range(0, len(keys), _BATCH):
        some = keys[start : start + _BATCH]
        found += [key for key, row in zip(some, ctx.online.read(view.ref, some), strict=True) if row is not None]
    return found


def purge_online(ctx: Context, wish: Wish) -> None:
    """Make every row online that the subjects' rows had a part in anew from the rows that are left; the subjects' own go."""
    for view in views(ctx):
        keys = wish.entities.get(view.ref, [])
        if not keys:
            continue
        try:
            features.renew(ctx, view, keys)
        except KaizenError:  # a definition whose dataset has no such columns any more: nobody can tell what is right
            ctx.online.update(view.ref, keys, lambda _key, _row: None)


def _parts(key: str) -> list[str]:
    """Take a key of several columns apart, as ``key_of`` put it together."""
    parts: list[str] = []
    now, escaped = "", False
    for letter in key:
        if escaped:
            now, escaped = now + letter, False
        elif letter == "\\":
            escaped = True
        elif letter == "|":
            parts, now = [*parts, now], ""
        else:
            now += letter
    return [*parts, now]
