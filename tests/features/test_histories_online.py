"""Views with windows: what requests read online is what the datasets say, however rows came in."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.features.online import filling, taking
from kaizenml.features.online.push import Checker
from kaizenml.features.online.reading import look_up, read_at
from kaizenml.features.signature import ViewUse
from kaizenml.features.view import Aggregate, FeatureView, key_of
from kaizenml.features.windows import moments
from kaizenml.features.windows.aggregates import Event, ordered, values_at

AGGREGATES = [
    Aggregate(name="orders_2h", function="count", last_s=7200.0),
    Aggregate(name="spent_2h", function="sum", column="amount", last_s=7200.0),
    Aggregate(name="mean_6h", function="mean", column="amount", last_s=21600.0),
    Aggregate(name="std_6h", function="std", column="amount", last_s=21600.0),
    Aggregate(name="spent_hourly", function="sum", column="amount", last_s=3600.0, every_s=3600.0),
    Aggregate(name="shops", function="distinct", column="shop", last_s=21600.0),
    Aggregate(name="share", function="ratio", of=["spent_2h", "mean_6h"]),
]
SPENT = Aggregate(name="spent", function="sum", column="amount")
VIEW = FeatureView(name="spend", dataset="orders", entity="customer", columns=["shop"], at="at", aggregates=AGGREGATES, plain=True)
START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    pytest.importorskip("redis", reason="the client for Redis is not installed: pip install 'kaizenml[redis]'")
    return str(request.getfixturevalue("redis"))


@pytest.fixture
def shop(reopen: Callable[..., Context], place: str | None, clock: SimulatedClock) -> Iterator[Context]:
    clock.set(START + dt.timedelta(hours=12))
    text = '[project]\nname = "shop"\n'
    ctx = reopen(text if place is None else f'{text}online = "{place}"\n')
    yield ctx
    ctx.online.close()
    ctx.catalog.close()


def order(number: int, minute: int, **values: Any) -> dict[str, Any]:
    rng = random.Random(number)
    at = START + dt.timedelta(minutes=minute)
    row = {"id": f"o{number}", "customer": f"c{number % 3}", "at": at, "amount": rng.choice([0.1, 0.2, 0.3, 1e9, None]), "shop": f"s{number % 4}"}
    return row | values


def sent(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"at": row["at"].isoformat()}


def add(ctx: Context, rows: list[dict[str, Any]], key: str | None = "id") -> None:
    data.add(ctx, "orders", table=pa.Table.from_pylist(rows), key=key, time="at")


def push(ctx: Context, view: FeatureView, rows: list[dict[str, Any]]) -> None:
    """Push online only, as a consumer of a stream does that has stored the rows already."""
    checker = Checker(view, tables.version(ctx, "orders").columns, filling.keys_of(ctx, "orders"))
    taking.put(ctx.online, checker, checker.check([{name: value for name, value in sent(row).items() if name in checker.kinds} for row in rows]))


def online(ctx: Context, view: FeatureView, customers: list[str], minute: float) -> list[dict[str, Any]]:
    use = ViewUse(name=view.name, version=view.version, entity=view.entity, columns=view.columns, aggregates=view.aggregates, plain=True)
    now = (START + dt.timedelta(minutes=minute)).timestamp()
    return list(look_up(ctx.online, [use], [{"customer": customer} for customer in customers], now))


def expected(rows: list[dict[str, Any]], view: FeatureView, customer: str, minute: float) -> dict[str, Any]:
    t = round((START + dt.timedelta(minutes=minute)).timestamp() * 1e6)
    events = ordered(Event(us := round(row["at"].timestamp() * 1e6), us, row) for row in rows if row["customer"] == customer)
    known = [event for event in events if event.at <= t]
    return {name: known[-1].values[name] if known else None for name in view.columns} | values_at(view.aggregates, events, t)


def same(ctx: Context, rows: list[dict[str, Any]], view: FeatureView = VIEW, minutes: tuple[float, ...] = (600, 600.5, 660, 719, 2000)) -> None:
    customers = ["c0", "c1", "c2", "nobody"]
    for minute in minutes:
        found = online(ctx, view, customers, minute)
        assert msgspec.json.encode(found) == msgspec.json.encode([expected(rows, view, customer, minute) for customer in customers])


def test_windows_are_read_as_the_dataset_says_at_any_moment_afterwards(shop: Context) -> None:
    rows = [order(n, n * 7) for n in range(80)]
    add(shop, rows)
    done = filling.fill(shop, VIEW, everything=False)
    assert (done.version.number, done.entities, done.kept) == (1, 3, 3)
    assert filling.fill(shop, VIEW, everything=False).entities == 0
    same(shop, rows)


def test_only_added_parts_are_read_and_pushed_rows_among_them_count_once(shop: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [order(n, n * 7) for n in range(60)]
    add(shop, rows)
    filling.fill(shop, VIEW, everything=False)
    late, fresh = [order(100 + n, 300 + n) for n in range(5)], [order(200 + n, 500 + n) for n in range(5)]
    push(shop, VIEW, fresh + fresh + late)
    same(shop, rows + late + fresh)
    add(shop, fresh + late)
    read: list[int] = []
    original = tables._stored  # whoever reads rows asks it for their files
    monkeypatch.setattr(tables, "_stored", lambda place, parts, *more: read.extend(parts) or original(place, parts, *more))
    done = filling.fill(shop, VIEW, everything=False)
    assert (done.version.number, done.entities, done.kept, set(read)) == (2, 3, 0, {2})
    same(shop, rows + late + fresh)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_pushes_additions_and_fillings_ends_in_what_the_dataset_says(shop: Context, seed: int) -> None:
    rng = random.Random(seed)
    view = VIEW if seed % 2 else msgspec.structs.replace(VIEW, aggregates=[*AGGREGATES, SPENT])
    rows = [order(n, rng.randrange(0, 600, 10)) for n in range(60)]
    add(shop, rows[:10])
    waiting = rows[10:]
    rng.shuffle(waiting)
    rows = [*rows[:10], *waiting]  # in the order in which the dataset gets them
    while waiting:
        batch, waiting = waiting[:8], waiting[8:]
        for step in rng.sample(["push", "push", "add", "fill"], 4):
            if step == "push":
                push(shop, view, rng.choices(batch, k=len(batch)))
            elif step == "add":
                add(shop, batch)
            else:
                filling.fill(shop, view, everything=rng.random() < 0.3)
    filling.fill(shop, view, everything=False)
    same(shop, rows, view, (600, 601, 719, 5000))
    filling.fill(shop, view, everything=True)
    same(shop, rows, view, (600, 601, 719, 5000))


def test_what_the_dataset_refuses_does_not_stay_online(shop: Context) -> None:
    add(shop, [order(1, 100, amount=5.0)])
    push(shop, VIEW, [order(2, 110, customer="c1", amount=7.0)])
    add(shop, [order(2, 115, customer="c1", amount=8.0)])  # the same key with another value: the dataset knows which one there is
    filling.fill(shop, VIEW, everything=False)
    assert online(shop, VIEW, ["c1"], 120)[0]["spent_2h"] == 13.0


def test_rows_that_leave_the_dataset_leave_the_online_store(shop: Context) -> None:
    add(shop, [order(n, n * 7) for n in range(30)])
    filling.fill(shop, VIEW, everything=False)
    left = [order(n, n * 7) for n in range(100, 115) if n % 3 != 2]
    data.add(shop, "orders", table=pa.Table.from_pylist(left), mode="replace")
    filling.fill(shop, VIEW, everything=False)
    assert sorted(shop.online.keys(VIEW.ref)) == ["c0", "c1"]
    same(shop, left, VIEW, (900,))


def test_a_late_row_of_a_history_that_was_folded_is_found_by_the_next_filling(shop: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "MOST", 8)
    view = msgspec.structs.replace(VIEW, columns=[], aggregates=[SPENT])
    rows = [order(n, n * 7, amount=0.1 * n) for n in range(60)]
    add(shop, rows)
    filling.fill(shop, view, everything=False)
    assert len(moments.History.read(shop.online.read(view.ref, ["c0"])[0].values).times) <= 8  # type: ignore[union-attr]
    same(shop, rows, view)
    late = [order(300, 1, amount=0.7)]
    push(shop, view, late)
    same(shop, rows, view)  # not yet: it cannot be told from what was folded
    add(shop, late)
    filling.fill(shop, view, everything=False)
    same(shop, rows + late, view)


def test_windows_that_move_by_steps_are_exact_however_many_rows_an_entity_has(shop: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "MOST", 8)
    stepped = [
        Aggregate(name=f"{function}_4h", function=function, column="amount", last_s=14400.0, every_s=3600.0)  # type: ignore[arg-type]
        for function in ("count", "sum", "mean", "std", "min", "max", "latest")
    ]
    sliding = Aggregate(name="sliding", function="sum", column="amount", last_s=14400.0)
    view = msgspec.structs.replace(VIEW, aggregates=[*stepped, sliding])
    rows = [order(n, n, customer="c0") for n in range(300)]
    add(shop, rows[:200])
    filling.fill(shop, view, everything=False)
    rng = random.Random(3)
    for start in range(200, 300, 4):  # late by a few rows, as they come
        push(shop, view, rng.sample(rows[start : start + 4], 4))
    add(shop, rows[200:])

    def compared(minute: float) -> list[str]:
        row = shop.online.read(view.ref, ["c0"])[0]
        read = read_at(view.columns, view.aggregates, None, [row], round((START + dt.timedelta(minutes=minute)).timestamp() * 1e6))[0]
        wanted = expected(rows, view, "c0", minute)
        assert {name: read.values[name] for name in wanted if name not in read.beyond} == {
            name: value for name, value in wanted.items() if name not in read.beyond
        }
        assert all(read.values[name] is None for name in read.beyond)
        return list(read.beyond)

    assert compared(300.5) == ["sliding"]  # missing, and said to be: never wrong
    assert compared(2000) == []
    late = [order(400, 150, customer="c0", amount=0.7)]
    push(shop, view, late)
    add(shop, late)
    filling.fill(shop, view, everything=False)  # a row among those that are sums: the entity is made anew
    rows = [*rows, *late]
    for minute in (299.5, 300, 301, 359.9, 360, 481, 600):
        compared(minute)
    filling.fill(shop, view, everything=True)
    assert compared(300.5) == ["sliding"]


def test_an_online_store_that_was_lost_is_filled_anew(shop: Context, tmp_path: Path) -> None:
    rows = [order(n, n * 7) for n in range(30)]
    add(shop, rows)
    filling.fill(shop, VIEW, everything=False)
    for view in (VIEW.ref, f"{VIEW.ref}#"):
        shop.online.drop(view)
    assert filling.fill(shop, VIEW, everything=False).kept == 3
    same(shop, rows)


def test_without_a_key_equal_rows_are_one(shop: Context) -> None:
    rows = [{name: value for name, value in order(n, n * 7).items() if name != "id"} for n in range(20)]
    data.add(shop, "orders", table=pa.Table.from_pylist(rows), time="at")
    filling.fill(shop, VIEW, everything=False)
    before = online(shop, VIEW, ["c0", "c1", "c2"], 600)
    push(shop, VIEW, rows)
    assert online(shop, VIEW, ["c0", "c1", "c2"], 600) == before
    same(shop, rows)


def test_keys_of_several_columns_and_rows_known_later(shop: Context) -> None:
    view = FeatureView(
        name="v", dataset="orders", entity=["customer", "shop"], columns=["amount"], at="at", created="known", plain=True,
        aggregates=[Aggregate(name="n", function="count", last_s=3600.0)],
    )  # fmt: skip
    rows = [order(1, 10, customer="a|b", shop="s", amount=1.0), order(2, 10, customer="a|b", shop="s", amount=2.0)]
    rows = [row | {"known": START + dt.timedelta(minutes=minute)} for row, minute in zip(rows, (30, 12), strict=True)]
    data.add(shop, "orders", table=pa.Table.from_pylist(rows), key="id", time="at")
    filling.fill(shop, view, everything=False)
    assert list(shop.online.keys(view.ref)) == [key_of(["a|b", "s"])] == ["a\\|b|s"]
    use = ViewUse(name="v", version=view.version, entity=["customer", "shop"], columns=["amount"], aggregates=view.aggregates, plain=True)
    for minute, amount, count in ((5, None, None), (11, None, None), (12, 2.0, 1), (29, 2.0, 1), (30, 1.0, 2), (69, 1.0, 2), (70, 1.0, 0)):
        now = (START + dt.timedelta(minutes=minute)).timestamp()
        assert look_up(shop.online, [use], [{"customer": "a|b", "shop": "s"}], now) == [{"amount": amount, "n": count}]


def test_the_time_of_each_rows_newest_values_is_told(shop: Context) -> None:
    add(shop, [order(0, 10), order(3, 20)])
    filling.fill(shop, VIEW, everything=False)
    use = ViewUse(name="spend", version=VIEW.version, entity="customer", columns=["shop"], aggregates=AGGREGATES, plain=True)
    found = look_up(shop.online, [use], [{"customer": "c0"}, {"customer": "nobody"}, {"customer": None}], START.timestamp() + 3000)
    assert found.ats == {"spend": [START.timestamp() + 1200, None, None]}
