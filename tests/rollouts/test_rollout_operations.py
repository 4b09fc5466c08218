from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from kaizenml import events
from kaizenml.context import Context
from kaizenml.errors import Conflict, Corrupt, NotFound, Refused
from kaizenml.releases.release import Release
from kaizenml.rollouts import operations as rollouts
from kaizenml.rollouts import snapshot

Make = Callable[..., Release]


def standing(ctx: Context) -> snapshot.Snapshot:
    return snapshot.read(ctx.state / "serving" / snapshot.FILE)


def kinds(ctx: Context) -> list[tuple[str, object]]:
    with ctx.catalog.read() as connection:
        return [(event.kind, event.data.get("release")) for event in events.read(connection, kind="rollouts.")]


def test_the_first_deployment_makes_the_endpoint_and_publishes_it(ctx: Context, release: Make) -> None:
    release()
    now = rollouts.deploy(ctx, "shop", "shop@1", why="first")
    assert (now.champion, now.revision, now.state) == ("shop@1", 1, "steady")
    route = standing(ctx).endpoints["shop"]
    assert [(arm.release, arm.weight, arm.bundle) for arm in route.arms] == [("shop@1", 1000, "releases/shop/1")]
    assert route.arms[0].lineage.data == "orders@1"
    assert kinds(ctx) == [("rollouts.deployed", "shop@1")]


def test_a_trial_from_challenge_to_promotion_and_back(ctx: Context, release: Make) -> None:
    for _ in range(3):
        release()
    rollouts.deploy(ctx, "shop", "shop@1")
    rollouts.challenge(ctx, "shop", "shop@2", weight=0.05)
    rollouts.challenge(ctx, "shop", "shop@3", weight=0.1)
    route = standing(ctx).endpoints["shop"]
    assert [(arm.arm, arm.weight) for arm in route.arms] == [("champion", 850), ("challenger-1", 50), ("challenger-2", 100)]
    assert route.paired
    rollouts.challenge(ctx, "shop", "shop@2", weight=0.2)
    assert rollouts.promote(ctx, "shop", "shop@2", why="better").champion == "shop@2"
    back = rollouts.rollback(ctx, "shop", why="worse after all")
    assert (back.champion, back.challengers, back.previous) == ("shop@1", [], [])
    assert not standing(ctx).endpoints["shop"].paired
    assert kinds(ctx) == [
        ("rollouts.deployed", "shop@1"),
        ("rollouts.challenged", "shop@2"),
        ("rollouts.challenged", "shop@3"),
        ("rollouts.reweighted", "shop@2"),
        ("rollouts.promoted", "shop@2"),
        ("rollouts.rolled_back", "shop@1"),
        ("rollouts.withdrawn", "shop@3"),
    ]
    newest = rollouts.history(ctx, "shop", limit=2)
    assert [(change.verb, change.why) for change in newest] == [("rolled_back", "worse after all"), ("promoted", "better")]


def test_killing_and_reviving_reach_the_snapshot(ctx: Context, release: Make) -> None:
    release()
    rollouts.deploy(ctx, "shop", "shop@1")
    rollouts.kill(ctx, "shop", why="wrong prices")
    assert standing(ctx).endpoints["shop"].killed == "wrong prices"
    rollouts.kill(ctx, "shop")  # in an emergency, twice is no mistake
    rollouts.revive(ctx, "shop")
    assert standing(ctx).endpoints["shop"].killed is None
    with pytest.raises(Conflict, match="is not killed"):
        rollouts.revive(ctx, "shop")


def test_a_shadow_answers_each_row_once_whatever_else_it_is(ctx: Context, release: Make) -> None:
    def shadows() -> list[str]:
        return [route.release for route in standing(ctx).endpoints["shop"].shadows]

    release(), release()
    rollouts.deploy(ctx, "shop", "shop@1")
    rollouts.shadow(ctx, "shop", "shop@1")
    assert shadows() == []  # as champion it answers
    rollouts.kill(ctx, "shop")
    assert shadows() == ["shop@1"]  # nobody's model answers; the yardstick goes on
    rollouts.revive(ctx, "shop")
    rollouts.deploy(ctx, "shop", "shop@2")
    assert shadows() == ["shop@1"]
    rollouts.challenge(ctx, "shop", "shop@1", weight=0.1)
    assert shadows() == []  # it answers its share, and is paired with the champion on the rest
    assert rollouts.show(ctx, "shop").shadows == ["shop@1"]
    rollouts.withdraw(ctx, "shop", "shop@1")
    assert shadows() == ["shop@1"]
    rollouts.unshadow(ctx, "shop", "shop@1")
    assert shadows() == []


def test_a_refused_release_gets_no_traffic_and_the_gate_is_named(ctx: Context, release: Make) -> None:
    release(), release(failed="parity")
    with pytest.raises(Refused, match="refused by parity: parity said no"):
        rollouts.deploy(ctx, "shop", "shop@2")
    rollouts.deploy(ctx, "shop", "shop@1")
    for change in (rollouts.challenge, rollouts.deploy, rollouts.shadow):
        with pytest.raises(Refused):
            change(ctx, "shop", "shop@2")
    with pytest.raises(Refused):
        rollouts.rollback(ctx, "shop", to="shop@2")
    assert rollouts.show(ctx, "shop").revision == 1


def test_a_bundle_that_was_changed_gets_no_traffic(ctx: Context, release: Make) -> None:
    release(), release()
    rollouts.deploy(ctx, "shop", "shop@1")
    path = ctx.state / "releases" / "shop" / "2" / "model" / "linear.json"
    path.write_bytes(path.read_bytes().replace(b"1.0", b"1.5"))
    with pytest.raises(Corrupt, match=r"model/linear\.json differs"):
        rollouts.challenge(ctx, "shop", "shop@2")


def test_an_endpoint_keeps_answering_the_same_question(ctx: Context, release: Make) -> None:
    release(), release(target="price")
    rollouts.deploy(ctx, "shop", "shop@1")
    with pytest.raises(Conflict, match="answers 'price'"):
        rollouts.deploy(ctx, "shop", "shop@2")


def test_unknown_names_are_met_with_the_nearest_right_one(ctx: Context, release: Make) -> None:
    release()
    with pytest.raises(NotFound, match="kaizen rollouts deploy NAME RELEASE"):
        rollouts.kill(ctx, "shop")
    rollouts.deploy(ctx, "shop", "shop@1")
    with pytest.raises(NotFound, match="did you mean 'shop'"):
        rollouts.kill(ctx, "shp")
    with pytest.raises(NotFound, match="did you mean 'shop@1'"):
        rollouts.challenge(ctx, "shop", "shop@7")


def test_a_change_of_a_revision_that_has_passed_is_refused(ctx: Context, release: Make) -> None:
    release(), release()
    rollouts.deploy(ctx, "shop", "shop@1")
    rollouts.kill(ctx, "shop")
    with pytest.raises(Conflict, match="at revision 2, not 1"):
        rollouts.challenge(ctx, "shop", "shop@2", revision=1)
    assert rollouts.challenge(ctx, "shop", "shop@2", revision=2).revision == 3


def test_publishing_mends_what_is_lost_or_damaged_and_else_writes_nothing(ctx: Context, release: Make) -> None:
    release()
    rollouts.deploy(ctx, "shop", "shop@1")
    path = ctx.state / "serving" / snapshot.FILE
    before = path.stat()
    rollouts.publish(ctx)
    assert path.stat().st_ino == before.st_ino
    for damage in (path.unlink, lambda: path.write_bytes(b"{half")):
        damage()
        assert rollouts.publish(ctx).revision == 1
        assert standing(ctx).endpoints["shop"].arms[0].release == "shop@1"


def test_an_event_and_its_change_stand_or_fall_together(ctx: Context, release: Make) -> None:
    release(), release()
    rollouts.deploy(ctx, "shop", "shop@1")
    with pytest.raises(Conflict):
        rollouts.promote(ctx, "shop", "shop@2")
    assert len(kinds(ctx)) == 1
    assert rollouts.show(ctx, "shop").revision == 1


@pytest.mark.slow
def test_publishers_of_several_processes_never_take_the_snapshot_back(ctx: Context, release: Make) -> None:
    release()
    rollouts.deploy(ctx, "shop", "shop@1")
    script = textwrap.dedent(
        """
        import sys
        from kaizenml.project import open_project
        from kaizenml.rollouts import operations as rollouts
        ctx = open_project(sys.argv[1])
        for number in range(15):
            rollouts.kill(ctx, "shop", why=f"{sys.argv[2]}-{number}")
        """
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, str(ctx.root), str(name)]) for name in range(3)]
    seen = [standing(ctx).revision]
    while any(worker.poll() is None for worker in workers):
        seen.append(standing(ctx).revision)
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert seen == sorted(seen)
    assert standing(ctx).revision == rollouts.show(ctx, "shop").revision == 46
