"""Other vendors' own clients, in an environment of their own, against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import serving_bundles as bundles

from kaizenml.serving.client import Client

pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'kaizenml[grpc]'")
sys.path.append(str(Path(__file__).with_name("clients")))

from numbers_of import numbers_of

from kaizenml.serving.grpc.messages import MESSAGES

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
ROWS = [bundles.GOOD, {"price": None, "size": "L", "count": 7, "gift": False, "ordered": "2026-03-04T08:00:00Z"}]
KINDS = [["price", "FP64"], ["size", "BYTES"], ["count", "INT64"], ["gift", "BOOL"], ["ordered", "BYTES"]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".venv-clients" / ".stamp").exists(), reason="./x clients has not prepared .venv-clients"),
]


class Served:
    """A server with a champion and a challenger that answers one request in a thousand."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.http = f"127.0.0.1:{document['port']}"
        self.grpc = f"127.0.0.1:{document['grpc_port']}"
        with Client(f"http://{self.http}") as client:
            said = client.predict("shop", ROWS, unit="somebody")["predictions"]
        self.values = [one["value"] for one in said]
        self.probabilities = [one["probabilities"] for one in said]

    def run(self, script: str) -> dict[str, Any]:
        """Run one of the scripts of ``clients/`` and return what it printed."""
        command = [str(PYTHON), str(Path(__file__).with_name("clients") / script), self.http, self.grpc, json.dumps(ROWS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    state = tmp_path_factory.mktemp("project") / ".kaizen"
    champion, other = bundles.write_bundle(state), bundles.write_bundle(state, number=2, seed=3)
    bundles.route(state, champion, msgspec.structs.replace(other, weight=1))
    environ = {"AIP_PREDICT_ROUTE": "/v1/shop:predict", "AIP_HEALTH_ROUTE": "/v1/health"}
    process = bundles.start("--state", str(state), "--grpc-port", "0", env=environ, log=state / "log")
    try:
        yield Served(json.loads(process.stdout.readline()))
    finally:
        process.terminate()
        process.communicate()


def check_numbers(theirs: dict[str, dict[str, list[int]]], *, left_out: str = "-") -> None:
    """Every field of ours is theirs, by number, type and label; and no message of theirs for the calls that we answer is missing."""
    ours = numbers_of(MESSAGES["ModelInferRequest"].DESCRIPTOR.file)
    assert len(ours) > 25
    for name, fields in ours.items():
        for field, numbers in fields.items():
            if name in theirs and field in theirs[name] and left_out not in name:
                assert theirs[name][field] == numbers, (name, field)
    for name in ("ModelInferRequest", "ModelInferRequest.InferInputTensor", "ModelInferResponse", "InferTensorContents", "ModelMetadataResponse"):
        assert set(theirs[f"inference.{name}"]) <= set(ours[f"inference.{name}"])


def test_tritons_client_asks_over_http_and_grpc(served) -> None:
    found = served.run("triton.py")
    refusals = {"http": ["404", "422", "400"], "grpc": [f"StatusCode.{code}" for code in ("NOT_FOUND", "INVALID_ARGUMENT", "INVALID_ARGUMENT")]}
    for way, codes in refusals.items():
        got = found[way]
        assert got["ready"] == [True] * 4
        assert got["unready"] is False if way == "http" else "no version '9'" in got["unready"][1]
        assert (got["inputs"], got["versions"], got["server"]) == (KINDS, ["1", "2"], "kaizenml")
        assert got["index"] == [["shop", "1", "READY"], ["shop", "2", "READY"]]
        assert (got["id"], got["predict"], got["probabilities"]) == ("42", served.values, served.probabilities)
        assert len(set(got["ids"])) == 2
        assert got["alone"]
        check_numbers(found["numbers"])
        assert [status for status, _ in got["refused"]] == codes
        for (_, message), word in zip(got["refused"], ("did you mean 'shop'", "ordered is absent", "kaizen kill shop"), strict=True):
            assert word in message


def test_kserves_clients_ask_over_rest_and_grpc(served) -> None:
    found = served.run("kserve_both.py")
    for way in ("http", "grpc"):
        got = found[way]
        assert got["ready"] == [True] * 3
        assert (got["binary"]["id"], got["binary"]["predict"], got["json"]["predict"]) == ("42", served.values, served.values[:1])
        assert got["binary"]["probabilities"] == [share for shares in served.probabilities for share in shares]
    assert (found["http"]["refused"][0], "did you mean 'shop'" in found["http"]["refused"][2]) == (404, True)
    assert (found["grpc"]["refused"][0], "did you mean 'shop'" in found["grpc"]["refused"][1]) == ("NOT_FOUND", True)
    assert found["grpc"]["loaded"] == ["shop", True]
    check_numbers(found["numbers"], left_out="RepositoryModel")  # where it numbers the model's name as Triton numbers the repository's


def test_the_aws_sdk_invokes_an_endpoint_and_a_variant_of_it(served) -> None:
    found = served.run("sagemaker.py")
    variant, document = found["plain"]
    assert (variant, document["predictions"], document["probabilities"]) == ("champion", served.values, served.probabilities)
    assert found["variant"] == ["challenger-1", "shop@2"]
    assert found["npy"] == ["application/x-npy", served.probabilities]
    assert [status for status, _ in found["refused"]] == [404, 404, 415]
    for (_, message), word in zip(found["refused"], ("did you mean 'shop'", "challenger-1", "text/csv"), strict=True):
        assert word in message


def test_mlflows_client_sends_its_four_payloads(served) -> None:
    found = served.run("mlflow_scoring.py")
    for name in ("dataframe_split", "dataframe_records", "inputs", "instances"):
        assert found[name]["predictions"] == served.values, name
    assert "price is absent" in found["refused"] or "prise" in found["refused"]
    assert "try:" in found["refused"]


def test_googles_sdk_asks_a_private_endpoint(served) -> None:
    found = served.run("vertex.py")
    assert found["ready"] is True
    assert found["objects"] == found["lists"] == served.values
    assert (found["raw"]["predictions"], found["raw"]["probabilities"]) == (served.values, served.probabilities)
    for refused, status, word in zip(found["refused"], (422, 422), ("price: 'dear' is not a number", "row 0 has 2 values"), strict=True):
        assert refused.startswith(f"{status} - ")
        assert word in refused
