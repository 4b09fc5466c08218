from __future__ import annotations

import stat
from pathlib import Path

import pyarrow as pa
import pytest

from kaizenml.context import Context
from kaizenml.data import contract_file, keys, operations, personal, tables
from kaizenml.data.dataset import Column, Contract, Personal
from kaizenml.errors import Conflict, ContractBroken, Corrupt, InvalidData, InvalidSettings

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
