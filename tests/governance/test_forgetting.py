"""A person is forgotten everywhere, everybody else nowhere, and what was pinned can still be read and checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import every_byte
import on_servers
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import whole_shop as shop
from whole_shop import served

from engines import S3
from kaizenml import audit, moving
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.errors import Conflict, Corrupt, NotFound, UsageError
from kaizenml.features import operations as features
from kaizenml.governance import operations as governance
from kaizenml.governance.forgetting import certificate
from kaizenml.loop import operations as loop
from kaizenml.monitoring import operations as monitoring
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.serving import operations as serving
from kaizenml.serving import outcomes
from kaizenml.serving.journaling import predictions
from made_once import made_once

THEIRS = (shop.TOWN, shop.BASKET, *shop.ORDERS, "z-asked-1", "z-bad")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop with answers, outcomes and a look of monitoring."""

    def fill(root: Path) -> None:
        ctx = shop.make(root)
        with served(ctx) as client:
            shop.ask(ctx, client)
        serving.drain(ctx)
        monitoring.observe(ctx, "shop")
        ctx.online.close()
        ctx.catalog.close()

    return made_once(tmp_path_factory, "forgetting-shop", fill)


@pytest.fixture
def ctx(made: Path, tmp_path: Path) -> Iterator[Context]:
    shutil.copytree(made, tmp_path / "shop")
    ctx = shop.opened(tmp_path / "shop")
    yield ctx
    ctx.online.close()
    ctx.catalog.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "kaizen.toml").write_text('[project]\nname = "small"\n', encoding="utf-8")
    ctx = open_project(tmp_path, actor="tester")
    rows = {"customer_id": [1, 2, 3, 2], "name": ["Ada", "Blaise", "Carl", "Blaise"], "spent": [1.5, 77.25, 3.0, 99.5]}
    data.add(ctx, "spending", table=pa.table(rows))
    data.add(ctx, "spending", table=pa.table({"customer_id": [4, 5], "name": ["Dora", "Emil"], "spent": [4.0, 5.0]}))
    yield ctx
    ctx.catalog.close()


@pytest.mark.slow
def test_no_byte_of_a_person_is_left_anywhere_while_a_server_answers(ctx: Context):
    assert {hit.partition(":")[0].split("/")[1] for hit in every_byte.found(ctx.root, *THEIRS, numbers=(shop.WHO,))} >= {
        "data", "models", "releases", "runs", "monitoring", "online.db", "pushed.db", "predictions",
    }  # fmt: skip
    with served(ctx) as client:
        before = shop.ask(ctx, client)  # still in the journal when it begins
        made = governance.forget(ctx, subject=[shop.SUBJECT], why="asked by letter")
        assert every_byte.found(ctx.root, *THEIRS, numbers=(shop.WHO,)) == []
        after = shop.ask(ctx, client, tell=False)
        assert len(before) == len(after) == 15
    assert serving.counts(ctx, "shop")["rows"] == 2 * 10 + 15  # of others before, and all that came after
    assert made.removed["rows of orders"] == 3
    assert made.removed["predictions of shop"] == made.removed["outcomes"] == 10
    assert [each.release for each in made.learnt] == ["shop@1"]


@pytest.mark.slow
def test_no_byte_of_a_person_is_left_on_postgres_s3_and_redis(ctx: Context, postgres: str, s3: S3, redis: str, tmp_path: Path):
    pytest.importorskip("redis", reason="the client of Redis is not installed: pip install 'kaizenml[redis]'")
    ctx.online.close()
    ctx.catalog.close()
    on_servers.keep_versions(s3)
    moving.migrate(ctx.root, catalog=postgres, objects_at=f"{s3.url}/shop", online=redis, actor="maria")
    now = shop.opened(ctx.root)
    with moving.closing_all(now):
        with pytest.raises(Conflict, match="from before the project moved"):
            governance.forget(now, subject=[shop.SUBJECT])
        for name in ("catalog.db", "online.db", "data"):  # what the page on moving says is no longer needed
            (shutil.rmtree if name == "data" else os.unlink)(now.state / name)
        features.materialize(now, "people")
        data.add(now, "orders", table=shop.orders(5, first=1300, theirs=("z-later",)))
        there = on_servers.copied(tmp_path / "before", postgres, s3, redis)
        told = {hit.partition("/")[0] for hit in every_byte.found(there, *THEIRS, numbers=(shop.WHO,))}
        assert told == {"postgres", "redis", "s3"}
        with served(now) as client:
            shop.ask(now, client)
            made = governance.forget(now, subject=[shop.SUBJECT], why="asked by letter")
            there = on_servers.copied(tmp_path / "after", postgres, s3, redis)
            assert every_byte.found(there, *THEIRS, "z-later", numbers=(shop.WHO,)) == []
            assert every_byte.found(now.root, *THEIRS, "z-later", numbers=(shop.WHO,)) == []
            assert len(shop.ask(now, client, tell=False)) == 15
        assert made.removed["rows of orders"] == 4
        for ref in ("orders@1", "orders@5", "customers@1"):
            data.verify(now, ref)
        assert releases.verify(now, "shop@1").ref == "shop@1"
        assert made.certificate is not None
        assert any("bucket keeps older versions" in each for each in made.certificate.not_reached)


@pytest.mark.slow
def test_everybody_else_is_where_they_were_and_pins_resolve(ctx: Context):
    versions = {each.ref: each for each in data.versions(ctx, "orders")}
    others = {ref: tables.read(ctx, ref).filter(pc.field("customer_id") != shop.WHO) for ref in versions}
    pinned = releases.show(ctx, "shop@1")
    channel = {name: features.get(ctx, "channels", name) for name in ("web", "app", "store")}
    governance.forget(ctx, subject=[shop.SUBJECT])
    for ref, rows in others.items():
        assert tables.read(ctx, ref).equals(rows)
        shown = data.verify(ctx, ref)
        assert (shown.rows, shown.forgotten) == (rows.num_rows, versions[ref].rows - rows.num_rows)
        assert data.show(ctx, ref).version.profile["order_id"]["count"] == rows.num_rows
        assert tables.version(ctx, ref).forgotten[0].before == versions[ref].hash
    assert data.verify(ctx, "orders@1").said == "orders@1 is whole; 1 row forgotten since"
    assert releases.verify(ctx, "shop@1").hash == pinned.hash
    registry.verify(ctx, "shop@1")
    audit.verify(ctx)
    with pytest.raises(NotFound):
        features.get(ctx, "people", str(shop.WHO))
    assert features.get(ctx, "people", "10000001").values["visits"] == 3
    now = {name: features.get(ctx, "channels", name) for name in channel}
    theirs = {name for name, kept in channel.items() if kept.values["basket"] == shop.BASKET}
    assert theirs
    assert {name for name in channel if now[name] != channel[name]} == theirs
    assert {kept.values["basket"] for kept in now.values()} == {"plain"}
    rows = predictions.read(ctx, "shop", role="live")
    assert rows.num_rows == 10
    assert outcomes.states(ctx.state, "shop")["kept"] == 10


@pytest.mark.slow
def test_a_decision_is_kept_and_retrain_asks_the_loop(ctx: Context):
    made = governance.forget(ctx, subject=[shop.SUBJECT])
    assert [each.decision for each in made.decisions] == ["open"]
    with pytest.raises(UsageError, match="needs a reason"):
        governance.decide(ctx, "shop@1", decision="keep", why=" ")
    governance.decide(ctx, "shop@1", decision="keep", why="three rows of many")
    kept = governance.decide(ctx, "shop@1", decision="retrain", why="on second thoughts")
    assert [(each.decision, each.reason, each.by) for each in kept] == [("retrain", "on second thoughts", "tester")]
    assert governance.forgotten(ctx)[0].decisions == kept
    assert loop.status(ctx)[0].endpoint == "shop"
    with pytest.raises(NotFound, match="no certificate lists"):
        governance.decide(ctx, "shop@9", decision="keep", why="no")


def test_only_the_rows_go_and_a_second_time_finds_nothing(small: Context):
    before = tables.version(small, "spending@2")
    would = governance.forget(small, subject=["customer_id=2"], dry_run=True)
    assert (would.removed["rows of spending"], would.done, before) == (2, False, tables.version(small, "spending@2"))
    governance.forget(small, subject=["customer_id=2"], why="asked")
    assert tables.read(small, "spending@1")["name"].to_pylist() == ["Ada", "Carl"]
    assert tables.read(small, "spending@2")["name"].to_pylist() == ["Ada", "Carl", "Dora", "Emil"]
    assert every_byte.found(small.root, "Blaise", "77.25", "99.5") == []
    again = governance.forget(small, subject=["customer_id=2"])
    assert set(again.removed.values()) == {0}
    assert again.said == "Nothing of theirs was found: is customer_id written as in the rows?"
    assert again.certificate is not None
    assert again.certificate.renewed == []


def test_a_person_is_named_by_a_column_that_is_here(small: Context):
    for dry_run in (True, False):
        with pytest.raises(NotFound, match="no dataset, view or request has a column 'custmer_id'; did you mean 'customer_id'"):
            governance.forget(small, subject=["customer_id=2", "custmer_id=3"], dry_run=dry_run)
    assert governance.forgotten(small) == []
    assert tables.read(small, "spending")["customer_id"].to_pylist() == [1, 2, 3, 2, 4, 5]


def test_a_column_of_which_nothing_is_kept_finds_nobody_and_the_certificate_says_so(small: Context):
    mails = [f"p{n}@mail.example" for n in range(40)]
    data.add(small, "letters", table=pa.table({"customer_id": [*range(40)], "email": mails}))
    made = governance.forget(small, subject=["email=p3@mail.example"])
    told = "letters keeps no values of email: rows of the person are not found by it, only by another column that names them."
    assert made.said.startswith(told)
    assert made.certificate is not None
    assert told in made.certificate.not_reached
    assert tables.version(small, "letters").rows == 40


def test_a_part_may_lose_all_its_rows(small: Context):
    governance.forget(small, subject=["customer_id=4", "customer_id=5"])
    assert tables.read(small, "spending@2")["customer_id"].to_pylist() == [1, 2, 3, 2]
    assert data.verify(small, "spending@2").forgotten == 2
    data.add(small, "spending", table=pa.table({"customer_id": [4, 6], "name": ["Dora", "Finn"], "spent": [1.0, 2.0]}))
    assert tables.read(small, "spending")["customer_id"].to_pylist() == [1, 2, 3, 2, 6]


def test_a_column_of_another_name_may_say_what_it_holds(small: Context):
    data.add(small, "gifts", table=pa.table({"buyer": ["2", "7"], "what": ["book", "lamp"]}))
    path = small.root / "contracts" / "gifts.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('name = "buyer"\n', 'name = "buyer"\nholds = "customer_id"\n'), encoding="utf-8")
    data.add(small, "gifts", table=pa.table({"buyer": ["2"], "what": ["pen"]}))
    made = governance.forget(small, subject=["customer_id=2"])
    assert made.removed["rows of gifts"] == 2
    assert tables.read(small, "gifts")["buyer"].to_pylist() == ["7"]


def test_pseudonyms_and_encrypted_values_go_too(small: Context):
    path = small.root / "contracts" / "patients.toml"
    path.write_text(
        'subject = "patient"\n[[columns]]\nname = "patient"\nkind = "text"\npersonal = {kind = "id", decision = "pseudonym"}\n'
        '[[columns]]\nname = "note"\nkind = "text"\npersonal = {kind = "text", decision = "encrypt"}\n',
        encoding="utf-8",
    )
    data.add(small, "patients", table=pa.table({"patient": ["p-7", "p-8"], "note": ["secret", "other"]}))
    made = governance.forget(small, subject=["patient=p-7"])
    assert made.removed["rows of patients"] == 1
    assert made.certificate is not None
    assert made.certificate.keys_destroyed == 1
    assert tables.read(small, "patients").num_rows == 1


def test_a_certificate_names_nobody_and_shows_when_it_was_changed(small: Context):
    made = governance.forget(small, subject=["customer_id=2"], why="asked")
    text = (small.state / "certificates" / "0001.md").read_text(encoding="utf-8")
    assert "rows of spending | 2" in text
    assert "Blaise" not in text
    assert governance.forgotten(small)[0].certificate == made.certificate
    assert made.certificate is not None
    assert [event.subject for event in audit.list(small, kind="data.forgotten")] == ["forgetting 1"]
    certificate.write(small.state, _replaced(made.certificate, why="nobody asked"))
    with pytest.raises(Corrupt, match="was changed"):
        governance.forgotten(small)


def test_a_version_whose_link_was_forged_is_no_longer_whole(small: Context):
    from kaizenml.data import store

    governance.forget(small, subject=["customer_id=2"])
    version = tables.version(small, "spending@1")
    forged = _replaced(version, forgotten=[_replaced(version.forgotten[0], rows=1)])
    with small.catalog.write() as connection:
        store.renew(connection, forged, store.parts(connection, "spending")[1])
    with pytest.raises(Corrupt, match="not signed with this project's key"):
        data.verify(small, "spending@1")


@pytest.mark.parametrize(
    ("subject", "why"), [(["42"], ""), (["=42"], ""), (["customer_id="], ""), ([], ""), (["customer_id=42"], "customer 42 wrote")]
)
def test_what_cannot_be_meant_is_refused(small: Context, subject: list[str], why: str):
    with pytest.raises(UsageError):
        governance.forget(small, subject=subject, why=why)


def _replaced(value, **changes):
    import msgspec

    return msgspec.structs.replace(value, **changes)
