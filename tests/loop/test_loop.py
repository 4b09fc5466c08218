"""The loop on a real project: a real server, real answers, real outcomes, a world that changes."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from live_project import ENDPOINT, live, make, served

from forked import forked
from kaizenml import events
from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.errors import Conflict, Waiting
from kaizenml.loop import operations as loop
from kaizenml.loop.reconciler import lease
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.training import operations as training

IMPORTS = """
from kaizenml.project import open_project
from kaizenml.loop import operations as loop
from kaizenml.training import making
"""
TICK = 'loop.tick(open_project(sys.argv[1], actor="loop"))'


def tick_until(ctx: Context, client: object, wanted: str, *, first: int, most: int = 12) -> int:
    """Serve a changed world and tick until the newest improvement's result is ``wanted``; return the next order's number."""
    for _ in range(most):
        live(ctx, client, 400, first=first, flipped=True)  # type: ignore[arg-type]
        first += 400
        loop.tick(ctx)
        found = loop.history(ctx, ENDPOINT)
        if found and found[0].result == wanted:
            return first
    raise AssertionError(f"no {wanted}: {loop.history(ctx, ENDPOINT)}")


@pytest.mark.slow
def test_a_world_that_turned_round_is_learnt_and_the_better_release_promoted(tmp_path: Path) -> None:
    ctx = make(tmp_path / "shop")
    first = rollouts.show(ctx, ENDPOINT).champion
    with served(ctx) as client:
        live(ctx, client, 600, first=10_000)
        loop.tick(ctx)
        assert loop.history(ctx, ENDPOINT) == []  # as expected: nothing to do
        tick_until(ctx, client, "promoted", first=20_000)
    champion = rollouts.show(ctx, ENDPOINT).champion
    assert champion != first
    done = loop.history(ctx, ENDPOINT)[0]
    assert done.release == champion
    assert done.trigger == "accuracy"
    assert releases.show(ctx, champion).pins.data[0] == done.dataset
    version = data.show(ctx, "orders")
    assert version is not None


@pytest.mark.slow
def test_the_loop_killed_at_every_step_leaves_nothing_twice_or_half_done(tmp_path: Path) -> None:
    ctx = make(tmp_path / "shop")
    rng = random.Random(7)
    killed = Counter[str]()
    with served(ctx) as client, forked(IMPORTS, TICK, str(ctx.root), KAIZEN_CLOCK=str(ctx.state / "clock")) as tick:
        live(ctx, client, 900, first=20_000, flipped=True)
        loop_wish(ctx)
        for attempt in range(60):
            tick.start()
            # later tries live longer, so that every step is both hit and passed
            if tick.wait(rng.uniform(0.05, 0.6 if attempt < 8 else 1.0 + attempt * 0.25)) is None:
                tick.kill()
                found = loop.history(ctx, ENDPOINT)
                killed[found[0].step if found else "before"] += 1
            found = loop.history(ctx, ENDPOINT)
            if found and found[0].step in ("watch", "done"):
                break
        live(ctx, client, 200, first=30_000, flipped=True)
        loop.tick(ctx)
    print(killed)
    assert sum(killed.values()) >= 5, killed
    assert len(killed) >= 2, killed
    improvements = loop.history(ctx, ENDPOINT)
    assert improvements[-1].number == 1
    token = improvements[-1].token
    assert [run.id for run in training.list(ctx)].count(token) == 1
    assert len([model for model in registry.list(ctx) if model.run == token]) == 1
    assert len(releases.list(ctx)) == 1 + len(improvements)
    assert len([version for version in data.versions(ctx, "orders") if version.source == "feedback"]) == len(improvements)
    with ctx.catalog.read() as connection:
        count, _, problem = events.verify(connection.execute(sa.select(events.events_table).order_by(events.events_table.c.seq)))
        kinds = Counter((e.kind, e.subject) for e in events.read(connection))
    assert problem is None
    assert count > 5
    assert kinds["loop.started", token] == 1
    challenged = [key for key in kinds if key[0] == "rollouts.challenged"]
    assert all(kinds[key] <= len(improvements) for key in challenged)


def test_two_loops_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "kaizen.toml").write_text('[project]\nname = "shop"\n')
    from kaizenml.project import open_project

    ctx = open_project(tmp_path)
    with lease(ctx), pytest.raises(Conflict, match="another loop"):
        loop.tick(ctx)
    assert loop.tick(ctx).endpoints == []


@pytest.mark.slow
def test_a_challenger_that_nobody_labels_goes_when_its_time_is_over(tmp_path: Path) -> None:
    ctx = make(tmp_path / "shop")
    champion = rollouts.show(ctx, ENDPOINT).champion
    again = releases.create(ctx, releases.show(ctx, champion).pins.model, against=champion, why="the same once more", skip=["champion"])
    rollouts.challenge(ctx, ENDPOINT, again.ref, weight=0.1, why="by hand")
    clock = ctx.clock
    assert isinstance(clock, SimulatedClock)
    loop.tick(ctx)
    assert [arm.release for arm in rollouts.show(ctx, ENDPOINT).challengers] == [again.ref]
    clock.advance(timedelta(days=15))
    loop.tick(ctx)
    assert rollouts.show(ctx, ENDPOINT).challengers == []
    with ctx.catalog.read() as connection:
        said = events.read(connection, kind="rollouts.withdrawn", subject=ENDPOINT)
    assert "no difference was shown" in said[0].why
    assert "no labelled row" in said[0].why


@pytest.mark.slow
def test_a_person_can_ask_for_an_improvement_and_go_on_later(tmp_path: Path) -> None:
    ctx = make(tmp_path / "shop")
    with served(ctx) as client:
        live(ctx, client, 400, first=20_000)
        reached = loop.improve(ctx, until="release", why="the auditor asked")
        assert reached.trigger == "person"
        assert reached.why == "the auditor asked"
        if reached.step == "watch":
            with pytest.raises(Waiting):
                loop.improve(ctx, until="done")


def loop_wish(ctx: Context) -> None:
    """Ask for an improvement without doing it: the killed processes shall."""
    from kaizenml.loop import store

    with ctx.catalog.write() as connection:
        store.put_wish(connection, ENDPOINT, why="storm", actor="tester", at=ctx.clock.timestamp())


