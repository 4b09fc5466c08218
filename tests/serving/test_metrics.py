"""Metrics: what is counted, in which form, and that neither files nor labels grow beyond their bounds."""

from __future__ import annotations

import random
import re
import resource
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import serving_bundles as bundles
from in_process import running

from kaizenml.rollouts import snapshot
from kaizenml.serving.journaling.drain import drain
from kaizenml.serving.metrics import FAMILIES, Counters

ROOT = Path(__file__).resolve().parents[2]
GOOD = bundles.GOOD

SERIES = 'kaizen_requests_total{kind="predict",endpoint="shop",status="200"}'


def test_a_workers_file_has_all_its_room_from_the_start_and_is_continued(tmp_path):
    Counters(tmp_path, 0).add(SERIES, 2)
    (path,) = tmp_path.iterdir()
    about = path.stat()
    assert about.st_blocks * 512 >= about.st_size > 0  # a hole would be filled later, and without room end the process
    Counters(tmp_path, 1).add(SERIES, 5)
    again = Counters(tmp_path, 0)
    again.add(SERIES)
    assert f"{SERIES} 8\n" in again.render({})
    assert "kaizen_workers 2\n" in again.render({})


def test_counting_goes_on_where_the_disk_is_full(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # less than a file needs: said as a full disk is
    try:
        counters = Counters(tmp_path, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    counters.add(SERIES, 3)
    assert f"{SERIES} 3\n" in counters.render({})
    assert list(tmp_path.iterdir()) == []


def test_a_gauge_of_a_worker_that_died_begins_at_nothing_and_its_counters_go_on(tmp_path):
    before = Counters(tmp_path, 0)
    before.add("kaizen_requests_in_flight", 3)
    before.add(SERIES, 3)
    text = Counters(tmp_path, 0).render({})
    assert "kaizen_requests_in_flight 0\n" in text
    assert f"{SERIES} 3\n" in text


def test_series_without_room_are_told_and_disturb_nothing(tmp_path):
    counters = Counters(tmp_path, 0)
    for number in range(9000):
        counters.add(f'kaizen_requests_total{{kind="other",endpoint="e{number}",status="200"}}')
    text = counters.render({})
    assert "kaizen_series_left 0\n" in text
    assert text.count("kaizen_requests_total{") == 8191
    assert 'endpoint="e0",status="200"} 1\n' in text


def test_the_page_lists_every_metric_as_it_is_and_no_other():
    page = (ROOT / "docs/how-to/watch-it.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \|$", page, re.MULTILINE) == [(name, *about) for name, about in FAMILIES.items()]
    assert set(re.findall(r"\bkaizen_\w+", page)) <= {*FAMILIES, "kaizen_predict_seconds_bucket"}


UNSEEN = {  # here: a log that is off, a snapshot without a date, no sockets, and nothing that was refused or left out
    "kaizen_access_log_dropped_total", "kaizen_snapshot_age_seconds", "kaizen_connections_ended_total", "kaizen_connections_paused_total",
    "kaizen_refused_total", "kaizen_unjournaled_total",
}  # fmt: skip


def _parsed(text: str):
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed: ./x setup")
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def _deployed(state):
    first, second = bundles.write_bundle(state), bundles.write_bundle(state, number=2, seed=1)
    shadow = msgspec.structs.replace(bundles.write_bundle(state, number=3, seed=2), arm="shadow")
    challenger = msgspec.structs.replace(second, weight=300, slots=[(0, 300)])
    bundles.route(state, first, challenger, shadows=[shadow])


def test_prometheus_reads_what_is_told_and_finds_every_metric_of_the_list(ctx):
    _deployed(ctx.state)
    with running(ctx.state) as ask:
        for number in range(20):
            assert ask("POST", "/predict/shop", {"inputs": [GOOD, GOOD], "unit": f"u{number}"}).status == 200
        ask("POST", "/predict/shop", {"inputs": [{}]})
        ask("POST", "/v2/models/shop/infer", {"inputs": []})
        ask("POST", "/outcomes/shop", {"outcomes": [{"id": "x", "value": True}]})
        while ask.app.engine.shadows:
            ask.app.engine.shadows.run_some()
        text = ask("GET", "/metrics").body.decode()
        families = _parsed(text)
        waiting = families["kaizen_journal_waiting_bytes"].samples[0].value
        drain(ctx)
        drained = _parsed(ask("GET", "/metrics").body.decode())
    for name, (kind, told) in FAMILIES.items():
        family = families[name.removesuffix("_total")]
        assert (family.type, family.documentation) == (kind, told)
        if name not in UNSEEN:
            assert family.samples, name
    rows = {tuple(sorted(sample.labels.items())): sample.value for sample in families["kaizen_predictions"].samples}
    assert sum(rows.values()) == 40
    assert {(dict(labels)["release"], dict(labels)["arm"]) for labels in rows} == {("shop@1", "champion"), ("shop@2", "challenger-1")}
    errors = {(s.labels["kind"], s.labels["endpoint"], s.labels["code"]): s.value for s in families["kaizen_errors"].samples}
    assert errors == {("predict", "shop", "invalid_input"): 2}
    counts = {sample.labels["release"]: sample.value for sample in families["kaizen_predict_seconds"].samples if sample.name.endswith("_count")}
    assert sum(counts.values()) == 20
    assert families["kaizen_requests_in_flight"].samples[0].value == 1  # the one that asks
    assert waiting > 20 * 100
    assert drained["kaizen_journal_waiting_bytes"].samples[0].value == drained["kaizen_journal_age_seconds"].samples[0].value == 0


def test_the_age_of_the_journals_oldest_record_and_of_the_snapshot_are_told(tmp_path):
    _deployed(tmp_path)
    path = tmp_path / "serving" / snapshot.FILE
    with running(tmp_path) as ask:
        now = ask.app._clock.timestamp()
        snapshot.write(path, msgspec.structs.replace(snapshot.read(path), revision=2, written_at=now - 90))
        ask._runner.run(ask.app.watcher._look())
        ask("POST", "/predict/shop", {"inputs": [GOOD]})
        families = _parsed(ask("GET", "/metrics").body.decode())
    assert 90 <= families["kaizen_snapshot_age_seconds"].samples[0].value < 120
    assert 0 < families["kaizen_journal_age_seconds"].samples[0].value < 30


@pytest.mark.slow
def test_labels_stay_bounded_whatever_is_asked_for(tmp_path):
    _deployed(tmp_path)
    dice = random.Random(7)
    heads = ["/predict/", "/outcomes/", "/v2/models/", "/endpoints/", "/v2/repository/models/", "/"]
    tails = ["", "/infer", "/invocations", "/ready", "/versions/{}/infer", "/load", "/{}"]
    seen = Counter()
    with running(tmp_path) as ask:
        for number in range(4000):
            name = dice.choice([f"e{number}", f'"}}\n{number}', f"é{number}", "shop", f"shop{number}", f"%00{number}", "x" * dice.randrange(1, 3000)])
            path = dice.choice(heads) + name + dice.choice(tails).format(number)
            method = dice.choice(["GET", "POST", "POST", "DELETE", f"M{number}"])
            more = {"x-kaizen-arm": f"arm-{number}"} if dice.random() < 0.5 else {"x-amzn-sagemaker-target-variant": f"v{number}"}
            seen[ask(method, path, {"inputs": [GOOD | {f"k{number}": 1}], "unit": f"u{number}"}, **more).status] += 1
        text = ask("GET", "/metrics").body.decode()
    assert seen[500] == 0
    assert seen[404] > 500
    labels = {name: set(re.findall(rf'\b{name}="([^"]*)"', text)) for name in ("endpoint", "release", "arm", "kind", "code", "status")}
    assert labels["endpoint"] <= {"", "shop"}
    assert labels["release"] <= {"shop@1", "shop@2", "shop@3"}
    assert labels["arm"] <= {"champion", "challenger-1", "shadow"}
    assert labels["kind"] <= {"predict", "outcomes", "other"}
    assert len(labels["code"] | labels["status"]) < 20
    assert len(text.splitlines()) < 200
    _parsed(text)
