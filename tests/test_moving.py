"""From one machine's files to Postgres, S3 and Redis while it serves, and a second machine that takes part."""

from __future__ import annotations

import datetime as dt
import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engines import S3
from kaizenml import audit, moving
from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.errors import Conflict, Corrupt, Unavailable, UsageError
from kaizenml.features import operations as features
from kaizenml.features.online import taking
from kaizenml.project import open_project
from kaizenml.registry import objects
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.releases import store
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving.client import Client
from kaizenml.training import operations as training

pytestmark = pytest.mark.slow

SETTINGS = """# our shop
[project]  # as people wrote it
name = "shop"
[task]
dataset = "orders"
target = "returned"
[features.stores]
dataset = "stores"
entity = "store"
columns = ["size"]
[train]
budget = "1s"
threads = 1
"""


@contextmanager
def serving(ctx: Context) -> Iterator[Client]:
    """Serve the project by a process of its own."""
    command = [sys.executable, "-m", "kaizenml.serving", "--state", str(ctx.state), "--port", "0", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            with Client(f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}") as client:
                yield client
        finally:
            process.terminate()
            process.wait(20)


def orders(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    price = rng.gamma(2.0, 30.0, rows)
    store = rng.choice(["north", "south"], rows)
    return pa.table({"price": price, "store": store, "returned": rng.random(rows) < 1 / (1 + np.exp(3 - price / 20))})


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Context]:
    root = tmp_path / "one machine"
    root.mkdir()
    (root / "kaizen.toml").write_text(SETTINGS)
    ctx = open_project(root, actor="maria")
    data.add(ctx, "stores", table=pa.table({"store": ["north", "south"], "size": [10, 20]}), key="store")
    data.add(ctx, "orders", table=orders(60))
    bad = orders(4).set_column(0, "price", pa.array(["1", "2", "no price", "3"]))
    data.add(ctx, "orders", table=bad)
    features.materialize(ctx, "stores")
    yield ctx
    ctx.online.close()
    ctx.catalog.close()


def moved(ctx: Context, postgres: str, s3: S3, redis: str) -> moving.Moved:
    return moving.migrate(ctx.root, catalog=postgres, objects_at=f"{s3.url}/shop", online=redis, actor="maria")


def test_a_project_is_moved_and_what_is_read_afterwards_is_what_was_there(shop: Context, postgres: str, s3: S3, redis: str):
    pytest.importorskip("redis", reason="the client of Redis is not installed: pip install 'kaizenml[redis]'")
    before = [tables.read(shop, f"orders@{number}") for number in (1, 2)]
    kept_out = data.quarantine(shop, "orders")
    noted = audit.verify(shop)
    view = features.list(shop)[0].ref
    with sqlite3.connect(shop.state / "online.db") as connection:
        online = connection.execute("SELECT count(*) FROM online").fetchone()[0]
    connection.close()
    assert online >= 2
    found = moved(shop, postgres, s3, redis)
    assert found.catalog
    assert found.parts == 3
    assert found.online == online
    text = (shop.root / "kaizen.toml").read_text()
    assert text.startswith("# our shop\n[project]  # as people wrote it\n")
    shutil.rmtree(shop.state / "data")  # nothing is read from here any more
    (shop.state / "online.db").unlink()
    now = open_project(shop.root, actor="maria")
    with moving.closing_all(now):
        assert [tables.read(now, f"orders@{number}").equals(rows) for number, rows in zip((1, 2), before, strict=True)] == [True, True]
        for ref in ("orders@1", "orders@2", "stores@1"):
            tables.verify(now, ref)
        assert data.quarantine(now, "orders") == kept_out
        assert audit.verify(now, head=noted.head).head == found.head
        assert [row.values["size"] for row in now.online.read(view, ["north", "south"]) if row] == [10, 20]
        assert data.add(now, "orders", table=orders(5, 1)).number == 3
        assert audit.verify(now, head=found.head).events == found.events + 1


def test_whoever_still_has_the_old_catalog_open_is_refused_and_the_same_call_again_copies_only_what_came_later(
    shop: Context, postgres: str, s3: S3, redis: str
):
    pytest.importorskip("redis", reason="the client of Redis is not installed: pip install 'kaizenml[redis]'")
    moved(shop, postgres, s3, redis)
    with pytest.raises(Unavailable, match="has moved"):
        data.add(shop, "orders", table=orders(5, 1))
    view = features.list(shop)[0].ref
    shop.online.write(view, [("north", 0.0, {"size": 11})])  # timeless: not newer
    shop.online.write(view, [("east", 0.0, {"size": 30})])
    again = moved(shop, postgres, s3, redis)
    assert (again.catalog, again.online) == (False, 1)


def test_a_move_that_was_killed_before_the_switch_goes_on(shop: Context, postgres: str, s3: S3, monkeypatch: pytest.MonkeyPatch):
    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(moving, "_switch", killed)
        moving.migrate(shop.root, catalog=postgres, objects_at=f"{s3.url}/shop")
    assert "postgresql" not in (shop.root / "kaizen.toml").read_text()
    found = moving.migrate(shop.root, catalog=postgres, objects_at=f"{s3.url}/shop")
    assert found.parts == 3
    now = open_project(shop.root)
    with moving.closing_all(now):
        assert audit.verify(now).head == found.head
        tables.verify(now, "orders@2")


def test_a_database_of_another_project_and_half_a_move_are_refused(shop: Context, postgres: str, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "kaizen.toml").write_text(f'[project]\nname = "other"\ncatalog = "{postgres}"\n')
    theirs = open_project(other)
    data.add(theirs, "orders", table=orders(3))
    with pytest.raises(Conflict, match="another project"):
        moving.migrate(shop.root, catalog=postgres)
    with pytest.raises(UsageError, match="only with the catalog"):
        moving.migrate(shop.root, objects_at="s3://bucket/shop")
    with pytest.raises(UsageError, match="where to"):
        moving.migrate(shop.root)
    assert [version.number for version in data.versions(theirs, "orders")] == [1]
    assert data.add(shop, "orders", table=orders(5, 1)).number == 3  # nothing was switched, nobody is refused
    theirs.catalog.close()
    theirs.online.close()


def commands_of_the_page(catalog: str, s3: S3, redis: str) -> list[list[str]]:
    """The commands by which docs/how-to/grow.md moves a running project and looks at it, with the servers of this test."""
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "grow.md").read_text(encoding="utf-8")
    section = page.partition("## Move a project that is running")[2].partition("\n## ")[0]
    servers = {"postgresql://shop:${SHOP_PASSWORD}@db.internal/shop": catalog, "s3://our-bucket/shop": f"{s3.url}/shop"}
    servers |= {"redis://cache.internal:6379/0": redis}
    lines = [shlex.split(line)[1:] for line in section.splitlines() if line.startswith("kaizen ")]
    return [[servers.get(word, word) for word in line] for line in lines]


def kaizen(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "kaizenml.cli", *words], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_serving_goes_on_while_the_project_moves_and_a_second_machine_serves_the_same_release(
    shop: Context, postgres: str, s3: S3, redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("redis", reason="the client of Redis is not installed: pip install 'kaizenml[redis]'")
    data.add(shop, "orders", table=orders(400, 2))
    model = registry.register(shop, training.train(shop).id)
    made = releases.create(shop, model.ref, skip=["naive", "champion", "load"], why="a test of moving")
    rollouts.deploy(shop, "shop", made.ref)
    asked, problems, done = 0, [], threading.Event()
    with serving(shop) as client:

        def ask() -> None:
            nonlocal asked
            while not done.is_set():
                try:
                    answer = client.predict("shop", [{"price": 50.0, "store": "north"}])
                    assert answer["predictions"][0]["decided_by"] == "model"
                    asked += 1
                except Exception as error:
                    problems.append(error)
                done.wait(0.01)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            monkeypatch.setenv("SHOP_PASSWORD", "not to be shown")
            url = postgres.replace("kaizen@", "kaizen:${SHOP_PASSWORD}@")
            migrate, *looks = commands_of_the_page(url, s3, redis)
            said = kaizen(shop.root, *migrate, "--json")
        finally:
            done.set()
            asking.join()
    assert problems == []
    assert asked > 5
    found = json.loads(said.stdout)
    assert (found["catalog"], found["folders"], found["parts"]) == (True, 2, 4)
    assert [look[:2] for look in looks] == [["audit", "verify"], ["data", "show"], ["releases", "verify"]]
    for look in looks:
        kaizen(shop.root, *[found["head"] if word == "HEAD" else word for word in look])
    shown = kaizen(shop.root, "audit", "settings")
    assert "${SHOP_PASSWORD}" in (shop.root / "kaizen.toml").read_text()
    assert "not to be" not in f"{said.stdout}{said.stderr}{shown.stdout}{shown.stderr}"
    second = tmp_path / "another machine"
    second.mkdir()
    shutil.copy(shop.root / "kaizen.toml", second)
    there = open_project(second, actor="tom")
    with moving.closing_all(there):
        rollouts.publish(there)
        assert releases.verify(there, made.ref) == releases.show(shop, made.ref)
        assert registry.verify(there, model.ref) == model
        with serving(there) as client:
            answer = client.predict("shop", [{"price": 50.0, "store": "north"}])
            assert (answer["release"], answer["predictions"][0]["decided_by"]) == (made.ref, "model")
        shutil.rmtree(there.state / "releases")
        with there.catalog.read() as connection:
            digest = store.manifest(connection, made).files["example.json"]
        objects._client().put(objects._store(there), f"files/{digest}", b"changed by somebody")
        with pytest.raises(Corrupt, match="not what its name says"):
            releases.verify(there, made.ref)


WINDOWS = """
from kaizenml import count, features, sum_

@features(entity="store", source="visits", at="ts", ttl="9d")
class Busy:
    visits_2d = count(last="2d")
    people_2d = sum_("people", last="2d")
"""


def visit(number: int, hour: float, people: int = 1) -> dict[str, object]:
    return {"visit": number, "store": "north", "ts": dt.datetime(2026, 5, 2, tzinfo=dt.UTC) + dt.timedelta(hours=hour), "people": people}


def test_rows_of_windows_that_are_pushed_while_the_project_moves_are_not_lost_online_whenever_they_happened(shop: Context, postgres: str, redis: str):
    pytest.importorskip("redis", reason="the client of Redis is not installed: pip install 'kaizenml[redis]'")
    (shop.root / "features.py").write_text(WINDOWS)
    data.add(shop, "visits", table=pa.Table.from_pylist([visit(1, 0), visit(2, 9)]), key="visit", time="ts")
    features.materialize(shop, "busy")

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(moving, "_switch", killed)
        moving.migrate(shop.root, catalog=postgres, online=redis)
    features.push(shop, "busy", [visit(3, 5, 10)])  # older than the newest: its entity's row has the same time as before
    shop.online.delete("south")
    moving.migrate(shop.root, catalog=postgres, online=redis)
    now = open_project(shop.root)
    with moving.closing_all(now):
        clock = SimulatedClock(shop.state / "clock", visit(0, 10)["ts"])
        now = replace(now, clock=clock)

        def people() -> int:
            return features.read(now, "busy", ["north"])[0].values["people_2d"]

        assert people() == 12
        assert now.online.read(features.list(now)[0].ref, ["south"]) == [None]  # what went meanwhile does not come back
        # a server that was not started anew takes rows into the old store: each is in the buffer, too
        push = taking.published(shop.state)
        assert push is not None
        checker = next(each for each in push.views if each.view.name == "busy").checker(shop.state)
        taking.take(shop.state, shop.online, checker, checker.check([visit(4, 6, 100)]))
        features.push(now, "busy", [visit(5, 9.5, 1000)])
        assert people() == 1012
        moving.migrate(shop.root, catalog=postgres, online=redis)
        assert people() == 1112
        assert features.flush(now, "busy") is not None
        assert features.materialize(now, "busy").kept == 0
        assert features.check(now, "busy").differing == 0
        key = next(key for key in client_of(redis).scan_iter("*busy.*:north"))
        assert 9 * 86400 < client_of(redis).ttl(key) <= 19 * 86400  # and it leaves by itself


def client_of(url: str) -> Any:
    import redis as client

    return client.from_url(url)
