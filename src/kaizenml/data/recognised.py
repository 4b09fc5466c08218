"""Subjects who were forgotten, recognised by marks that only the project's key can make. Hot path: imports what ``keys`` imports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kaizenml.data.keys import Keys


class Marks(NamedTuple):
    """The marks of the subjects who were asked for by one column's name."""

    values: frozenset[bytes]
    hidden: bool = False
    """Whether one of them was asked for by a pseudonym, so that values are to be tried as pseudonyms too."""


class Recogniser:
    """Tells which values of a column are those of subjects who were forgotten.

    Parameters
    ----------
    keys : the project's.
    column : the name by which subjects are asked for.
    marks : theirs.
    """

    def __init__(self, keys: Keys, column: str, marks: Marks) -> None:
        self._keys, self._column, self._marks = keys, column, marks

    def among(self, texts: Iterable[str]) -> list[str]:
        """Return the values, as text, that are a forgotten subject's."""
        given = list(texts)
        known = self._marks.values
        found = {text for text, mark in zip(given, self._keys.marks(self._column, given), strict=True) if mark in known}
        if self._marks.hidden:
            hidden = self._keys.marks(self._column, [self._keys.pseudonym(text) for text in given])
            found |= {text for text, mark in zip(given, hidden, strict=True) if mark in known}
        return sorted(found)
