"""Arms, shadows, kill, fallback and hot swap, as clients of a running server see them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import serving_bundles as bundles

from kaizenml.adapters.online import open_online
from kaizenml.clock import SimulatedClock
from kaizenml.errors import InvalidInput, NotFound, StorageFull, Unavailable
from kaizenml.features.online import taking
from kaizenml.features.online.buffer import buffer_of
from kaizenml.features.view import FeatureView
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.assign import choose
from kaizenml.serving.client import Client
from kaizenml.serving.journaling import predictions
from kaizenml.serving.journaling.drain import drain
from kaizenml.training import model_file

GOOD = bundles.GOOD


def _until(true: Callable[[], bool], seconds: float = 10.0) -> float:
    begun = time.monotonic()
    while not true():
        assert time.monotonic() < begun + seconds, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - begun


@pytest.mark.slow
def test_nothing_is_deployed_then_something_is_then_it_is_killed_and_revived(ctx):
    state = ctx.state
    with bundles.served("--state", str(state), log=state / "log") as (_, url), Client(url) as client:
        with pytest.raises(Unavailable):
            client.ready()
        with pytest.raises(NotFound, match="there is none yet"):
            client.predict("shop", [GOOD])
        first, second = bundles.write_bundle(state), bundles.write_bundle(state, number=2, seed=1)

        bundles.route(state, first)
        assert _until(lambda: client.ready()["revision"] == 1 if _is_ready(client) else False) < 3
        before = client.predict("shop", [GOOD])

        bundles.route(state, second, revision=2)
        assert _until(lambda: client.predict("shop", [GOOD])["release"] == "shop@2") < 3
        assert client.predict("shop", [GOOD])["predictions"][0]["probabilities"] != before["predictions"][0]["probabilities"]

        bundles.route(state, second, revision=3, killed="it discriminates", shadows=[msgspec.structs.replace(first, arm="shadow")])
        assert _until(lambda: client.predict("shop", [GOOD])["predictions"][0]["decided_by"] == "kill") < 3
        said = client.predict("shop", [GOOD])["predictions"][0]
        assert (said["value"], said["probabilities"], said["reason"]) == (False, [0.5, 0.5], "it discriminates")

        bundles.route(state, second, revision=4)
        _until(lambda: client.predict("shop", [GOOD])["predictions"][0]["decided_by"] == "model")

        broken = bundles.write_bundle(state, number=3)
        (state / broken.bundle / "model" / "m.txt").write_bytes(b"tree\nbroken")
        bundles.route(state, broken, revision=5)
        _until(lambda: bool(client.ready()["problems"]))
        assert "stays at revision 4" in client.ready()["problems"][0]
        assert client.predict("shop", [GOOD])["release"] == "shop@2"

        (state / "serving" / snapshot.FILE).write_bytes(b"{half")
        _until(lambda: "cannot be read" in client.ready()["problems"][0])
        assert client.predict("shop", [GOOD])["release"] == "shop@2"

        bundles.route(state, first, revision=6)
        _until(lambda: client.predict("shop", [GOOD])["release"] == "shop@1")
        assert client.ready()["problems"] == []
    drain(ctx)
    table = predictions.read(ctx, "shop")
    shadows = [row for row in table.to_pylist() if row["role"] == "shadow"]
    killed = [row for row in table.to_pylist() if row["decided_by"] == "kill"]
    # whoever watches a killed endpoint wants to see what the shadow says meanwhile
    assert {row["id"] for row in shadows} == {row["id"] for row in killed}
    assert all(row["decided_by"] == "model" for row in shadows)


def _is_ready(client: Client) -> bool:
    try:
        return bool(client.ready()["ready"])
    except Unavailable:
        return False


@pytest.mark.slow
def test_arms_are_sticky_follow_the_rule_and_run_as_each_others_shadows(ctx):
    state = ctx.state
    champion = bundles.write_bundle(state)
    challenger = msgspec.structs.replace(bundles.write_bundle(state, number=2, seed=1), weight=300)
    bundles.route(state, champion, challenger)
    units = [f"unit-{n}" for n in range(200)]
    endpoint = snapshot.read(state / "serving" / snapshot.FILE).endpoints["shop"]
    with bundles.served("--state", str(state), "--workers", "2", log=state / "log") as (_, url):
        for _ in range(2):  # another connection, perhaps another worker: the same arms
            with Client(url) as client:
                arms = {unit: client.predict("shop", [GOOD], unit=unit)["predictions"][0]["arm"] for unit in units}
            assert arms == {unit: endpoint.arms[choose(endpoint, unit)].arm for unit in units}
        with Client(url) as client:
            by_column = client.predict("shop", [{**GOOD, "customer": units[0]}])["predictions"][0]["arm"]
        assert by_column == arms[units[0]]
    share = Counter(arms.values())["challenger-1"] / len(units)
    assert 0.15 < share < 0.45
    drain(ctx)
    rows = predictions.read(ctx, "shop").to_pylist()
    live = {row["id"]: row for row in rows if row["role"] == "live"}
    shadow = {row["id"]: row for row in rows if row["role"] == "shadow"}
    assert live.keys() == shadow.keys()
    assert all({live[i]["release"], shadow[i]["release"]} == {"shop@1", "shop@2"} for i in live)
    assert all(live[i]["score"] != shadow[i]["score"] for i in live)


@pytest.mark.slow
def test_features_come_from_the_online_store_within_their_time(ctx, tmp_path):
    state = ctx.state
    bundles.route(state, bundles.write_bundle(state, view=True))
    clock = SimulatedClock(tmp_path / "clock", datetime(2026, 3, 1, 12, tzinfo=UTC))
    ctx.online.write("weather.v1", [("JFK", clock.timestamp() - 60, {"temp": 2.5})])
    with bundles.served("--state", str(state), env={"KAIZEN_CLOCK": str(clock.path)}, log=state / "log") as (_, url), Client(url) as client:

        def score(**more: object) -> float:
            return float(client.predict("shop", [{**GOOD, **more}])["predictions"][0]["probabilities"][1])

        looked_up, given, missing = score(place="JFK"), score(place="JFK", weather_temp=2.5), score(place="LGA")
        assert looked_up == given != missing
        assert score(place="JFK", weather_temp=-2.5) != looked_up  # what the request says wins
        assert score(place=None) == missing
        with pytest.raises(InvalidInput, match="place is absent"):
            score()
        assert score(place="JFK", weather_temp=None) == missing
        ctx.online.write("weather.v1", [("JFK", clock.timestamp(), {"temp": -2.5})])
        assert score(place="JFK") == score(weather_temp=-2.5, place=None)
        clock.advance(timedelta(hours=2))
        assert score(place="JFK") == missing  # older than the view allows
        clock.advance(timedelta(hours=-1))
        told = client.predict("shop", [GOOD | {"place": place} for place in ("JFK", "LGA", None)])["features"]
        assert told == {"weather": {"age_s": 3600.0, "missing": 2, "stale": 0}}
        clock.advance(timedelta(seconds=1))
        assert client.predict("shop", [GOOD | {"place": "JFK"}])["features"] == {"weather": {"age_s": None, "missing": 0, "stale": 1}}
    drain(ctx)
    table = predictions.read(ctx, "shop", columns=["x_weather_temp", "x_place", "day", "at_weather"])
    assert table["x_weather_temp"].to_pylist()[:3] == [2.5, 2.5, None]
    begun = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert table["at_weather"].to_pylist()[:3] == [begun - timedelta(seconds=60), begun - timedelta(seconds=60), None]
    assert table["at_weather"].to_pylist()[-4:] == [begun, None, None, begun]
    assert set(table["day"].to_pylist()) == {"2026-03-01"}


@pytest.mark.slow
def test_workers_read_the_server_that_the_settings_name_and_connect_again(ctx, redis, tmp_path):
    pytest.importorskip("redis", reason="the client for Redis is not installed: pip install 'kaizenml[redis]'")
    state = ctx.state
    bundles.route(state, bundles.write_bundle(state, view=True))
    clock = SimulatedClock(tmp_path / "clock", datetime(2026, 3, 1, 12, tzinfo=UTC))
    store = open_online(redis, state, ctx.settings.project.name)
    store.write("weather.v1", [("JFK", clock.timestamp() - 60, {"temp": 2.5})])
    environ = {"KAIZEN_CLOCK": str(clock.path), "KAIZEN_PROJECT_ONLINE": redis}
    with bundles.served("--state", str(state), env=environ, log=state / "log") as (_, url), Client(url) as client:

        def said(**more: object) -> dict[str, Any]:
            return client.predict("shop", [{**GOOD, **more}])["predictions"][0]

        assert said(place="JFK")["probabilities"] == said(place=None, weather_temp=2.5)["probabilities"] != said(place="LGA")["probabilities"]
        store._redis.client_kill_filter(_type="normal", skipme=True)  # as after a restart of the server: the next request opens a new connection
        assert said(place="JFK")["decided_by"] == "model"
    store.close()


@pytest.mark.slow
def test_a_store_that_fails_makes_the_answer_naive_and_says_why(ctx):
    state = ctx.state
    bundles.route(state, bundles.write_bundle(state, view=True))
    ctx.online.close()
    for path in state.glob("online.db*"):
        path.unlink()
    (state / "online.db").write_bytes(b"this is not a database" * 100)
    with bundles.served("--state", str(state), log=state / "log") as (_, url), Client(url) as client:
        said = client.predict("shop", [{**GOOD, "place": "JFK"}])["predictions"][0]
        assert (said["decided_by"], said["probabilities"]) == ("fallback", [0.5, 0.5])
        assert "damaged" in said["reason"]


@pytest.mark.slow
def test_a_challenger_that_is_gone_leaves_the_champion_alone_and_a_gone_champion_is_unavailable(ctx):
    state = ctx.state
    champion = bundles.write_bundle(state)
    challenger = msgspec.structs.replace(bundles.write_bundle(state, number=2), weight=500)
    shutil.rmtree(state / challenger.bundle)
    bundles.route(state, champion, challenger)
    with bundles.served("--state", str(state), log=state / "log") as (_, url), Client(url) as client:
        assert {client.predict("shop", [GOOD], unit=str(n))["release"] for n in range(20)} == {"shop@1"}
        assert "shop@2 does not load" in client.ready()["problems"][0]
    (state / champion.bundle / "model" / "m.txt").unlink()
    with bundles.served("--state", str(state), log=state / "log") as (_, url), Client(url) as client:
        assert client.predict("shop", [GOOD])["predictions"][0]["decided_by"] == "fallback"  # what it would say without a model is known
    shutil.rmtree(state / champion.bundle)
    with (
        bundles.served("--state", str(state), log=state / "log") as (_, url),
        Client(url) as client,
        pytest.raises(Unavailable, match="cannot answer"),
    ):
        client.predict("shop", [GOOD])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_single_bundle_is_served_without_a_project(tmp_path, task):
    route = bundles.write_bundle(tmp_path, task=task)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    served = bundles.served("--bundle", str(tmp_path / route.bundle), env={"TMPDIR": str(scratch)}, log=tmp_path / "log")
    with served as (process, url), Client(url) as client:
        answer = client.predict("release", [GOOD, GOOD])
        assert answer["release"] == "shop@1"
        said = answer["predictions"][1]
        if task == "regression":
            assert isinstance(said["value"], float)
            assert said["probabilities"] is None
        else:
            assert said["value"] == answer["classes"][said["probabilities"].index(max(said["probabilities"]))]
        assert process.poll() is None
        assert [path.name[:14] for path in scratch.iterdir()] == ["kaizen-bundle-"]
    assert (process.returncode, list(scratch.iterdir())) == (0, [])


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_is_answered_without_its_record(ctx):
    state = ctx.state
    bundles.route(state, bundles.write_bundle(state))
    command = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
    )
    command += "from kaizenml.serving.__main__ import main; sys.exit(main(sys.argv[1:]))"
    with (state / "log").open("ab") as log:
        arguments = [sys.executable, "-c", command, "--bundle", str(state / "releases/shop/1"), "--state", str(state), "--port", "0"]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log)
    answered, refused = [], 0
    try:
        with Client(bundles.address(process)) as client:
            for _ in range(40):
                try:
                    answered.append(client.predict("release", [GOOD] * 100)["predictions"][0]["id"])
                except StorageFull:
                    refused += 1
    finally:
        process.terminate()
        process.communicate()
    assert refused
    assert answered
    drain(ctx)
    assert set(answered) <= set(predictions.read(ctx, "release", columns=["id"])["id"].to_pylist())
    assert predictions.read(ctx, "release", columns=["id"]).num_rows == len(answered) * 100


@pytest.mark.slow
def test_features_are_pushed_to_the_server_and_looked_up_by_the_next_request(ctx, tmp_path):
    state = ctx.state
    view = FeatureView(name="weather", dataset="weather", entity="place", columns=["temp"], at="at", ttl_s=3600.0)
    route = bundles.write_bundle(state, view=True)
    bundles.route(state, route)
    spec = model_file.read(state / route.bundle / "model")
    use = msgspec.structs.replace(spec.signature.views[0], version=view.version)
    model_file.write(state / route.bundle / "model", msgspec.structs.replace(spec, signature=msgspec.structs.replace(spec.signature, views=[use])))
    clock = SimulatedClock(tmp_path / "clock", datetime(2026, 3, 1, 12, tzinfo=UTC))

    def row(place: str, temp: object) -> dict[str, Any]:
        return {"place": place, "at": "2026-03-01T11:59:00Z", "temp": temp}

    with bundles.served("--state", str(state), env={"KAIZEN_CLOCK": str(clock.path)}, log=state / "log") as (_, url), Client(url) as client:
        with pytest.raises(NotFound, match="no feature view 'weather'"):
            client.push("weather", [row("JFK", 2.5)])
        taking.publish(state, taking.Kept(views=[taking.Known(view=view, kinds={"place": "category", "temp": "number", "at": "timestamp"})]))
        assert client.push("weather", [row("JFK", 2.5), row("LGA", None)])["kept"] == 2
        assert client.push("weather", [row("JFK", 2.5) | {"at": "2026-03-01T11:00:00Z"}])["late"] == 1
        with pytest.raises(InvalidInput, match=r"rows\[0\].temp: 'hot' is not a number"):
            client.push("weather", [row("JFK", "hot")])
        with pytest.raises(NotFound, match="did you mean 'weather'"):
            client.push("wether", [row("JFK", 2.5)])
        looked_up, given = (client.predict("shop", [GOOD | more]) for more in ({"place": "JFK"}, {"place": None, "weather_temp": 2.5}))
        assert looked_up["predictions"][0]["probabilities"] == given["predictions"][0]["probabilities"]
        assert looked_up["features"] == {"weather": {"age_s": 60.0, "missing": 0, "stale": 0}}
    assert buffer_of(state).waiting(view.ref) == 3
    buffer_of(state).close()
