"""A small shop, for real: data, model, releases, a serving process, answers and outcomes of some days; and its console as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.loop import operations as loop
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving.client import Client
from kaizenml.training import operations as training

START = datetime(2026, 8, 1, tzinfo=UTC)
NOW = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = 6
PER_DAY = 60
TOML = """
[project]
name = "shop"
[task]
dataset = "orders"
target = "returned"
time = "ordered_at"
key = "id"
[train]
budget = "2s"
threads = 1
[loop]
min_new_rows = 100000
"""


@dataclass
class Shop:
    """An open project and its simulated clock; ``ask`` sends a day's orders to the serving process and their outcomes after."""

    ctx: Context
    clock: SimulatedClock
    client: Client

    def ask(self, rows: int = PER_DAY, seed: int = 0) -> None:
        table = orders(rows, np.random.default_rng(seed), self.clock.now(), prefix=f"n{seed}-")
        inputs = [
            {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items() if name not in ("returned", "id")}
            for row in table.to_pylist()
        ]
        answers = self.client.predict("shop", inputs, unit=f"u{seed}")["predictions"]
        truths = table["returned"].to_pylist()
        self.client.outcomes("shop", [{"id": answer["id"], "value": truth} for answer, truth in zip(answers, truths, strict=True)])

    def watch(self) -> None:
        loop.tick(self.ctx)


def orders(rows: int, rng: np.random.Generator, until: datetime, *, prefix: str = "o", step: timedelta = timedelta(seconds=7)) -> pa.Table:
    """Orders, the newest just before ``until``; every third column matters for whether they come back."""
    price = rng.gamma(2, 30, rows).round(2)
    plan = rng.choice(["basic", "plus", "pro"], rows, p=[0.6, 0.3, 0.1])
    age = rng.integers(18, 80, rows)
    odds = -1.2 + 0.06 * (price - 60) + np.where(plan == "basic", 1.2, -1.2)
    times = [until - step * (rows - i) for i in range(rows)]
    return pa.table(
        {
            "id": [f"{prefix}{i}" for i in range(rows)], "ordered_at": pa.array(times, pa.timestamp("us", "UTC")), "price": price, "plan": plan,
            "age": age, "member": rng.random(rows) < 0.4, "returned": rng.random(rows) < 1 / (1 + np.exp(-odds)),
        }
    )  # fmt: skip


def start(module: str, *arguments: str, clock: SimulatedClock | None = None, **environ: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start a part of kaizenml as a process of its own and wait until it listens."""
    variables = {**os.environ, **({"KAIZEN_CLOCK": str(clock.path)} if clock else {}), **environ}
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], env=variables, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"{module} ended with {process.wait(10)}"
    return process, msgspec.json.decode(line)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(20)
    assert process.stdout is not None
    process.stdout.close()


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


@pytest.fixture(scope="session")
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
