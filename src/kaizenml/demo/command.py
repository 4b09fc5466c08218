"""``kaizen demo``: a year in production on real flights, in about two minutes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kaizenml.access import owner
from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.demo import flights as flights_data
from kaizenml.demo import report
from kaizenml.demo.narrator import Narrator
from kaizenml.demo.replay import ENDPOINT, Plan, Replay
from kaizenml.errors import Conflict, Unavailable
from kaizenml.features import operations as features
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.scaffold.project import begin_repository
from kaizenml.serving import operations as serving
from kaizenml.serving.client import Client
from kaizenml.training import operations as training

MARKER = ".kaizen-demo"
PROJECT = """\
# The demo's project: will a flight arrive more than 15 minutes late, asked an hour before departure?
[project]
name = "flights"

[task]
dataset = "flights"
target = "late"
time = "departs"
key = "flight_id"
asked_before = "1h"

[features.weather]
dataset = "weather"
entity = "origin"
at = "time_hour"
ttl = "6h"
columns = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]

[features.planes]
dataset = "planes"
entity = "tailnum"
columns = ["built", "manufacturer", "seats", "engine"]

[train]
budget = "60s"

[gates]
load_seconds = 0.2

[monitor]
parity = "30d"

[loop]
retrain_after = "21d"
cooldown = "7d"
canary_max = "21d"
canary_weight = 0.05
"""
FEATURES = """\
'''How late flights run just now. Windows end at full hours, as the flights' rows come in once an hour.'''

from kaizenml import features, mean


@features(entity=["origin", "carrier"], source="departures", at="left")
class OfCarrier:
    '''How late a carrier's flights left an airport.'''

    carrier_delay_6h = mean("delay", last="6h", every="1h")


@features(entity="origin", source="departures", at="left")
class AtOrigin:
    '''How late all flights left an airport.'''

    origin_delay_2h = mean("delay", last="2h", every="1h")


@features(entity="dest", source="landings", at="landed")
class AtDestination:
    '''How late flights from New York arrived at an airport.'''

    dest_delay_4h = mean("delay", last="4h", every="1h")
"""
VIEWS = ("weather", "of_carrier", "at_origin", "at_destination", "planes")


def run(*, folder: Path, keep: bool = False, plan: Plan | None = None) -> dict[str, Any]:
    """Run the whole demo and return its document.

    Parameters
    ----------
    folder : where the demo's project is made; an earlier demo there is replaced, anything else is refused.
    keep : leave the servers and the console running until Ctrl-C.
    plan : which days to replay and what goes wrong when; default April to December.
    """
    started = time.perf_counter()
    tell = Narrator()
    plan = plan or Plan()
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        ctx, clock = _make_project(folder, plan)
        stack.callback(ctx.catalog.close)
        stack.enter_context(tell)
        tell.title("A year in production: the flights of New York, 2013")
        tell.say("question: will this flight arrive more than 15 minutes late, asked an hour before departure?")
        year = _first_quarter(ctx, tell, plan)
        frozen = _first_release(ctx, tell)
        port = stack.enter_context(_served(ctx, clock, tell))
        console = stack.enter_context(_console(ctx, clock))
        tell.say(f"console: {console}")
        replay = _replay(ctx, clock, year, port=port, plan=plan, tell=tell)
        document: dict[str, Any] = msgspec.to_builtins(_document(ctx, tell, plan, frozen=frozen, replay=replay, folder=folder), enc_hook=_plain)
        document["seconds"] = round(time.perf_counter() - started, 1)
        document["console"] = console
        (folder / "demo.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        tell.conclude(document, folder)
        if keep:
            tell.say(f"still running: console {console}, predictions on port {port}; Ctrl-C ends it")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    return document


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _make_project(folder: Path, plan: Plan) -> tuple[Context, SimulatedClock]:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            happened = f"{folder} is not empty and not an earlier demo"
            raise Conflict(happened, remedy="kaizen demo --dir ANOTHER_FOLDER", values={"folder": str(folder)})
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    (folder / "kaizen.toml").write_text(PROJECT, encoding="utf-8")
    (folder / "features.py").write_text(FEATURES, encoding="utf-8")
    (folder / ".gitignore").write_text(f".kaizen/\n{MARKER}\ndemo.json\nyear.*\n", encoding="utf-8")
    clock = SimulatedClock(folder / ".kaizen" / "clock", plan.first - timedelta(hours=2))
    return open_project(folder, actor="demo", clock=clock), clock


def _first_quarter(ctx: Context, tell: Narrator, plan: Plan) -> flights_data.Flights:
    with tell.step("reading 336,776 flights, the weather at 3 airports, and the planes"):
        year = flights_data.load()
    first = np.datetime64(plan.first.replace(tzinfo=None))
    with tell.step("January to March become dataset versions"):
        months = [np.datetime64(f"2013-0{month}") for month in (1, 2, 3)]
        for start, stop in zip(months, [*months[1:], first], strict=True):
            lo, hi = np.searchsorted(year.departs, [start.astype("datetime64[us]"), stop.astype("datetime64[us]")])
            version = data.add(ctx, "flights", table=year.table.slice(lo, hi - lo), key="flight_id", time="departs", why=f"{start}")
            tell.detail(f"{version.ref}: {version.rows:,} rows, {version.quarantined} in quarantine")
        feeds = (("weather", year.weather, "time_hour"), ("departures", year.departures, "left"), ("landings", year.landings, "landed"))
        for name, feed, when in feeds:
            known = int(np.searchsorted(feed[when].to_numpy(), first - 2 * flights_data.HOUR, side="right"))  # the replay brings the next hour
            trust, key = ("partner", None) if name == "weather" else ("internal", "flight_id")
            data.add(ctx, name, table=feed.slice(0, known), trust=trust, key=key, time=when)
        data.add(ctx, "planes", table=year.planes, trust="public")
    begin_repository(ctx.root, "flights")  # so that every release says which code it was made with
    with tell.step("features to the online store"):
        for view in VIEWS:
            features.materialize(ctx, view)
    return year


def _first_release(ctx: Context, tell: Narrator) -> str:
    with tell.step("training: naive, linear, boosted, ensemble; split by time; leak scan on") as progress:
        run = training.train(ctx, progress=progress)
    tell.board(run)
    model = registry.register(ctx, run.id, name=ENDPOINT)
    with tell.step("release: pins and gates (better than naive, parity of serving with training, load test)") as progress:
        release = releases.create(ctx, model.ref, why="first release, learnt from January to March")
    for gate in release.gates:
        tell.detail(f"{'passed' if gate.passed else 'FAILED'} {gate.name}: {gate.summary}")
    rollouts.deploy(ctx, ENDPOINT, release.ref, why="first release")
    rollouts.shadow(ctx, ENDPOINT, release.ref, why="the frozen yardstick: answers everything in the shadow all year")
    tell.say(f"{release.ref} ({release.hash[:12]}) is champion of endpoint {ENDPOINT}, and runs in the shadow all year as the yardstick")
    return release.ref


@contextmanager
def _served(ctx: Context, clock: SimulatedClock, tell: Narrator) -> Iterator[int]:
    command = [sys.executable, "-m", "kaizenml.serving", "--state", str(ctx.state), "--host", "127.0.0.1", "--port", "0", "--workers", "1"]
    with tell.step("a server of its own, over a real socket"):
        process, ready = _start(command, clock, ctx.state / "serving.log")
    try:
        yield int(ready["port"])
    finally:
        _stop(process)


@contextmanager
def _console(ctx: Context, clock: SimulatedClock) -> Iterator[str]:
    command = [sys.executable, "-m", "kaizenml.server", "--project", str(ctx.root), "--port", "0"]
    process, ready = _start(command, clock, ctx.state / "console.log")
    try:
        yield f"http://127.0.0.1:{ready['port']}/"
    finally:
        _stop(process)


def _start(command: list[str], clock: SimulatedClock, log: Path) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    with log.open("ab") as errors:
        process = subprocess.Popen(command, env={**os.environ, "KAIZEN_CLOCK": str(clock.path)}, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        raise Unavailable(f"{command[2]} did not start", remedy=f"read {log}", values={"log": str(log)})
    return process, msgspec.json.decode(line)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C, so that no server outlives the demo."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _replay(ctx: Context, clock: SimulatedClock, year: flights_data.Flights, *, port: int, plan: Plan, tell: Narrator) -> Replay:
    tell.say("April to December as requests, outcomes late and out of order. Three things will go wrong on purpose:")
    for line in plan.announce():
        tell.detail(line)
    days = (plan.last - plan.first).days
    seen = 0
    with (
        Client(f"http://127.0.0.1:{port}", token=owner.read(ctx.state)) as client,
        closing(Replay(ctx, clock, year, client, plan=plan, say=tell.say)) as replay,
        tell.step("replaying the year") as progress,
    ):
        for number, day in enumerate(replay.days(), 1):
            progress(f"{day:%d %b}: {replay.tally.answered:,} predictions, {replay.tally.outcomes:,} outcomes", number / days)
            seen = _tell_news(ctx, tell, seen)
        replay.finish()
    _tell_news(ctx, tell, seen)
    return replay


def _tell_news(ctx: Context, tell: Narrator, seen: int) -> int:
    done = report.actions(ctx)
    for action in done[seen:]:
        tell.news(action)
    return len(done)


def _document(ctx: Context, tell: Narrator, plan: Plan, *, frozen: str, replay: Replay, folder: Path) -> dict[str, Any]:
    with tell.step("the year's balance"):
        year = report.labelled(ctx, frozen)
        done = report.actions(ctx)
        picture = report.picture(year, done, plan, folder)
        counted = serving.counts(ctx, ENDPOINT)
        trace = serving.trace(ctx, replay.tally.sample[-1])
    kinds = [action["kind"] for action in done]
    return {
        "seconds": 0.0,
        "predictions": replay.tally.answered,
        "journal_rows": counted["rows"],
        "journal_rows_without_lineage": counted["without_lineage"],
        "outcomes": replay.tally.outcomes,
        "months": report.months(year),
        "actions": [{name: action[name] for name in ("at", "what", "why", "diagnosis", "by")} for action in done],
        "retrains": kinds.count("loop.started"),
        "promotions": kinds.count("rollouts.promoted"),
        "rollbacks": kinds.count("rollouts.withdrawn") + kinds.count("rollouts.rolled_back"),
        "trace": trace,
        "picture": str(picture),
    }

