from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from kaizenml.context import Context
from kaizenml.data import contract_file, keys, operations, tables
from kaizenml.data.dataset import Column, Contract, Personal
from kaizenml.data.intake import files
from kaizenml.data.people import personal
from kaizenml.errors import Conflict, ContractBroken, Corrupt, InvalidData, InvalidSettings
from kaizenml.project import open_project
from traces import traces

PEOPLE = pa.table(
    {
        "customer_id": pa.array([11, 12, 13, 11], pa.int64()),
        "email": ["ada@example.org", "bob@example.org", None, "ada@example.org"],
        "note": ["called twice about the parcel", "moved house in March", "pays late", None],
        "iban": ["DE89370400440532013000", "GB82WEST12345698765432", None, "DE89370400440532013000"],
        "spent": [10.5, 20.0, 30.25, 1.0],
    }
)


def decided(**decisions: str) -> Contract:
    """A contract of PEOPLE with these decisions."""
    kinds = {"customer_id": "integer", "email": "text", "note": "text", "iban": "text", "spent": "number"}
    kept = {"reason": "needed", "by": "ada"}
    return Contract(
        columns=[
            Column(
                name=name,
                kind=kind,  # type: ignore[arg-type]
                personal=Personal(kind=name, decision=decisions[name], **(kept if decisions[name] == "keep" else {}))  # type: ignore[arg-type]
                if name in decisions
                else None,
            )
            for name, kind in kinds.items()
        ],
        subject="customer_id",
    )


def promised(ctx: Context, contract: Contract, name: str = "people") -> Path:
    path = contract_file.path_of(ctx.root, name)
    contract_file.write(path, contract, name)
    return path


def test_each_decision_is_carried_out_before_a_row_is_stored(ctx: Context) -> None:
    path = promised(ctx, decided(email="pseudonym", note="drop", iban="encrypt", customer_id="pseudonym"))
    version = operations.add(ctx, "people", table=PEOPLE)
    rows = tables.read(ctx, "people")
    assert rows.column_names == ["customer_id", "email", "iban", "spent"]
    emails = rows["email"].to_pylist()
    assert emails[0] == emails[3] != emails[1]
    assert emails[2] is None
    assert keys.PSEUDONYM.fullmatch(emails[0])
    sealed = rows["iban"].to_pylist()
    assert sealed[0] != sealed[3]  # equal values of one subject do not show that they are equal
    of = keys.open_keys(ctx.state).of_subjects("customer_id", ["11"], create=False)
    assert keys.unseal(of["11"], sealed[0]) == keys.unseal(of["11"], sealed[3]) == "DE89370400440532013000"
    assert version.personal == {"customer_id": "pseudonym", "email": "pseudonym", "note": "drop", "iban": "encrypt"}
    assert 'name = "customer_id"\nkind = "text"' in path.read_text()  # the file says what is stored
    assert set(version.profile["email"]) == {"kind", "count", "missing", "distinct", "shortest", "longest"}


def test_what_was_protected_once_is_not_protected_again(ctx: Context) -> None:
    contract = personal.as_stored(decided(email="pseudonym", iban="encrypt"))
    project = keys.open_keys(ctx.state)
    once = personal.protect(PEOPLE, contract, project)
    assert personal.protect(once, contract, project).equals(once)


def test_a_pseudonymised_key_still_finds_doubles(ctx: Context) -> None:
    rows = pa.table({"email": ["ada@example.org", "bob@example.org"], "spent": [1.0, 2.0]})
    mail = Column(name="email", kind="text", nullable=False, personal=Personal(kind="email", decision="pseudonym"))
    promised(ctx, Contract(columns=[mail, Column(name="spent", kind="number")], key="email"))
    operations.add(ctx, "people", table=rows)
    more = pa.table({"email": ["cyd@example.org", "bob@example.org"], "spent": [3.0, 4.0]})
    assert operations.add(ctx, "people", table=more).quarantined == 1
    kept_out = operations.quarantine(ctx, "people")
    assert kept_out.samples[0]["email"] == "<email>"
    assert kept_out.samples[0]["_reason"] == "email: a value that is not shown (email) is in people@1 already"


def test_bad_rows_are_protected_as_good_ones_are(ctx: Context) -> None:
    contract = decided(email="pseudonym", note="drop", iban="encrypt")
    columns = [*contract.columns[:-1], Column(name="spent", kind="number", minimum=5)]
    promised(ctx, Contract(columns=columns, subject="customer_id"))
    operations.add(ctx, "people", table=PEOPLE)
    bad = tables.read_quarantine(tables.quarantine_folder(ctx, "people"), [1])
    assert bad.num_rows == 1
    assert "note" not in bad.column_names
    assert keys.PSEUDONYM.fullmatch(bad["email"][0].as_py())
    assert keys.SEALED.fullmatch(bad["iban"][0].as_py())


def test_messages_do_not_show_values_of_personal_columns(ctx: Context) -> None:
    kept = Personal(kind="birth_date", decision="keep", reason="age", by="ada")
    promised(ctx, Contract(columns=[Column(name="birth", kind="timestamp", personal=kept)]))
    with pytest.raises(ContractBroken) as caught:
        operations.add(ctx, "people", table=pa.table({"birth": ["Ada Lovelace"] * 3}))
    assert "Lovelace" not in str(caught.value) + repr(caught.value.values)
    assert "a value that is not shown (birth_date) in row 1" in str(caught.value)


def test_destroying_a_subjects_key_makes_its_values_unreadable_and_nobody_elses(ctx: Context) -> None:
    promised(ctx, decided(iban="encrypt"))
    operations.add(ctx, "people", table=PEOPLE)
    sealed = tables.read(ctx, "people")["iban"].to_pylist()
    project = keys.open_keys(ctx.state)
    before = project.of_subjects("customer_id", ["11", "12"], create=False)
    salts = (ctx.state / "keys" / "subjects.db").read_bytes()
    assert keys.destroy(ctx, "customer_id", "11")
    assert not keys.destroy(ctx, "customer_id", "11")
    after = project.of_subjects("customer_id", ["11", "12"], create=False)
    assert list(after) == ["12"]
    assert keys.unseal(after["12"], sealed[1]) == "GB82WEST12345698765432"
    again = project.of_subjects("customer_id", ["11"])
    with pytest.raises(Corrupt, match="cannot be read with its subject's key"):
        keys.unseal(again["11"], sealed[0])
    assert before["11"] != again["11"]
    left = b"".join(file.read_bytes() for file in (ctx.state / "keys").iterdir())
    gone = project.identity("customer_id", "11")
    assert gone in salts
    # the row made again is there; the one before it is nowhere in the file
    assert left.count(gone) == 1


def test_the_key_is_its_users_alone_and_the_environment_goes_before_it(ctx: Context) -> None:
    made = keys.open_keys(ctx.state, {})
    file = ctx.state / "keys" / "project.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert keys.open_keys(ctx.state, {}).fingerprint == made.fingerprint
    other = keys.open_keys(ctx.state, {keys.VARIABLE: "x" * 32})
    assert other.fingerprint != made.fingerprint
    assert other.pseudonym("a") != made.pseudonym("a")
    with pytest.raises(InvalidSettings, match="has 3 characters; a key needs 32"):
        keys.open_keys(ctx.state, {keys.VARIABLE: "abc"})
    file.write_text("no key")
    with pytest.raises(Corrupt, match="holds no key"):
        keys.open_keys(ctx.state, {})


def test_rows_are_refused_under_another_key_than_that_of_the_rows_before(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    promised(ctx, decided(email="pseudonym"))
    operations.add(ctx, "people", table=PEOPLE)
    monkeypatch.setenv(keys.VARIABLE, "y" * 40)
    with pytest.raises(Conflict, match="made with another key"):
        operations.add(ctx, "people", table=PEOPLE)
    assert operations.add(ctx, "people", table=PEOPLE, mode="replace").number == 2


def test_rows_in_another_form_than_those_before_are_refused(ctx: Context) -> None:
    promised(ctx, decided())
    operations.add(ctx, "people", table=PEOPLE)
    promised(ctx, decided(email="pseudonym", note="drop"))
    with pytest.raises(ContractBroken, match=r"'email' is decided pseudonym, while people@1 holds its values as they are"):
        operations.add(ctx, "people", table=PEOPLE)
    operations.add(ctx, "people", table=PEOPLE, mode="replace")
    without = operations.add(ctx, "people", table=PEOPLE.drop_columns(["note"]))  # a dropped column may be absent
    assert (without.rows, without.quarantined) == (8, 0)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('personal = {kind = "email", decision = "keep"}', "'a' (email) is kept as it is without a reason"),
        ('personal = {kind = "email", decision = "keep", reason = "x"}', "'a' (email) is kept as it is without a name"),
        ('personal = {kind = "email", decision = "encrypt"}', "'a' is to be encrypted, and nothing says under whose key"),
        ('personal = {kind = "email", decision = "hash"}', "invalid enum value 'hash'"),
        ('personal = {kind = "email", decison = "drop"}', "unknown word 'decison'; did you mean 'decision'?"),
    ],
)
def test_a_decision_that_cannot_be_carried_out_is_refused_in_the_file(text: str, what: str) -> None:
    with pytest.raises(InvalidData) as caught:
        contract_file.parse(f'[[columns]]\nname = "a"\nkind = "text"\n{text}\n')
    assert what in caught.value.what


@pytest.mark.parametrize(("role", "decision"), [("key", "drop"), ("key", "encrypt"), ("time", "pseudonym"), ("subject", "drop")])
def test_a_column_with_a_role_keeps_what_the_role_needs(role: str, decision: str) -> None:
    kind = "timestamp" if role == "time" else "text"
    with pytest.raises(InvalidData, match=f"cannot be decided {decision}"):
        contract_file.parse(f'{role} = "a"\n[[columns]]\nname = "a"\nkind = "{kind}"\npersonal = {{kind = "email", decision = "{decision}"}}\n')


def test_decisions_are_written_and_read_again_in_the_contracts_file() -> None:
    contract = decided(email="pseudonym", note="drop", iban="encrypt", spent="keep")
    assert contract_file.parse(contract_file.render(contract, "people")) == contract


CUSTOMERS = pa.table(
    {
        "customer_email": [f"person{at}@example.org" for at in range(60)],
        "first_name": [["Ada", "Bob", "Cyd"][at % 3] for at in range(60)],
        "zip": [f"{10000 + at * 37}" for at in range(60)],
        "remarks": [f"called on day {at} about the parcel" for at in range(60)],
        "birth_date": [f"19{50 + at % 50}-03-0{1 + at % 9}" for at in range(60)],
        "spent": [float(at) for at in range(60)],
    }
)


def test_a_new_dataset_stores_nothing_that_identifies_a_person_until_somebody_decides_otherwise(ctx: Context) -> None:
    version = operations.add(ctx, "customers", table=CUSTOMERS, key="customer_email")
    assert version.personal == {
        "customer_email": "pseudonym",  # the key tells rows apart and joins them
        "first_name": "drop",
        "zip": "pseudonym",  # as good a category as before
        "remarks": "drop",
        "birth_date": "drop",
    }
    assert set(version.columns) == {"customer_email", "zip", "spent"}
    text = contract_file.path_of(ctx.root, "customers").read_text()
    assert 'personal = {kind = "email", decision = "pseudonym", reason = "the contract\'s key; 100 % of its values are e-mail addresses"}' in text
    assert operations.add(ctx, "customers", table=CUSTOMERS.slice(0, 1).set_column(0, "customer_email", [["new@example.org"]])).rows == 61


def test_a_new_column_that_tells_of_persons_gets_a_decision_before_it_is_stored(ctx: Context) -> None:
    operations.add(ctx, "customers", table=CUSTOMERS.select(["spent"]))
    version = operations.add(ctx, "customers", table=CUSTOMERS.select(["spent", "customer_email", "zip"]))
    assert version.personal == {"customer_email": "drop", "zip": "pseudonym"}
    assert keys.PSEUDONYM.fullmatch(tables.read(ctx, "customers")["zip"].to_pylist()[-1])


def test_what_a_view_or_the_task_names_is_not_dropped(root: Path) -> None:
    (root / "kaizen.toml").write_text(
        '[project]\nname = "shop"\n[task]\ndataset = "orders"\ntarget = "spent"\nunit = "customer_email"\n'
        '[features.people]\ndataset = "customers"\nentity = "customer_email"\ncolumns = ["birth_date", "zip"]\n'
    )
    ctx = open_project(root, actor="ada")
    operations.add(ctx, "customers", table=CUSTOMERS)
    rows = operations.show(ctx, "customers").dataset.contract
    decided = personal.decisions(rows)
    assert {name: one.decision for name, one in decided.items()} == {
        "customer_email": "pseudonym", "first_name": "drop", "zip": "pseudonym", "remarks": "drop", "birth_date": "pseudonym",
    }  # fmt: skip
    operations.add(ctx, "orders", table=CUSTOMERS.select(["customer_email", "spent"]))
    a, b = (tables.read(ctx, name)["customer_email"].to_pylist() for name in ("customers", "orders"))
    assert a == b  # they still join
    ctx.online.close()
    ctx.catalog.close()


def test_check_says_what_is_found_and_what_nobody_has_decided(ctx: Context) -> None:
    columns = [Column(name=name, kind="text") for name in CUSTOMERS.column_names[:4]]
    promised(ctx, Contract(columns=[*columns, Column(name="spent", kind="number")]), "customers")
    found = operations.check(ctx, "customers", table=CUSTOMERS.drop_columns(["birth_date"]))
    assert found.undecided["customer_email"] == "email (100 % of its values are e-mail addresses)"
    assert set(found.undecided) == {"customer_email", "first_name", "zip", "remarks"}
    learnt = operations.check(ctx, "others", table=CUSTOMERS)
    assert learnt.undecided == {}
    assert set(personal.decisions(learnt.contract)) == set(CUSTOMERS.column_names) - {"spent"}


def test_what_tells_of_persons_only_in_a_later_addition_asks_for_a_decision_until_there_is_one(ctx: Context) -> None:
    operations.add(ctx, "calls", table=pa.table({"contact": ["desk 1", "desk 2", "desk 3"], "n": [1, 2, 3]}))
    version = operations.add(ctx, "calls", table=pa.table({"contact": [f"zoe{n}@quastenberg.org" for n in range(50)], "n": range(50)}))
    asked = "email (100 % of its values are e-mail addresses); decide: kaizen data protect calls --decision drop|pseudonym|keep --column contact"
    assert version.undecided == {"contact": asked}
    assert "quastenberg" not in str(version.profile), "it is shown nowhere until somebody says that it may be"
    later = operations.add(ctx, "calls", table=pa.table({"contact": ["desk 4"], "n": [4]}))
    assert later.undecided == version.undecided
    path = contract_file.path_of(ctx.root, "calls")
    kept = 'name = "contact"\npersonal = {kind = "email", decision = "keep", reason = "x", by = "a"}\n'
    path.write_text(path.read_text().replace('name = "contact"\n', kept))
    assert operations.add(ctx, "calls", table=pa.table({"contact": ["desk 5"], "n": [5]})).undecided == {}


def test_what_tells_of_persons_only_in_a_later_piece_is_hidden_from_the_first_row_on(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.table({"contact": [f"desk {n}" for n in range(50)] + [f"zoe{n}@quastenberg.org" for n in range(150)], "n": range(200)})

    def stream() -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=10))

    monkeypatch.setattr(files, "_PIECE_BYTES", 200)
    version = operations.add(ctx, "calls", table=stream())
    assert version.personal == {"contact": "drop"}
    assert traces(ctx.root, "quastenberg") == []
    operations.add(ctx, "others", table=rows.slice(0, 50))
    asked = operations.add(ctx, "others", table=stream())
    assert set(asked.undecided) == {"contact"}, "a contract that stands is not changed behind anybody's back"
    assert "quastenberg" not in str(asked.profile)


@pytest.mark.parametrize("key", ["customer_email", "first_name"])
def test_a_key_that_identifies_nothing_is_refused_without_a_value_of_it(ctx: Context, key: str) -> None:
    doubled = pa.concat_tables([CUSTOMERS, CUSTOMERS])
    with pytest.raises(InvalidData) as caught:
        operations.add(ctx, "customers", table=doubled, key=key)
    assert "a value that is not shown" in caught.value.what


def test_a_broken_line_of_a_file_is_shown_without_what_it_says(ctx: Context, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("name,email\nAda Lovelace,ada@example.org\nBob Builder,bob@example.org,7\n")
    with pytest.raises(InvalidData) as caught:
        operations.add(ctx, "people", str(file))
    assert "line 3" in caught.value.what
    assert "bob@" not in str(caught.value) + repr(caught.value.values)


def test_no_byte_of_what_is_dropped_or_pseudonymised_is_in_the_project_after_ingest(ctx: Context) -> None:
    planted = ["zzq-plant-one@example.org", "Zzqplantname", "98761234"]
    person = [planted[0], planted[1], "98761", "said 98761234 to us about it", "1961-03-04", None]
    rows = pa.concat_tables([CUSTOMERS, pa.Table.from_pylist([dict(zip(CUSTOMERS.column_names, person, strict=True))], CUSTOMERS.schema)])
    path = contract_file.path_of(ctx.root, "customers")
    operations.add(ctx, "customers", table=rows)
    contract = contract_file.read(path)
    assert contract is not None
    columns = [msgspec.structs.replace(one, nullable=one.name != "spent") for one in contract.columns]
    contract_file.write(path, msgspec.structs.replace(contract, columns=columns), "customers")
    assert operations.add(ctx, "customers", table=rows, mode="replace").quarantined == 1
    with pytest.raises(ContractBroken):
        operations.add(ctx, "customers", table=rows.set_column(5, "spent", pa.array(["Zzqplantname"] * rows.num_rows)))
    ctx.catalog.close()
    for text in planted:
        assert traces(ctx.root, text) == []
    assert traces(ctx.root, "spent")  # the search finds what is there
