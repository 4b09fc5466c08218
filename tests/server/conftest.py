"""A small shop, for real: data, model, releases, a serving process, answers and outcomes of some days; and its console as a process."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from console_shop import DAYS, NOW, TOML, VIEW, Shop, orders, start, stop

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving.client import Client
from kaizenml.training import operations as training


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("shop")
    (root / "kaizen.toml").write_text(TOML)
    clock = SimulatedClock(root / ".kaizen" / "clock", NOW - timedelta(days=DAYS))
    ctx = open_project(root, actor="maria", clock=clock)
    rng = np.random.default_rng(7)
    table = orders(2500, rng, clock.now(), step=timedelta(minutes=30))
    broken = table.slice(0, 3).set_column(table.column_names.index("id"), "id", pa.array(["o5", "o5", "o5"]))
    data.add(ctx, "orders", table=table, origin="the till", key="id", time="ordered_at")
    data.add(ctx, "orders", table=pa.concat_tables([orders(40, rng, clock.now(), prefix="late"), broken]), origin="the till")
    first = training.train(ctx)
    _release(ctx, first.id, "first model")
    rollouts.deploy(ctx, "shop", "shop@1", why="first model")
    second = training.train(ctx, refit=first.id)
    _release(ctx, second.id, "a week more of orders")
    serving, ready = start("kaizenml.serving", "--state", str(ctx.state), "--host", "127.0.0.1", "--port", "0", clock=clock)
    try:
        with Client(f"http://127.0.0.1:{ready['port']}") as client:
            made = Shop(ctx, clock, client)
            for day in range(DAYS):
                clock.set(NOW - timedelta(days=DAYS - day, hours=-6))
                made.ask(seed=day)
                if day == DAYS // 2:
                    rollouts.deploy(ctx, "shop", "shop@2", why="its loss is lower")
                    rollouts.shadow(ctx, "shop", "shop@1", why="the yardstick")
                    time.sleep(1)  # serving looks for changes five times a second
            clock.set(NOW)
            made.watch()
            # a view that no release reads: its console is started later, and knows it
            since = [NOW - timedelta(days=100 - 30 * (i // 3)) for i in range(9)]
            fees = pa.table({"plan": ["basic", "plus", "pro"] * 3, "fee": [float(i) for i in range(9)], "seats": [1, 5, None] * 3, "since": since})
            data.add(ctx, "plans", table=fees, time="since", why="the price list")
            (root / "kaizen.toml").write_text(TOML + VIEW)
            yield made
    finally:
        stop(serving)


def _release(ctx: Context, run: str, why: str) -> None:
    model = registry.register(ctx, run, name="shop")
    releases.create(ctx, model.ref, why=why, skip=["load"])


@pytest.fixture(scope="session")
def console(shop: Shop) -> Iterator[str]:
    """The address of the shop's console."""
    process, ready = start("kaizenml.server", "--project", str(shop.ctx.root), "--port", "0", clock=shop.clock)
    try:
        yield f"http://127.0.0.1:{ready['port']}"
    finally:
        stop(process)


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory: pytest.TempPathFactory) -> Context:
    root = tmp_path_factory.mktemp("empty")
    (root / "kaizen.toml").write_text('[project]\nname = "empty"\n')
    return open_project(root, actor="maria")


@pytest.fixture(scope="module")  # not longer: while it is open, this thread has a running event loop
def browser() -> Iterator[Any]:
    """Chromium of the system; skips where there is none."""
    program = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    playwright_api = pytest.importorskip("playwright.sync_api")
    with playwright_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Callable[[Any, str], Path]:
    """Take a picture of a page, for people to look at: under KAIZEN_SCREENSHOTS if that is set."""

    def take(page: Any, name: str) -> Path:
        folder = Path(os.environ.get("KAIZEN_SCREENSHOTS") or tmp_path)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        page.screenshot(path=path, full_page=True)
        return path

    return take
