"""Whatever order things come in, and whatever is killed when: every labelled answer is counted once."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections import Counter
from datetime import timedelta

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from monitored_airline import START, Air, inputs

from forked import forked
from kaizenml.monitoring import operations as monitoring
from kaizenml.monitoring import store
from kaizenml.releases import operations as releases
from kaizenml.releases import store as released
from kaizenml.releases.release import Manifest

OTHER = "air@9"


@pytest.fixture
def paired(air: Air) -> Air:
    """The same bundle known as a second release, so that there is something to compare."""
    document = msgspec.to_builtins(releases.show(air.ctx, air.champion)) | {"number": 9, "files": {}}
    with air.ctx.catalog.write() as connection:
        released.insert(connection, msgspec.convert(document, Manifest), None)
    return air


def expected(air: Air) -> tuple[Counter[tuple[str, str]], dict[tuple[str, str], float], int, float]:
    """Labelled rows and loss by (release, role), pairs and their difference, recomputed from all rows, one by one."""
    rows, losses = Counter(), {}
    by_id: dict[str, dict[str, float]] = {}
    for row in pa.concat_tables(air.written).select(["id", "release", "role", "probabilities"]).to_pylist():
        label = air.labels.get(row["id"])
        if label is None:
            continue
        loss = -math.log(min(max(row["probabilities"][int(label)], 1e-6), 1 - 1e-6))
        key = (row["release"], row["role"])
        rows[key] += 1
        losses[key] = losses.get(key, 0.0) + loss
        by_id.setdefault(row["id"], {})[row["release"]] = loss
    both = [found for found in by_id.values() if len(found) == 2]
    return rows, losses, len(both), sum(found[air.champion] - found[OTHER] for found in both)


def check(air: Air) -> None:
    rows, losses, pairs, difference = expected(air)
    with air.ctx.catalog.read() as connection:
        states = store.read_accuracy(connection, "air")
        paired = store.read_pairs(connection, "air", *sorted((air.champion, OTHER)))
    counted, summed = Counter(), {}
    for key, state in states.items():
        counted[(key.release, key.role)] += int(state.sum("rows"))
        summed[(key.release, key.role)] = summed.get((key.release, key.role), 0.0) + state.sum("loss")
    assert +counted == rows
    assert summed == pytest.approx({key: losses.get(key, 0.0) for key in summed})
    assert sum(state[:, 0].sum() for state in paired.values()) == pairs
    assert sum(state[:, 1].sum() for state in paired.values()) == pytest.approx(difference, abs=1e-9)
    answered = Counter()
    for row in pa.concat_tables(air.written).select(["release", "role"]).to_pylist():
        answered[(row["release"], row["role"])] += 1
    told = Counter()
    for key, state in states.items():
        told[(key.release, key.role)] += int(state.sum("answered"))
    assert told == answered


def day_in_pieces(air: Air, day: int, rng: np.random.Generator, rows: int = 40) -> list[tuple[str, object]]:
    """A day's live rows, shadows and outcomes in pieces that may be delivered in any order."""
    world = inputs(day, rng, rows)
    ids = [air.ids.make(t / 1e6, 1)[0] for t in world["at"].tolist()]
    chances = air.score(world, air.champion)
    others = np.clip(chances + rng.normal(0, 0.05, (rows, 1)) * [1, -1], 0.01, 0.99)
    live = air.table(world, ids, chances, release=air.champion, role="live", arm="champion")
    shadow = air.table(world, ids, others, release=OTHER, role="shadow", arm="shadow")
    half = rows // 2
    labels = {identity: bool(flag) for identity, flag in zip(ids, rng.random(rows) < 0.3, strict=True)}
    keys = list(labels)
    return [
        ("rows", (live.slice(0, half), shadow.slice(0, half - 7))),
        ("rows", (live.slice(half), shadow.slice(half - 7))),  # some shadows are drained after their live row
        ("outcomes", {key: labels[key] for key in keys[: half + 5]}),
        ("outcomes", {key: labels[key] for key in keys[half + 5 : -3]}),
    ]


def deliver(air: Air, kind: str, piece: object) -> None:
    if kind == "rows":
        air.write(*piece)  # type: ignore[misc]
    else:
        air.tell(piece)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_predictions_shadows_and_outcomes_counts_every_pair_once(paired: Air, seed: int) -> None:
    rng = np.random.default_rng(seed)
    paired.clock.set(START + timedelta(days=70))
    # live rows come before their shadows, as in the journal; outcomes come whenever they like
    pieces = [[piece for piece in day_in_pieces(paired, 60 + day, rng)] for day in range(3)]
    queues = [list(day[:2]) for day in pieces] + [[piece] for day in pieces for piece in day[2:]]
    order = random.Random(seed)
    while queues:
        queue = order.choice(queues)
        deliver(paired, *queue.pop(0))
        queues = [left for left in queues if left]
        if order.random() < 0.6:
            monitoring.observe(paired.ctx, "air")
    paired.tell({"f" * 32: True})  # an outcome of nobody
    last = monitoring.observe(paired.ctx, "air")
    assert last.waiting == 1
    check(paired)
    again = monitoring.observe(paired.ctx, "air")
    assert (again.predictions, again.outcomes, again.labelled) == (0, 0, 0)
    check(paired)


@pytest.mark.slow
def test_an_observer_killed_at_random_moments_counts_every_row_once(paired: Air) -> None:
    rng, chance = np.random.default_rng(5), random.Random(5)
    paired.clock.set(START + timedelta(days=70))
    imports = "from kaizenml.project import open_project\nfrom kaizenml.monitoring import operations"
    code = "ctx = open_project(sys.argv[1], actor='loop')\nwhile True: operations.observe(ctx, 'air')"
    pieces = [piece for day in range(8) for piece in day_in_pieces(paired, 60 + day, rng)]
    killed = 0
    with forked(imports, code, str(paired.ctx.root), KAIZEN_CLOCK=str(paired.ctx.root / "clock")) as observer:
        while pieces:
            observer.start()
            for _ in range(8):
                if pieces:
                    deliver(paired, *pieces.pop(0))
            assert observer.wait(chance.random() * 0.15) is None
            observer.kill()
            killed += 1
    monitoring.observe(paired.ctx, "air")
    assert killed >= 4
    check(paired)


@pytest.mark.slow
def test_two_observers_at_once_count_every_row_once(paired: Air) -> None:
    rng = np.random.default_rng(6)
    paired.clock.set(START + timedelta(days=70))
    code = (
        "import sys\n"
        "from kaizenml.project import open_project\n"
        "from kaizenml.errors import Conflict\n"
        "from kaizenml.monitoring import operations\n"
        "ctx = open_project(sys.argv[1], actor='loop')\n"
        "for _ in range(25):\n"
        "    try: operations.observe(ctx, 'air')\n"
        "    except Conflict: pass\n"
    )
    environment = os.environ | {"KAIZEN_CLOCK": str(paired.ctx.root / "clock"), "OMP_NUM_THREADS": "1"}
    children = [subprocess.Popen([sys.executable, "-c", code, str(paired.ctx.root)], env=environment) for _ in range(2)]
    for day in range(3):
        for piece in day_in_pieces(paired, 60 + day, rng):
            deliver(paired, *piece)
    assert [child.wait() for child in children] == [0, 0]
    monitoring.observe(paired.ctx, "air")
    check(paired)
