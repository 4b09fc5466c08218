"""The Open Inference Protocol over gRPC: the answers, journal records and refusals of our own form, from processes on one port."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest
import serving_bundles as bundles
from hypothesis import given, settings
from hypothesis import strategies as st
from test_serving_processes import _workers

from kaizenml.serving.client import Client
from kaizenml.serving.journaling import journal
from kaizenml.serving.journaling.drain import _decode
from kaizenml.serving.journaling.records import Body

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'kaizenml[grpc]'")

from kaizenml.serving.grpc.messages import MESSAGES, SERVICE  # noqa: E402

ROWS = [bundles.GOOD, {"price": None, "size": "L", "count": 7, "gift": False, "ordered": "2026-03-04T08:00:00Z"}]
KINDS = {
    "price": ("FP64", "fp64_contents"), "size": ("BYTES", "bytes_contents"), "count": ("INT32", "int_contents"), "gift": ("BOOL", "bool_contents"),
    "ordered": ("BYTES", "bytes_contents"),
}  # fmt: skip


class Asker:
    """Calls by name."""

    def __init__(self, port: int, **options: Any) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=list(options.items()))

    def raw(self, name: str, body: bytes, **more: Any) -> bytes:
        return self.channel.unary_unary(f"/{SERVICE}/{name}")(body, timeout=20, **more)

    def __call__(self, name: str, /, metadata: tuple[tuple[str, str], ...] = (), **fields: Any) -> Any:
        body = MESSAGES[f"{name}Request"](**fields).SerializeToString()
        return MESSAGES[f"{name}Response"].FromString(self.raw(name, body, metadata=metadata))

    def refusal(self, name: str, /, **fields: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as refused:
            self(name, **fields)
        return refused.value.code().name, refused.value.details()


def contents(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def plain(name: str, value: Any) -> Any:
        return float("nan") if value is None else value.encode() if KINDS[name][0] == "BYTES" else value

    return [
        {"name": name, "datatype": kind, "shape": [len(rows)], "contents": {kept: [plain(name, row[name]) for row in rows]}}
        for name, (kind, kept) in KINDS.items()
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    state = tmp_path_factory.mktemp("project") / ".kaizen"
    champion, other = bundles.write_bundle(state), bundles.write_bundle(state, number=2, seed=3)
    bundles.route(state, champion, msgspec.structs.replace(other, weight=1))
    process = bundles.start("--state", str(state), "--workers", "2", "--grpc-port", "0", log=state / "log")
    document = json.loads(process.stdout.readline())
    try:
        yield state, document, process
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture(scope="module")
def ask(served):
    asker = Asker(served[1]["grpc_port"])
    yield asker
    asker.channel.close()


def records(state: Path) -> list[Any]:
    return [_decode(found.payload) for segment in journal.segments(state / "journal") for found in journal.read(segment.path)]


def test_listed_and_raw_tensors_get_the_answers_of_our_own_form(served, ask) -> None:
    state, document, _ = served
    with Client(f"http://127.0.0.1:{document['port']}") as client:
        said = client.predict("shop", ROWS, unit="somebody")["predictions"]
    answer = ask("ModelInfer", model_name="shop", model_version="1", id="42", inputs=contents(ROWS), metadata=(("traceparent", "00-ab-cd-01"),))
    assert (answer.id, answer.model_name, answer.model_version, answer.parameters["code"].string_param) == ("42", "shop", "1", "abc123")
    found = {output.name: output for output in answer.outputs}
    shares = [share for one in said for share in one["probabilities"]]
    assert list(found["predict"].contents.bool_contents) == [one["value"] for one in said]
    assert list(found["probabilities"].contents.fp64_contents) == shares
    identity = found["id"].contents.bytes_contents[0].decode()
    record = next(record for record in records(state) if record.answers[0].id == identity)
    assert list(msgspec.json.decode(record.body, type=Body).rows) == ROWS
    assert record.trace == "00-ab-cd-01"

    texts = {name: b"".join(len(row[name]).to_bytes(4, "little") + row[name].encode() for row in ROWS) for name in ("size", "ordered")}
    import numpy as np

    raw = {"price": np.array([3.0, np.nan]).tobytes(), "count": np.array([2, 7], "<i4").tobytes(), "gift": b"\1\0", **texts}
    inputs = [{"name": name, "datatype": KINDS[name][0], "shape": [2, 1]} for name in raw]
    answer = ask("ModelInfer", model_name="shop", inputs=inputs, raw_input_contents=list(raw.values()), outputs=[{"name": "probabilities"}])
    assert np.frombuffer(answer.raw_output_contents[0]).tolist() == shares
    assert len(answer.outputs) == len(answer.raw_output_contents) == 1


def test_the_server_and_its_models_tell_of_themselves(ask) -> None:
    assert ask("ServerLive").live
    assert ask("ServerReady").ready
    assert ask("ServerMetadata").name == "kaizenml"
    assert ask("ModelReady", name="shop", version="2").ready
    metadata = ask("ModelMetadata", name="shop")
    assert ([one.name for one in metadata.inputs], list(metadata.versions)) == (list(KINDS), ["1", "2"])
    assert [(one.name, list(one.shape)) for one in metadata.outputs] == [("predict", [-1]), ("probabilities", [-1, 2]), ("id", [-1])]
    index = ask("RepositoryIndex", ready=True).models
    assert [(one.name, one.version, one.state) for one in index] == [("shop", "1", "READY"), ("shop", "2", "READY")]
    assert ask("RepositoryModelLoad", model_name="shop").isLoaded
    assert ask("RepositoryModelLoad", repository_name="shop").model_name == "shop"  # as KServe's clients number the field


@pytest.mark.parametrize(
    ("call", "fields", "code", "said"),
    [
        ("ModelInfer", {"model_name": "shp"}, "NOT_FOUND", "did you mean 'shop'"),
        ("ModelInfer", {"model_name": "shop", "model_version": "9"}, "NOT_FOUND", "'1', '2'"),
        ("ModelInfer", {"model_name": "shop"}, "INVALID_ARGUMENT", "inputs is empty"),
        ("ModelInfer", {"model_name": "shop", "inputs": contents(ROWS)[:4]}, "INVALID_ARGUMENT", "ordered is absent"),
        ("ModelInfer", {"model_name": "shop", "inputs": contents(ROWS), "raw_input_contents": [b""]}, "INVALID_ARGUMENT", "1 parts for 5 inputs"),
        ("ModelInfer", {"model_name": "shop", "inputs": contents(ROWS), "raw_input_contents": [b""] * 5}, "INVALID_ARGUMENT", "the one or the other"),
        ("ModelInfer", {"model_name": "shop", "inputs": contents(ROWS), "outputs": [{"name": "probability"}]}, "NOT_FOUND", "'probabilities'"),
        ("ModelInfer", {"model_name": "shop", "inputs": [{**contents(ROWS)[0], "datatype": "INT64"}]}, "INVALID_ARGUMENT", "send int64_contents"),
        ("ModelInfer", {"model_name": "shop", "inputs": [{**contents(ROWS)[0], "datatype": "FP16"}]}, "INVALID_ARGUMENT", "raw_input_contents"),
        ("ModelInfer", {"model_name": "shop", "inputs": [{**contents(ROWS)[0], "shape": [10_001]}]}, "RESOURCE_EXHAUSTED", "max_rows"),
        ("ModelReady", {"name": "shop", "version": "9"}, "NOT_FOUND", "'1', '2'"),
        ("ModelMetadata", {"name": "shp"}, "NOT_FOUND", "did you mean 'shop'"),
        ("RepositoryModelUnload", {"model_name": "shop"}, "INVALID_ARGUMENT", "kaizen kill shop"),
    ],
)
def test_what_cannot_be_answered_has_a_status_and_a_remedy(ask, call, fields, code, said) -> None:
    found, details = ask.refusal(call, **fields)
    assert found == code
    assert said in details
    assert "try:" in details


@given(st.sampled_from(["ModelInfer", "ModelReady", "RepositoryIndex"]), st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_message_makes_the_server_fail(ask, call, body) -> None:
    whole = MESSAGES["ModelInferRequest"](model_name="shop", inputs=contents(ROWS)).SerializeToString() if call == "ModelInfer" else b""
    for sent in (body, whole + body, whole[: len(body)] + body):
        future = ask.channel.unary_unary(f"/{SERVICE}/{call}").future(sent, timeout=20)
        assert future.code().name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"), future.details()


def test_large_and_compressed_messages_are_refused_before_they_cost(served, ask) -> None:
    for size, said in ((8_000_001, "max_body_bytes"), (80_000_000, "larger than max")):
        with pytest.raises(grpc.RpcError) as refused:
            ask.raw("ModelInfer", b"\0" * size)
        assert (refused.value.code().name, said in refused.value.details()) == ("RESOURCE_EXHAUSTED", True)
    with pytest.raises(grpc.RpcError) as refused:
        ask.raw("ModelInfer", b"\0" * 5_000_000, compression=grpc.Compression.Gzip)
    assert (refused.value.code().name, "disabled" in refused.value.details()) == ("UNIMPLEMENTED", True)
    for pid in _workers(served[2].pid):
        high = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        assert int(high.split()[1]) < 400_000


@pytest.mark.slow
def test_calls_are_counted_with_those_over_http(served, ask) -> None:
    def counted() -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{served[1]['port']}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        name = 'kaizen_requests_total{kind="predict",endpoint="shop",status="200"}'
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    before = counted()
    for _ in range(3):
        ask("ModelInfer", model_name="shop", inputs=contents(ROWS))
    deadline = time.monotonic() + 5
    while counted() != before + 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_both_workers_answer_and_one_that_is_killed_is_replaced(served) -> None:
    state, document, process = served

    def answered_by() -> set[str]:
        ids = set()
        for _ in range(40):  # connections are spread, not calls
            asker = Asker(document["grpc_port"], **{"grpc.use_local_subchannel_pool": 1})
            answer = asker("ModelInfer", model_name="shop", inputs=contents(ROWS[:1]), outputs=[{"name": "id"}])
            ids.add(answer.outputs[0].contents.bytes_contents[0].decode()[8:16])  # the part of an id that names the process
            asker.channel.close()
        return ids

    first = answered_by()
    assert len(first) == 2
    os.kill(min(_workers(process.pid)), signal.SIGKILL)
    seen, asked, deadline = set(), 40, time.monotonic() + 20
    while len(seen - first) < 1 or len(seen & first) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)
        seen, asked = answered_by(), asked + 40
    assert len(records(state)) >= asked  # also of the one that was killed


@pytest.mark.slow
def test_ending_answers_what_is_under_way(tmp_path) -> None:
    state = tmp_path / ".kaizen"
    bundles.route(state, bundles.write_bundle(state))
    process = bundles.start("--state", str(state), "--grpc-port", "0", log=state / "log")
    asker = Asker(json.loads(process.stdout.readline())["grpc_port"])
    answered: list[str] = []

    def run() -> None:
        with contextlib.suppress(grpc.RpcError):
            while True:
                answer = asker("ModelInfer", model_name="shop", inputs=contents(ROWS * 200))
                answered.extend(text.decode() for text in answer.outputs[2].contents.bytes_contents)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    thread.join()
    process.communicate()
    assert answered
    assert [answer.id for record in records(state) for answer in record.answers] == answered  # no record without its answer


@pytest.mark.slow
def test_a_port_that_is_taken_and_a_missing_extra_are_told(tmp_path) -> None:
    state = tmp_path / ".kaizen"
    bundles.route(state, bundles.write_bundle(state))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["-m", "kaizenml.serving", "--state", str(state), "--port", "0", "--grpc-port", str(port)]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is taken" in done.stderr
    assert "--grpc-port" in done.stderr
    hidden = "import runpy, sys; sys.modules['grpc'] = None; runpy.run_module('kaizenml.serving', run_name='__main__', alter_sys=True)"
    command = ["-c", hidden, "--state", str(state), "--port", "0", "--grpc-port", "0"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "try: pip install 'kaizenml[grpc]'" in done.stderr


@pytest.mark.slow
def test_a_token_is_asked_for_and_its_scope_decides(ctx) -> None:
    from kaizenml.access import operations as tokens

    bundles.route(ctx.state, bundles.write_bundle(ctx.state))
    asks = tokens.create(ctx, "asker", scope=["predict"]).token
    tells = tokens.create(ctx, "teller", scope=["outcomes"]).token
    slow = tokens.create(ctx, "slow", scope=["predict"], rate=1).token
    process = bundles.start("--state", str(ctx.state), "--grpc-port", "0", env={"KAIZEN_SERVE_AUTH": "on"}, log=ctx.state / "log")
    asker = Asker(json.loads(process.stdout.readline())["grpc_port"])
    try:
        assert asker("ServerLive").live
        assert asker("ServerReady").ready
        wanted = {"model_name": "shop", "inputs": contents(ROWS)}
        for name, fields in (("ServerMetadata", {}), ("ModelInfer", wanted)):
            code, details = asker.refusal(name, **fields)
            assert (code, "kaizen tokens create" in details) == ("UNAUTHENTICATED", True)
        assert len(asker("ModelInfer", metadata=(("authorization", f"Bearer {asks}"),), **wanted).outputs) == 3
        code, details = asker.refusal("ModelInfer", metadata=(("authorization", f"Bearer {tells}"),), **wanted)
        assert (code, "may not predict" in details) == ("PERMISSION_DENIED", True)
        body = MESSAGES["ModelInferRequest"](**wanted).SerializeToString()
        metadata = (("authorization", f"Bearer {slow}"),)
        codes = [asker.channel.unary_unary(f"/{SERVICE}/ModelInfer").future(body, metadata=metadata).code().name for _ in range(5)]
        assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    finally:
        asker.channel.close()
        process.terminate()
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here to make certificates with")
def test_calls_go_over_tls_where_http_does(ctx) -> None:
    bundles.route(ctx.state, bundles.write_bundle(ctx.state))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", "own.key", "-out", "own.pem", "-days", "9"], cwd=ctx.root, check=True, capture_output=True)
    (ctx.root / "kaizen.toml").write_text(bundles.TOML + '[serve]\ntls_cert = "own.pem"\ntls_key = "own.key"\n', encoding="utf-8")
    process = bundles.start("--state", str(ctx.state), "--grpc-port", "0", log=ctx.state / "log")
    try:
        address = f"127.0.0.1:{json.loads(process.stdout.readline())['grpc_port']}"
        trusted = grpc.ssl_channel_credentials((ctx.root / "own.pem").read_bytes())
        with grpc.secure_channel(address, trusted) as channel:
            assert MESSAGES["ServerLiveResponse"].FromString(channel.unary_unary(f"/{SERVICE}/ServerLive")(b"", timeout=20)).live
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/{SERVICE}/ServerLive")(b"", timeout=5)
    finally:
        process.terminate()
        process.communicate()
