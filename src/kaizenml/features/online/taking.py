"""Taking pushed rows: durable in the buffer first, then online. For commands and serving processes alike: imports nothing heavy.

A serving process knows no catalog. What it must know to take rows is in ``serving/features.json``, written anew by the operations on
features whenever something in it changes. While a release that reads a former version of a view answers or watches, rows that are pushed
into the view reach that version, too: two versions live side by side online, and the dataset gets each row once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.data.dataset import Kind
from kaizenml.data.keys import open_keys
from kaizenml.data.recognised import Marks, Recogniser
from kaizenml.errors import InvalidInput, Unavailable, not_found
from kaizenml.features.online.buffer import Origin, buffer_of
from kaizenml.features.online.push import Checked, Checker
from kaizenml.features.view import FeatureView, Pushed
from kaizenml.features.windows.moments import History, keep_s, keeps_rows, reach_us, steps
from kaizenml.ports import OnlineRow, OnlineStore

FILE = "features.json"  # below the project's state folder, in ``serving/``
FORMAT = 1


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """Subjects who were forgotten and may stand in a column: the name they were asked for by, and their marks in hexadecimal."""

    asked: str
    marks: list[str]
    hidden: bool = False


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A view as rows are pushed into it."""

    view: FeatureView
    kinds: dict[str, Kind]  # of its dataset's columns; {} while there is no dataset
    keys: list[str] = []  # the columns that tell its rows apart, where it keeps rows
    hidden: list[str] = []  # columns whose values become pseudonyms before they are kept anywhere
    gone: dict[str, Gone] = {}  # columns in which subjects who were forgotten may stand; rows of these are left out

    def checker(self, state: Path) -> Checker:
        """Return what checks its rows; the key of pseudonyms is that of the state folder."""
        if not self.hidden and not self.gone:
            return Checker(self.view, self.kinds, self.keys)
        keys = open_keys(state)
        gone = {name: Recogniser(keys, of.asked, Marks(frozenset(map(bytes.fromhex, of.marks)), of.hidden)) for name, of in self.gone.items()}
        return Checker(self.view, self.kinds, self.keys, hide=dict.fromkeys(self.hidden, keys.pseudonym_of), gone=gone)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file that serving processes read."""

    format: int = FORMAT
    views: list[Known]
    served: list[str] = []  # name.version of what the releases read that answer or watch now
    former: list[Known] = []  # those of them that are another version of one in ``views``


def take(
    state: Path, store: OnlineStore, checker: Checker, checked: Checked, *, former: Sequence[Checker] = (), offline: bool = True,
    origin: Origin | None = None,
) -> Pushed:  # fmt: skip
    """Take checked rows of a view.

    Parameters
    ----------
    state : the project's state folder, with the buffer.
    former : of other versions of the view that are served: they get those rows online that hold all that they read.
    offline : also keep them for the dataset.
    origin : where in a stream they come from: what was taken from there before is not taken again.
    """
    rows = len(checked.offline)
    if rows and offline:
        buffer_of(state).put(checker.ref, checked.offline, origin)
    kept = put_all(store, checker, checked, former) if rows else 0
    return Pushed(view=checker.ref, rows=rows, kept=kept, late=rows - kept, left_out=checked.left_out)


def put_all(store: OnlineStore, checker: Checker, checked: Checked, former: Sequence[Checker]) -> int:
    """Put checked rows into the online store, for former versions that are served as well; return how many of them came in time for the view.

    Of rows whose subject was forgotten none goes on, whether or not a former version reads the column that tells.
    """
    kept = put(store, checker, checked)
    for each in former:
        if each.view.dataset == checker.view.dataset and each.kinds.keys() <= checker.kinds.keys():
            with suppress(InvalidInput):  # a column's kind has changed since that version was filled
                put(store, each, each.check([{name: row[name] for name in each.kinds} for row in checked.offline]))
    return kept


def put(store: OnlineStore, checker: Checker, checked: Checked) -> int:
    """Put checked rows into the online store; return how many of them came in time."""
    view = checker.view
    if not keeps_rows(view):
        return store.write(checker.ref, checked.online, keep_s=keep_s(view))
    late: dict[str, int] = {}
    reach, by = reach_us(view.aggregates), steps(view.aggregates)

    def change(key: str, row: OnlineRow | None) -> OnlineRow | None:
        history = history_of(view, checker.keys, row)
        new, late[key] = history.put(checked.histories[key])
        if not new:
            return row
        history.prune(reach, by)
        return OnlineRow(history.times[-1] / 1e6, history.packed())

    store.update(checker.ref, checked.histories, change, keep_s=keep_s(view))
    return len(checked.offline) - sum(late.values())


def history_of(view: FeatureView, keys: Sequence[str], row: OnlineRow | None) -> History:
    """Return the history that the store holds of an entity, or an empty one."""
    return History(view.reads, timed=view.created is not None, keyed=bool(keys)) if row is None else History.read(row.values)


def publish(state: Path, kept: Kept) -> None:
    """Write what serving processes must know, where it is not what they know."""
    path = state / "serving" / FILE
    body = msgspec.json.encode(kept)
    try:
        if path.read_bytes() == body:
            return
    except OSError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{FILE}.{os.getpid()}")
    fresh.write_bytes(body)
    os.replace(fresh, path)


def published(state: Path) -> Kept | None:
    """Return what serving processes know, None where nothing was published; the same object until it changes. Raises Unavailable."""
    path = f"{state}/serving/{FILE}"  # looked at by every push
    try:
        found = os.stat(path)
    except OSError:
        return None
    mark = (found.st_mtime_ns, found.st_ino, found.st_size)
    before = _published.get(path)
    if before is not None and before[0] == mark:
        return before[1]
    try:
        kept = msgspec.json.decode(Path(path).read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(f"what is known of feature views cannot be read: {error}", remedy="kaizen features materialize VIEW") from None
    if kept.format > FORMAT:
        raise Unavailable(f"{FILE} has format {kept.format}; this server reads up to {FORMAT}", remedy="upgrade the server")
    while len(_published) >= _MOST_READ:
        _published.pop(next(iter(_published)))
    _published[path] = mark, kept
    return kept


_MOST_READ = 4
_published: dict[str, tuple[tuple[int, int, int], Kept]] = {}


class Receiver:
    """Takes pushed rows in a serving process. One thread at a time.

    Parameters
    ----------
    state : the project's state folder.
    open_store : opens the online store for writing, at the first push.
    """

    def __init__(self, state: Path, open_store: Callable[[], OnlineStore]) -> None:
        self._state = state
        self._open_store = open_store
        self._store: OnlineStore | None = None
        self._seen: Kept | None = None
        self._checkers: dict[str, Checker] = {}
        self._former: dict[str, list[Checker]] = {}

    def take(self, view: str, rows: Sequence[Mapping[str, Any]]) -> Pushed:
        """Take rows of a view, or raise NotFound, InvalidInput, Unavailable or StorageFull: then none was taken."""
        self._look()
        checker = self._checkers.get(view)
        if checker is None:
            raise not_found("feature view", view[:100], self._checkers, remedy=f"kaizen features materialize {view[:100]}")
        checked = checker.check(rows)
        if self._store is None:
            self._store = self._open_store()
        return take(self._state, self._store, checker, checked, former=self._former.get(view, ()))

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _look(self) -> None:
        kept = published(self._state)
        if kept is self._seen:
            return
        self._checkers = {each.view.name: each.checker(self._state) for each in kept.views} if kept else {}
        self._former = {}
        for each in kept.former if kept else ():
            self._former.setdefault(each.view.name, []).append(each.checker(self._state))
        self._seen = kept


class Rows(msgspec.Struct, forbid_unknown_fields=True):
    """What is posted to ``/features/{view}``."""

    rows: list[dict[str, str | int | float | bool | None]]


def read_rows(body: bytes) -> list[dict[str, Any]]:
    """Decode a push; raises InvalidInput."""
    try:
        return _decode(body).rows
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = str(error)
        said = text if text.startswith("JSON") else f"{text[:1].lower()}{text[1:]}"
        raise InvalidInput(f"the body is no push: {said}", remedy='send {"rows": [{"column": value, ...}]}') from None


_decode = msgspec.json.Decoder(Rows).decode
