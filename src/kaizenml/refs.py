"""References: ``name@number``; a bare name means current."""

from __future__ import annotations

import re
from typing import NamedTuple

from kaizenml.errors import UsageError

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


class Ref(NamedTuple):
    """A name and a number; number None means current."""

    name: str
    number: int | None = None

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name}@{self.number}"


def parse_ref(text: str) -> Ref:
    """Read ``name`` or ``name@number``.

    >>> parse_ref("flights@3")
    Ref(name='flights', number=3)
    """
    name, at, number = text.partition("@")
    check_name(name)
    if not at:
        return Ref(name)
    if not number.isascii() or not number.isdigit() or not 1 <= len(number) <= 9 or int(number) < 1:
        raise UsageError(f"{text!r} is not a reference", remedy=f"write {name}@1, with a whole number from 1", values={"found": text})
    return Ref(name, int(number))


def check_name(name: str) -> str:
    """Return ``name`` if it is fit for a dataset, view, release or endpoint, else raise UsageError.

    Names become folders and URL parts, so nothing but letters, digits, ``_`` and ``-`` passes.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name: a letter first, then letters, digits, '_' or '-', 63 at most",
            remedy="choose another name, for example 'shop'",
            values={"found": name[:100]},
        )
    return name
