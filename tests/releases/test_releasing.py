from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from bundle_servers import servers

from kaizenml import events
from kaizenml.context import Context
from kaizenml.errors import Corrupt, NotFound, Refused, UsageError
from kaizenml.registry.model import ModelVersion
from kaizenml.releases import bundle, store
from kaizenml.releases import operations as releases
from kaizenml.releases.release import Release
from kaizenml.training import store as runs

CHEAP = {"skip": ["load"], "why": "the load gate has tests of its own"}


@pytest.fixture(scope="module")
def passed(ctx: Context, model: ModelVersion) -> Release:
    steps: list[tuple[str, float]] = []
    up: dict[str, int] = {}

    def progress(step: str, share: float) -> None:
        steps.append((step, share))
        up[step] = len(servers(ctx.state))

    release = releases.create(ctx, model.ref, why="first", progress=progress)
    if sys.platform == "linux":
        assert (up["pin"], up["parity"], up["release"]) == (0, 1, 0)  # the load gate's server comes up beside the gates before it
    assert [share for _, share in steps] == sorted(share for _, share in steps)
    assert {step for step, _ in steps} >= {"pin", "naive", "parity", "load"}
    return release


def test_a_release_pins_everything_and_carries_its_evidence(ctx: Context, passed: Release) -> None:
    assert passed.state == "passed"
    assert [(gate.name, gate.passed) for gate in passed.gates] == [
        ("naive", True), ("champion", True), ("poison", True), ("parity", True), ("load", True),
    ]  # fmt: skip
    assert passed.gates[2].summary == "skipped: every source is internal"
    naive, champion, _, parity, load = (gate.evidence for gate in passed.gates)
    assert naive["gain"]["low"] > 0
    assert "skipped" in champion
    assert parity["rows"] == 200
    assert load["attempts"][-1]["decided_by"] == {"model": 25}
    pins = passed.pins
    assert pins.data == ["cells@1", "sites@1"]
    assert len(pins.features) in (0, 1)
    assert pins.libraries["lightgbm"]
    assert passed.ref == "clinic@1"
    with ctx.catalog.read() as connection:
        (event,) = events.read(connection, kind="releases.passed", subject=passed.ref)
    assert event.data["hash"] == passed.hash


def test_the_bundle_holds_all_that_serving_and_people_need(ctx: Context, passed: Release) -> None:
    folder = ctx.state / passed.bundle
    assert {path.name for path in folder.iterdir()} == {"release.json", "model", "example.json", "card.md"}
    assert msgspec.json.decode((folder / "release.json").read_bytes(), type=Release) == passed
    rows = msgspec.json.decode((folder / "example.json").read_bytes())
    assert len(rows) == 3
    assert isinstance(rows[0]["mean radius"], float)
    card = (folder / "card.md").read_text()
    for word in ("clinic@1", "`malignant`", "| naive |", "| ensemble |", "cells@1", passed.hash, "p99"):
        assert word in card


def test_the_hash_is_of_the_content_alone(ctx: Context, model: ModelVersion, passed: Release) -> None:
    again = releases.create(ctx, model.ref, **CHEAP)
    assert again.ref != passed.ref
    assert again.hash == passed.hash
    assert bundle.content_hash(passed.pins, {"a": "1"}) != bundle.content_hash(passed.pins, {"a": "2"})
    other = msgspec.structs.replace(passed.pins, code="abc")
    assert bundle.content_hash(other, {"a": "1"}) != bundle.content_hash(passed.pins, {"a": "1"})


def test_a_skipped_gate_is_on_record_and_needs_a_reason(ctx: Context, model: ModelVersion) -> None:
    release = releases.create(ctx, model.ref, skip=["load", "naive"], why="a drill")
    skipped = {gate.name: gate.evidence for gate in release.gates if gate.evidence.get("by")}
    assert skipped == {name: {"skipped": "a drill", "by": "tester"} for name in ("load", "naive")}
    assert "| load | skipped | skipped: a drill |" in (ctx.state / release.bundle / "card.md").read_text()
    with pytest.raises(UsageError, match="only for a reason"):
        releases.create(ctx, model.ref, skip=["load"])
    with pytest.raises(UsageError, match="did you mean 'parity'"):
        releases.create(ctx, model.ref, skip=["party"], why="a drill")


def test_a_token_makes_one_release_however_often_it_is_used(ctx: Context, model: ModelVersion) -> None:
    first = releases.create(ctx, model.ref, once="improvement-1", **CHEAP)
    assert releases.create(ctx, model.ref, once="improvement-1", **CHEAP) == first


def test_a_model_that_is_worse_than_the_champion_is_refused_and_its_evidence_kept(ctx: Context, model: ModelVersion, passed: Release) -> None:
    with ctx.catalog.read() as connection:
        good = runs.find(connection, model.run)
    assert good is not None
    worse = {"value": -0.05, "low": -0.07, "high": -0.03, "rows": 100}
    ours = next(row for row in good.board if row.name == "ensemble")
    board = [*good.board, msgspec.structs.replace(ours, name="champion")]
    bad = msgspec.structs.replace(good, id="worse", board=board, parameters={**good.parameters, "gain_over_champion": worse})
    with ctx.catalog.write() as connection:
        runs.insert(connection, bad)
    from kaizenml.registry import operations as registry

    candidate = registry.register(ctx, "worse")
    for _ in range(2):  # the second time from the record
        with pytest.raises(Refused, match="refused by champion") as caught:
            releases.create(ctx, candidate.ref, against=passed.ref, once="worse")
        assert caught.value.exit_code == 3
    kept = releases.show(ctx, caught.value.values["release"])
    assert (kept.state, [gate.name for gate in kept.failed]) == ("refused", ["champion"])
    assert "not run" in kept.gates[-1].summary
    assert not kept.gates[-1].passed
    assert releases.show(ctx, "clinic").state == "passed"  # a bare name means the newest that may be used
    assert "Refused by champion" in (ctx.state / kept.bundle / "card.md").read_text()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model/model.json", r"model/model\.json differs"),
        ("example.json", r"example\.json differs"),
        ("card.md", r"card\.md differs"),
        ("new", "new was added"),
    ],
)
def test_any_change_to_a_bundle_is_found_and_named(ctx: Context, passed: Release, tmp_path: Path, file: str, message: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(ctx.state / passed.bundle, copy)
    bundle.verify(copy)
    with (copy / file).open("ab") as opened:
        opened.write(b" ")
    with pytest.raises(Corrupt, match=message):
        bundle.verify(copy)


def test_a_manifest_that_was_rewritten_is_found_out(ctx: Context, model: ModelVersion) -> None:
    release = releases.create(ctx, model.ref, **CHEAP)
    folder = ctx.state / release.bundle
    whole = bundle.read(folder)
    path = folder / bundle.MANIFEST
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(whole, pins=msgspec.structs.replace(whole.pins, code="other"))))
    with pytest.raises(Corrupt, match="do not give its hash"):
        releases.verify(ctx, release.ref)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(whole, why="never said")))
    with pytest.raises(Corrupt, match="differs from what the catalog holds"):
        releases.verify(ctx, release.ref)
    path.write_bytes(b"{}")
    with pytest.raises(Corrupt, match="is not a release"):
        releases.verify(ctx, release.ref)
    shutil.rmtree(folder)
    with pytest.raises(NotFound, match="there is no release in"):
        releases.verify(ctx, release.ref)


def test_unknown_releases_are_met_with_the_nearest(ctx: Context, passed: Release) -> None:
    with pytest.raises(NotFound, match="did you mean 'clinic@1'"):
        releases.show(ctx, "clnic@1")


@pytest.mark.slow
def test_a_creation_killed_anywhere_can_be_repeated_and_makes_one_release(ctx: Context, model: ModelVersion) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from kaizenml.project import open_project
        from kaizenml.registry import files
        from kaizenml.releases import operations as releases
        root, model, moment = sys.argv[1:]
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
        settle = files.settle
        def settled(filled, final):
            settle(filled, final)
            die()
        if moment == "settled":
            files.settle = settled
        releases.create(open_project(root), model, once="killed", skip=["load"], why="drill", progress=lambda step, share: step == moment and die())
        """
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    before = len(releases.list(ctx))
    parent = ctx.state / "releases" / "clinic"
    for moment in ("parity", "settled"):
        done = subprocess.run([sys.executable, "-c", script, str(ctx.root), model.ref, moment], env=environment, check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(releases.list(ctx)) == before
    made = releases.create(ctx, model.ref, once="killed", **CHEAP)
    assert releases.create(ctx, model.ref, once="killed", **CHEAP) == made
    assert len(releases.list(ctx)) == before + 1
    assert releases.verify(ctx, made.ref) == made
    assert not list(parent.glob(".*"))
    with ctx.catalog.read() as connection:
        assert store.made_for(connection, "killed") == made
