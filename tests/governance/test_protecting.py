"""A decision on a personal column that changed is carried out on the rows that are there: every version, the quarantine, and no byte is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import every_byte
import pyarrow as pa
import pytest

from kaizenml import audit
from kaizenml.context import Context
from kaizenml.data import contract_file, keys, tables
from kaizenml.data import operations as data
from kaizenml.errors import Conflict, ContractBroken, InvalidData, NotFound, UsageError
from kaizenml.governance import lineage
from kaizenml.governance import operations as governance
from kaizenml.project import open_project

MAILS = ("zoe@quastenberg.org", "yann@quastenberg.org", "xenia@quastenberg.org")


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "kaizen.toml").write_text('[project]\nname = "shop"\n', encoding="utf-8")
    ctx = open_project(tmp_path, actor="ada")
    path = contract_file.path_of(tmp_path, "people")
    path.parent.mkdir()
    path.write_text(
        '# ours\nkey = "customer_id"\nsubject = "customer_id"\n\n[[columns]]\nname = "customer_id"  # who\nkind = "integer"\nnullable = false\n\n'
        '[[columns]]\nname = "email"\nkind = "text"\npersonal = {kind = "email", decision = "keep", reason = "letters", by = "ada"}\n\n'
        '[[columns]]\nname = "spent"\nkind = "number"\n',
        encoding="utf-8",
    )
    data.add(ctx, "people", table=rows([481516231, 481516232], MAILS[:2], [1.5, 2.0]))
    data.add(ctx, "people", table=rows([481516233, 481516234, 481516235], [MAILS[2], MAILS[0], MAILS[1]], ["3", "much", "4"]))
    yield ctx
    ctx.online.close()
    ctx.catalog.close()


def rows(who: list[int], mails: tuple[str, ...] | list[str], spent: list[object]) -> pa.Table:
    return pa.table({"customer_id": who, "email": list(mails), "spent": spent})


def edit(ctx: Context, before: str, after: str) -> None:
    path = contract_file.path_of(ctx.root, "people")
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_a_column_that_is_dropped_after_all_goes_from_every_version(ctx: Context):
    hashes = {each.ref: each.hash for each in data.versions(ctx, "people")}
    edit(ctx, 'decision = "keep", reason = "letters", by = "ada"', 'decision = "drop"')
    told = lineage.show(ctx, "people").held["email"]
    assert told.startswith("2 versions hold its values as they are, and drop is decided: people@1, people@2")
    assert data.check(ctx, "people").held["email"].endswith("try: kaizen data protect people")
    made = governance.protect(ctx, "people", why="nobody writes letters")
    assert (made.columns, made.versions, made.rows, made.quarantined) == ({"email": "drop"}, ["people@1", "people@2"], 4, 1)
    assert every_byte.found(ctx.root, *MAILS) == []
    for ref, before in hashes.items():
        shown = data.verify(ctx, ref)
        assert shown.said == f"{ref} is whole; personal columns hidden since"
        assert tables.version(ctx, ref).forgotten[0].before == before
    assert tables.read(ctx, "people@2").column_names == ["customer_id", "spent"]
    assert data.quarantine(ctx, "people").samples[0]["_reason"] == "spent: 'much' is not a number"
    assert lineage.show(ctx, "people").held == {}
    assert governance.protect(ctx, "people").versions == []
    assert [event.why for event in audit.list(ctx, kind="data.protected")] == ["nobody writes letters"]
    assert data.add(ctx, "people", table=rows([481516236], ["w@quastenberg.org"], [5.0])).rows == 5


def test_a_number_becomes_a_pseudonym_that_later_rows_are_told_apart_by(ctx: Context):
    made = governance.protect(ctx, "people", column="customer_id", decision="pseudonym", why="it only joins")
    assert made.versions == ["people@1", "people@2"]
    assert every_byte.found(ctx.root, numbers=(481516231, 481516232, 481516233)) == []
    text = contract_file.path_of(ctx.root, "people").read_text(encoding="utf-8")
    assert text.startswith('# ours\nkey = "customer_id"'), "the file keeps what people wrote"
    assert 'name = "customer_id"  # who\nkind = "text"\npersonal = {kind = "personal", decision = "pseudonym"' in text
    stored = tables.read(ctx, "people@1")["customer_id"].to_pylist()
    assert stored[0] == keys.open_keys(ctx.state).pseudonym("481516231")
    again = data.add(ctx, "people", table=rows([481516231, 481516239], MAILS[:2], [1.5, 2.0]))
    assert (again.rows, again.quarantined) == (5, 1)
    for number in (1, 2, 3):
        data.verify(ctx, f"people@{number}")
    assert governance.forget(ctx, subject=["customer_id=481516232"]).removed["rows of people"] == 1
    governance.protect(ctx, "people", column="email", decision="drop")
    assert [each.number for each in tables.version(ctx, "people@1").forgotten] == [-1, 1, -2]
    data.verify(ctx, "people@1")
    assert every_byte.found(ctx.root, *MAILS) == []


@pytest.mark.slow
def test_values_are_encrypted_under_their_subjects_keys(ctx: Context):
    governance.protect(ctx, "people", column="email", decision="encrypt")
    assert every_byte.found(ctx.root, *MAILS) == []
    sealed = tables.read(ctx, "people@1")["email"].to_pylist()
    project = keys.open_keys(ctx.state)
    of = project.of_subjects("customer_id", ["481516231"], create=False)
    assert keys.unseal(of["481516231"], sealed[0]) == MAILS[0]
    with pytest.raises(Conflict, match="cannot be brought back"):
        governance.protect(ctx, "people", column="email", decision="pseudonym")
    data.verify(ctx, "people@2")


def test_rows_in_another_form_are_refused_with_the_command_that_helps(ctx: Context):
    edit(ctx, 'decision = "keep", reason = "letters", by = "ada"', 'decision = "pseudonym"')
    more = rows([481516236], ["w@quastenberg.org"], [5.0])
    with pytest.raises(ContractBroken, match="as they are") as refused:
        data.add(ctx, "people", table=more)
    assert "kaizen data protect people" in (refused.value.remedy or "")
    governance.protect(ctx, "people")
    assert data.add(ctx, "people", table=more).rows == 5


@pytest.mark.parametrize(
    ("column", "decision", "error", "match"),
    [
        ("emial", "drop", NotFound, "did you mean 'email'"),
        ("email", None, UsageError, "go together"),
        ("email", "keep", UsageError, "for a reason"),
        ("customer_id", "drop", InvalidData, "the contract's key"),
    ],
)
def test_what_cannot_be_decided_is_refused_and_changes_nothing(ctx: Context, column, decision, error, match):
    before = contract_file.path_of(ctx.root, "people").read_text(encoding="utf-8")
    with pytest.raises(error, match=match):
        governance.protect(ctx, "people", column=column, decision=decision)
    assert contract_file.path_of(ctx.root, "people").read_text(encoding="utf-8") == before
    assert data.verify(ctx, "people").forgotten == 0
