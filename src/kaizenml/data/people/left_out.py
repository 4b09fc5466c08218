"""Rows of subjects who were forgotten and come again, from a source that still has them: they are left out and counted, and nothing of them is kept.

What they are recognised by is a list of marks: keyed digests of the subject's value in each form in which a column may hold it. Neither
the value nor who it was can be read off them without the project's key. Those who were forgotten before there was a list stand on it by the
digests of their certificates, which tell the value as it was asked for. Who is on the list stands there from the moment a forgetting
begins, so that what is added while it works is left out too, until somebody lets the subject in again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from kaizenml.context import Context
from kaizenml.data.dataset import Contract, Kind
from kaizenml.data.keys import PSEUDONYM, Keys, open_keys
from kaizenml.data.kinds import STORED
from kaizenml.data.parse import parse_as
from kaizenml.data.people import personal
from kaizenml.data.recognised import Marks, Recogniser
from kaizenml.data.store import forgotten_subjects

SAID = "rows of forgotten subjects were left out"
Bools = npt.NDArray[np.bool_]


def known(connection: sa.Connection) -> dict[str, Marks]:
    """Return the marks of forgotten subjects by the column they were asked for by; empty where nobody was."""
    t = forgotten_subjects.c
    found: dict[str, list[bytes]] = {}
    hidden: set[str] = set()
    for row in connection.execute(sa.select(t.column, t.mark, t.hidden)):
        found.setdefault(row.column, []).append(bytes.fromhex(row.mark))
        hidden |= {row.column} if row.hidden else set()
    return {column: Marks(frozenset(marks), column in hidden) for column, marks in found.items()}


def keep(connection: sa.Connection, keys: Keys, forgetting: int, subjects: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Put subjects on the list; who stands there already stays. Who stands there by a certificate's digest alone does so by marks from now on.

    Parameters
    ----------
    forgetting : its number.
    subjects : for each the column, and the values as text in every form in which a column may hold them.
    """
    for column, texts in subjects:
        given = {text: int(PSEUDONYM.fullmatch(text) is not None) for text in texts}
        hidden = int(all(given.values()))  # only a pseudonym is known of them
        marks = [mark.hex() for mark in _marks(keys, column, given)]
        t = forgotten_subjects.c
        connection.execute(forgotten_subjects.delete().where(t.column == column, t.mark.in_(_digests(keys, column, given))))
        there = set(connection.execute(sa.select(t.mark).where(t.column == column, t.mark.in_(marks))).scalars())
        for mark in dict.fromkeys(marks):
            if mark not in there:
                connection.execute(forgotten_subjects.insert().values(column=column, mark=mark, forgetting=forgetting, hidden=hidden))


def let_in(connection: sa.Connection, keys: Keys, column: str, texts: Iterable[str]) -> bool:
    """Take a subject off the list; return whether it stood there."""
    given = list(texts)
    marks = [*(mark.hex() for mark in _marks(keys, column, given)), *_digests(keys, column, given)]
    t = forgotten_subjects.c
    return connection.execute(forgotten_subjects.delete().where(t.column == column, t.mark.in_(marks))).rowcount > 0


def watch(ctx: Context) -> Watch | None:
    """Return what finds rows of forgotten subjects; None where nobody was forgotten."""
    with ctx.catalog.read() as connection:
        found = known(connection)
    return Watch(open_keys(ctx.state), found) if found else None


class Watch:
    """Finds rows of forgotten subjects among rows that come in."""

    def __init__(self, keys: Keys, marks: Mapping[str, Marks]) -> None:
        self._recognisers = {column: Recogniser(keys, column, of) for column, of in marks.items()}

    def stays(self, rows: pa.Table, contract: Contract | None) -> Bools | None:
        """Tell of each row whether it is nobody's who was forgotten; None where all are so.

        Parameters
        ----------
        rows : as they came, before anything in them is hidden.
        contract : of their dataset, as far as it is known: it says which columns hold subjects under another name, and the kinds in
            which values will be stored.
        """
        columns = {column.name: column for column in contract.columns} if contract is not None else {}
        theirs: Bools | None = None
        for name in rows.column_names:
            column = columns.get(name)
            recogniser = self._recognisers.get((column.holds if column is not None else None) or name)
            if recogniser is None or rows[name].null_count == rows.num_rows:
                continue
            texts = _texts(rows[name], column.kind if column is not None else None)
            found = recogniser.among(pc.unique(texts).drop_null().to_pylist())
            if found:
                mask = pc.is_in(texts, value_set=pa.array(found, pa.string())).to_numpy()
                theirs = mask if theirs is None else theirs | mask
        return None if theirs is None else ~theirs


def _texts(values: pa.ChunkedArray, kind: Kind | None) -> pa.ChunkedArray:
    """Return values as text, each in the one form in which its column stores it: of a column of whole numbers, `` 042`` is ``42``."""
    if not pa.types.is_string(values.type):
        return personal.texts(values)
    trimmed = pc.utf8_trim_whitespace(values)
    if kind is None or pa.types.is_string(STORED[kind]):
        return trimmed
    return pc.coalesce(personal.texts(parse_as(values, kind)), trimmed)


def _marks(keys: Keys, column: str, texts: Iterable[str]) -> list[bytes]:
    """Return the marks of a subject: of its value in each form, and of its pseudonyms, which rows from the journal hold."""
    given = list(texts)
    return keys.marks(column, dict.fromkeys([*given, *map(keys.pseudonym, given)]))


def _digests(keys: Keys, column: str, texts: Iterable[str]) -> list[str]:
    """Return by what a subject who was forgotten before there was a list stands on it, as text."""
    given = list(texts)
    return [digest.hex() for digest in keys.digests(column, dict.fromkeys([*given, *map(keys.pseudonym, given)]))]
