"""Which columns tell of persons: by their names, and by a sample of their values.

Values with a check digit or an unmistakable form (e-mail, IBAN, card, IP) are found whatever their column is called. Names, dates
of birth, postcodes and user names are found by the column's name and a fitting form, or by common given names and words of
addresses. Text of many words may hold anything and counts as personal. python-stdnum and phonenumbers, where they are installed
(``kaizenml[pii]``), add national numbers and the phone numbers of every country.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.keys import PSEUDONYM, SEALED
from kaizenml.data.people.person_words import COLUMNS, GIVEN, OF_THINGS, REMARKS, STREETS

SAMPLE = 500  # values of a column that are looked at

_EMAIL = re.compile(r"[A-Za-z0-9._%+'-]+@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w.])")
_PHONE = re.compile(r"\+\d[\d ().\-/]{6,18}\d(?:\s?(?:x|ext\.?)\s?\d+)?")
_PHONE_FORM = re.compile(r"\(?\d{2,5}\)?(?:[ .\-/]\(?\d{2,5}\)?){1,5}(?:\s?(?:x|ext\.?)\s?\d+)?")
_DIGITS_ONLY = re.compile(r"[\d\s().+\-/x]+(?:ext\.?\s?\d+)?", re.IGNORECASE)
_SSN = re.compile(r"(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}")
_WORD = re.compile(r"[^\W\d_]+")
_DATE = re.compile(r"\d{1,4}[-/. ]\d{1,2}[-/. ]\d{1,4}")
_POSTCODE = re.compile(
    r"[A-Za-z]{0,2}[ -]?\d{2,6}(?:[- ]\d{2,4})?(?: ?[A-Za-z]{2})?|[A-Za-z]{1,2}\d[A-Za-z\d]? ?\d[A-Za-z]{2}|[A-Za-z]\d[A-Za-z] ?\d[A-Za-z]\d"
)
_IBAN_LENGTHS = range(15, 35)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a column holds of persons, and by what it was recognised; never with a value of it."""

    kind: str  # email, phone, iban, card, ip, national_id, name, address, birth_date, postcode, username, free_text
    why: str


def detect(table: pa.Table, only: Iterable[str] | None = None) -> dict[str, Found]:
    """Find the columns of a table that tell of persons.

    Parameters
    ----------
    table : normalised rows; a sample of each column is looked at, spread evenly over its values.
    only : columns to look at; None for all.

    Examples
    --------
    >>> detect(pa.table({"contact": ["ada@example.org", "bob@example.org"], "price": [1.0, 2.0]}))
    {'contact': Found(kind='email', why='100 % of its values are e-mail addresses')}
    """
    names = table.column_names if only is None else [name for name in only if name in table.column_names]
    return {name: found for name in names if (found := column(name, table[name])) is not None}


def column(name: str, values: pa.ChunkedArray) -> Found | None:
    """Return what one column holds of persons, or None; see ``detect``."""
    hinted = hint(name)
    if pa.types.is_timestamp(values.type):
        return Found(kind="birth_date", why="its name") if hinted == "birth_date" and values.null_count < len(values) else None
    if not (pa.types.is_string(values.type) or pa.types.is_integer(values.type)):
        return None
    sample = _sample(values)
    if not sample or sum(map(_is_hidden, sample)) * 2 > len(sample):
        return None  # nothing to see, or hidden already
    if pa.types.is_integer(values.type):
        return _of_numbers(sample, hinted)
    return _certain(sample) or _by_name(name, sample, hinted) or _by_form(name, sample, values)


@lru_cache(maxsize=4096)
def hint(name: str) -> str | None:
    """Return the kind that a column's name speaks of, or None.

    >>> hint("customerFirstName"), hint("product_name"), hint("Date de naissance")
    ('name', None, 'birth_date')
    """
    words = _words(name)
    best: tuple[int, str] | None = None
    for kind, phrases in COLUMNS.items():
        for phrase in phrases:
            parts = phrase.split()
            if any(words[at : at + len(parts)] == parts for at in range(len(words) - len(parts) + 1)) and (best is None or len(phrase) > best[0]):
                best = (len(phrase), kind)
    if best is None:
        return None
    things = OF_THINGS.intersection(words)
    if best[1] == "address":
        things &= {"mac", "web", "url", "memory", "wallet", "file", "host"}
    return None if things and best[1] not in ("email", "birth_date") else best[1]


def shape(text: str) -> str:
    """Return how a text looks without what it says: letters as x and X, digits as 9.

    >>> shape("Ada Lovelace,1815-12-10")
    'Xxx Xxxxxxxx,9999-99-99'
    """
    return "".join("9" if c.isdigit() else "X" if c.isupper() else "x" if c.isalpha() else c for c in text)


def line(text: str, names: Iterable[str] = ()) -> str:
    """Return a line of a file as a message may show it: its shape only, where a column is named like a person's or a value looks like one."""
    named = any(map(hint, names)) or any(word[0].isupper() and word.lower() in GIVEN for word in _WORD.findall(text))
    looks = _EMAIL.search(text) or _PHONE.search(text) or any(map(_is_iban, _IBAN.findall(text))) or any(map(_is_card, _CARD.findall(text)))
    return shape(text) if named or looks else text


def _words(name: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss").replace("ø", "o").replace("ł", "l"))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", plain)
    return [word.rstrip("0123456789") or word for word in re.split(r"[^a-z0-9]+", parted.lower()) if word]


def _sample(values: pa.ChunkedArray) -> list[str]:
    there = values.drop_null() if values.null_count else values
    if len(there) > SAMPLE:
        # evenly over the rows, a little off a fixed step so that no period of the data falls in with it
        step = len(there) / SAMPLE
        places = ((np.arange(SAMPLE) + np.random.default_rng(0).random(SAMPLE)) * step).astype(np.int64)
        there = there.take(pa.array(np.minimum(places, len(there) - 1)))
    texts = there if pa.types.is_string(there.type) else there.cast(pa.string())
    return [text.strip() for text in texts.to_pylist() if text.strip()]


def _is_hidden(text: str) -> bool:
    return bool(text.startswith(("kzp_", "kze_")) and (PSEUDONYM.fullmatch(text) or SEALED.fullmatch(text)))


def _share(sample: Sequence[str], holds: Callable[[str], object]) -> float:
    # many a column has few different values: each is looked at once
    return sum(times for text, times in Counter(sample).items() if holds(text)) / len(sample)


def _seen(kind: str, share: float, what: str) -> Found:
    return Found(kind=kind, why=f"{share:.0%} of its values are {what}".replace("%", " %"))


def _certain(sample: Sequence[str]) -> Found | None:
    """Find what no other column looks like: a few such values among others are enough."""
    share = _share(sample, lambda text: "@" in text and _EMAIL.search(text))
    if share >= 0.02:
        return _seen("email", share, "e-mail addresses")
    share = _share(sample, lambda text: any(map(_is_iban, _IBAN.findall(text))))
    if share >= 0.02:
        return _seen("iban", share, "bank accounts (IBAN)")
    share = _share(sample, lambda text: any(map(_is_card, _CARD.findall(text))))
    if share >= 0.6:  # one random number in ten has a right check digit
        return _seen("card", share, "payment cards")
    share = _share(sample, _SSN.fullmatch)
    if share >= 0.6:
        return _seen("national_id", share, "social security numbers")
    share = _share(sample, lambda text: _PHONE.fullmatch(text) and _is_phone(text))
    return _seen("phone", share, "phone numbers") if share >= 0.3 else None


def _by_name(name: str, sample: Sequence[str], hinted: str | None) -> Found | None:
    fits: dict[str, Callable[[str], object]] = {
        "phone": lambda text: _DIGITS_ONLY.fullmatch(text) and sum(map(str.isdigit, text)) >= 6,
        "name": lambda text: len(text) <= 60 and sum(map(str.isalpha, text)) * 2 >= len(text),
        "birth_date": _DATE.search,
        "address": lambda text: len(text) >= 6 and " " in text and not text.isdigit(),
        "postcode": _POSTCODE.fullmatch,
        "username": lambda text: " " not in text and any(map(str.isalpha, text)),
        "national_id": lambda text: 5 <= len(text) <= 24 and sum(map(str.isdigit, text)) >= 3,
        "ip": _is_ip,
        "card": lambda text: len(text) >= 8 and sum(map(str.isdigit, text)) >= 8,
        "iban": lambda text: len(text) >= 8 and sum(map(str.isdigit, text)) >= 6,
    }
    if hinted not in fits or _share(sample, fits[hinted]) < 0.5:
        return None
    different = len(set(sample))
    if (hinted == "username" or not {"nom", "nome", "nombre"}.isdisjoint(_words(name))) and different <= 20 and different * 2 < len(sample):
        return None  # words that also mean other things: a handful of values that repeat are kinds of something
    return Found(kind=hinted, why="its name, and its values fit")


def _by_form(name: str, sample: Sequence[str], values: pa.ChunkedArray) -> Found | None:
    """Find by the form of the values what the column's name does not say."""
    if "version" not in _words(name) and (share := _share(sample, _is_ip)) >= 0.8 and _share(sample, _is_wide_ip) >= 0.6:
        return _seen("ip", share, "IP addresses")
    if (share := _share(sample, lambda text: _PHONE_FORM.fullmatch(text) and not _DATE.fullmatch(text) and _is_phone(text))) >= 0.6:
        return _seen("phone", share, "phone numbers")
    if (share := _share(sample, _is_address)) >= 0.3:
        return _seen("address", share, "postal addresses")
    if len(set(sample)) > 5 and (share := _share(sample, _is_person)) >= 0.25 and _share(sample, _may_be_name) >= 0.7:
        return _seen("name", share, "names that begin with a common given name")
    if len(set(sample)) * 2 <= len(sample):
        return None  # what is the same for many tells of none of them
    if (share := _nationals_in(sample)) >= 0.9:
        return _seen("national_id", share, "national numbers with a right check digit")
    words = sum(len(text.split()) for text in sample) / len(sample)
    remarks = not REMARKS.isdisjoint(_words(name))
    if words >= (2 if remarks else 5) and pc.count_distinct(values).as_py() > (2 if remarks else 20):
        return Found(kind="free_text", why=f"text of {words:.0f} words, mostly different: it may hold anything")
    return None


def _of_numbers(sample: Sequence[str], hinted: str | None) -> Found | None:
    lengths = [len(text.lstrip("-")) for text in sample]
    if hinted == "postcode" and all(3 <= length <= 6 for length in lengths):
        return Found(kind="postcode", why="its name, and its values fit")
    if hinted == "phone" and sum(7 <= length <= 15 for length in lengths) * 2 > len(sample):
        return Found(kind="phone", why="its name, and its values fit")
    if hinted in ("national_id", "card") and sum(length >= 7 for length in lengths) * 2 > len(sample):
        return Found(kind=hinted, why="its name, and its values fit")
    if (share := _share(sample, _is_card)) >= 0.6:
        return _seen("card", share, "payment cards")
    if min(lengths) >= 9 and len(set(sample)) * 2 > len(sample) and (share := _nationals_in(sample)) >= 0.9:
        return _seen("national_id", share, "national numbers with a right check digit")
    return None


def _is_iban(text: str) -> bool:
    compact = text.replace(" ", "")
    if len(compact) not in _IBAN_LENGTHS:
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1  # ISO 13616


def _is_card(text: str) -> bool:
    """Tell a number with the length and first digits of a payment card and a right check digit (ISO/IEC 7812)."""
    if len(text) < 12:
        return False
    digits = [int(c) for c in text if c.isdigit()]
    if len(digits) != len(text.replace(" ", "").replace("-", "")):
        return False
    start = int("".join(map(str, digits[:4]))) if len(digits) >= 13 else 0
    known = (
        (start // 1000 == 4 and len(digits) in (13, 16, 19))
        or ((51 <= start // 100 <= 55 or 2221 <= start <= 2720) and len(digits) == 16)
        or (start // 100 in (34, 37) and len(digits) == 15)
        or ((start == 6011 or start // 100 in (62, 65) or 3528 <= start <= 3589) and 16 <= len(digits) <= 19)
        or ((300 <= start // 10 <= 305 or start // 100 in (36, 38)) and len(digits) == 14)
        or (start // 100 in (50, 56, 57, 58, 63, 67) and 12 <= len(digits) <= 19)
    )
    doubled = sum(sum(divmod(2 * digit, 10)) if at % 2 else digit for at, digit in enumerate(reversed(digits)))
    return known and doubled % 10 == 0


def _is_ip(text: str) -> bool:
    if "." not in text and ":" not in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_wide_ip(text: str) -> bool:
    """Tell an address from a version of four numbers, which begins with a small one."""
    return _is_ip(text) and (":" in text or int(text.partition(".")[0]) >= 10)


def _is_phone(text: str) -> bool:
    digits = sum(map(str.isdigit, text.partition("x")[0]))
    if not 7 <= digits <= 15:
        return False
    library = _phonenumbers()
    if library is None or not text.startswith("+"):
        return True
    return bool(library(text))


def _may_be_name(text: str) -> bool:
    words = text.replace(",", " ").split()
    return 1 <= len(words) <= 5 and all(not any(map(str.isdigit, word)) for word in words) and any(map(str.isalpha, text)) and len(text) <= 60


def _is_person(text: str) -> bool:
    words = _words(text)
    return 1 <= len(words) <= 5 and not GIVEN.isdisjoint(words[:2]) and text[:1].isupper() and not any(map(str.isdigit, text))


def _is_address(text: str) -> bool:
    """Tell a street with a house number, before or after it; in German, Dutch and the Nordic languages the word ends the street's name."""
    if not any(map(str.isdigit, text)):
        return False
    return any(word in STREETS or word.endswith(("strasse", "straat", "gatan", "vagen", "gasse", "weg", "platz")) for word in _words(text))


def _nationals_in(sample: Sequence[str]) -> float:
    """Return the share of national numbers; one country's in all of a column."""
    if _share(sample[:40], lambda text: 8 <= len(text) <= 20 and sum(map(str.isdigit, text)) >= 5) < 0.9:
        return 0.0
    likely = [valid for valid in _nationals() if _share(sample[:40], valid) >= 0.8]
    return max((_share(sample, valid) for valid in likely), default=0.0)


@cache
def _phonenumbers() -> Callable[[str], bool] | None:
    try:
        import phonenumbers
    except ImportError:
        return None

    def possible(text: str) -> bool:
        try:
            return bool(phonenumbers.is_possible_number(phonenumbers.parse(text, None)))
        except phonenumbers.NumberParseException:
            return False

    return possible


@cache
def _nationals() -> tuple[Callable[[str], bool], ...]:
    """Return the validators whose numbers are hard to hit by chance: two check digits, or a date of birth and one."""
    try:
        from stdnum.be import nn
        from stdnum.br import cpf
        from stdnum.es import dni, nie
        from stdnum.fi import hetu
        from stdnum.fr import nir
        from stdnum.it import codicefiscale
        from stdnum.mx import curp
        from stdnum.pl import pesel
        from stdnum.se import personnummer
    except ImportError:
        return ()
    return tuple(module.is_valid for module in (nn, cpf, dni, nie, hetu, nir, codicefiscale, curp, pesel, personnummer))
