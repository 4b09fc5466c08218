"""Who was forgotten stays so: rows of theirs that come again, from whatever source, are left out and counted, until somebody lets them in."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import every_byte
import msgspec
import pyarrow as pa
import pytest

from kaizenml import audit
from kaizenml.context import Context
from kaizenml.data import keys, tables
from kaizenml.data import operations as data
from kaizenml.data.intake import files, streams
from kaizenml.data.people import left_out
from kaizenml.data.store import forgotten_subjects
from kaizenml.errors import Conflict, NotFound, Unavailable, UsageError
from kaizenml.features import operations as features
from kaizenml.features.online import taking
from kaizenml.governance import operations as governance
from kaizenml.governance.forgetting import carrying_out, subject
from kaizenml.loop import reconciler
from kaizenml.project import open_project
from kaizenml.rollouts import operations as rollouts

HEAD = "id,customer_id,town\n"
THEIRS = "b,481516232,Quastenberg\n"
ROWS = "a,581516231,Ahrensburg\n" + THEIRS + "c,681516241,Celle\nd,481516232,Quastenberg\n"
WHO = "customer_id=481516232"
SAID = "rows of forgotten subjects were left out"


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "kaizen.toml").write_text(
        '[project]\nname = "shop"\n[features.people]\ndataset = "seen"\nentity = "customer_id"\nat = "day"\ncolumns = ["spent"]\n', encoding="utf-8"
    )
    ctx = open_project(tmp_path, actor="ada")
    yield ctx
    ctx.online.close()
    ctx.catalog.close()


def write(ctx: Context, name: str, text: str) -> str:
    path = ctx.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def who(ctx: Context, ref: str) -> list[int]:
    return tables.read(ctx, ref)["customer_id"].to_pylist()


def test_a_file_that_is_refreshed_brings_nobody_back(ctx: Context):
    file = write(ctx, "orders.csv", HEAD + ROWS)
    data.add(ctx, "orders", file)
    governance.forget(ctx, subject=[WHO])
    assert data.refresh(ctx, "orders").version is None
    write(ctx, "orders.csv", HEAD + ROWS + "e,781516257,Emden\n")
    made = data.refresh(ctx, "orders")
    assert (made.version, made.rows, made.said) == ("orders@2", 3, f"made orders@2; 2 {SAID}")
    assert tables.version(ctx, "orders").warnings == {SAID: 2}
    (event,) = audit.list(ctx, kind="data.left_out")
    assert (event.subject, event.data["rows"]) == ("orders@2", 2)
    write(ctx, "orders.csv", HEAD + ROWS)
    data.take(ctx, "orders", "orders.csv", once="file:1", why="changed")
    assert who(ctx, "orders") == [581516231, 681516241]
    (ctx.root / "orders.csv").unlink()
    assert every_byte.found(ctx.root, "Quastenberg", numbers=(481516232,)) == []


def test_no_other_way_in_brings_them_back_either(ctx: Context):
    data.add(ctx, "orders", write(ctx, "in/one.csv", HEAD + ROWS))
    governance.forget(ctx, subject=[WHO])
    assert data.add(ctx, "orders", str(ctx.root / "in")).warnings == {SAID: 2}
    write(ctx, "in/two.csv", HEAD + THEIRS)
    assert data.refresh(ctx, "orders").version is None, "there is nobody else in it"
    assert data.refresh(ctx, "orders").said == "nothing is new"
    assert [event.subject for event in audit.list(ctx, kind="data.left_out")] == ["orders", "orders@2"]
    connection = sqlite3.connect(ctx.root / "shop.db")
    connection.execute("CREATE TABLE orders (id TEXT, customer_id REAL, town TEXT)")
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", [("q", 481516232.0, "Quastenberg"), ("r", 481516239.0, "Rheine")])
    connection.commit()
    connection.close()
    made = data.add(ctx, "bought", f"sqlite:///{ctx.root / 'shop.db'}", query="SELECT * FROM orders")
    assert (made.rows, made.warnings) == (1, {SAID: 1})
    frame = pa.table({"customer_id": [" 481516232", "0481516232", "481516238", "x"], "id": ["s", "t", "u", "v"], "town": ["T"] * 4})
    made = data.add(ctx, "orders", table=frame)
    assert (made.warnings, made.quarantined) == ({SAID: 2}, 1)
    assert data.quarantine(ctx, "orders").samples[0]["_row"] == 4, "numbers are those of the source"
    hidden = pa.table({"customer_id": [keys.open_keys(ctx.state).pseudonym("481516232")], "id": ["w"], "town": ["W"]})
    with pytest.raises(Conflict, match="all rows of python are of subjects who were forgotten"):
        data.add(ctx, "elsewhere", table=hidden)
    found = data.check(ctx, "orders", write(ctx, "three.csv", HEAD + ROWS))
    assert (found.rows, found.warnings) == (2, {SAID: 2})


def test_pieces_are_looked_through_as_a_whole_is(ctx: Context, monkeypatch: pytest.MonkeyPatch):
    data.add(ctx, "orders", write(ctx, "first.csv", HEAD + "z,481516299,Zeven\n"))
    governance.forget(ctx, subject=[WHO])
    for module in (streams, files):
        monkeypatch.setattr(module, "WHOLE_BYTES", 100)
    monkeypatch.setattr(streams, "_CHUNK", 150)
    monkeypatch.setattr(files, "_PIECE_BYTES", 400)
    lines = [f"i{n},{481516232 if n < 40 or n % 10 == 0 else 481516300 + n},{'T' * 20}\n" for n in range(200)]
    lines[77] = "i77,nobody,TT\n"
    made = data.add(ctx, "orders", write(ctx, "many.csv", HEAD + "".join(lines)))
    assert (made.rows, made.warnings, made.quarantined) == (1 + 200 - 40 - 16 - 1, {SAID: 56}, 1)
    assert 481516232 not in who(ctx, "orders")
    assert data.quarantine(ctx, "orders").samples[0]["_row"] == 78


def test_a_column_of_another_name_and_one_that_is_dropped_are_looked_at(ctx: Context):
    path = ctx.root / "contracts" / "gifts.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        '[[columns]]\nname = "buyer"\nkind = "text"\nholds = "customer_id"\npersonal = {kind = "id", decision = "pseudonym"}\n'
        '[[columns]]\nname = "email"\nkind = "text"\npersonal = {kind = "email", decision = "drop"}\n',
        encoding="utf-8",
    )
    governance.forget(ctx, subject=[WHO, "email=z@quastenberg.org"])
    made = data.add(ctx, "gifts", table=pa.table({"buyer": ["481516232", "2", "3"], "email": ["a@b.org", "c@d.org", "z@quastenberg.org"]}))
    assert (made.rows, made.warnings) == (1, {SAID: 2})


def test_who_was_asked_for_by_a_pseudonym_is_known_by_the_value(ctx: Context):
    hidden = keys.open_keys(ctx.state).pseudonym("p-7")
    assert governance.forget(ctx, subject=[f"patient={hidden}"]).said == "Nothing here has a column 'patient' so far."
    assert data.add(ctx, "visits", table=pa.table({"patient": ["p-7", "p-8"]})).rows == 1


def test_a_person_who_comes_back_is_let_in_by_a_command(ctx: Context):
    data.add(ctx, "orders", write(ctx, "orders.csv", HEAD + ROWS))
    governance.forget(ctx, subject=[WHO])
    with pytest.raises(UsageError, match="nothing says why"):
        governance.readmit(ctx, subject=[WHO], why=" ")
    with pytest.raises(UsageError, match="the reason names"):
        governance.readmit(ctx, subject=[WHO], why="481516232 wrote again")
    with pytest.raises(NotFound, match="subject 2 "):
        governance.readmit(ctx, subject=[WHO, "customer_id=1"], why="back")
    with pytest.raises(Conflict, match="all rows"):
        data.add(ctx, "orders", write(ctx, "again.csv", HEAD + THEIRS))
    assert governance.readmit(ctx, subject=[WHO], why="a customer again").subjects == 1
    data.add(ctx, "orders", write(ctx, "again.csv", HEAD + THEIRS))
    assert 481516232 in who(ctx, "orders")
    (event,) = audit.list(ctx, kind="data.readmitted")
    assert "481516232" not in msgspec.json.encode(event).decode()
    assert governance.forget(ctx, subject=[WHO]).removed["rows of orders"] == 1
    with pytest.raises(Conflict, match="all rows"):
        data.add(ctx, "orders", str(ctx.root / "again.csv"))


def test_pushed_rows_are_taken_nowhere(ctx: Context):
    def row(person: int) -> dict[str, object]:
        return {"customer_id": person, "day": "2026-01-01T00:00:00Z", "spent": 1.5}

    features.push(ctx, "people", [row(581516231)])
    features.flush(ctx, "people")
    governance.forget(ctx, subject=[WHO])
    receiver = taking.Receiver(ctx.state, lambda: ctx.online)  # as a serving process has it: it reads what the forgetting has published
    made = receiver.take("people", [row(481516232), row(681516241)])
    assert (made.rows, made.kept, made.left_out) == (1, 1, 1)
    with pytest.raises(NotFound):
        features.get(ctx, "people", "481516232")
    version = features.flush(ctx, "people")
    assert version is not None
    assert (version.rows, version.warnings) == (2, {})
    governance.readmit(ctx, subject=[WHO], why="back")
    assert receiver.take("people", [row(481516232)]).left_out == 0


def test_a_server_on_another_machine_knows_of_it_when_releases_are_published_there(ctx: Context):
    features.push(ctx, "people", [{"customer_id": 581516231, "day": "2026-01-01T00:00:00Z", "spent": 1.5}])
    features.materialize(ctx, "people")
    receiver = taking.Receiver(ctx.state, lambda: ctx.online)
    with ctx.catalog.write() as connection:  # the catalog is all that the machines share
        left_out.keep(connection, keys.open_keys(ctx.state), 1, [("customer_id", ["481516232"])])
    rollouts.publish(ctx)
    assert receiver.take("people", [{"customer_id": 481516232, "day": "2026-01-01T00:00:00Z", "spent": 1.5}]).left_out == 1


def forgotten_before_there_were_marks(ctx: Context, *subjects: str) -> None:
    """Forget, and leave the catalog as that left it before there was a list; then bring it to the current schema."""
    governance.forget(ctx, subject=[*subjects])
    with ctx.catalog.write() as connection:
        connection.execute(forgotten_subjects.delete())
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0007'")
    ctx.catalog.create()


def test_who_was_forgotten_before_there_was_a_list_is_known_by_the_certificate(ctx: Context):
    file = write(ctx, "orders.csv", HEAD + ROWS)
    data.add(ctx, "orders", file)
    hidden = keys.open_keys(ctx.state).pseudonym("p-7")
    forgotten_before_there_were_marks(ctx, WHO, f"patient={hidden}", "town=Ahrensburg")
    made = data.add(ctx, "orders", file, mode="replace")
    assert (made.rows, made.warnings) == (1, {SAID: 3})
    assert data.add(ctx, "visits", table=pa.table({"patient": ["p-7", "p-8"], "customer_id": [1.0, 2.0]})).rows == 1
    assert data.add(ctx, "bought", table=pa.table({"customer_id": [481516232.0, 481516232.5]})).rows == 1
    features.push(ctx, "people", [{"customer_id": 581516231, "day": "2026-01-01T00:00:00Z", "spent": 1.5}])
    receiver = taking.Receiver(ctx.state, lambda: ctx.online)
    features.publish(ctx)
    assert receiver.take("people", [{"customer_id": 481516232, "day": "2026-01-01T00:00:00Z", "spent": 1.5}]).left_out == 1
    assert governance.readmit(ctx, subject=["customer_id=481516232.0", "patient=p-7"], why="back").subjects == 2
    assert receiver.take("people", [{"customer_id": 481516232, "day": "2026-01-01T00:00:00Z", "spent": 1.5}]).left_out == 0
    governance.forget(ctx, subject=["town=Ahrensburg"])
    with ctx.catalog.read() as connection:
        (found,) = left_out.known(connection).values()
    assert {len(mark) for mark in found.values} == {16}, "forgotten once more, they are known by marks"


def test_the_list_is_made_of_those_alone_who_are_not_on_it_and_were_not_let_in(ctx: Context):
    forgotten_before_there_were_marks(ctx, WHO)
    governance.readmit(ctx, subject=[WHO], why="back")
    governance.forget(ctx, subject=["town=Celle"])
    with ctx.catalog.write() as connection:
        before = left_out.known(connection)
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0007'")
    ctx.catalog.create()
    with ctx.catalog.read() as connection:
        assert left_out.known(connection) == before


def test_where_nobody_was_forgotten_nothing_is_looked_through(ctx: Context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(left_out, "Watch", None)
    assert left_out.watch(ctx) is None
    assert data.add(ctx, "orders", write(ctx, "orders.csv", HEAD + ROWS)).warnings == {}


def test_the_list_holds_no_value_and_no_pseudonym(ctx: Context):
    governance.forget(ctx, subject=[WHO])
    hidden = keys.open_keys(ctx.state).pseudonym("481516232")
    assert every_byte.found(ctx.root, "481516232", hidden, numbers=(481516232,)) == []
    with ctx.catalog.read() as connection:
        (found,) = left_out.known(connection).values()
    assert len(found.values) == 2 * len(subject.texts("481516232"))


@pytest.mark.parametrize(
    ("value", "texts"),
    [("42", ["42", "42.0"]), ("0.5", ["0.5"]), ("True", ["True", "true"]), ("2026-01-02", ["2026-01-02", "2026-01-02 00:00:00.000000Z"])],
)
def test_a_value_is_known_in_every_form_that_a_column_may_give_it(value: str, texts: list[str]):
    assert subject.texts(value) == texts


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_a_forgetting_waits_for_the_loop_wherever_that_is(
    ctx: Context, shared: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    if shared:  # by the catalog: the loop may run on another machine, which has no file of this one
        monkeypatch.setenv("KAIZEN_PROJECT_CATALOG", request.getfixturevalue("postgres"))
        here = ctx.root / "on-postgres"
        here.mkdir()
        shutil.copy(ctx.root / "kaizen.toml", here)
        ctx = open_project(here)
    data.add(ctx, "orders", write(ctx, "orders.csv", HEAD + ROWS))
    monkeypatch.setattr(carrying_out, "_LOCK_WAIT_S", 0.1)
    with reconciler.lease(open_project(ctx.root)), pytest.raises(Unavailable, match="the loop has been at work"):
        governance.forget(ctx, subject=[WHO])
    assert governance.forget(ctx, subject=[WHO]).done
    ctx.catalog.close()
