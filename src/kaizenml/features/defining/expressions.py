"""Derived inputs: pure expressions over one row, kept as text, checked before they run, the same offline, online and for a request.

The text is Python's syntax of a few kinds: arithmetic, comparison, ``and or not``, ``a if b else c``, ``in`` a list of constants,
``is None``, and the functions of ``FUNCTIONS``. Types are checked before anything runs, so a text from a stranger's model can
neither reach anything nor grow without bound. Rules:

- All numbers are doubles; times are seconds since 1970. Text is compared, never computed with.
- An input that is missing makes the value missing, unless the expression handles it: by ``is None``, ``is not None`` or ``coalesce``.
- A value that does not exist (a division by 0, the root of a negative number) or that no double can hold is missing too.

Hot path: imports only the standard library and msgspec.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from kaizenml.errors import InvalidInput, InvalidSettings, nearest
from kaizenml.features.encoding.encoder import parse_time_us
from kaizenml.features.signature import Derived, FieldKind

Type = Literal["number", "boolean", "text", "none"]
MAX_NODES = 400
MAX_TEXT = 10_000
_OF_KIND: dict[str, Type] = {"number": "number", "integer": "number", "timestamp": "number", "boolean": "boolean", "category": "text"}
_NUMBERS: tuple[Type, ...] = ("number", "boolean")
_BINARY = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_COMPARED = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot)


def _power(base: float, exponent: float) -> float:
    return math.pow(base, exponent)  # of doubles: never a complex number, never a whole number of a million digits


def _round(value: float, digits: float = 0.0) -> float:
    return float(round(value, int(digits)))


def _floor(value: float) -> float:
    return float(math.floor(value))


def _ceil(value: float) -> float:
    return float(math.ceil(value))


def _coalesce(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "abs": (abs, 1, 1), "min": (min, 2, 9), "max": (max, 2, 9), "round": (_round, 1, 2), "sqrt": (math.sqrt, 1, 1), "exp": (math.exp, 1, 1),
    "log": (math.log, 1, 1), "log1p": (math.log1p, 1, 1), "floor": (_floor, 1, 1), "ceil": (_ceil, 1, 1), "coalesce": (_coalesce, 2, 9),
}  # fmt: skip
"""What may be called: the function, and how many arguments it takes at least and at most."""


class Unfit(Exception):
    """An expression holds what is not allowed; says what, and where in the text."""

    def __init__(self, what: str, node: ast.AST | None = None) -> None:
        super().__init__(what)
        self.line = getattr(node, "lineno", None)


def check(tree: ast.expr, takes: Mapping[str, FieldKind], kind: FieldKind) -> Type:
    """Return the type of an expression over inputs of these kinds, if it gives a value of ``kind``.

    Raises
    ------
    Unfit : it holds what is not allowed.

    >>> check(ast.parse("spend / limit if limit else 0.0", mode="eval").body, {"spend": "number", "limit": "number"}, "number")
    'number'
    """
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise Unfit(f"it is longer than {MAX_NODES} parts", tree)
    found = _Typing(takes).of(tree)
    if found not in (_OF_KIND[kind], "none") and {found, _OF_KIND[kind]} != set(_NUMBERS):
        raise Unfit(f"it gives {found}, not a {kind}", tree)
    return found


def compile_derived(derived: Derived) -> Callable[..., Any]:
    """Compile a derived input into a function of its inputs, in their order.

    Returns
    -------
    A function from plain values (as JSON has them; times also as datetimes) to a plain value or None. It raises InvalidInput
    where a value is of another type than the definition says.

    >>> ratio = Derived(name="r", inputs=["a", "b"], takes=["number", "number"], expression="a / b if b else 0.0", kind="number")
    >>> compile_derived(ratio)(3, 4), compile_derived(ratio)(3, 0), compile_derived(ratio)(3, None)
    (0.75, 0.0, None)
    """
    return _compiled(derived.name, tuple(derived.inputs), tuple(derived.takes), derived.expression, derived.kind)


def compute(derived: Sequence[Derived], row: Mapping[str, Any], found: dict[str, Any], position: int) -> None:
    """Add to ``found``, the features of a request's ``row``, what is derived; what the row holds itself is not computed.

    Raises
    ------
    InvalidInput : what a value is computed from is absent, or of another kind; ``position`` is the row's place in the request.
    """
    for each in derived:
        if each.name in row:
            continue
        try:
            values = [found[name] if name in found else row[name] for name in each.inputs]
        except KeyError as absent:
            name = str(absent.args[0])
            raise InvalidInput(
                f"inputs[{position}].{name} is absent; {each.name!r} is computed from it",
                remedy=f"send {name!r}, as null when it is not known",
                values={"row": position, "field": name, "found": None, "expected": f"what {each.name!r} is computed from"},
            ) from None
        found[each.name] = compile_derived(each)(*values)


def handled(tree: ast.expr) -> set[str]:
    """Return the inputs whose absence the expression deals with itself."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops):
            found |= {part.id for part in (node.left, *node.comparators) if isinstance(part, ast.Name)}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "coalesce":
            found |= {part.id for part in node.args if isinstance(part, ast.Name)}
    return found


@lru_cache(1024)
def _compiled(name: str, inputs: tuple[str, ...], takes: tuple[FieldKind, ...], text: str, kind: FieldKind) -> Callable[..., Any]:
    try:
        if len(text) > MAX_TEXT:
            raise Unfit(f"it is longer than {MAX_TEXT} characters")
        tree = ast.parse(text, mode="eval").body
        check(tree, dict(zip(inputs, takes, strict=True)), kind)
    except (SyntaxError, ValueError, RecursionError, MemoryError, Unfit) as error:
        raise InvalidSettings(
            f"the derived input {name!r} cannot be computed: {error}", remedy=f"mend the definition of {name}", values={"expression": text[:500]}
        ) from None
    missing_is_fine = handled(tree)
    needed = [place for place, input_name in enumerate(inputs) if input_name not in missing_is_fine]
    arguments = [ast.arg(arg=f"_{place}") for place in range(len(inputs))]
    renamed = _Renamed({input_name: f"_{place}" for place, input_name in enumerate(inputs)}).visit(tree)
    signature = ast.arguments(posonlyargs=arguments, args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    code = ast.fix_missing_locations(ast.Expression(ast.Lambda(args=signature, body=renamed)))
    space = {"__builtins__": {}, "_power": _power, **{known: found for known, (found, _, _) in FUNCTIONS.items()}}
    # nothing but the nodes that ``check`` let through, and no builtins: what it can reach is in ``space``
    body = eval(compile(code, f"<derived {name}>", "eval"), space)  # noqa: S307
    take = [_TAKEN[each] for each in takes]
    give = _GIVEN[kind]

    def value(*values: Any) -> Any:
        try:
            taken = [each(found) for each, found in zip(take, values, strict=True)]
        except (ValueError, TypeError, OverflowError):
            raise _wrong(name, inputs, takes, values) from None
        for place in needed:
            if taken[place] is None:
                return None
        try:
            return give(body(*taken))
        except (ArithmeticError, ValueError):
            return None
        except TypeError:  # a handled input is missing where the expression computes with it all the same
            return None

    return value


class _Typing:
    """Finds the type of every node, or refuses it."""

    def __init__(self, takes: Mapping[str, FieldKind]) -> None:
        self.takes = takes

    def of(self, node: ast.expr) -> Type:
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Name):
            if node.id not in self.takes:
                close = nearest(node.id, [*self.takes, *FUNCTIONS])
                raise Unfit(f"{node.id!r} is none of its inputs" + (f"; did you mean {close!r}?" if close else ""), node)
            return _OF_KIND[self.takes[node.id]]
        if isinstance(node, ast.BinOp) and isinstance(node.op, _BINARY):
            self._numbers(node.left, node.right)
            return "number"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd | ast.Not):
            if isinstance(node.op, ast.Not):
                self.of(node.operand)
                return "boolean"
            self._numbers(node.operand)
            return "number"
        if isinstance(node, ast.BoolOp):
            return self._same(node.values, node)
        if isinstance(node, ast.IfExp):
            self.of(node.test)
            return self._same([node.body, node.orelse], node)
        if isinstance(node, ast.Compare):
            return self._compared(node)
        if isinstance(node, ast.Call):
            return self._called(node)
        raise Unfit(f"{_words(node)} is not allowed in it", node)

    def _constant(self, node: ast.Constant) -> Type:
        if node.value is None:
            return "none"
        if isinstance(node.value, bool):
            return "boolean"
        if isinstance(node.value, int | float):
            return "number"
        if isinstance(node.value, str):
            return "text"
        raise Unfit(f"{_words(node)} is not allowed in it", node)

    def _numbers(self, *nodes: ast.expr) -> None:
        for node in nodes:
            if (found := self.of(node)) not in _NUMBERS:
                raise Unfit(f"{_words(node)} is {found}, which cannot be computed with", node)

    def _same(self, nodes: Sequence[ast.expr], whole: ast.expr) -> Type:
        found = {kind for node in nodes if (kind := self.of(node)) != "none"}
        if len(found) == 2 and found <= set(_NUMBERS):
            return "number"
        if len(found) > 1:
            raise Unfit(f"{_words(whole)} may be {' or '.join(sorted(found))}", whole)
        return found.pop() if found else "none"

    def _compared(self, node: ast.Compare) -> Type:
        sides = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, sides, sides[1:], strict=False):
            if not isinstance(operator, _COMPARED):
                raise Unfit(f"{_words(node)} is not allowed in it", node)
            if isinstance(operator, ast.In | ast.NotIn):
                if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not all(isinstance(each, ast.Constant) for each in right.elts):
                    raise Unfit("`in` takes a list of constants", node)
                self._same([left, *right.elts], node)
            elif isinstance(operator, ast.Is | ast.IsNot):
                if not isinstance(left, ast.Name) or self.of(right) != "none":
                    raise Unfit("`is` is for an input and None only", node)
                self.of(left)
            elif self._same([left, right], node) == "none":
                raise Unfit("None is told by `is None`", node)
        return "boolean"

    def _called(self, node: ast.Call) -> Type:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS or node.keywords:
            close = nearest(name, FUNCTIONS) if name else None
            raise Unfit(f"{_words(node.func)} cannot be called in it" + (f"; did you mean {close!r}?" if close else ""), node)
        _, least, most = FUNCTIONS[name]
        if not least <= len(node.args) <= most or any(isinstance(each, ast.Starred) for each in node.args):
            raise Unfit(f"{name} takes {least}" + (f" to {most}" if most > least else "") + f" values, not {len(node.args)}", node)
        if name == "coalesce":
            return self._same(node.args, node)
        self._numbers(*node.args)
        return "number"


class _Renamed(ast.NodeTransformer):
    """Gives inputs the names of parameters, makes whole numbers doubles and ``**`` a function: nothing can grow without bound."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(id=self.names.get(node.id, node.id), ctx=ast.Load())

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Constant(float(node.value)) if type(node.value) is int else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        if isinstance(node.op, ast.Pow):
            return ast.Call(func=ast.Name(id="_power", ctx=ast.Load()), args=[left, right], keywords=[])
        return ast.BinOp(left=left, op=node.op, right=right)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        return ast.Call(func=node.func, args=[self.visit(each) for each in node.args], keywords=[])


def _words(node: ast.AST) -> str:
    text = ast.unparse(node)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) is bool or not isinstance(value, int | float):
        raise TypeError
    return float(value) if math.isfinite(value) else None


def _time(value: Any) -> float | None:
    us = parse_time_us(value)
    return None if us is None else us / 1e6


def _boolean(value: Any) -> bool | None:
    if value is None or (type(value) is float and math.isnan(value)):
        return None
    if value not in (0, 1):
        raise ValueError
    return bool(value)


def _text(value: Any) -> str | None:
    if value is not None and type(value) is not str:
        raise TypeError
    return value


def _as_number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value) + 0.0


def _as_whole(value: Any) -> int | None:
    number = _as_number(value)
    return None if number is None or not number.is_integer() or abs(number) >= 2**63 else int(number)


_TAKEN: dict[FieldKind, Callable[[Any], Any]] = {
    "number": _number, "integer": _number, "boolean": _boolean, "category": _text, "timestamp": _time,
}  # fmt: skip
_GIVEN: dict[FieldKind, Callable[[Any], Any]] = {
    "number": _as_number, "integer": _as_whole, "timestamp": _as_number, "category": lambda value: value,
    "boolean": lambda value: None if value is None else bool(value),
}  # fmt: skip


def _wrong(name: str, inputs: Sequence[str], takes: Sequence[FieldKind], values: Sequence[Any]) -> InvalidInput:
    for input_name, kind, value in zip(inputs, takes, values, strict=True):
        try:
            _TAKEN[kind](value)
        except (ValueError, TypeError, OverflowError):
            found = repr(value)[:100]
            return InvalidInput(
                f"{input_name}: {found} is not of the kind {kind} from which {name!r} is computed",
                remedy=f"send a {kind}, or null where it is not known",
                values={"field": input_name, "found": found, "expected": kind},
            )
    raise AssertionError  # one of them was refused
