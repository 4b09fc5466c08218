"""Rules from kaizen.toml to the snapshot: checked, recorded, and never in the way of anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kaizenml import events
from kaizenml.context import Context
from kaizenml.errors import InvalidSettings
from kaizenml.releases.release import Release
from kaizenml.rollouts import operations as rollouts
from kaizenml.rollouts import publishing, snapshot
from kaizenml.rollouts.rules import describe, of
from kaizenml.rollouts.snapshot import EndpointRoute, Rule
from kaizenml.settings import FallbackSettings, ProjectSettings, RouteSettings, Settings
from kaizenml.training import model_file
from kaizenml.training.model_file import ModelSpec, Naive, Segments

Make = Callable[..., Release]
PROJECT = '[project]\nname = "shop"\n'


def edit(ctx: Context, text: str) -> None:
    (ctx.root / "kaizen.toml").write_text(PROJECT + text)


def shop(ctx: Context) -> EndpointRoute:
    return snapshot.read(ctx.state / "serving" / snapshot.FILE).endpoints["shop"]


def recorded(ctx: Context) -> list[Any]:
    with ctx.catalog.read() as connection:
        found = [event for event in events.read(connection, kind="rollouts.") if event.kind.startswith("rollouts.rul")]
        return [(event.kind, event.subject, event.data.get("rules") or event.why) for event in found]


def test_an_edit_takes_effect_when_published_and_leaves_an_event(ctx: Context, release: Make) -> None:
    release(), release()
    rollouts.deploy(ctx, "shop", "shop@2")
    plain = (ctx.state / "serving" / snapshot.FILE).read_bytes()
    assert b'"format":1' in plain  # servers that know no rules go on reading it
    edit(ctx, "[[route]]\nwhen = \"price > 3\"\nanswer = \"shop@1\"\nexplore = 0.05\n[fallback]\noutside = 0.5\nanswer = \"refuse\"\n")
    rollouts.publish(ctx)
    route = shop(ctx)
    assert route.rules == [Rule(when="price > 3", answer="release", release="shop@1", explore=50), Rule(outside=0.5, answer="refuse")]
    assert [(other.release, other.bundle, other.lineage.model) for other in route.others] == [("shop@1", "releases/shop/1", "shop@1")]
    assert snapshot.read(ctx.state / "serving" / snapshot.FILE).format == 2
    rollouts.publish(ctx)  # nothing new: nothing is written
    told = ["price > 3: shop@1, explore 5 %", "outside what training saw, by more than 0.5: refuse"]
    assert recorded(ctx) == [("rollouts.ruled", "shop", told)]
    edit(ctx, "")
    rollouts.publish(ctx)
    assert (shop(ctx).rules, shop(ctx).others) == ([], [])
    assert len(recorded(ctx)) == 2


WRONG = [
    ('[[route]]\nwhen = "prise > 3"\n', ["[[route]] 1", "character 1", "'prise'", "did you mean 'price'?"]),
    ('[[route]]\nwhen = "price = 3"\n', ["character 7", "equality is '=='"]),
    ('[[route]]\nwhen = "price > 3"\nanswer = "shop@9"\n', ["no release 'shop@9'", "did you mean 'shop@"]),
    ('[[route]]\nwhen = "price > 3"\nanswer = "shop@2"\n', ["shop@2 was refused by its gates"]),
    ('[[route]]\nwhen = "price > 3"\nanswer = "shop@3"\n', ["shop@3 answers 'price'", "the champion 'returned'"]),
    ('[[route]]\nwhen = "price > 3"\nendpoint = "shp"\n', ["no endpoint 'shp'", "did you mean 'shop'?"]),
    ('[[route]]\nwhen = "price > 3"\nanswr = "naive"\n', ["answr", "did you mean 'answer'?"]),
    ("[fallback]\nconfidence = 7\n", ["7.0 is not a probability"]),
    ("[fallback\n", ["not TOML"]),
]


def test_rules_that_cannot_be_followed_leave_the_last_good_ones_in_force(ctx: Context, release: Make) -> None:
    release(), release(failed="parity"), release(target="price")
    rollouts.deploy(ctx, "shop", "shop@1")
    for number, (text, says) in enumerate(WRONG, 1):
        edit(ctx, f'[[route]]\nwhen = "price > {number}"\n')
        rollouts.publish(ctx)
        assert (shop(ctx).problem, [rule.when for rule in shop(ctx).rules]) == (None, [f"price > {number}"])
        edit(ctx, text)
        with pytest.raises(InvalidSettings) as caught:
            rollouts.publish(ctx)
        for word in says:
            assert word in caught.value.what
        assert "last good rules" in caught.value.remedy
        publishing.publish(ctx)
        assert [rule.when for rule in shop(ctx).rules] == [f"price > {number}"]
        # told once, not at every look
        assert [kind for kind, _, _ in recorded(ctx)] == ["rollouts.ruled", "rollouts.rules_refused"] * number
    assert rollouts.kill(ctx, "shop", why="wrong").killed == "wrong"
    assert (shop(ctx).killed, [rule.when for rule in shop(ctx).rules]) == ("wrong", [f"price > {len(WRONG)}"])


def test_a_release_whose_bytes_differ_answers_no_rule(ctx: Context, release: Make) -> None:
    release(), release()
    rollouts.deploy(ctx, "shop", "shop@2")
    path = ctx.state / "releases" / "shop" / "1" / "model" / "linear.json"
    path.write_bytes(path.read_bytes().replace(b"1.0", b"1.5"))
    edit(ctx, '[[route]]\nwhen = "price > 3"\nanswer = "shop@1"\n')
    with pytest.raises(InvalidSettings, match=r"model/linear\.json differs"):
        rollouts.publish(ctx)
    assert shop(ctx).rules == []


def test_an_endpoint_does_not_begin_with_rules_that_it_cannot_follow(ctx: Context, release: Make) -> None:
    release()
    edit(ctx, '[[route]]\nwhen = "prise > 3"\n')
    with pytest.raises(InvalidSettings, match="did you mean 'price'"):
        rollouts.deploy(ctx, "shop", "shop@1")
    edit(ctx, '[[route]]\nwhen = "price > 3"\n')
    rollouts.deploy(ctx, "shop", "shop@1")
    assert [rule.when for rule in shop(ctx).rules] == ["price > 3"]


def test_a_route_with_an_endpoint_is_only_its(ctx: Context, release: Make) -> None:
    release()
    rollouts.deploy(ctx, "shop", "shop@1")
    rollouts.deploy(ctx, "other", "shop@1")
    edit(ctx, '[[route]]\nwhen = "price > 3"\nendpoint = "other"\n')
    endpoints = rollouts.publish(ctx).endpoints
    assert (len(endpoints["shop"].rules), len(endpoints["other"].rules)) == (0, 1)


def test_a_rollback_reaches_any_release_that_ever_was_and_refuses_one_with_a_byte_changed(ctx: Context, release: Make) -> None:
    for number in range(1, 6):
        release()
        rollouts.deploy(ctx, "shop", f"shop@{number}")
    assert rollouts.rollback(ctx, "shop", to="shop@1").champion == "shop@1"
    assert shop(ctx).arms[0].bundle == "releases/shop/1"
    assert rollouts.rollback(ctx, "shop", to="shop@4").champion == "shop@4"  # forward again, though it is no place a rollback goes by itself
    for name in ("model/model.json", "model/linear.json", "release.json", "card.md"):
        path = ctx.state / "releases" / "shop" / "2" / name
        whole = path.read_bytes()
        middle = whole.find(b'"hash": "') + 20 if name == "release.json" else len(whole) // 2  # there, in what its fields say
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(Exception) as caught:  # noqa: PT011  (the kind is looked at next)
            rollouts.rollback(ctx, "shop", to="shop@2")
        assert getattr(caught.value, "code", None) == "corrupt", caught.value
        assert shop(ctx).arms[0].release == "shop@4"
        path.write_bytes(whole)
    assert rollouts.rollback(ctx, "shop", to="shop@2").champion == "shop@2"


def _spec(ctx: Context, made: Release, **more: Any) -> ModelSpec:
    spec = model_file.read(ctx.state / made.bundle / "model")
    return msgspec.structs.replace(spec, **more)


def _settings(*routes: RouteSettings, **fallback: Any) -> Settings:
    return Settings(project=ProjectSettings(name="shop"), route=list(routes), fallback=FallbackSettings(**fallback))


def test_answers_are_checked_against_the_model(ctx: Context, release: Make) -> None:
    spec = _spec(ctx, release(), segments=[Segments(column="price", answers={"1": Naive(value=True)})])

    def route(**more: Any) -> list[Rule]:
        return of(_settings(RouteSettings(when="price > 3", **more)), "shop", spec)

    assert route(by="price")[0].by == "price"
    assert route(answer="constant", value=True)[0].value is True
    for more, says in (
        ({"by": "prize"}, "did you mean 'price'"),
        ({"by": "price", "answer": "refuse"}, "only the naive answer"),
        ({"answer": "constant"}, "needs a value"),
        ({"value": True}, "value goes with answer = 'constant'"),
        ({"answer": "constant", "value": 1}, "1 is not a class"),
        ({"answer": "constant", "value": "Tru"}, "did you mean 'True'"),
        ({"answer": "naiv"}, "did you mean 'naive'"),
        ({"answer": "shop"}, "a release such as shop@1"),
        ({"explore": 0.33333}, "in steps of 0.001"),
        ({"explore": 1.0}, "in steps of 0.001"),
    ):
        with pytest.raises(InvalidSettings) as caught:
            route(**more)
        assert says in caught.value.what
    for fallback, says in (
        ({"answer": "refuse"}, "says how to answer, and not when"),
        ({"unknown": ["price"]}, "not an input with levels"),
        ({"outside": -1.0}, "is not a distance"),
        ({"outside": float("nan")}, "is not a distance"),
    ):
        with pytest.raises(InvalidSettings, match=says):
            of(_settings(**fallback), "shop", spec)
    number = msgspec.structs.replace(spec, signature=msgspec.structs.replace(spec.signature, task="regression", classes=[]))
    with pytest.raises(InvalidSettings, match="has none"):
        of(_settings(confidence=0.6), "shop", number)
    with pytest.raises(InvalidSettings, match="not a number"):
        of(_settings(RouteSettings(when="price > 3", answer="constant", value=True)), "shop", number)
    assert of(_settings(RouteSettings(when="price > 3", answer="constant", value=3)), "shop", number)[0].value == 3.0
    assert describe(of(_settings(unknown=True, confidence=0.6), "shop", spec)[0]) == "unknown level; confidence below 0.6: naive"
