"""Links between what something was and what it is since a person was forgotten: two hashes, signed with the project's key.

A version, a model or a release keeps its number; whoever noted its old hash follows the links to the one it has now. The signature
is an HMAC of the project's key: it proves to whoever holds that key that a forgetting of this project changed the hash, and nobody else.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import msgspec

from kaizenml.data.keys import Keys
from kaizenml.errors import Corrupt


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """One forgetting that changed something, or one decision on personal columns, as a link from the hash before to the hash after."""

    number: int  # of the forgetting, from 1; of a decision that was carried out on rows that were there, from -1 down
    at: float
    rows: int  # that went
    before: str
    after: str
    signature: str


def link(keys: Keys, what: str, *, number: int, at: float, rows: int, before: str, after: str) -> Forgotten:
    """Sign a link; ``what`` is what has these hashes, such as ``dataset orders@3``."""
    unsigned = Forgotten(number=number, at=at, rows=rows, before=before, after=after, signature="")
    return msgspec.structs.replace(unsigned, signature=_signature(keys, what, unsigned))


def extended(links: Sequence[Forgotten], keys: Keys, what: str, *, number: int, at: float, rows: int, before: str, after: str) -> list[Forgotten]:
    """Return the chain with one more link. Of one forgetting there is one: where it is repeated, its link is renewed."""
    if links and links[-1].number == number:
        last = links[-1]
        return [*links[:-1], link(keys, what, number=number, at=at, rows=last.rows + rows, before=last.before, after=after)]
    return [*links, link(keys, what, number=number, at=at, rows=rows, before=before, after=after)]


def check(links: Sequence[Forgotten], keys: Keys, what: str, now: str) -> None:
    """Check that the chain of links is whole and ends at the hash ``now``.

    Raises
    ------
    Corrupt : a link was not signed with this project's key, or does not begin where the one before ends.
    """
    for place, each in enumerate(links):
        right = hmac.compare_digest(each.signature, _signature(keys, what, each))
        ends = links[place + 1].before if place + 1 < len(links) else now
        if not right or each.after != ends:
            why = "leads to another hash" if right else "was not signed with this project's key"
            raise Corrupt(
                f"{what}: the record of forgetting {each.number} {why}",
                remedy="restore the catalog and the folder keys/ of the state folder that belong together",
                values={"what": what, "forgetting": each.number, "expected": ends, "found": each.after},
            )


def known_as(links: Sequence[Forgotten], now: str) -> set[str]:
    """Return every hash by which something may be pinned: the one it has, and those it had."""
    return {now, *(each.before for each in links)}


def _signature(keys: Keys, what: str, of: Forgotten) -> str:
    return keys.sign(msgspec.json.encode([what, of.number, repr(float(of.at)), of.rows, of.before, of.after]))
