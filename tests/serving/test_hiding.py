"""No raw value of a person is anywhere in a project after ingest, quarantine, training, release, answers, errors, outcomes and drain."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
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
