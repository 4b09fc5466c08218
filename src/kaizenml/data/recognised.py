"""Subjects who were forgotten, recognised by marks that only the project's key can make. Hot path: imports what ``keys`` imports."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from kaizenml.data.keys import Keys

_DIGEST_BYTES = 32
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,14}))(\.0)?")


class Marks(NamedTuple):
    """The marks of the subjects who were asked for by one column's name."""

    values: frozenset[bytes]
    """Of 16 bytes; of who was forgotten before there were marks, the digest that names them in their certificate, of 32."""
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
        self._by_certificate = any(len(mark) == _DIGEST_BYTES for mark in marks.values)

    def among(self, texts: Iterable[str]) -> list[str]:
        """Return the values, as text, that are a forgotten subject's."""
        given = list(texts)
        known = self._marks.values
        found = {text for text, mark in zip(given, self._keys.marks(self._column, given), strict=True) if mark in known}
        if self._marks.hidden:
            hidden = self._keys.marks(self._column, [self._keys.pseudonym(text) for text in given])
            found |= {text for text, mark in zip(given, hidden, strict=True) if mark in known}
        if self._by_certificate:
            asked = [(text, form) for text in given for form in self._asked_by(text)]
            told = self._keys.digests(self._column, [form for _, form in asked])
            found |= {text for (text, _), digest in zip(asked, told, strict=True) if digest in known}
        return sorted(found)

    def _asked_by(self, text: str) -> list[str]:
        forms = spellings(text)
        return [*forms, self._keys.pseudonym(min(forms, key=len))]  # a pseudonym is that of the number without a point


def spellings(text: str) -> list[str]:
    """Return how a subject may have been asked for whose value reads as ``text``: a whole number with and without a point.

    >>> spellings("42"), spellings("42.0"), spellings("a42")
    (['42', '42.0'], ['42.0', '42'], ['a42'])
    """
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        return [text]
    return [text, whole[1] if whole[2] else f"{text}.0"]
