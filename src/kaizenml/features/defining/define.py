"""Features defined in Python: ``@features`` over aggregates, ``@derived`` over one row. Says nothing to anybody: ``definitions.py`` reads it.

>>> @features(entity="customer_id", source="orders", at="ts", ttl="30d")
... class Spend:
...     spend_30d = sum_("amount", last="30d")
...     limit = latest("credit_limit")
>>> Spend.name, list(Spend.features), Spend.reads
('spend', ['spend_30d', 'limit'], ['amount', 'credit_limit'])
"""

from __future__ import annotations

import ast
import copy
import linecache
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.clock import parse_duration
from kaizenml.errors import InvalidSettings, KaizenError, nearest
from kaizenml.features.defining import expressions
from kaizenml.features.signature import Derived, FieldKind
from kaizenml.features.view import Aggregate, FeatureView, Function
from kaizenml.refs import check_name

_KINDS: dict[str, FieldKind] = {"float": "number", "int": "integer", "bool": "boolean", "str": "category", "datetime": "timestamp"}
_OURS = (__file__, str(Path(__file__).parents[1] / "__init__.py"))  # frames that are not the definition's


@dataclass(frozen=True, eq=False)
class Feature:
    """An aggregate in a class under ``@features``, before it has the name of its attribute."""

    aggregate: Aggregate
    of: tuple[Feature | str, ...]
    place: str  # file:line


class DerivedFeature:
    """A function under ``@derived``: its definition, and still a function."""

    def __init__(self, definition: Derived, place: str, description: str) -> None:
        self.definition, self.place, self.description = definition, place, description
        self.__name__ = definition.name

    def __call__(self, *values: Any) -> Any:
        """Return the value for these inputs, as training and serving compute it."""
        if len(values) != len(self.definition.inputs):
            raise TypeError(f"{self.definition.name} takes {', '.join(self.definition.inputs)}")
        return expressions.compile_derived(self.definition)(*values)


def features(
    *,
    entity: str | Sequence[str],
    source: Any,
    sql: str | None = None,
    at: str | None = None,
    ttl: str | None = None,
    created: str | None = None,
    owner: str = "",
    tags: Sequence[str] = (),
    description: str | None = None,
) -> Callable[[type], FeatureView]:
    """Make a class of aggregates a feature view, named as the class in snake case.

    Parameters
    ----------
    entity : the column with the key, or several that make one together.
    source : the dataset with the rows: its name, or an object that has it as ``name``.
    sql : a query over the project's datasets that gives the rows; a new version of ``source`` makes it run again.
    at : column with the event time; without, rows count in the order in which they were added, and no window can be said.
    ttl : once an entity's newest row is older, its features are missing; a duration such as ``"30d"``.
    created : column that tells when a row became known, where that is later than ``at``. Rows do not count before.
    owner, tags, description : said about the view, no part of its version. Default description: the docstring.

    Raises
    ------
    InvalidSettings : names the file, the line, and what is meant.
    """
    place = _place()

    def decorated(found: type) -> FeatureView:
        drafts = _drafts(found, place)
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", found.__name__).lower()
        _named(name, place)
        dataset = source if isinstance(source, str) else getattr(source, "name", None)
        if not dataset:
            raise _wrong(place, f"{found.__name__} has no source", 'name the dataset: source="orders"')
        names = {id(draft): name for name, draft in drafts.items()}
        aggregates = [_finished(name, draft, names, drafts) for name, draft in drafts.items()]
        timed = next((each for each in aggregates if each.last_s or each.every_s or each.function == "since"), None)
        if at is None and (timed or ttl or created):
            what = f"{timed.name} has a window" if timed else "there is a ttl or created"
            raise _wrong(place, f"{what}, but {found.__name__} has no event time", 'name the column with the event time: at="..."')
        doc = (found.__doc__ or "").strip().splitlines()
        return FeatureView(
            name=name,
            dataset=dataset,
            entity=entity if isinstance(entity, str) else list(entity) if len(entity) > 1 else entity[0],
            columns=[],
            at=at,
            ttl_s=_seconds(ttl, "ttl", place),
            aggregates=aggregates,
            created=created,
            sql=sql,
            plain=True,
            description=description if description is not None else doc[0] if doc else "",
            owner=owner,
            tags=list(tags),
        )

    return decorated


def derived(function: Callable[..., Any]) -> DerivedFeature:
    """Make a function of one expression a derived input, named as it is; its parameters name what it is computed from.

    Parameters and the value are annotated with float, int, bool, str or datetime. ``expressions.py`` says what the
    body may hold; it may give names to parts, and decide by ``if``.

    >>> from kaizenml.features.defining.expressions import compile_derived
    >>> ratio = Derived(name="r", inputs=["a", "b"], takes=["number", "number"], expression="a / b if b else 0.0", kind="number")
    >>> DerivedFeature(ratio, "features.py:1", "")(3.0, 0.0)
    0.0
    """
    code = function.__code__
    place = f"{code.co_filename}:{code.co_firstlineno}"
    node = _source(function, place)
    kinds = {each.arg: _kind(each.annotation, f"{each.arg}", place) for each in (*node.args.posonlyargs, *node.args.args)}
    if not kinds or node.args.vararg or node.args.kwarg or node.args.kwonlyargs or node.args.defaults:
        raise _wrong(place, f"{node.name} must name its inputs as plain parameters", "write def NAME(INPUT: float) -> float")
    kind = _kind(node.returns, "the value", place)
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    try:
        tree = _expression(body, {}, node)
        tree = _Constants({**function.__globals__}, set(kinds)).visit(copy.deepcopy(tree))
        expressions.check(tree, kinds, kind)
    except expressions.Unfit as error:
        line = error.line or node.lineno
        where = f"{code.co_filename}:{line}"
        raise _wrong(where, f"{node.name}: {error}", "write it as one expression; docs/how-to/add-a-feature-view.md lists what it may hold") from None
    text = ast.unparse(tree)
    definition = Derived(name=_named(node.name, place), inputs=list(kinds), expression=text, kind=kind, takes=list(kinds.values()))
    return DerivedFeature(definition, place, (ast.get_docstring(node) or "").partition("\n")[0])


def count(column: str | None = None, *, last: str | None = None, every: str | None = None, n: int | None = None) -> Feature:
    """Count the rows in the window, or those in which ``column`` is known.

    Parameters
    ----------
    last : length of the window, such as ``"30d"``; default all time.
    every : the window ends at the newest multiple of this since 1970 (UTC), not at the moment of asking: ``last="1d", every="1d"``
        is the day before today.
    n : only the newest n rows.
    """
    return _feature("count", column, last, every, n)


def sum_(column: str, *, last: str | None = None, every: str | None = None, n: int | None = None) -> Feature:
    """Sum a column over the window, see ``count``: exact, rounded once."""
    return _feature("sum", column, last, every, n)


def mean(column: str, *, last: str | None = None, every: str | None = None, n: int | None = None) -> Feature:
    """Average a column over the window, see ``count``."""
    return _feature("mean", column, last, every, n)


def min_(column: str, *, last: str | None = None, every: str | None = None, n: int | None = None) -> Feature:
    """Take the least of a column in the window, see ``count``."""
    return _feature("min", column, last, every, n)


def max_(column: str, *, last: str | None = None, every: str | None = None, n: int | None = None) -> Feature:
    """Take the greatest of a column in the window, see ``count``."""
    return _feature("max", column, last, every, n)


def std(column: str, *, last: str | None = None, every: str | None = None, n: int | None = None) -> Feature:
    """Take a column's standard deviation (of a sample) over the window, see ``count``."""
    return _feature("std", column, last, every, n)


def distinct(column: str, *, last: str | None = None, every: str | None = None, n: int | None = None) -> Feature:
    """Count the distinct values of a column in the window, see ``count``."""
    return _feature("distinct", column, last, every, n)


def first(column: str, *, last: str | None = None, every: str | None = None, n: int | None = None) -> Feature:
    """Take the oldest value of a column in the window, see ``count``."""
    return _feature("first", column, last, every, n)


def latest(column: str, *, last: str | None = None, every: str | None = None) -> Feature:
    """Take the newest value of a column that is not null, see ``count``."""
    return _feature("latest", column, last, every, None)


def since(column: str | None = None, *, last: str | None = None) -> Feature:
    """Seconds since the newest row, or since the newest in which ``column`` is known, see ``count``."""
    return _feature("since", column, last, None, None)


def ratio(first: Feature | str, second: Feature | str) -> Feature:
    """Divide one feature of the class by another; missing where the second is 0."""
    return Feature(Aggregate(name="", function="ratio"), (first, second), _place())


def _feature(function: Function, column: str | None, last: str | None, every: str | None, n: int | None) -> Feature:
    place = _place()
    if column is not None and (not isinstance(column, str) or not column):
        raise _wrong(place, f"{column!r} is not the name of a column", f'write {function}_("amount")' if function in ("sum", "min", "max") else "")
    if n is not None and (type(n) is not int or n < 1):
        raise _wrong(place, f"n is {n!r}, not a whole number from 1", "write n=5")
    last_s, every_s = _seconds(last, "last", place), _seconds(every, "every", place)
    return Feature(Aggregate(name="", function=function, column=column, last_s=last_s, every_s=every_s, n=n), (), place)


def _finished(name: str, draft: Feature, names: Mapping[int, str], drafts: Mapping[str, Feature]) -> Aggregate:
    parts = []
    for part in draft.of:
        found = part if isinstance(part, str) else names.get(id(part))
        if found is None or found not in drafts:
            close = nearest(str(part), drafts) if isinstance(part, str) else None
            told = repr(part) if isinstance(part, str) else "a feature without a name"
            hint = f"; did you mean {close!r}?" if close else ""
            raise _wrong(draft.place, f"{name} is a ratio of {told}, which is not in its class{hint}", f"name two of {', '.join(drafts)}")
        if drafts[found].aggregate.function == "ratio":
            raise _wrong(draft.place, f"{name} is a ratio of {found}, which is a ratio itself", "write it as @derived")
        parts.append(found)
    return msgspec.structs.replace(draft.aggregate, name=name, of=parts)


def _drafts(found: type, place: str) -> dict[str, Feature]:
    drafts = {name: value for name, value in vars(found).items() if not name.startswith("__")}
    for name, value in drafts.items():
        if not isinstance(value, Feature):
            raise _wrong(place, f"{found.__name__}.{name} is {value!r:.80}, no feature", f'write {name} = latest("{name}"), or take it out')
    if not drafts:
        raise _wrong(place, f"{found.__name__} has no features", 'write NAME = latest("COLUMN") in it')
    return drafts


def _seconds(text: str | None, what: str, place: str) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except (KaizenError, TypeError, AttributeError):
        seconds = 0.0
    if seconds <= 0:
        raise _wrong(place, f"{what} is {text!r}, not a duration", f'write {what}="30d", or with s, m, h')
    return seconds


def _named(name: str, place: str) -> str:
    try:
        return check_name(name)
    except KaizenError as error:
        raise _wrong(place, error.what, error.remedy) from None


def _place() -> str:
    """Return file:line of whoever defines."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename in _OURS:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _wrong(place: str, what: str, remedy: str) -> InvalidSettings:
    file, _, line = place.rpartition(":")
    return InvalidSettings(f"{place}: {what}", remedy=remedy or f"mend {place}", values={"file": file, "line": int(line)})


def _source(function: Callable[..., Any], place: str) -> ast.FunctionDef:
    code = function.__code__
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            begin = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if begin <= code.co_firstlineno <= node.lineno:
                return node
    raise _wrong(place, f"the source of {function.__name__!r} cannot be read", "define it in features.py, with def")


def _kind(annotation: ast.expr | None, what: str, place: str) -> FieldKind:
    text = "" if annotation is None else ast.unparse(annotation).strip("'\"")
    name = text.replace(" ", "").removesuffix("|None").removeprefix("None|").rpartition(".")[2]
    if name not in _KINDS:
        close = nearest(name, _KINDS) if name else None
        said = f"{what} is annotated {text!r}" if text else f"{what} has no annotation"
        hint = f"; did you mean {close}?" if close else ""
        raise _wrong(place, f"{said}{hint}", f"annotate it with {', '.join(_KINDS)}")
    return _KINDS[name]


def _expression(body: Sequence[ast.stmt], known: Mapping[str, ast.expr], node: ast.FunctionDef) -> ast.expr:
    """Write assignments, ``if`` and ``return`` as one expression."""
    if not body:
        raise expressions.Unfit("it may end without a value", node)
    head, *rest = body
    if isinstance(head, ast.Return) and head.value is not None:
        return _put(head.value, known)
    if isinstance(head, ast.Assign) and len(head.targets) == 1 and isinstance(head.targets[0], ast.Name):
        return _expression(rest, {**known, head.targets[0].id: _put(head.value, known)}, node)
    if isinstance(head, ast.If):
        return ast.IfExp(_put(head.test, known), _expression([*head.body, *rest], known, node), _expression([*head.orelse, *rest], known, node))
    raise expressions.Unfit(f"{ast.unparse(head).splitlines()[0][:60]!r} is not allowed in it", head)


def _put(tree: ast.expr, known: Mapping[str, ast.expr]) -> ast.expr:
    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return copy.deepcopy(known.get(node.id, node))

    put: ast.expr = Put().visit(copy.deepcopy(tree))
    if sum(1 for _ in ast.walk(put)) > expressions.MAX_NODES:
        raise expressions.Unfit(f"it is longer than {expressions.MAX_NODES} parts", tree)
    return put


class _Constants(ast.NodeTransformer):
    """Puts the module's numbers, texts and truth values in the place of their names: the definition is whole by itself."""

    def __init__(self, known: Mapping[str, Any], inputs: set[str]) -> None:
        self.known, self.inputs = known, inputs

    def visit_Name(self, node: ast.Name) -> ast.expr:
        value = None if node.id in self.inputs else self.known.get(node.id)
        return ast.copy_location(ast.Constant(value), node) if type(value) in (int, float, str, bool) else node
