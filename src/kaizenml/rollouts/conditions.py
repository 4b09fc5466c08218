"""The language of conditions over a row's inputs: ``carrier == 'XX' and (distance > 2000 or weather_temp is null)``.

Comparisons ``== != < <= > >=``, ``in ['AA', 'B6']``, ``not in``, ``is null``, ``is not null``; ``and``, ``or``, ``not`` and
parentheses. Inputs are named as they are, or between backticks where a name is no word; text stands between quotes of either
kind, doubled within. A condition is parsed once into closures and never raises on a row, whatever the row holds:

* a missing input (absent, null, NaN) is equal to nothing, in no list, and neither smaller nor greater;
* ``!=`` and ``not in`` are the opposites of ``==`` and ``in``, so they hold for a missing input;
* what has no order (text beside a number) is neither smaller nor greater.

Hot path: imports nothing heavy.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from kaizenml.errors import InvalidSettings

LONGEST = 2000  # characters of a condition
DEEPEST = 50  # parentheses and ``not`` within each other
Row = Mapping[str, Any]
Test = Callable[[Row], bool]
_Value = Callable[[Row], Any]
_KEYWORDS = frozenset(("and", "or", "not", "in", "is", "null", "true", "false"))
_ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_WORD = re.compile(
    r"""\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])
    |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<name>`[^`]+`|[^\W\d]\w*)
    |(?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
    |(?P<end>$))""",
    re.VERBOSE,
)


class Condition(NamedTuple):
    """A condition that was read: ``test(row)`` says whether it holds; ``inputs`` are the names it asks for, with their places."""

    text: str
    test: Test
    inputs: dict[str, int]


def read(text: str) -> Condition:
    """Read a condition.

    Raises
    ------
    InvalidSettings : it cannot be read; the message names the place and what stands there.

    >>> read("size in ['L', 'XL'] and not price < 10").test({"size": "L", "price": 12.5})
    True
    """
    if len(text) > LONGEST:
        raise InvalidSettings(
            f"a condition of {len(text):,} characters; the limit is {LONGEST:,}", remedy="split it into several rules", values={"length": len(text)}
        )
    reader = _Reader(text)
    test = reader.any(0)
    if reader.kind != "end":
        reader.fail("a condition ends or goes on with 'and' or 'or'")
    return Condition(text, test, reader.inputs)


class _Reader:
    """Recursive descent over the words; ``kind`` and ``word`` are what comes next."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.inputs: dict[str, int] = {}
        self._after = 0
        self._next()

    def any(self, depth: int) -> Test:
        """Read ``this or that``."""
        tests = [self._all(depth)]
        while self._take("or"):
            tests.append(self._all(depth))
        return tests[0] if len(tests) == 1 else lambda row: any(test(row) for test in tests)

    def _all(self, depth: int) -> Test:
        tests = [self._one(depth)]
        while self._take("and"):
            tests.append(self._one(depth))
        return tests[0] if len(tests) == 1 else lambda row: all(test(row) for test in tests)

    def _one(self, depth: int) -> Test:
        if depth >= DEEPEST:
            self.fail(f"nested deeper than {DEEPEST}")
        if self._take("not"):
            test = self._one(depth + 1)
            return lambda row: not test(row)
        if self._take("("):
            test = self.any(depth + 1)
            self._expect(")")
            return test
        return self._comparison()

    def _comparison(self) -> Test:
        left = self._operand()
        if self._take("is"):
            wanted = not self._take("not")
            self._expect("null")
            return lambda row: (left(row) is None) is wanted
        if self._take("in"):
            return _among(left, self._list())
        if self._take("not"):
            self._expect("in")
            among = _among(left, self._list())
            return lambda row: not among(row)
        sign = self.word
        if self.kind != "sign" or sign not in ("==", "!=", *_ORDER):
            self.fail("a comparison (==, !=, <, <=, >, >=, in, is null) is expected")
        self._next()
        return _compared(sign, left, self._operand())

    def _operand(self) -> _Value:
        kind, word, place = self.kind, self.word, self.place
        if kind == "name" and word not in _KEYWORDS:
            self._next()
            name = word[1:-1] if word.startswith("`") else word
            self.inputs.setdefault(name, place)
            return lambda row: _known(row.get(name))
        value = self._literal()
        return lambda row: value

    def _literal(self) -> Any:
        word = self.word
        if self.kind == "text":
            self._next()
            return word[1:-1].replace(word[0] * 2, word[0])
        if self.kind == "number":
            value = float(word) if any(sign in word for sign in ".eE") else int(word)
            if value in (float("inf"), float("-inf")):
                self.fail("a number beyond what a double can hold")
            self._next()
            return value
        if word in ("true", "false"):
            self._next()
            return word == "true"
        if word == "null":
            self.fail("null is asked for with 'is null' or 'is not null'")
        return self.fail("an input or a value is expected")

    def _list(self) -> list[Any]:
        self._expect("[")
        values = [self._literal()]
        while self._take(","):
            values.append(self._literal())
        self._expect("]")
        return values

    def _take(self, word: str) -> bool:
        if self.word != word or self.kind not in ("name", "sign"):
            return False
        self._next()
        return True

    def _expect(self, word: str) -> None:
        if not self._take(word):
            self.fail(f"{word!r} is expected")

    def _next(self) -> None:
        found = _WORD.match(self.text, self._after)
        if found is None:
            rest = self.text[self._after :]
            self.kind, self.word, self.place = "", rest.strip()[:20], self._after + len(rest) - len(rest.lstrip())
            self.fail("text without its closing quote" if self.word[:1] in "'\"`" else "this is not understood")
        self.kind = str(found.lastgroup)
        self.word = found[self.kind]
        self.place, self._after = found.start(self.kind), found.end()

    def fail(self, what: str) -> NoReturn:
        seen = "the end" if self.kind == "end" else repr(self.word)
        hint = "; text stands between quotes, and equality is '=='" if self.word[:1] in ("=", "&", "|", "!") else ""
        raise InvalidSettings(
            f"{self.text!r}: at {seen}, character {self.place + 1}: {what}{hint}",
            remedy="""write it like carrier == 'XX' and (distance > 2000 or weather_temp is null)""",
            values={"condition": self.text, "position": self.place + 1, "found": None if self.kind == "end" else self.word},
        )


def _known(value: Any) -> Any:
    return None if type(value) is float and math.isnan(value) else value


def _among(left: _Value, values: list[Any]) -> Test:
    chosen = frozenset(values)

    def among(row: Row) -> bool:
        value = left(row)
        try:
            return value is not None and value in chosen
        except TypeError:  # nothing that a list of values can hold
            return False

    return among


def _compared(sign: str, left: _Value, right: _Value) -> Test:
    if sign in ("==", "!="):
        wanted = sign == "=="

        def equal(row: Row) -> bool:
            value = left(row)
            return (value is not None and value == right(row)) is wanted

        return equal
    order = _ORDER[sign]

    def ordered(row: Row) -> bool:
        try:
            return order(left(row), right(row))
        except TypeError:  # null, or text beside a number
            return False

    return ordered
