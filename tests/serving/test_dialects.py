"""Other people's ways of asking get the same answers, journal records and refusals as our own, over a real socket."""

from __future__ import annotations

import http.client
import json
import struct
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
import serving_bundles as bundles
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.serving.client import Client
from kaizenml.serving.journaling import journal
from kaizenml.serving.journaling.drain import _decode
from kaizenml.serving.journaling.records import Body

GOOD = bundles.GOOD
OTHER = {"price": None, "size": "L", "count": 7, "gift": False, "ordered": "2026-03-04T08:00:00Z"}
ROWS = [GOOD, OTHER]
KINDS = {"price": "FP64", "size": "BYTES", "count": "INT64", "gift": "BOOL", "ordered": "BYTES"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    state = tmp_path_factory.mktemp("project") / ".kaizen"
    champion, other = bundles.write_bundle(state), bundles.write_bundle(state, number=2, seed=3)
    bundles.route(state, champion, msgspec.structs.replace(other, weight=1))
    with bundles.served("--state", str(state), log=state / "log") as (_, url):
        yield url, state


@pytest.fixture(scope="module")
def expected(server):
    """What our own form answers by the champion."""
    with Client(server[0]) as client:
        return client.predict("shop", ROWS, unit="somebody")


def ask(server: tuple[str, Any], path: str, body: Any, headers: dict[str, str] | None = None, method: str = "POST"):
    connection = http.client.HTTPConnection(urlsplit(server[0]).netloc, timeout=20)
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, raw, {"content-type": "application/json", **(headers or {})})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer, json.loads(text) if text.startswith((b"{", b"[")) and "inference-header-content-length" not in answer.headers else text


def tensors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": name, "shape": [len(rows)], "datatype": kind, "data": [row[name] for row in rows]} for name, kind in KINDS.items()]


def records(server) -> list[Any]:
    return [_decode(found.payload) for segment in journal.segments(server[1] / "journal") for found in journal.read(segment.path)]


def outputs(answer: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output.get("data") for output in answer["outputs"]}


def test_open_inference_tensors_get_the_answers_of_our_own_form(server, expected) -> None:
    answer, document = ask(server, "/v2/models/shop/versions/1/infer", {"id": "mine", "inputs": tensors(ROWS)})
    assert answer.status == 200
    assert (document["id"], document["model_name"], document["model_version"]) == ("mine", "shop", "1")
    assert document["parameters"]["release"] == "shop@1"
    assert document["parameters"]["code"] == "abc123"
    found = outputs(document)
    assert found["predict"] == [said["value"] for said in expected["predictions"]]
    assert found["probabilities"] == [share for said in expected["predictions"] for share in said["probabilities"]]
    record = next(record for record in records(server) if record.answers[0].id == found["id"][0])
    assert list(msgspec.json.decode(record.body, type=Body).rows) == ROWS


def test_binary_tensors_go_in_and_come_out(server, expected) -> None:
    numbers = {"price": np.array([3.0, np.nan]).tobytes(), "count": np.array([2, 7]).tobytes(), "gift": np.array([True, False]).tobytes()}
    texts = {name: b"".join(struct.pack("<I", len(row[name])) + row[name].encode() for row in ROWS) for name in ("size", "ordered")}
    parts = {name: {**numbers, **texts}[name] for name in KINDS}
    inputs = [
        {"name": name, "shape": [2, 1], "datatype": KINDS[name], "parameters": {"binary_data_size": len(part)}} for name, part in parts.items()
    ]
    wanted = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "predict"}]
    head = json.dumps({"inputs": inputs, "outputs": wanted, "parameters": {"unit": "somebody"}}).encode()
    answer, raw = ask(
        server, "/v2/models/shop/infer", head + b"".join(parts.values()),
        {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"},
    )  # fmt: skip
    assert answer.status == 200
    length = int(answer.headers["inference-header-content-length"])
    document = json.loads(raw[:length])
    assert [output["name"] for output in document["outputs"]] == ["probabilities", "predict"]
    assert np.frombuffer(raw[length:]).tolist() == [share for said in expected["predictions"] for share in said["probabilities"]]


def test_one_tensor_holds_all_columns_in_the_order_of_the_metadata(server, tmp_path_factory) -> None:
    _, metadata = ask(server, "/v2/models/shop", None, method="GET")
    assert metadata["versions"] == ["1", "2"]
    assert [(one["name"], one["datatype"]) for one in metadata["inputs"]] == list(KINDS.items())
    # no tensor of one datatype holds text and numbers: what is refused says why
    whole = {"name": "input-0", "shape": [1, 5], "datatype": "FP64", "data": [1, 2, 3, 4, 5]}
    answer, document = ask(server, "/v2/models/shop/infer", {"inputs": [whole]})
    assert answer.status == 422
    assert "size" in document["error"]
    assert "try:" in document["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": []}, "inputs is empty"),
        ({"inputs": [{"name": "price", "shape": [2], "datatype": "FP64", "data": [1.0]}]}, "1 values"),
        ({"inputs": [{"name": "price", "shape": [1], "datatype": "FP8", "data": [1.0]}]}, "datatype 'FP8'"),
        ({"inputs": [{"name": "price", "shape": [1, 2, 3], "datatype": "FP64", "data": [1.0]}]}, "shape [1, 2, 3]"),
        ({"inputs": [{"name": "price", "shape": [-1], "datatype": "FP64", "data": []}]}, "shape [-1]"),
        ({"inputs": [{"name": "price", "shape": [0], "datatype": "FP64", "data": []}]}, "empty"),
        ({"inputs": [{"name": "price", "shape": [99_999_999], "datatype": "FP64", "data": []}]}, "limit"),
        ({"inputs": [{**tensor, "parameters": {"binary_data_size": 5}} for tensor in tensors(ROWS)]}, "claims 5 binary bytes"),
        ({"inputs": [{**tensors(ROWS)[0], "data": [[[1.0]], 2.0]}]}, "nested"),
        ({"inputs": tensors(ROWS), "outputs": [{"name": "probability"}]}, "did you mean 'probabilities'"),
        ({"inputs": tensors(ROWS)[:4]}, "ordered is absent"),
        ({"input": []}, "inputs"),
        (b"[1", "does not fit"),
        (b"", "empty"),
    ],
)
def test_what_open_inference_cannot_take_is_explained(server, body, said) -> None:
    answer, document = ask(server, "/v2/models/shop/infer", body)
    assert answer.status in (404, 413, 422)
    assert said in document["error"]
    assert "try:" in document["error"]


def test_versions_and_models_that_are_not_there_are_named(server) -> None:
    answer, document = ask(server, "/v2/models/shop/versions/9/infer", {"inputs": tensors(ROWS)})
    assert (answer.status, "'1', '2'" in document["error"]) == (404, True)
    answer, document = ask(server, "/v2/models/shp/infer", {"inputs": tensors(ROWS)})
    assert (answer.status, "did you mean 'shop'" in document["error"]) == (404, True)
    answer, _ = ask(server, "/v2/models/shop/infer", None, method="GET")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_the_repository_tells_what_answers(server) -> None:
    _, index = ask(server, "/v2/repository/index", {})
    assert [(one["name"], one["version"], one["state"]) for one in index] == [("shop", "1", "READY"), ("shop", "2", "READY")]
    assert ask(server, "/v2/repository/models/shop/load", {})[0].status == 200
    answer, document = ask(server, "/v2/repository/models/shop/unload", {})
    assert (answer.status, "kaizen kill shop" in document["error"]) == (400, True)
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/shop/ready", "/v2/models/shop/versions/2/ready"):
        assert ask(server, path, None, method="GET")[0].status == 200


SPLIT = {"columns": list(GOOD), "data": [list(row.values()) for row in ROWS]}
CSV = "\r\n".join(["size,price,count,gift,ordered", "M,3.0,2,true,2026-03-01T12:30:00Z", "L,,7,false,2026-03-04T08:00:00Z", ""])
BARE = "\n".join(CSV.replace("M,3.0", "3.0,M").replace("L,,7", ",L,7").splitlines()[1:])


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"dataframe_split": {**SPLIT, "index": [0, 1]}}, "application/json"),
        ({"dataframe_records": ROWS, "params": {}}, "application/json; charset=utf-8"),
        ({"instances": ROWS, "parameters": {"unit": "u"}}, "application/json"),
        ({"instances": SPLIT["data"]}, "application/json"),
        ({"inputs": ROWS}, "application/json"),
        ({"inputs": {name: [row[name] for row in ROWS] for name in GOOD}}, "application/json"),
        (CSV.encode(), "text/csv"),
        (BARE.encode(), "text/csv"),
    ],
)
@pytest.mark.parametrize("path", ["/invocations", "/endpoints/shop/invocations"])
def test_invocations_in_every_form_get_the_same_answers(server, expected, path, body, kind) -> None:
    headers = {"content-type": kind, "x-amzn-sagemaker-target-variant": "champion"}
    answer, document = ask(server, path, body, headers)
    assert answer.status == 200, document
    assert document["predictions"] == [said["value"] for said in expected["predictions"]]
    assert document["probabilities"] == [said["probabilities"] for said in expected["predictions"]]
    assert document["release"] == "shop@1"
    assert answer.headers["x-amzn-invoked-production-variant"] == "champion"


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        ({"dataframe_recrods": ROWS}, "application/json", 422, "did you mean 'dataframe_records'"),
        ({"instances": ROWS, "inputs": ROWS}, "application/json", 422, "2 of"),
        ({}, "application/json", 422, "0 of"),
        ({"instances": []}, "application/json", 422, "empty"),
        ({"inputs": {"price": [1], "size": []}}, "application/json", 422, "differ in length"),
        ({"dataframe_split": {"columns": ["price"], "data": [[1, 2]]}}, "application/json", 422, "2 values for 1 columns"),
        ({"dataframe_split": {"columns": ["price", "price"], "data": []}}, "application/json", 422, "twice"),
        ({"instances": [[1, 2]]}, "application/json", 422, "the model takes 5"),
        ({"instances": [{"price": [1]}]}, "application/json", 422, "does not fit"),
        (b"price\n1,2\n", "text/csv", 422, "line 2"),
        (b"\xff\xfe", "text/csv", 422, "UTF-8"),
        (b"", "text/csv", 422, "empty"),
        (b"<a/>", "text/xml", 415, "text/csv"),
        ({"instances": ROWS}, "application/json+gzip", 415, "not understood"),
    ],
)
def test_what_invocations_cannot_take_is_explained(server, body, kind, status, said) -> None:
    answer, document = ask(server, "/invocations", body, {"content-type": kind})
    assert answer.status == status, document
    assert said in document["message"]
    assert document["error"]["remedy"]


def test_a_target_variant_and_a_pinned_arm_answer_by_themselves(server) -> None:
    with Client(server[0]) as client:
        seen = {client.predict("shop", [GOOD], unit=str(number))["release"] for number in range(30)}
    assert seen == {"shop@1"}  # one in a thousand goes to the challenger
    answer, document = ask(server, "/endpoints/shop/invocations", {"instances": ROWS}, {"x-amzn-sagemaker-target-variant": "challenger-1"})
    assert (answer.headers["x-amzn-invoked-production-variant"], document["release"]) == ("challenger-1", "shop@2")
    _, document = ask(server, "/predict/shop", {"inputs": ROWS}, {"x-kaizen-arm": "shop@2"})
    assert document["release"] == "shop@2"
    answer, document = ask(server, "/predict/shop", {"inputs": ROWS}, {"x-kaizen-arm": "challenger-2"})
    assert (answer.status, "challenger-1" in document["error"]["message"]) == (404, True)
    assert ask(server, "/ping", None, method="GET")[0].status == 200


WORDS = st.sampled_from(["name", "shape", "datatype", "data", "parameters", "columns"])
NASTY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([*GOOD, *KINDS.values(), "M"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner),
    max_leaves=12,
)


BODIES = st.dictionaries(st.sampled_from(["inputs", "instances", "dataframe_split"]), NASTY)


@pytest.mark.slow
@given(st.sampled_from(["/v2/models/shop/infer", "/invocations"]), BODIES)
@settings(max_examples=150, deadline=None)
def test_no_body_makes_the_server_fail(server, path, body) -> None:
    answer, document = ask(server, path, body)
    assert answer.status < 500, document


@pytest.mark.slow
@given(st.binary(max_size=200), st.integers(0, 300) | st.text(max_size=5))
@settings(max_examples=100, deadline=None)
def test_no_binary_body_makes_the_server_fail(server, raw, length) -> None:
    head = json.dumps({"inputs": [{"name": "price", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}]}).encode()
    claimed = str(length).encode("ascii", "ignore").decode().strip() or "x"
    claimed = "".join(letter for letter in claimed if letter.isprintable()) or "x"
    assert ask(server, "/v2/models/shop/infer", head + raw, {"inference-header-content-length": claimed})[0].status < 500
    assert ask(server, "/v2/models/shop/infer", head + raw, {"inference-header-content-length": str(len(head))})[0].status < 500
