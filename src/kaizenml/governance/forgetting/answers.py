"""Answers about a subject: the journal, the predictions, their outcomes.

A request is about a subject when one of its inputs, or the unit that it was answered under, is the subject's value; or when it names
the key of a row of the task's dataset that went with the subject. A serving process closes its segment within a second of being asked,
and the drain brings it into the tables as ever: so nothing that was answered is lost, and no segment has to be rewritten.
"""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.errors import KaizenError, Waiting
from kaizenml.features.encoding.encoder import parse_time_us
from kaizenml.features.signature import Signature
from kaizenml.features.view import entity_key
from kaizenml.governance.forgetting import rewriting, sqlite, subject
from kaizenml.governance.forgetting.wish import Wish
from kaizenml.monitoring import store as monitoring
from kaizenml.serving import outcomes
from kaizenml.serving.journaling import drain, journal, predictions
from kaizenml.training import model_file

CLOSING_S = 30.0
DAY = "day"
_CHUNK = 500


def close_journal(ctx: Context) -> None:
    """Bring every record into the tables, and see that no segment keeps one.

    Raises
    ------
    Waiting : a serving process does not close its segment.
    """
    folder = ctx.state / journal.FOLDER
    if not folder.is_dir():
        return
    waited = {segment.name for segment in journal.ask_to_close(folder)}
    deadline = time.perf_counter() + CLOSING_S
    while waited & {segment.name for segment in journal.being_written(folder)}:
        if time.perf_counter() > deadline:
            raise Waiting(
                f"a serving process has not closed its journal for {CLOSING_S:.0f} s",
                remedy="kaizen data forget goes on where it stopped; restart the server if it hangs",
                values={"segments": sorted(waited)},
            )
        time.sleep(0.05)
    drain.drain(ctx)
    for left in folder.glob("*.damaged"):  # its whole records are in the tables; what is left of the others nobody can read, and so nobody can search
        left.unlink()


def requested(wish: Wish, forms: Mapping[str, list[str]], aliases: Mapping[str, str], key: tuple[str, str] | None) -> dict[str, list[str]]:
    """Return which values of which inputs say that a request is about a subject.

    Parameters
    ----------
    aliases : columns of datasets that hold subjects under another name.
    key : the task's dataset and its key.
    """
    found = {name: list(values) for name, values in forms.items()}
    for column, known in aliases.items():
        if known in forms:
            found[column] = list(forms[known])
    if key is not None and wish.keys.get(key[0]):
        found[key[1]] = [*found.get(key[1], []), *wish.keys[key[0]]]
    return found


def look(ctx: Context, endpoint: str, wanted: Mapping[str, list[str]]) -> list[str]:
    """Return the ids of an endpoint's predictions about the subjects."""
    at = predictions.folder(ctx.state, endpoint)
    units = {unit for signature in signatures(ctx) if (unit := signature.unit)}
    inputs = {f"x_{name}": values for name, values in wanted.items()}
    if named := [value for name, values in wanted.items() if name in units for value in values]:
        inputs["unit"] = named
    files = rewriting.look(at, DAY, lambda types: subject.expression(types, inputs))
    if not files:
        return []
    table = predictions.open_table(ctx.state, endpoint)
    assert table is not None  # files were found in it
    theirs = subject.expression(rewriting.types_of(table), inputs)
    found = [rows["id"] for rows in rewriting.rows(at, [file.path for file in files], theirs, ["id"])]
    return [identity for column in found for identity in pc.unique(column).to_pylist()]


def look_given(ctx: Context, endpoint: str, given: Mapping[str, list[Any]]) -> int:
    """Return how many answers hold features that views took from the subjects' rows."""
    cells = _any(_cells(ctx, endpoint, given))
    return sum(file.found for file in rewriting.look(predictions.folder(ctx.state, endpoint), DAY, lambda _types: cells))


def purge(ctx: Context, wish: Wish, given: Mapping[str, list[Any]]) -> None:
    """Take predictions with their shadows out of the tables, and their outcomes with them. The ids stand in the wish.

    Parameters
    ----------
    given : by feature, values that only the subjects' rows had. A view may have given them to the answers of others, where they become null.
    """
    with alone(ctx.state):
        for endpoint in predictions.endpoints(ctx.state):
            at = predictions.folder(ctx.state, endpoint)
            theirs = pc.is_in(pc.field("id"), value_set=pa.array(wish.ids.get(endpoint, []), pa.string()))
            blank = _cells(ctx, endpoint, given)
            touched = theirs if (cells := _any(blank)) is None else theirs | cells
            files = rewriting.look(at, DAY, lambda _types, touched=touched: touched)  # type: ignore[misc]
            rewriting.take_out(at, DAY, files, theirs, keep_empty=False, blank=blank)
            rewriting.scrub(at)
    every = [identity for ids in wish.ids.values() for identity in ids]
    path = ctx.state / outcomes.FILE
    if not every:
        return
    if path.exists():
        with sqlite.opened(path) as connection:
            for some, marks in _chunks(every):
                connection.execute(f"DELETE FROM outcomes WHERE id IN ({marks})", some)  # noqa: S608  only marks
                connection.execute(f"DELETE FROM conflicts WHERE id IN ({marks})", some)  # noqa: S608
    with ctx.catalog.write() as connection:
        for some, _ in _chunks(every):
            connection.execute(monitoring.pending.delete().where(monitoring.pending.c.id.in_(some)))


def count_outcomes(ctx: Context, ids: list[str]) -> int:
    """Return how many outcomes of these predictions are on record."""
    path = ctx.state / outcomes.FILE
    if not path.exists():
        return 0
    with sqlite.opened(path) as connection:
        return sum(
            connection.execute(f"SELECT COUNT(*) FROM {table} WHERE id IN ({marks})", some).fetchone()[0]  # noqa: S608  only marks
            for some, marks in _chunks(ids)
            for table in ("outcomes", "conflicts")
        )


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Hold the tables of predictions for writing."""
    folder = state / journal.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with drain.alone(folder):
        yield


def signatures(ctx: Context) -> list[Signature]:
    """Return what the models of all bundles are asked."""
    found = []
    for folder in sorted((ctx.state / "releases").glob("*/*/model")):
        try:
            found.append(model_file.read(folder).signature)
        except KaizenError:
            continue  # a bundle that cannot be read answers nothing
    return found


def _cells(ctx: Context, endpoint: str, given: Mapping[str, list[Any]]) -> dict[str, pa.Array]:
    """Return the values to look for by column of an endpoint's table."""
    table = predictions.open_table(ctx.state, endpoint)
    types = {field.name: field.type for field in predictions.schema(table)} if table is not None else {}
    return {f"x_{name}": _as_column(values, types[f"x_{name}"]) for name, values in given.items() if f"x_{name}" in types}


def _any(cells: Mapping[str, pa.Array]) -> Any | None:
    parts = [pc.is_in(pc.field(name), value_set=values) for name, values in cells.items()]
    return functools.reduce(operator.or_, parts) if parts else None


def _as_column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return values as a column of predictions holds them: all numbers as float64, times as instants."""
    if pa.types.is_timestamp(kind):
        return pa.array([parse_time_us(value) for value in values], pa.int64()).cast(kind)
    if pa.types.is_string(kind):
        return pa.array([entity_key(value) for value in values], kind)
    return pa.array([value for value in values if not isinstance(value, str)], kind)


def _chunks(ids: list[str]) -> Iterator[tuple[list[Any], str]]:
    for start in range(0, len(ids), _CHUNK):
        some = ids[start : start + _CHUNK]
        yield some, ",".join("?" * len(some))
