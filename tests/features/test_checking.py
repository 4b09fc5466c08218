"""What pushed rows are checked by: kept while nobody writes to the catalog, and what another process has written counts for the next push."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from kaizenml.context import Context
from kaizenml.data import keys
from kaizenml.data import operations as data
from kaizenml.data.people import left_out
from kaizenml.errors import InvalidInput, NotFound, Unavailable
from kaizenml.features import operations
from kaizenml.features.online import checking


@pytest.fixture
def other(ctx: Context, reopen: Callable[..., Context]) -> Iterator[Context]:
    """The project as another process has it open: with connections of its own."""
    other = reopen()
    yield other
    other.online.close()
    other.catalog.close()


def observed(minute: int, **values: Any) -> dict[str, Any]:
    return {"origin": "JFK", "at": f"2013-01-01T10:{minute:02d}:00Z", "temp": 1.5, "sky": "clear", "gusts": False, "seen": minute} | values


def forget(ctx: Context, origin: str) -> None:
    """Write the marks that a forgetting begins with."""
    with ctx.catalog.write() as connection:
        left_out.keep(connection, keys.open_keys(ctx.state), 1, [("origin", [origin])])


def asked_of(ctx: Context) -> list[str]:
    asked: list[str] = []
    sa.event.listen(ctx.catalog.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    return asked


def test_a_push_into_a_view_without_a_dataset_asks_the_catalog_nothing_until_there_is_one(ctx: Context, other: Context) -> None:
    operations.push(ctx, "weather", [observed(0)])
    asked = asked_of(ctx)
    for minute in range(1, 30):
        operations.push(ctx, "weather", [observed(minute, seen="no kind is known")])
    assert asked == []
    data.add(other, "weather", table=pa.Table.from_pylist([observed(30)]))
    with pytest.raises(InvalidInput, match="seen: 'no kind is known' is not a whole number"):
        operations.push(ctx, "weather", [observed(31, seen="no kind is known")])


@pytest.mark.parametrize("there", [True, False], ids=["with a dataset", "without one"])
def test_who_is_forgotten_by_another_process_is_left_out_by_the_next_push(ctx: Context, other: Context, there: bool) -> None:
    operations.push(ctx, "weather", [observed(0)])
    if there:
        operations.flush(ctx, "weather")
    assert operations.push(ctx, "weather", [observed(1, origin="LGA")]).left_out == 0
    forget(other, "LGA")
    pushed = operations.push(ctx, "weather", [observed(2, origin="LGA"), observed(2)])
    assert (pushed.rows, pushed.left_out) == (1, 1)
    with other.catalog.write() as connection:
        assert left_out.let_in(connection, keys.open_keys(ctx.state), "origin", ["LGA"])
    assert operations.push(ctx, "weather", [observed(3, origin="LGA")]).left_out == 0


def test_where_the_catalog_goes_away_rows_are_checked_by_what_it_said_before(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    operations.push(ctx, "weather", [observed(0)])
    file = Path(str(ctx.catalog.engine.url.database))
    ctx.catalog.close()
    away = file.rename(file.with_suffix(".away"))
    file.mkdir()  # nothing that could be opened, and nothing is made in its place
    assert operations.push(ctx, "weather", [observed(1)]).rows == 1
    view = operations.frames.view_named(ctx, "weather")
    with pytest.raises(Unavailable):
        checking.checker(ctx, view, fresh=True)
    file.rmdir()
    away.rename(file)
    forget(ctx, "JFK")
    assert operations.push(ctx, "weather", [observed(2)]).left_out == 0, "it is left in peace for a while"
    monkeypatch.setattr(checking.time, "monotonic", lambda: 1e12)
    assert operations.push(ctx, "weather", [observed(3)]).left_out == 1
    with pytest.raises(NotFound):
        operations.check(ctx, "planes")
