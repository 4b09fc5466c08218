"""No raw value of a person is anywhere in a project after ingest, quarantine, training, release, answers, errors, outcomes and drain."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import serving_bundles as bundles
from in_process import running

from kaizenml.context import Context
from kaizenml.data import contract_file, keys, tables
from kaizenml.data import operations as data
from kaizenml.data.dataset import Personal
from kaizenml.features import operations as features
from kaizenml.features.signature import Signature
from kaizenml.governance import lineage
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving.hiding import Hiding, hiding_for
from kaizenml.serving.journaling import drain
from kaizenml.serving.protocol import PredictRequest
from kaizenml.training import model_file
from kaizenml.training import operations as training
from traces import traces

SETTINGS = """
[project]
name = "shop"
[task]
dataset = "orders"
target = "returned"
unit = "email"
[features.people]
dataset = "people"
entity = "email"
columns = ["loyalty", "zip"]
[train]
budget = "1s"
threads = 1
"""
PLANTED = {
    "email": "zq.planted.one@example.org",
    "zip": "ZQ98761",
    "first_name": "Zzqplanted",
    "phone": "+49 30 98761234",
    "note": "said zzqtold us about it",
}
ROWS = 400


def people() -> pa.Table:
    rng = np.random.default_rng(1)
    emails = [*(f"person{at}@example.org" for at in range(30)), PLANTED["email"]]
    zips = [*(f"{10000 + 37 * (at % 7)}" for at in range(30)), PLANTED["zip"]]
    return pa.table({"email": emails, "loyalty": rng.random(31), "zip": zips})


def orders() -> pa.Table:
    rng = np.random.default_rng(2)
    who = people()
    at = rng.integers(0, 31, ROWS)
    price = rng.gamma(2.0, 30.0, ROWS)
    rows = pa.table(
        {
            "email": who["email"].take(pa.array(at)),
            "zip": who["zip"].take(pa.array(at)),
            "first_name": [f"Ada{n}" for n in at],
            "phone": [f"+49 30 1234{n:04d}" for n in at],
            "note": [f"order {n} was called about by phone" for n in range(ROWS)],
            "price": price,
            "returned": rng.random(ROWS) < 1 / (1 + np.exp(2.0 - price / 30 - (at % 7 > 3))),
        }
    )
    planted = pa.Table.from_pylist([PLANTED | {"price": -5.0, "returned": True}, PLANTED | {"price": 30.0, "returned": False}], rows.schema)
    return pa.concat_tables([rows, planted])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    root = tmp_path_factory.mktemp("hiding") / "shop"
    root.mkdir()
    (root / "kaizen.toml").write_text(SETTINGS)
    ctx = open_project(root, actor="tester")
    data.add(ctx, "people", table=people())
    data.add(ctx, "orders", table=orders())
    path = contract_file.path_of(root, "orders")
    contract = contract_file.read(path)
    assert contract is not None
    columns = [msgspec.structs.replace(column, minimum=0 if column.name == "price" else None) for column in contract.columns]
    contract_file.write(path, msgspec.structs.replace(contract, columns=columns), "orders")
    assert data.add(ctx, "orders", table=orders(), mode="replace").quarantined == 1
    features.materialize(ctx, "people")
    features.push(ctx, "people", [{name: PLANTED.get(name, 0.5) for name in ("email", "loyalty", "zip")}])
    model = registry.register(ctx, training.train(ctx).id, name="shop")
    rollouts.deploy(ctx, "shop", releases.create(ctx, model.ref, skip=["naive", "champion", "load"], why="a test").ref)
    yield ctx
    ctx.online.close()
    ctx.catalog.close()
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.slow
def test_answers_are_the_same_as_for_the_stored_rows_and_no_planted_value_is_in_any_byte(project: Context) -> None:
    ctx = project
    stored = tables.read(ctx, "orders").to_pylist()[-1]
    assert set(stored) == {"email", "zip", "price", "returned"}
    raw = PLANTED | {"price": 30.0}
    hidden = {"email": stored["email"], "zip": stored["zip"], "price": 30.0}
    with running(ctx.state) as ask:
        first = ask("POST", "/predict/shop", {"inputs": [raw, raw], "unit": PLANTED["email"]})
        assert first.status == 200, first.body
        same = ask("POST", "/predict/shop", {"inputs": [hidden]})
        assert first.document["predictions"][0]["probabilities"] == pytest.approx(same.document["predictions"][0]["probabilities"], rel=1e-12)
        refused = ask("POST", "/predict/shop", {"inputs": [raw | {"price": PLANTED["first_name"]}]})
        assert refused.status == 422
        table = f"email,zip,first_name,phone,note,price\n{','.join(str(value) for value in raw.values())}\n"
        assert ask("POST", "/endpoints/shop/invocations", table.encode(), content_type="text/csv").status == 200
        v2 = [{"name": name, "shape": [1], "datatype": "FP64" if name == "price" else "BYTES", "data": [value]} for name, value in raw.items()]
        assert ask("POST", "/v2/models/shop/infer", {"inputs": v2}).status == 200
        told = {"outcomes": [{"id": first.document["predictions"][0]["id"], "value": True}]}
        assert ask("POST", "/outcomes/shop", told).status == 200
    assert drain.drain(ctx).rows
    ctx.online.close()
    for name, text in PLANTED.items():
        assert traces(ctx.root, text) == [], name
    assert traces(ctx.root, stored["email"])  # the search finds what is there, in the journal too


class Served(NamedTuple):
    """A copy of the project, served by processes with an access log."""

    state: Path
    url: str
    rpc: str
    expected: list[float]

    def post(self, path: str, body: Any, kind: str = "application/json", **headers: str) -> tuple[int, bytes]:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        named = {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urlopen(Request(self.url + path, raw, named), timeout=20) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    def kept(self) -> bytes:
        """All that serving has written down."""
        files = [*(self.state / "journal").glob("*"), *(self.state / "serving").rglob("*"), *self.state.glob("*log*")]
        return b"".join(file.read_bytes() for file in files if file.is_file())


@pytest.fixture(scope="module")
def served(project: Context, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("served") / ".kaizen"
    shutil.copytree(project.state, state, ignore=shutil.ignore_patterns("data", "journal"))
    with running(state) as ask:
        expected = ask("POST", "/predict/shop", {"inputs": [PLANTED | {"price": 30.0}]}).document["predictions"][0]["probabilities"]
    environ = {"KAIZEN_SERVE_ACCESS_LOG": "access.log", "AIP_PREDICT_ROUTE": "/v1/shop:predict"}
    grpc_port = ["--grpc-port", "0"] if importlib.util.find_spec("grpc") else []
    process = bundles.start("--state", str(state), *grpc_port, env=environ, log=state / "log")
    try:
        said = msgspec.json.decode(process.stdout.readline())
        yield Served(state, f"http://127.0.0.1:{said['port']}", f"127.0.0.1:{said.get('grpc_port')}", expected)
    finally:
        process.terminate()
        process.communicate()


Row = dict[str, Any]
UNIT = PLANTED["email"]


def tensors(row: Row) -> list[Row]:
    def kind(value: Any) -> str:
        return "BYTES" if isinstance(value, str) else "FP64"

    return [{"name": name, "shape": [1], "datatype": kind(value), "data": [value]} for name, value in row.items()]


def native(server: Served, row: Row) -> tuple[int, bytes]:
    return server.post("/predict/shop", {"inputs": [row], "unit": UNIT})


def oip(server: Served, row: Row) -> tuple[int, bytes]:
    return server.post("/v2/models/shop/infer", {"inputs": tensors(row), "id": UNIT, "parameters": {"unit": UNIT}})


def oip_binary(server: Served, row: Row) -> tuple[int, bytes]:
    parts, inputs = [], tensors(row)
    for tensor in inputs:
        (value,) = tensor.pop("data")
        raw = value.encode() if isinstance(value, str) else struct.pack("<d", value)
        parts.append(struct.pack("<I", len(raw)) + raw if isinstance(value, str) else raw)
        tensor["parameters"] = {"binary_data_size": len(parts[-1])}
    head = msgspec.json.encode({"inputs": inputs, "parameters": {"unit": UNIT}})
    body = head + b"".join(parts)
    return server.post("/v2/models/shop/infer", body, "application/octet-stream", inference_header_content_length=str(len(head)))


def rpc(server: Served, row: Row, raw: bool = False) -> tuple[int, bytes]:
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'kaizenml[grpc]'")
    from kaizenml.serving.grpc.messages import MESSAGES, SERVICE

    inputs, parts = tensors(row), []
    for tensor in inputs:
        values = [value.encode() if isinstance(value, str) else value for value in tensor.pop("data")]
        if raw:
            parts += [struct.pack("<I", len(v)) + v if isinstance(v, bytes) else struct.pack("<d", v) for v in values]
        else:
            tensor["contents"] = {"bytes_contents" if tensor["datatype"] == "BYTES" else "fp64_contents": values}
    asked = MESSAGES["ModelInferRequest"](
        model_name="shop", id=UNIT, inputs=inputs, raw_input_contents=parts, parameters={"unit": {"string_param": UNIT}}
    )
    with grpc.insecure_channel(server.rpc) as channel:
        try:
            answer = channel.unary_unary(f"/{SERVICE}/ModelInfer")(asked.SerializeToString(), timeout=20, metadata=(("x-email", UNIT),))
        except grpc.RpcError as error:
            return 422 if error.code() is grpc.StatusCode.INVALID_ARGUMENT else 500, error.details().encode()
    told = MESSAGES["ModelInferResponse"].FromString(answer)
    names = [output.name for output in told.outputs]
    if raw:  # answered as asked
        found = dict(zip(names, told.raw_output_contents, strict=True))
        shares, identity = list(struct.unpack("<2d", found["probabilities"])), found["id"][4:]
    else:
        listed = {output.name: output.contents for output in told.outputs}
        shares, identity = list(listed["probabilities"].fp64_contents), listed["id"].bytes_contents[0]
    return 200, msgspec.json.encode({"probabilities": [shares], "ids": [identity.decode()]})


def csv_with_header(server: Served, row: Row) -> tuple[int, bytes]:
    body = f"{','.join(row)}\n{','.join(map(str, row.values()))}\n".encode()
    return server.post("/endpoints/shop/invocations", body, "text/csv", x_amzn_sagemaker_custom_attributes=UNIT)


def csv_in_order(server: Served, row: Row) -> tuple[int, bytes]:
    with urlopen(f"{server.url}/v2/models/shop", timeout=20) as answer:
        names = [tensor["name"] for tensor in msgspec.json.decode(answer.read())["inputs"]]
    return server.post("/invocations", ",".join(str(row[name]) for name in names).encode(), "text/csv")


def json_body(server: Served, row: Row, **body: Any) -> tuple[int, bytes]:
    return server.post("/invocations", body | {"params": {"unit": UNIT}})


def vertex(server: Served, row: Row) -> tuple[int, bytes]:
    return server.post("/v1/shop:predict", {"instances": [row], "parameters": {"unit": UNIT}})


def npy(server: Served, row: Row) -> tuple[int, bytes]:
    kinds = [(name, f"U{len(value)}" if isinstance(value, str) else "f8") for name, value in row.items()]
    file = io.BytesIO()
    np.save(file, np.array([tuple(row.values())], dtype=kinds), allow_pickle=False)
    return server.post("/invocations", file.getvalue(), "application/x-npy", x_kaizen_unit=UNIT, accept="application/json")


def arrow(server: Served, row: Row) -> tuple[int, bytes]:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist([row])
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return server.post("/predict/shop", sink.getvalue().to_pybytes(), "application/vnd.apache.arrow.stream", x_kaizen_unit=UNIT)


ASKING = {
    "native": native, "OIP, JSON": oip, "OIP, binary": oip_binary, "OIP over gRPC": rpc, "OIP over gRPC, raw": partial(rpc, raw=True),
    "SageMaker, CSV": csv_with_header, "SageMaker, CSV without a header": csv_in_order,
    "MLflow, dataframe_split": lambda server, row: json_body(server, row, dataframe_split={"columns": list(row), "data": [list(row.values())]}),
    "MLflow, dataframe_records": lambda server, row: json_body(server, row, dataframe_records=[row]),
    "MLflow, inputs": lambda server, row: json_body(server, row, inputs={name: [value] for name, value in row.items()}),
    "Vertex": vertex, "NPY": npy, "Arrow": arrow,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ASKING)
def test_whatever_way_a_request_comes_no_planted_value_is_written_down_by_the_server(served: Served, protocol: str) -> None:
    ask = ASKING[protocol]
    status, body = ask(served, PLANTED | {"price": 30.0})
    assert status == 200, body
    said = msgspec.json.decode(body)
    flat = str(said)
    share = f"{served.expected[1]:.12f}"[:12]
    assert share in flat, (share, flat)  # what is hidden is read as its training rows were
    identity = re.search(r"'ids?': \[?'([^']+)'|'name': 'id'.*?'data': \['([^']+)'", flat)
    assert identity is not None, flat
    status, body = ask(served, PLANTED | {"price": PLANTED["first_name"]})
    assert 400 <= status < 500, body
    kept = served.kept()
    assert (identity[1] or identity[2]).encode() in kept  # the search finds what is there
    for name, text in PLANTED.items():
        assert text.encode() not in kept, name


@pytest.mark.slow
def test_columns_that_nothing_reads_are_named_when_a_dataset_is_shown(project: Context) -> None:
    rows = tables.read(project, "people").append_column("shoe_size", pa.array(np.arange(31) % 9))
    data.add(project, "people", table=rows.append_column("hat", pa.array(["a"] * 31)), mode="replace")
    assert lineage.show(project, "people").unused == ["shoe_size", "hat"]
    assert lineage.show(project, "orders").unused == []


@pytest.mark.slow
def test_an_endpoint_without_the_key_does_not_answer_rather_than_journal_raw_values(
    project: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "elsewhere"
    shutil.copytree(project.state, state, ignore=shutil.ignore_patterns("keys", "data"))
    body = {"inputs": [PLANTED | {"price": 30.0}]}
    with running(state) as ask:
        answer = ask("POST", "/predict/shop", body)
        assert answer.status == 503
        assert "requests have to be hidden with the key" in answer.document["error"]["message"]
    assert not (state / "keys" / "project.key").exists()
    monkeypatch.setenv(keys.VARIABLE, (project.state / "keys" / "project.key").read_text())
    with running(state) as ask:
        assert ask("POST", "/predict/shop", body).status == 200


@pytest.mark.slow
def test_what_is_kept_is_an_input_and_shown_nowhere_and_what_is_encrypted_is_none(tmp_path: Path) -> None:
    (tmp_path / "kaizen.toml").write_text(SETTINGS.partition("[features")[0] + '[train]\nbudget = "1s"\nthreads = 1\n')
    ctx = open_project(tmp_path, actor="tester")
    path = contract_file.path_of(ctx.root, "orders")
    contract = data.check(ctx, "orders", table=orders()).contract
    kept = Personal(kind="postcode", decision="keep", reason="the price of delivery", by="ada")
    sealed = Personal(kind="name", decision="encrypt")
    columns = [
        msgspec.structs.replace(one, personal={"zip": kept, "first_name": sealed}.get(one.name, one.personal), kind="category")
        if one.name in ("zip", "first_name")
        else one
        for one in contract.columns
    ]
    contract_file.write(path, msgspec.structs.replace(contract, columns=columns, subject="email"), "orders")
    data.add(ctx, "orders", table=orders())
    assert keys.SEALED.fullmatch(tables.read(ctx, "orders")["first_name"][0].as_py())
    model = registry.register(ctx, training.train(ctx).id, name="shop")
    found = model_file.read(ctx.state / model.folder).signature
    by_name = {field.name: field for field in found.fields}
    assert by_name["zip"].examples == []
    assert by_name["price"].examples
    assert "first_name" not in by_name
    assert found.hidden == {"email": "pseudonym", "first_name": "drop", "phone": "drop", "note": "drop"}
    ctx.online.close()
    ctx.catalog.close()


def signature(**hidden: str) -> Signature:
    return Signature(task="binary", target="y", classes=[False, True], fields=[], unit="email", hidden=hidden)


def test_nothing_is_done_where_nothing_is_hidden(tmp_path: Path) -> None:
    assert hiding_for([signature()], [tmp_path]) is None


def test_numbers_become_the_pseudonyms_of_their_stored_text(tmp_path: Path) -> None:
    project_keys = keys.open_keys(tmp_path, {})
    hiding = Hiding({"id": "pseudonym", "name": "drop", "email": "pseudonym"}, unit=True, keys=project_keys)
    request = hiding.hide(PredictRequest([{"id": 42.0, "name": "Ada", "x": 1}, {"id": "42", "email": None}, {"id": 42}], "ada@example.org"))
    pseudonym = project_keys.pseudonym("42")
    assert list(request.inputs) == [{"id": pseudonym, "x": 1}, {"id": pseudonym, "email": None}, {"id": pseudonym}]
    assert request.unit == project_keys.pseudonym("ada@example.org")


def test_what_one_release_reads_as_a_pseudonym_is_not_dropped_for_another_ones_sake(tmp_path: Path) -> None:
    fingerprint = keys.open_keys(tmp_path, {}).fingerprint
    releases_of = [signature(email="drop"), msgspec.structs.replace(signature(email="pseudonym"), key_print=fingerprint)]
    for order in (releases_of, releases_of[::-1]):
        hiding = hiding_for(order, [tmp_path])
        assert hiding is not None
        assert keys.PSEUDONYM.fullmatch(str(hiding.hide(PredictRequest([{"email": "a@example.org"}])).inputs[0]["email"]))
