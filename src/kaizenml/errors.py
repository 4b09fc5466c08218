"""The whole tree of errors. Each says what happened, the values seen, and the command or change that mends it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Any, ClassVar


class KaizenError(Exception):
    """Something kaizenml refuses or cannot do.

    Parameters
    ----------
    what : what happened, one sentence, with the offending value in it.
    remedy : what to do about it; a command where one helps. Shown after ``try:``.
    values : the values seen (field, line, expected, found, ...); JSON-able.

    >>> print(NotFound("there is no endpoint 'shp'", remedy="kaizen status", values={"nearest": "shop"}))
    there is no endpoint 'shp'
      try: kaizen status
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500  # HTTP
    exit_code: ClassVar[int] = 1  # CLI: 1 failure, 2 usage, 3 refused by a gate, 4 waiting

    def __init__(self, what: str, *, remedy: str = "", values: dict[str, Any] | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.values = values or {}

    def __str__(self) -> str:
        return f"{self.what}\n  try: {self.remedy}" if self.remedy else self.what

    def __reduce__(self) -> tuple[Any, ...]:  # errors cross process borders
        return (_rebuild, (type(self), self.what, self.remedy, self.values))

    def document(self) -> dict[str, Any]:
        """Return the error as it travels on the wire: ``{"code", "message", "values", "remedy"}``."""
        return {"code": self.code, "message": self.what, "values": self.values, "remedy": self.remedy}


class UsageError(KaizenError):
    """The call itself is wrong: an unknown option, a missing argument, an impossible combination."""

    code, status, exit_code = "usage", 400, 2


class InvalidSettings(UsageError):
    """kaizen.toml or an environment variable holds something unknown or of the wrong type."""

    code = "invalid_settings"


class InvalidInput(KaizenError):
    """A request's input does not fit the signature or the protocol."""

    code, status = "invalid_input", 422


class InvalidData(KaizenError):
    """A file or table cannot be taken as it is: ragged line, wrong encoding, no rows, constant target."""

    code, status = "invalid_data", 422


class ContractBroken(InvalidData):
    """New data breaks the dataset's contract in a way that quarantine cannot absorb."""

    code, status, exit_code = "contract_broken", 409, 3


class RecipeOutdated(InvalidData):
    """A recipe cannot be fitted again: an input that it names is gone."""

    code = "recipe_outdated"


class NotFound(KaizenError):
    """A name or number that does not exist."""

    code, status = "not_found", 404


class Conflict(KaizenError):
    """The state does not allow this, or somebody else changed it first."""

    code, status = "conflict", 409


class Refused(KaizenError):
    """A gate said no; its evidence is kept."""

    code, status, exit_code = "refused", 409, 3


class Waiting(KaizenError):
    """Not an error of anybody's: evidence, data or time is still missing."""

    code, status, exit_code = "waiting", 202, 4


class Unauthorized(KaizenError):
    """No valid token was shown: none, or one that is unknown, expired or revoked."""

    code, status = "unauthorized", 401


class Forbidden(KaizenError):
    """Known, and not allowed: a token without the scope, a write from another site, a name that this server does not answer under."""

    code, status = "forbidden", 403


class TooLarge(KaizenError):
    """More bytes, rows or nesting than the limit in the settings."""

    code, status = "too_large", 413


class RateLimited(KaizenError):
    """More requests than this token may send; wait as long as the values say."""

    code, status = "rate_limited", 429


class Unavailable(KaizenError):
    """Not now: a port is taken, a server does not answer, a queue is full."""

    code, status = "unavailable", 503


class StorageFull(KaizenError):
    """No room left on the device; nothing was half-written."""

    code, status = "storage_full", 507


class Corrupt(KaizenError):
    """Stored bytes differ from what their hash or checksum says."""

    code, status = "corrupt", 500


class MissingExtra(KaizenError):
    """An optional part of kaizenml is not installed."""

    code, status = "missing_extra", 501


_NEAREST_MOST, _NEAREST_LONGEST = 5_000, 100


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice most like ``name``, or None when nothing is close.

    Looks at the first 5,000 choices and at no text longer than 100 characters: either may come out of a request.

    >>> nearest("retuned", ["returned", "price"])
    'returned'
    """
    if len(name) > _NEAREST_LONGEST:
        return None
    lowered = {choice.lower(): choice for choice in islice(choices, _NEAREST_MOST) if len(choice) <= _NEAREST_LONGEST}
    found = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def not_found(noun: str, name: str, choices: Iterable[str], *, remedy: str) -> NotFound:
    """Build the NotFound that names the nearest right name and what there is."""
    known = sorted(choices)
    close = nearest(name, known)
    hint = f"; did you mean {close!r}?" if close else (f"; there is {', '.join(map(repr, known[:8]))}" if known else "; there is none yet")
    return NotFound(f"there is no {noun} {name!r}{hint}", remedy=remedy, values={"name": name, "nearest": close, "known": known[:50]})


def from_document(document: dict[str, Any]) -> KaizenError:
    """Rebuild the error that travelled on the wire as its own class."""
    kinds = {kind.code: kind for kind in _all(KaizenError)}
    kind = kinds.get(str(document.get("code")), KaizenError)
    return kind(str(document.get("message", "")), remedy=str(document.get("remedy", "")), values=document.get("values") or {})


def _all(kind: type[KaizenError]) -> list[type[KaizenError]]:
    return [kind, *(found for sub in kind.__subclasses__() for found in _all(sub))]


def _rebuild(kind: type[KaizenError], what: str, remedy: str, values: dict[str, Any]) -> KaizenError:
    return kind(what, remedy=remedy, values=values)
