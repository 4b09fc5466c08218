"""What is to be forgotten, and how far it has come: a file of the state folder, there only until it is done.

It holds whom to forget, and what was found of them, because nothing else will know any more once the first places are empty. It is
read by its owner alone, written whole or not at all, and is itself the last thing that goes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.data.keys import Keys
from kaizenml.errors import Corrupt
from kaizenml.governance.forgetting.subject import Subject

FORMAT = 1
FOLDER = "forgetting"  # below the project's state


class Learnt(msgspec.Struct, frozen=True, kw_only=True):
    """A release that a subject's rows had a part in, and how."""

    release: str  # name@number
    how: str  # trained: its training read such a row; features: a view that it learnt from did
    rows: int
    datasets: list[str]


class Wish(msgspec.Struct, kw_only=True):
    """A forgetting under way."""

    format: int = FORMAT
    number: int
    subjects: list[Subject]
    why: str
    actor: str
    asked_at: float
    learnt: list[Learnt] = []
    parts: dict[str, list[int]] = {}  # dataset -> parts that lose rows
    keys: dict[str, list[str]] = {}  # dataset -> keys of the rows that go
    only: dict[str, dict[str, list[Any]]] = {}  # dataset -> column -> values that no other row has
    ends: dict[str, dict[str, list[float]]] = {}  # dataset -> column -> smallest and largest number that are left
    folders: list[str] = []  # of models that change
    entities: dict[str, list[str]] = {}  # feature view, name.version -> keys whose features change
    ids: dict[str, list[str]] = {}  # endpoint -> predictions that go
    found: dict[str, int] = {}  # place -> what went from it, or is just going
    gone: dict[str, int] = {}  # place -> what has gone for certain

    def count(self, place: str, now: int) -> None:
        """Note what is about to go from a place; said again after a kill, it counts once."""
        self.found[place] = max(self.found.get(place, 0), self.gone.get(place, 0) + now)

    def settle(self, place: str) -> None:
        """Note that all that was counted has gone."""
        self.gone[place] = self.found.get(place, 0)

    def keep(self, into: dict[str, list[str]], name: str, values: Iterable[str]) -> None:
        """Add values that are not there yet."""
        have = into.setdefault(name, [])
        known = set(have)
        have.extend(value for value in dict.fromkeys(values) if value not in known)

    def forms(self, keys: Keys) -> dict[str, list[str]]:
        """Return every form in which a subject's value may be stored: as it is, and as its pseudonym. By the subject's column."""
        found: dict[str, list[str]] = {}
        for subject in self.subjects:
            found.setdefault(subject.column, []).extend((subject.value, keys.pseudonym(subject.value)))
        return found


def save(state: Path, wish: Wish) -> None:
    """Write the wish durably."""
    folder = state / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = _path(state, wish.number)
    fresh = path.with_name(f".{path.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(wish))
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unfinished(state: Path) -> list[Wish]:
    """Return the wishes that are not done yet, oldest first."""
    found = []
    for path in sorted((state / FOLDER).glob("*.json")):
        try:
            wish = msgspec.json.decode(path.read_bytes(), type=Wish)
        except msgspec.DecodeError as error:
            raise Corrupt(f"{path} is no forgetting: {error}", remedy=f"move {path} away and ask again", values={"file": str(path)}) from None
        if wish.format > FORMAT:
            raise Corrupt(f"{path} has format {wish.format}; this kaizenml reads up to {FORMAT}", remedy="pip install --upgrade kaizenml")
        found.append(wish)
    return found


def remove(state: Path, wish: Wish) -> None:
    """Remove a wish that is done, with what an interrupted writing of it left."""
    for path in (state / FOLDER).glob(f"*{_path(state, wish.number).name}*"):
        path.unlink(missing_ok=True)


def _path(state: Path, number: int) -> Path:
    return state / FOLDER / f"{number:04d}.json"
