"""Rules, rollback and damage as clients of running servers see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kaizenml.context import Context
from kaizenml.releases.release import Release
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving.client import Client
from kaizenml.serving.journaling import predictions
from kaizenml.serving.journaling.drain import drain

Make = Callable[..., Release]
PROJECT = '[project]\nname = "shop"\n'


@contextmanager
def serving(ctx: Context, workers: int) -> Iterator[str]:
    command = [sys.executable, "-m", "kaizenml.serving", "--state", str(ctx.state), "--port", "0", "--workers", str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.terminate()


def kaizen(ctx: Context, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kaizenml.cli", "--project", str(ctx.root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"})


def every_worker(url: str, price: float) -> list[tuple[Any, ...]]:
    """Ask over as many connections as leave no worker out."""
    said = []
    for _ in range(40):
        with Client(url) as client:
            answer = client.predict("shop", [{"price": price}])
            row = answer["predictions"][0]
            said.append((row["decided_by"], row.get("release", answer["release"]), row["reason"]))
    return sorted(set(said))


@pytest.mark.slow
def test_an_edited_rule_a_bad_one_and_a_rollback_reach_every_worker_within_a_second(ctx: Context, release: Make) -> None:
    for number in (1, 2, 3):
        release()
        rollouts.deploy(ctx, "shop", f"shop@{number}")
    with serving(ctx, workers=2) as url:
        assert every_worker(url, 5.0) == [("model", "shop@3", None)]

        (ctx.root / "kaizen.toml").write_text(PROJECT + '[[route]]\nwhen = "price > 3"\nanswer = "shop@1"\n')
        assert kaizen(ctx, "rollouts", "publish").returncode == 0
        time.sleep(1)
        assert every_worker(url, 5.0) == [("model", "shop@1", "answered by shop@1: price > 3")]
        assert every_worker(url, 1.0) == [("model", "shop@3", None)]

        (ctx.root / "kaizen.toml").write_text(PROJECT + '[[route]]\nwhen = "prise > 3"\n')
        refused = kaizen(ctx, "rollouts", "publish")
        assert refused.returncode == 2
        assert "did you mean 'price'?" in refused.stderr
        time.sleep(1)
        assert every_worker(url, 5.0) == [("model", "shop@1", "answered by shop@1: price > 3")]
        with Client(url) as client:
            ready = client.ready()
        assert (ready["ready"], ready["endpoints"]["shop"]["rules"]) == (True, ["price > 3: shop@1"])
        assert "not in force" in ready["problems"][0]
        assert "did you mean 'price'?" in ready["problems"][0]

        (ctx.root / "kaizen.toml").write_text(PROJECT)
        assert kaizen(ctx, "rollback", "shop", "--to", "shop@1", "--why", "it was better").returncode == 0
        time.sleep(1)
        assert every_worker(url, 5.0) == [("model", "shop@1", None)]

        path = ctx.state / "releases" / "shop" / "2" / "model" / "linear.json"
        path.write_bytes(path.read_bytes().replace(b"1.0", b"1.1"))
        damaged = kaizen(ctx, "rollback", "shop", "--to", "shop@2")
        assert damaged.returncode == 1
        assert "model/linear.json differs from its hash" in damaged.stderr
        assert every_worker(url, 5.0) == [("model", "shop@1", None)]
    drain(ctx)
    kept = predictions.read(ctx, "shop", columns=["release", "arm", "reason"]).to_pylist()
    lent = [row for row in kept if row["reason"] is not None]
    assert {(row["release"], row["arm"]) for row in lent} == {("shop@1", "rule")}
    assert len(lent) == 80


@pytest.mark.slow
def test_a_byte_changed_after_the_release_was_published_is_seen_when_it_is_loaded(ctx: Context, release: Make) -> None:
    release()
    rollouts.deploy(ctx, "shop", "shop@1")
    path = ctx.state / "releases" / "shop" / "1" / "model" / "linear.json"
    path.write_bytes(path.read_bytes().replace(b"1.0", b"1.1"))  # still a model, and another one
    with serving(ctx, workers=1) as url, Client(url) as client:
        said = client.predict("shop", [{"price": 5.0}])["predictions"][0]
        assert (said["decided_by"], said["probabilities"]) == ("fallback", [0.9, 0.1])
        assert "linear.json differs from its hash" in said["reason"]
