"""Rows of a view out of a stream, each exactly once: what was taken is noted in the buffer, in the transaction that keeps the rows.

A process that dies between keeping rows and confirming them is given them again, finds the note, and confirms only.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from kaizenml.context import Context
from kaizenml.errors import Conflict, InvalidInput, UsageError
from kaizenml.features.online import taking
from kaizenml.features.online.buffer import Origin, buffer_of
from kaizenml.features.online.push import Checker
from kaizenml.features.view import FeatureView
from kaizenml.ports import Entry, Stream

_MOST = 500  # entries in one push
_WAIT_S = 1.0
_REMEDY = 'an entry is one row as JSON, {"column": value, ...}; on Redis in its field `row`'


class Consumed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a stream's entries."""

    view: str  # name.version
    stream: str
    rows: int  # taken
    again: int  # given once more after a crash, and taken before
    refused: int  # put aside, with the reason, in the stream NAME:refused (Redis) or the topic NAME.refused (Kafka)


def consume(
    ctx: Context,
    view: FeatureView,
    stream: str,
    *,
    checkers: Callable[[], tuple[Checker, Sequence[Checker]]],
    url: str | None,
    reader: str | None,
    idle_s: float | None,
    progress: Callable[[str, float], None] | None,
) -> Consumed:
    """Take rows until nothing has come for ``idle_s`` (None: until interrupted).

    Parameters
    ----------
    checkers : gives what checks rows for the view, and for those of its other versions that are served; asked for at each batch.
    """
    location = url or ctx.settings.project.online
    if location is None or ctx.open_stream is None:
        remedy = 'name the server: --url redis://host:6379/0, or online = "redis://..." under [project]'
        raise UsageError("where the stream is was not said", remedy=remedy, values={"stream": stream})
    opened = ctx.open_stream(location, stream, reader or socket.gethostname())
    done = Consumed(view=view.ref, stream=stream, rows=0, again=0, refused=0)
    quiet_since = time.monotonic()
    try:
        while idle_s is None or time.monotonic() - quiet_since < idle_s:
            entries = opened.read(_MOST, _WAIT_S if idle_s is None else min(_WAIT_S, idle_s))
            if entries:
                checker, former = checkers()
                done = _take(ctx, checker, opened, entries, done, former=former)
                quiet_since = time.monotonic()
                if progress is not None:
                    progress(f"{done.rows} rows taken", 0.0)
    except KeyboardInterrupt:
        pass
    finally:
        opened.close()
    return done


def _take(ctx: Context, checker: Checker, stream: Stream, entries: Sequence[Entry], done: Consumed, *, former: Sequence[Checker]) -> Consumed:
    buffer, place = buffer_of(ctx.state), f"{done.view}:{done.stream}"
    before = buffer.taken(place, [entry.id for entry in entries])
    rows: list[Mapping[str, Any]] = []
    taken: list[str] = []
    refused = 0
    for entry in entries:
        if entry.id in before:
            continue
        try:
            row = _row(entry)
            checker.check([row])
        except InvalidInput as error:
            stream.refuse(entry, error.what)
            refused += 1
            continue
        rows.append(row)
        taken.append(entry.id)
    if rows:
        try:
            taking.take(ctx.state, ctx.online, checker, checker.check(rows), former=former, origin=Origin(place, taken))
        except Conflict:  # another reader was given them too: read them again, and find its notes
            return done
    if before:  # a crash may have come before these were online; putting them once more changes nothing
        again = [_row(entry) for entry in entries if entry.id in before]
        taking.put_all(ctx.online, checker, checker.check(again), former)
    confirmed = [*taken, *before]
    with suppress(Conflict):  # they are another reader's by now, who finds the notes
        stream.confirm(confirmed)
        buffer.forget(place, confirmed)
    return msgspec.structs.replace(done, rows=done.rows + len(rows), again=done.again + len(before), refused=done.refused + refused)


def _row(entry: Entry) -> Mapping[str, Any]:
    try:
        row = msgspec.json.decode(entry.row or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the entry holds no row: {error}", remedy=_REMEDY) from None
    if not isinstance(row, Mapping):
        raise InvalidInput("the entry's row is not an object", remedy=_REMEDY)
    return row
