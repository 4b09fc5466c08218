"""Rules decide row by row who answers: what is answered, journaled and counted then. One engine, no sockets."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import serving_bundles as bundles
from deltalake import DeltaTable

from kaizenml.errors import InvalidInput, Refused
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.snapshot import EndpointRoute, Route, Rule, Snapshot
from kaizenml.serving.deciding import decide
from kaizenml.serving.dialects import tables
from kaizenml.serving.dialects.call import Call
from kaizenml.serving.dialects.invocations import Invocations
from kaizenml.serving.dialects.oip import OpenInference
from kaizenml.serving.engine import Engine
from kaizenml.serving.journaling import predictions
from kaizenml.serving.journaling.drain import _decode, drain
from kaizenml.serving.protocol import Limits, PredictRequest
from kaizenml.serving.routing import Routing, load
from kaizenml.serving.worker import build
from kaizenml.settings import ServeSettings
from kaizenml.training import model_file
from kaizenml.training.model_file import Naive, Segments

GOOD = bundles.GOOD
SEEN = {"price": (-2.0, 4.0), "count": (0.0, 10.0)}


def known(ctx, number: int = 1, *, task: str = "binary", seed: int = 0, **more: Any) -> Route:
    """Write a bundle that knows what its training saw, and what is usual by size."""
    route = bundles.write_bundle(ctx.state, number=number, task=task, seed=seed, **more)
    folder = ctx.state / route.bundle / "model"
    spec = model_file.read(folder)
    fields = [
        msgspec.structs.replace(field, nullable=field.name not in ("count", "gift"))
        if field.name not in SEEN
        else msgspec.structs.replace(field, minimum=SEEN[field.name][0], maximum=SEEN[field.name][1], nullable=field.name != "count")
        for field in spec.signature.fields
    ]
    usual = Segments(column="size", answers={"L": Naive(value=True, probabilities=[0.2, 0.8])})
    spec = msgspec.structs.replace(spec, signature=msgspec.structs.replace(spec.signature, fields=fields), segments=[usual])
    model_file.write(folder, spec)
    return route


def engine(ctx, rules: list[Rule], *arms: Route, current: Routing | None = None, **more: Any) -> Engine:
    """Return an engine that serves the arms by the rules."""
    champion, *others = arms
    left = 1000 - sum(other.weight for other in others)
    routes = [msgspec.structs.replace(champion, weight=left), *(msgspec.structs.replace(other, arm="challenger-1") for other in others)]
    endpoint = EndpointRoute(endpoint="shop", revision=1, arms=routes, paired=bool(others), rules=rules, **more)
    found = Snapshot(format=2, revision=1, written_at=0.0, endpoints={"shop": endpoint})
    app = build(ctx.state, ServeSettings(), fixed=found)
    app.engine.routing = load(ctx.state, found, current or Routing())
    return app.engine


def ask(engine: Engine, *rows: dict[str, Any], unit: str | None = None) -> list[dict[str, Any]]:
    body = {"inputs": list(rows)} | ({"unit": unit} if unit else {})
    return list(json.loads(engine.predict("shop", json.dumps(body).encode()))["predictions"])


def drained(ctx) -> list[dict[str, Any]]:
    drain(ctx)
    return predictions.read(ctx, "shop").to_pylist()


def plain(engine: Engine, *rows: dict[str, Any]) -> list[list[float]]:
    """What the champion's model says by itself."""
    model = engine.routing.endpoints["shop"].arms[0].model
    assert model is not None
    return [list(p.probabilities or []) for p in model.answer(list(rows))]


def test_a_segment_is_answered_naively_and_the_rows_beside_it_by_the_model(ctx):
    served = engine(ctx, [Rule(when="size == 'L' and price > 1"), Rule(when="size == 'S'", by="size")], known(ctx))
    rows = [GOOD, {**GOOD, "size": "L"}, {**GOOD, "size": "L", "price": 0.5}, {**GOOD, "size": "S"}]
    said = ask(served, *rows)
    assert [(one["decided_by"], one["reason"]) for one in said] == [
        ("model", None),
        ("fallback", "naive answer: size == 'L' and price > 1"),
        ("model", None),
        ("fallback", "naive answer (size has none of its own): size == 'S'"),
    ]
    assert said[1]["probabilities"] == [0.5, 0.5]
    assert [said[0]["probabilities"], said[2]["probabilities"]] == plain(served, rows[0], rows[2])
    assert all("release" not in one for one in said)
    metrics = served._counters.render({})
    assert 'decided_by="model"} 2' in metrics
    assert 'decided_by="fallback"} 2' in metrics
    kept = drained(ctx)
    assert [(row["decided_by"], row["reason"], row["propensity"], row["release"]) for row in kept] == [
        (one["decided_by"], one["reason"], None, "shop@1") for one in said
    ]


def test_a_segment_has_its_own_naive_answer_and_a_constant_has_no_probabilities(ctx):
    served = engine(ctx, [Rule(when="size == 'L'", by="size"), Rule(when="size == 'S'", answer="constant", value=True)], known(ctx))
    large, small = ask(served, {**GOOD, "size": "L"}, {**GOOD, "size": "S"})
    assert (large["value"], large["probabilities"], large["reason"]) == (True, [0.2, 0.8], "naive answer by size: size == 'L'")
    assert (small["value"], small["probabilities"], small["reason"]) == (True, None, "constant answer: size == 'S'")
    assert [(row["value"], row["score"]) for row in drained(ctx)] == [("true", 0.8), ("true", None)]


def test_a_refused_row_has_no_value_and_says_why(ctx):
    served = engine(ctx, [Rule(when="gift == false", answer="refuse")], known(ctx))
    said = ask(served, {**GOOD, "gift": False})[0]
    assert (said["value"], said["probabilities"], said["decided_by"], said["reason"]) == (None, None, "fallback", "refused: gift == false")
    assert [(row["value"], row["score"], row["decided_by"]) for row in drained(ctx)] == [("null", None, "fallback")]


def test_a_new_level_is_told_from_a_missing_one(ctx):
    served = engine(ctx, [Rule(unknown=True)], known(ctx))
    new, missing, seen = ask(served, {**GOOD, "size": "XXL"}, {**GOOD, "size": None}, GOOD)
    assert (new["decided_by"], new["reason"]) == ("fallback", "naive answer: new level: size 'XXL'")
    assert (missing["decided_by"], seen["decided_by"]) == ("model", "model")
    others = engine(ctx, [Rule(unknown=["color"])], known(ctx, 2))
    assert ask(others, {**GOOD, "size": "XXL"})[0]["decided_by"] == "model"


def test_an_input_outside_what_training_saw_is_named_with_its_distance(ctx):
    served = engine(ctx, [Rule(outside=0.5, answer="refuse")], known(ctx))
    far, near, below, both, hole, truth = ask(
        served,
        {**GOOD, "price": 10.0}, {**GOOD, "price": 6.9}, {**GOOD, "price": -5.5}, {**GOOD, "price": 10.0, "count": 10**30}, {**GOOD, "count": None},
        {**GOOD, "gift": None},
    )  # fmt: skip
    assert far["reason"] == "refused: price 10 is outside -2 to 4 by 1 of that range"
    assert near["decided_by"] == "model"  # not by half of the range
    assert below["reason"] == "refused: price -5.5 is outside -2 to 4 by 0.58 of that range"
    assert both["reason"].startswith("refused: count 1000")
    assert both["reason"].endswith("price 10 is outside -2 to 4 by 1 of that range")  # the farthest comes first
    assert hole["reason"] == "refused: count is missing, which it never was in training"
    assert truth["reason"] == "refused: gift is missing, which it never was in training"
    strict = engine(ctx, [Rule(outside=0.0)], known(ctx, 2))
    assert [one["decided_by"] for one in ask(strict, {**GOOD, "price": 4.0}, {**GOOD, "price": 4.01})] == ["model", "fallback"]


def test_an_unsure_answer_is_taken_back(ctx):
    sure = engine(ctx, [], known(ctx))
    rows = [{**GOOD, "price": price / 10} for price in range(-30, 31)]
    most = [max(shares) for shares in plain(sure, *rows)]
    floor = sorted(most)[len(most) // 2]
    served = engine(ctx, [Rule(confidence=floor)], bundles.write_bundle(ctx.state, number=2))
    said = ask(served, *rows)
    assert [one["decided_by"] for one in said] == ["fallback" if share < floor else "model" for share in most]
    unsure = next(one for one in said if one["decided_by"] == "fallback")
    assert unsure["reason"].startswith("naive answer: confidence 0.")
    assert unsure["reason"].endswith(f"is below {floor:g}")
    assert {one["decided_by"] for one in ask(served, rows[most.index(max(most))])} == {"model"}  # the path of a single row


def test_deciding_twice_gives_the_same(ctx):
    served = engine(ctx, [Rule(when="size == 'L'"), Rule(confidence=1.0, answer="refuse")], known(ctx))
    asked = served.choose(served.routing.endpoints["shop"], PredictRequest([GOOD, {**GOOD, "size": "L"}]))
    first, again = decide(asked), decide(asked)
    assert first == again
    unsure, large = (by.reason for by in first.rows or [])
    assert (unsure or "").startswith("refused: confidence 0.")
    assert large == "naive answer: size == 'L'"


def test_an_older_release_answers_its_rows_and_is_named_in_answer_and_journal(ctx):
    older, newer = known(ctx), known(ctx, 2, seed=1)
    served = engine(ctx, [Rule(when="size == 'L'", answer="release", release="shop@1")], newer, others=[older])
    row = {**GOOD, "size": "L"}
    said = ask(served, GOOD, row)
    model = served.routing.endpoints["shop"].others["shop@1"].model
    assert model is not None
    assert said[1]["probabilities"] == list(model.answer([row])[0].probabilities or [])
    assert (said[1]["decided_by"], said[1]["reason"], said[1]["release"]) == ("model", "answered by shop@1: size == 'L'", "shop@1")
    assert ("release" in said[0], said[0]["arm"], said[1]["arm"]) == (False, "champion", "rule")
    kept = [(row["release"], row["arm"], row["decided_by"]) for row in drained(ctx)]
    assert kept == [("shop@2", "champion", "model"), ("shop@1", "rule", "model")]


def test_an_older_release_that_reads_other_views_gets_its_own_features_and_one_that_cannot_answer_leaves_it_to_the_naive_answer(ctx):
    older, newer = known(ctx, view=True), known(ctx, 2, seed=1)
    spec = model_file.read(ctx.state / newer.bundle / "model")
    accepting = msgspec.structs.replace(spec.encoder, accepts=["place"])
    model_file.write(ctx.state / newer.bundle / "model", msgspec.structs.replace(spec, encoder=accepting))
    ctx.online.write("weather.v1", [("JFK", ctx.clock.timestamp(), {"temp": 2.5})])
    served = engine(ctx, [Rule(when="size == 'L'", answer="release", release="shop@1")], newer, others=[older])
    row = {**GOOD, "size": "L", "place": "JFK"}
    said = ask(served, row, {**row, "size": "M"})
    model = served.routing.endpoints["shop"].others["shop@1"].model
    assert model is not None
    assert said[0]["probabilities"] == list(model.answer([{**row, "weather_temp": 2.5}])[0].probabilities or [])
    without = ask(served, {**GOOD, "size": "L"})[0]
    assert (without["decided_by"], without["value"]) == ("fallback", False)
    assert "shop@1 cannot answer (inputs[0].place is absent" in without["reason"]


def test_a_release_that_does_not_load_leaves_its_rows_to_the_naive_answer(ctx):
    older, newer = known(ctx), known(ctx, 2, seed=1)
    shutil.rmtree(ctx.state / older.bundle)
    served = engine(ctx, [Rule(when="size == 'L'", answer="release", release="shop@1")], newer, others=[older])
    assert "rules that name shop@1 answer naively" in served.routing.problems[0]
    said = ask(served, GOOD, {**GOOD, "size": "L"})
    assert [one["decided_by"] for one in said] == ["model", "fallback"]
    assert said[1]["reason"] == "naive answer, for shop@1 cannot answer (it does not load): size == 'L'"


def test_a_share_of_units_is_tried_with_the_model_and_both_sides_carry_their_probability(ctx):
    served = engine(ctx, [Rule(when="size == 'L'", explore=300)], known(ctx))
    units = [f"unit-{number}" for number in range(1500)]
    first = {unit: ask(served, {**GOOD, "size": "L"}, unit=unit)[0] for unit in units}
    assert first.items() >= {unit: {**ask(served, {**GOOD, "size": "L"}, unit=unit)[0], "id": first[unit]["id"]} for unit in units[:50]}.items()
    tried = Counter(one["decided_by"] for one in first.values())["model"]
    assert abs(tried - 450) < 5 * (1500 * 0.3 * 0.7) ** 0.5
    reasons = {one["reason"] for one in first.values()}
    assert reasons == {"naive answer (probability 0.7): size == 'L'", "answered by the model all the same (probability 0.3): size == 'L'"}
    kept = drained(ctx)[:1500]
    assert {(row["decided_by"], row["propensity"]) for row in kept} == {("model", 0.3), ("fallback", 0.7)}
    # weighed by one over its probability, each side stands for all rows
    assert sum(1 / row["propensity"] for row in kept if row["decided_by"] == "model") == pytest.approx(1500, rel=0.15)
    without_units = ask(served, *[{**GOOD, "size": "L"}] * 400)  # each row by its id
    assert 60 < Counter(one["decided_by"] for one in without_units)["model"] < 180


def test_a_try_is_drawn_apart_from_the_arms(ctx):
    challenger = msgspec.structs.replace(bundles.write_bundle(ctx.state, number=2, seed=1), weight=500)
    served = engine(ctx, [Rule(when="size == 'L'", explore=500)], known(ctx), challenger)
    said = Counter((one["arm"], one["decided_by"]) for n in range(800) for one in ask(served, {**GOOD, "size": "L"}, unit=f"unit-{n}"))
    assert len(said) == 4
    assert all(140 < number < 260 for number in said.values()), said


def test_a_bad_input_is_refused_by_its_place_whoever_would_answer_it(ctx):
    served = engine(ctx, [Rule(when="size == 'L'", answer="refuse")], known(ctx))
    for row in ({**GOOD, "price": "far"}, {**GOOD, "size": "L", "price": "far"}, {**GOOD, "prise": 1.0}):
        with pytest.raises(InvalidInput) as caught:
            ask(served, GOOD, {**GOOD, "size": "L"}, row)
        assert caught.value.values["row"] == 2


def test_the_kill_switch_goes_before_every_rule(ctx):
    served = engine(ctx, [Rule(when="size == 'L'", answer="refuse")], known(ctx), killed="wrong since noon")
    assert [(one["decided_by"], one["value"]) for one in ask(served, {**GOOD, "size": "L"})] == [("kill", False)]


def test_shadows_answer_every_row_whatever_rules_say(ctx):
    challenger = msgspec.structs.replace(bundles.write_bundle(ctx.state, number=2, seed=1), weight=1)
    served = engine(ctx, [Rule(when="size == 'L'")], known(ctx), challenger)
    ask(served, GOOD, {**GOOD, "size": "L"}, unit="customer-1")
    while served.shadows:
        served.shadows.run_some()
    kept = drained(ctx)
    assert [(row["role"], row["release"], row["decided_by"]) for row in kept] == [
        ("live", "shop@1", "model"), ("live", "shop@1", "fallback"), ("shadow", "shop@2", "model"), ("shadow", "shop@2", "model"),
    ]  # fmt: skip


def test_rules_that_cannot_be_followed_leave_those_that_were(ctx):
    champion = known(ctx)
    good = engine(ctx, [Rule(when="size == 'L'", answer="refuse")], champion)
    served = engine(ctx, [Rule(when="size = 'L'")], champion, current=good.routing)
    assert "its rules cannot be followed" in served.routing.problems[0]
    assert ask(served, {**GOOD, "size": "L"})[0]["reason"] == "refused: size == 'L'"
    assert served.routing.endpoints["shop"].route.rules == good.routing.endpoints["shop"].route.rules
    fresh = engine(ctx, [Rule(when="size = 'L'")], champion)
    assert ask(fresh, {**GOOD, "size": "L"})[0]["decided_by"] == "model"
    assert fresh.routing.endpoints["shop"].route.rules == []


TENSORS = dict(zip(GOOD, ("FP64", "BYTES", "INT64", "BOOL", "BYTES"), strict=True))


def infer(served: Engine, *sizes: str, **more: Any) -> dict[str, list[Any]]:
    """Ask by the Open Inference Protocol; the outputs by name."""
    inputs = [
        {"name": name, "shape": [len(sizes)], "datatype": kind, "data": list(sizes) if name == "size" else [GOOD[name]] * len(sizes)}
        for name, kind in TENSORS.items()
    ]
    call = Call("POST", "/v2/models/shop/infer", {}, json.dumps({"inputs": inputs, **more}).encode())
    return {output["name"]: output["data"] for output in json.loads(OpenInference().reply(served, call, Limits()).body)["outputs"]}


def infer_over_grpc(served: Engine, *sizes: str, outputs: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Ask with the messages of gRPC, without a network; the outputs by name."""
    pytest.importorskip("google.protobuf", reason="protobuf is not installed: pip install 'kaizenml[grpc]'")
    from kaizenml.serving.grpc.messages import MESSAGES
    from kaizenml.serving.grpc.service import Service

    kept = {"FP64": "fp64_contents", "BYTES": "bytes_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}
    columns = {name: list(sizes) if name == "size" else [GOOD[name]] * len(sizes) for name in TENSORS}
    inputs = [
        {"name": name, "datatype": kind, "shape": [len(sizes)],
         "contents": {kept[kind]: [value.encode() if kind == "BYTES" else value for value in columns[name]]}}
        for name, kind in TENSORS.items()
    ]  # fmt: skip
    asked = MESSAGES["ModelInferRequest"](model_name="shop", inputs=inputs, outputs=[{"name": name} for name in outputs])
    answer = Service(served, Limits()).calls["ModelInfer"](asked.SerializeToString(), {})
    said = MESSAGES["ModelInferResponse"].FromString(answer.body)
    found = {output.name: list(getattr(output.contents, kept[output.datatype])) for output in said.outputs}
    return {name: [value.decode() if isinstance(value, bytes) else value for value in values] for name, values in found.items()}


def table(served: Engine, form: bytes, *sizes: str) -> dict[str, list[Any]]:
    """Ask in JSON for a table; its columns by name."""
    body = json.dumps({"inputs": [{**GOOD, "size": size} for size in sizes]}).encode()
    asked = Call("POST", "/predict/shop", {b"content-type": b"application/json", b"accept": form}, body)
    reply = tables.predict(served, "shop", asked, Limits(), None)
    if form == tables.ARROW:
        return pa.ipc.open_stream(reply.body).read_all().to_pydict()
    found = np.load(io.BytesIO(reply.body), allow_pickle=False)
    return {name: found[name].tolist() for name in found.dtype.names}


REFUSED = "refused: size == 'S'"


@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_a_refused_row_is_blank_in_tensors_and_tables_and_the_others_have_their_answers(ctx, task):
    served = engine(ctx, [Rule(when="size == 'S'", answer="refuse")], known(ctx, task=task))
    answers = [one["value"] for one in ask(served, GOOD, {**GOOD, "size": "S"}, {**GOOD, "size": "L"})]
    assert answers[1] is None
    blank = pytest.approx(float("nan"), nan_ok=True) if task == "regression" else ""
    over_json = infer(served, "M", "S", "L")
    assert over_json["predict"] == [answers[0], None if task == "regression" else "", answers[2]]
    assert over_json["reason"] == ["", REFUSED, ""]
    assert over_json["decided_by"] == ["model", "fallback", "model"]
    assert infer(served, "S", outputs=[{"name": "reason"}]) == {"reason": [REFUSED]}
    for found in (infer_over_grpc(served, "M", "S", "L")["predict"], table(served, tables.NPY, "M", "S", "L")["value"]):
        assert found == [answers[0], blank, answers[2]]
    arrow = table(served, tables.ARROW, "M", "S", "L")
    assert (arrow["value"], arrow["reason"]) == (answers, ["", REFUSED, ""])


def test_a_refused_row_is_an_error_where_whatever_stood_there_could_be_read_as_an_answer(ctx):
    served = engine(ctx, [Rule(when="size == 'S'", answer="refuse")], known(ctx))  # its answers are true and false
    for asked in (infer, infer_over_grpc, lambda served, *sizes: table(served, tables.NPY, *sizes)):
        with pytest.raises(Refused, match=f"row 1 has no answer: {REFUSED}"):
            asked(served, "M", "S")
    answer, refused = ask(served, GOOD, {**GOOD, "size": "S"})
    said = infer(served, "M", "S", outputs=[{"name": "probabilities"}, {"name": "reason"}])
    assert said == {"probabilities": [*answer["probabilities"], None, None], "reason": ["", REFUSED]}
    shares = infer_over_grpc(served, "M", "S", outputs=["probabilities"])["probabilities"]
    assert shares == [*answer["probabilities"], *[pytest.approx(float("nan"), nan_ok=True)] * 2]
    assert refused["value"] is None
    assert table(served, tables.ARROW, "M", "S")["value"] == [answer["value"], None]
    assert table(served, tables.ARROW, "S")["value"] == [None]


def test_other_protocols_tell_who_decided_each_row(ctx):
    served = engine(ctx, [Rule(when="size == 'L'"), Rule(when="size == 'S'", answer="refuse")], known(ctx))
    outputs = infer(served, "M", "L")
    assert outputs["decided_by"] == ["model", "fallback"]
    assert outputs["reason"] == ["", "naive answer: size == 'L'"]
    assert infer(served, "M").keys() == {"predict", "probabilities", "id"}
    body = json.dumps({"dataframe_records": [GOOD, {**GOOD, "size": "S"}]}).encode()
    called = Call("POST", "/invocations", {b"content-type": b"application/json"}, body)
    document = json.loads(Invocations({}).reply(served, called, Limits()).body)
    assert (document["predictions"][1], document["decided_by"]) == (None, "mixed")
    assert [row["decided_by"] for row in document["rows"]] == ["model", "fallback"]


@pytest.mark.parametrize("form", [tables.NPY, tables.ARROW])
def test_tables_tell_who_decided_each_row_as_well(ctx, form):
    served = engine(ctx, [Rule(when="size == 'L'")], known(ctx))
    found = table(served, form, "M", "L")
    assert (found["decided_by"], found["release"]) == (["model", "fallback"], ["shop@1", "shop@1"])
    assert found["reason"] == ["", "naive answer: size == 'L'"]
    assert set(table(served, form, "M")) == {"id", "value", "probabilities", "decided_by"}


def test_rows_that_came_as_a_table_are_decided_by_the_same_rules(ctx):
    served = engine(ctx, [Rule(when="size == 'L'")], known(ctx))
    rows = np.array([(3.0, "M", 2, True, "2026-03-01T12:30"), (3.0, "L", 2, True, "2026-03-01T12:30")],
                    [("price", "f8"), ("size", "U1"), ("count", "i8"), ("gift", "?"), ("ordered", "M8[s]")])  # fmt: skip
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    reply = tables.predict(served, "shop", Call("POST", "/predict/shop", {b"content-type": tables.NPY}, file.getvalue()), Limits(), None)
    expected = ask(served, {**GOOD, "size": "M"}, {**GOOD, "size": "L"})
    for one, other in zip(json.loads(reply.body)["predictions"], expected, strict=True):
        assert {**one, "id": ""} == {**other, "id": ""}


def test_a_snapshot_of_the_former_format_is_read(tmp_path):
    former = (
        b'{"format":1,"revision":3,"written_at":0.0,"endpoints":{"shop":{"endpoint":"shop","revision":3,"arms":[{"release":"shop@1",'
        b'"bundle":"releases/shop/1","weight":1000,"arm":"champion","lineage":{"model":"shop@1","data":"orders@1","features":[],"code":null,'
        b'"hash":"h"},"slots":[]}],"shadows":[],"paired":false,"killed":null}}}'
    )
    (tmp_path / "snapshot.json").write_bytes(former)
    found = snapshot.read(tmp_path / "snapshot.json")
    assert (found.format, found.endpoints["shop"].rules, found.endpoints["shop"].others) == (1, [], [])


def test_a_journal_record_from_before_there_were_rules_is_read(ctx):
    answer = ["0" * 32, True, [0.2, 0.8], "model", None]
    former = msgspec.msgpack.encode(["p", 1.0, "shop", "shop@1", "champion", None, b"{}", [answer], None, None])
    record = _decode(former)
    assert (record.answers[0].release, record.answers[0].propensity) == (None, None)


def test_a_table_of_predictions_from_before_there_were_rules_takes_rows_with_a_propensity(ctx):
    former = pa.schema([field for field in predictions.BASE if field.name != "propensity"])
    path = predictions.folder(ctx.state, "shop")
    path.mkdir(parents=True)
    DeltaTable.create(path, schema=former, partition_by=["day"])
    assert predictions.read(ctx, "shop", columns=["propensity"]).num_rows == 0
    ask(engine(ctx, [Rule(when="size == 'L'", explore=1)], known(ctx)), {**GOOD, "size": "L"}, GOOD, unit="customer-1")
    assert [row["propensity"] for row in drained(ctx)] == [0.999, None]
