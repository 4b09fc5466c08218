"""The registry of operations: each is written once as a function, and every face is derived from it.

A room's ``operations.py`` lists in ``__all__`` the functions that are operations. Their names, parameters and
help are read from the source, not by importing it, so that ``kaizen data --help`` costs milliseconds and loads
no data stack; the room is imported when one of its operations is called.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kaizenml.errors import NotFound, UsageError, nearest

if TYPE_CHECKING:
    from kaizenml.context import Context

MODULES = {
    "data": ["kaizenml.data.operations", "kaizenml.monitoring.versions", "kaizenml.governance.operations", "kaizenml.governance.lineage"],
    "features": ["kaizenml.features.operations", "kaizenml.governance.features"],
    "training": ["kaizenml.training.operations"],
    "registry": ["kaizenml.registry.operations"],
    "releases": ["kaizenml.releases.operations"],
    "rollouts": ["kaizenml.rollouts.operations"],
    "serving": ["kaizenml.serving.operations"],
    "monitoring": ["kaizenml.monitoring.operations"],
    "loop": ["kaizenml.loop.operations"],
    "tokens": ["kaizenml.access.operations"],
    "audit": ["kaizenml.audit"],
}
"""Where the operations of a noun are. A verb that needs rooms above its noun's own lives in one of those."""

READING = frozenset({
    "list", "show", "status", "versions", "quarantine", "get", "read", "board", "alerts", "accuracy", "verify", "settings", "check", "exclusions",
    "radius", "diff", "uses", "search", "describe", "forgotten",
})  # fmt: skip
"""Verbs that change nothing: HTTP offers them as GET too."""

MEANT = {"data.quarantine": "data.exclude", "data.release": "data.include"}
"""Typed with an option that only the second takes, the first means the second: one word for looking and doing, two operations for machines."""

ParameterKind = Literal["string", "integer", "number", "boolean", "path", "list", "object", "any"]
_KINDS: dict[str, ParameterKind] = {
    "str": "string", "int": "integer", "float": "number", "bool": "boolean", "Path": "path", "list": "list", "dict": "object", "Mapping": "object",
    "Sequence": "list", "Literal": "string",
}  # fmt: skip
_LOCAL = ("Callable", "pa.Table", "Progress")  # annotations of what cannot travel: the faces do not offer it


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of an operation, as the faces offer it."""

    name: str
    kind: ParameterKind
    annotation: str
    required: bool
    default: Any = None
    positional: bool = False
    choices: list[str] = []
    help: str = ""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A typed function ``noun.verb``, described by its signature and docstring."""

    noun: str
    verb: str
    module: str
    parameters: list[Parameter]
    summary: str
    help: str = ""
    returns: str = ""
    raises: dict[str, str] = {}
    example: str = ""
    local: list[str] = []
    """Parameters that only Python callers can give (callbacks, Arrow tables)."""

    @property
    def name(self) -> str:
        return f"{self.noun}.{self.verb}"

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return self.verb in READING

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself; imports its room."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.verb)
        return found

    def call(
        self, ctx: Context, arguments: Mapping[str, Any] | None = None, *, strict: bool = True, progress: Callable[[str, float], None] | None = None
    ) -> Any:
        """Call the operation with arguments from outside and return its result as plain dicts, lists and scalars.

        Parameters
        ----------
        ctx : the open project.
        arguments : by parameter name; None stands for "not given" where the parameter has a default.
        strict : False takes texts for numbers, booleans, lists (``a,b``) and objects (JSON), as they come from a query string.
        progress : told (step, share done 0..1), if the operation reports progress.

        Raises
        ------
        UsageError : an argument is unknown, missing or of the wrong type; the nearest right name is in the message.
        """
        given = self.bind(arguments or {}, strict=strict)
        if progress is not None and "progress" in self.local:
            given["progress"] = progress
        return to_builtins(self.function(ctx, **given))

    def bind(self, arguments: Mapping[str, Any], *, strict: bool = True) -> dict[str, Any]:
        """Check and convert arguments; return those that are given."""
        known = {p.name: p for p in self.parameters}
        for name in arguments:
            if name not in known:
                close = nearest(name, known)
                hint = f"; did you mean {close!r}?" if close else (f"; it takes {', '.join(known)}" if known else "; it takes none")
                raise UsageError(
                    f"{self.name} has no argument {name!r}{hint}",
                    remedy=self._remedy(),
                    values={"argument": name, "nearest": close, "known": [*known]},
                )
        given: dict[str, Any] = {}
        for parameter in self.parameters:
            value = arguments.get(parameter.name)
            if value is not None:
                given[parameter.name] = self._converted(parameter, value, strict)
            elif parameter.required:
                raise UsageError(f"{self.name} needs {parameter.name!r}", remedy=self._remedy(), values={"argument": parameter.name})
        return given

    def _converted(self, parameter: Parameter, value: Any, strict: bool) -> Any:
        if not strict and isinstance(value, str):
            value = _from_text(parameter, value)
        kind = _hints(self.module, self.verb).get(parameter.name, Any)
        try:
            return msgspec.convert(value, kind, strict=strict, dec_hook=_take)
        except msgspec.ValidationError as error:
            text = str(error)
            raise UsageError(
                f"{self.name}: {parameter.name} is {_shown(value)}; {text[0].lower()}{text[1:]}",
                remedy=self._remedy(),
                values={"argument": parameter.name, "found": _shown(value), "expected": parameter.annotation},
            ) from None

    def _remedy(self) -> str:
        return f"kaizen {self.noun} {self.verb} --help"


def all() -> dict[str, Operation]:
    """Return every operation by its name ``noun.verb``."""
    return {operation.name: operation for noun in MODULES for operation in of(noun).values()}


def find(noun: str, verb: str) -> Operation:
    """Return one operation, or raise NotFound with the nearest name."""
    if noun not in MODULES:
        close = nearest(noun, MODULES)
        raise NotFound(
            f"there is no noun {noun!r}" + (f"; did you mean {close!r}?" if close else f"; there is {', '.join(MODULES)}"),
            remedy="kaizen --help",
            values={"noun": noun, "nearest": close, "known": [*MODULES]},
        )
    verbs = of(noun)
    if verb not in verbs:
        close = nearest(verb, verbs)
        raise NotFound(
            f"{noun} has no operation {verb!r}" + (f"; did you mean {close!r}?" if close else f"; it has {', '.join(verbs) or 'none'}"),
            remedy=f"kaizen {noun} --help",
            values={"verb": verb, "nearest": close, "known": [*verbs]},
        )
    return verbs[verb]


@functools.cache
def of(noun: str) -> dict[str, Operation]:
    """Return the operations of one noun by verb, in the order of its modules and their ``__all__``; none while there are none."""
    return {verb: operation for module in MODULES[noun] for verb, operation in _in(noun, module).items()}


def _in(noun: str, module: str) -> dict[str, Operation]:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return {}
    if spec is None or spec.origin is None:
        return {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {verb: _described(noun, module, functions[verb]) for verb in _exported(tree) if verb in functions}


def to_builtins(value: Any) -> Any:
    """Return ``value`` as plain dicts, lists, strings, numbers, booleans and None; times as ISO 8601."""
    return msgspec.to_builtins(value, enc_hook=_give, str_keys=True)


def _exported(tree: ast.Module) -> builtins.list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return builtins.list(ast.literal_eval(node.value))
    return []


def _described(noun: str, module: str, node: ast.FunctionDef) -> Operation:
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    summary, help_, sections = _read_docstring(text)
    helps = _entries(sections.get("Parameters", ""))
    arguments = node.args
    by_position = [*arguments.posonlyargs, *arguments.args]
    defaults: builtins.list[ast.expr | None] = [None] * (len(by_position) - len(arguments.defaults)) + [*arguments.defaults]
    entries = [(a, d, True) for a, d in zip(by_position, defaults, strict=True)][1:]  # the first is ctx
    entries += [(a, d, False) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    parameters, local = [], []
    for argument, default, positional in entries:
        annotation = ast.unparse(argument.annotation) if argument.annotation else "Any"
        if any(mark in annotation for mark in _LOCAL):
            local.append(argument.arg)
            continue
        kind, choices = _kind(annotation)
        parameters.append(
            Parameter(
                name=argument.arg, kind=kind, annotation=annotation, required=default is None, default=_literal(default), positional=positional,
                choices=choices, help=helps.get(argument.arg, ""),
            )
        )  # fmt: skip
    return Operation(
        noun=noun, verb=node.name, module=module, parameters=parameters, summary=summary, help=help_, returns=sections.get("Returns", "").strip(),
        raises=_entries(sections.get("Raises", "")), example=sections.get("Examples", sections.get("Example", "")), local=local,
    )  # fmt: skip


def _kind(annotation: str) -> tuple[ParameterKind, builtins.list[str]]:
    parts = [part.strip() for part in re.split(r"\|(?![^\[]*\])", annotation) if part.strip() != "None"]
    heads = {part.partition("[")[0].rpartition(".")[2] for part in parts}
    if len(heads) != 1:
        return "any", []
    kind = _KINDS.get(heads.pop(), "any")
    choices = [str(choice) for choice in ast.literal_eval(f"({parts[0].partition('[')[2].rstrip(']')},)")] if parts[0].startswith("Literal[") else []
    return kind, choices


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node) if node is not None else None


_HEADING = re.compile(r"^([A-Z][A-Za-z]+)\n-{3,}\n", re.MULTILINE)


def _read_docstring(text: str) -> tuple[str, str, dict[str, str]]:
    pieces = _HEADING.split(text)
    head = pieces[0].strip()
    sections = {pieces[i]: pieces[i + 1].strip("\n") for i in range(1, len(pieces) - 1, 2)}
    if "Examples" not in sections and "Example" not in sections and ">>>" in head:
        head, _, example = head.partition("\n>>>")
        sections["Examples"] = f">>>{example}"
    summary, _, rest = head.partition("\n\n")
    return " ".join(summary.split()), rest.strip(), sections


def _entries(section: str) -> dict[str, str]:
    """Read ``name : what it is`` entries; further lines of an entry are indented."""
    found: dict[str, str] = {}
    current: builtins.list[str] = []
    for line in section.splitlines():
        match = re.match(r"^([A-Za-z_]\w*(?:, *\w+)*) ?: ?(.*)$", line)
        if match:
            current = [name.strip() for name in match[1].split(",")]
            for name in current:
                found[name] = match[2].strip()
        elif line.strip() and line.startswith((" ", "\t")):
            for name in current:
                found[name] = f"{found[name]} {line.strip()}".strip()
        elif line.strip():
            current = []
    return found


@functools.cache
def _hints(module: str, verb: str) -> dict[str, Any]:
    room = importlib.import_module(module)
    function = getattr(room, verb)
    # a verb such as `list` shadows the builtin in its module: hence the builtins on top
    space = {**vars(room), **{name: kind for name, kind in vars(builtins).items() if isinstance(kind, type)}}
    hints: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = parameter.annotation
        try:
            hints[name] = eval(kind, space) if isinstance(kind, str) else kind  # noqa: S307  (our own source, not input)
        except (NameError, AttributeError, TypeError):
            hints[name] = Any  # a name imported for type checkers only
    return hints


def _from_text(parameter: Parameter, text: str) -> Any:
    stripped = text.strip()
    if parameter.kind in ("list", "object", "any") and stripped[:1] in ("[", "{"):
        try:
            return msgspec.json.decode(stripped)
        except msgspec.DecodeError as error:
            remedy = "quote it for the shell: '{\"name\": 1}'"
            raise UsageError(f"{parameter.name} is not JSON: {error}", remedy=remedy, values={"found": text[:200]}) from None
    if parameter.kind == "list":
        return [part.strip() for part in stripped.split(",") if part.strip()]
    return text


def _take(kind: type, value: Any) -> Any:
    if kind is Path or (isinstance(kind, type) and issubclass(kind, Path)):
        if not isinstance(value, str | Path):
            raise TypeError(f"expected a path, got {type(value).__name__}")
        return Path(value)
    raise TypeError(f"{kind} cannot be given from outside")


def _give(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be shown")


def _shown(value: Any) -> str:
    """Return an argument as messages name it; of rows and the like only how many, for they may tell of persons."""
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, builtins.list | tuple):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
