"""Commands made from the registry: ``kaizen NOUN VERB`` for every operation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kaizenml import operations
from kaizenml.cli import forms
from kaizenml.cli.face import current
from kaizenml.cli.shell import Command, Group
from kaizenml.errors import NotFound, UsageError
from kaizenml.operations import Operation, Parameter

_TYPES: dict[str, Any] = {"integer": click.INT, "number": click.FLOAT}


class NounGroup(Group):
    """The operations of one noun; help costs no import of the room."""

    def __init__(self, noun: str, summary: str, *, callback: Callable[..., Any] | None = None) -> None:
        super().__init__(noun, help=f"{summary}.", callback=callback, invoke_without_command=callback is not None)
        self.noun = noun

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb.replace("_", "-") for verb in operations.of(self.noun)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = operations.of(self.noun).get(cmd_name.replace("-", "_"))
        meant = operations.MEANT.get(found.name) if found else None
        return _either(found, operations.all()[meant]) if found and meant else command(found) if found else None


def command(operation: Operation, *, name: str | None = None, shown: Callable[[Any], str] | None = None, summary: str | None = None) -> click.Command:
    """Make the command of an operation. ``shown`` renders its result for people; default the form that it has, else a plain rendering."""
    shown = shown or forms.of(operation.name)

    def run(**_values: Any) -> None:
        face = current()
        arguments = given(operation)
        picture = arguments.get("picture")
        if picture is not None:
            _check_place(Path(picture))
            arguments["picture"] = True
        ctx = face.open()
        if "progress" in operation.local:
            with face.progress() as progress:
                result = operation.call(ctx, arguments, strict=False, progress=progress)
        else:
            result = operation.call(ctx, arguments, strict=False)
        if picture is not None:
            Path(picture).write_text(result["picture"], encoding="utf-8")
            result["picture"] = str(picture)
        face.show(result, shown(result) if shown and not face.json else None)

    about = "\n\n".join(part for part in (summary or operation.summary, operation.help) if part)
    return Command(
        name or operation.verb.replace("_", "-"), params=parameters(operation), callback=run, help=about, short_help=summary or operation.summary,
        epilog=epilog(operation),
    )  # fmt: skip


def _check_place(path: Path) -> None:
    """See that a file can be made there before the work, some of which cannot be undone, is done."""
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent} for {path.name}", remedy=f"mkdir -p {path.parent}", values={"file": str(path)})
    if path.is_dir():
        raise UsageError(f"{path} is a folder", remedy=f"name a file in it: {path / 'picture.svg'}", values={"file": str(path)})


def _either(operation: Operation, other: Operation) -> click.Command:
    """Make one command of two operations: an option that only ``other`` takes means that one."""
    ours, theirs = command(operation), command(other)
    own = {parameter.name for parameter in operation.parameters}
    more = [parameter for parameter in other.parameters if parameter.name not in own]
    taken = parameters(operation)
    for parameter in taken:
        parameter.required = False  # which operation is meant decides; it says what it lacks

    def run(**values: Any) -> Any:
        ctx = click.get_current_context()
        typed = [name for name in ctx.params if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE]
        asked = [_flag(parameter) for parameter in more if parameter.name in typed]
        chosen, of = (theirs, other) if asked else (ours, operation)
        known = {parameter.name for parameter in of.parameters}
        for parameter in operation.parameters:
            if asked and parameter.name in typed and parameter.name not in known:
                what = f"{_flag(parameter)} does not go with {asked[0]}, which asks for something else"
                raise UsageError(what, remedy=f"leave one of them out; {ctx.command_path} --help", values={"found": parameter.name})
            if not asked and parameter.required and parameter.name not in typed:
                what = f"missing {_flag(parameter)}; or give one of {names}"
                raise UsageError(what, remedy=f"{ctx.command_path} --help", values={"argument": parameter.name})
        assert chosen.callback is not None
        return chosen.callback(**values)

    names = ", ".join(map(_flag, more))
    example = (epilog(other) or "").replace(f"kaizen {other.noun} {other.verb} ", f"kaizen {operation.noun} {operation.verb} ")
    about = f"{ours.help}\n\nWith {names}: {other.summary[0].lower()}{other.summary[1:]}"
    return Command(
        operation.verb.replace("_", "-"), params=[*taken, *map(_option, more)], callback=run, help=about, short_help=operation.summary,
        epilog=example or None,
    )  # fmt: skip


def parameters(operation: Operation) -> list[click.Parameter]:
    """Return click's parameters for an operation: its positional ones as arguments, the others as options."""
    return [_argument(p) if p.positional else _option(p) for p in operation.parameters]


def given(operation: Operation) -> dict[str, Any]:
    """Return what the command line gave, by parameter name; what it did not give keeps the function's own default."""
    ctx = click.get_current_context()
    found: dict[str, Any] = {}
    for parameter in operation.parameters:
        source = ctx.get_parameter_source(parameter.name)
        if source in (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT):
            found[parameter.name] = _from_file(parameter, ctx.params[parameter.name])
    return found


def _argument(parameter: Parameter) -> click.Parameter:
    return click.Argument([parameter.name], required=parameter.required, type=_type(parameter), metavar=None)


def _option(parameter: Parameter) -> click.Parameter:
    flag = f"--{parameter.name.replace('_', '-')}"
    about = parameter.help
    if parameter.name == "picture":  # asked for by the file that it goes to
        return click.Option([flag, parameter.name], type=click.STRING, default=None, metavar="FILE", help="also draw it, to this file, as SVG.")
    if parameter.kind == "boolean":
        return click.Option([f"{flag}/--no-{flag[2:]}", parameter.name], default=None, help=about)
    if parameter.default is not None and parameter.default not in ("", []):
        about = f"{about} [default: {parameter.default}]".strip()
    kind, mark = _type(parameter), _metavar(parameter)
    # click takes a default of None for a value, and would ask for nothing that is required
    default: dict[str, Any] = {} if parameter.required else {"default": None}
    return click.Option([flag, parameter.name], required=parameter.required, type=kind, metavar=mark, help=about, **default)


def _flag(parameter: Parameter) -> str:
    """Return what is typed for a parameter."""
    return parameter.name.upper() if parameter.positional else f"--{parameter.name.replace('_', '-')}"


def _type(parameter: Parameter) -> Any:
    return click.Choice(parameter.choices) if parameter.choices else _TYPES.get(parameter.kind, click.STRING)


def _metavar(parameter: Parameter) -> str | None:
    if parameter.choices:
        return None
    return {"integer": "N", "number": "X", "path": "PATH", "list": "A,B,...", "object": "JSON"}.get(parameter.kind, "TEXT")


def _from_file(parameter: Parameter, value: Any) -> Any:
    """Read ``@FILE`` where JSON is taken: rows are awkward to quote in a shell."""
    if parameter.kind not in ("list", "object", "any") or not isinstance(value, str):
        return value
    return read_text(value)


def read_text(value: str) -> str:
    """Return ``value``, or the content of FILE for ``@FILE``, or stdin for ``-``."""
    if value == "-":
        return sys.stdin.read()
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"there is no file {value[1:]!r}", remedy="give the JSON itself, or @FILE with a file that exists") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{value[1:]!r} cannot be read: {error}", remedy="give the JSON itself") from None


def epilog(operation: Operation) -> str | None:
    """Return the example of an operation's docstring, as a command's help shows it."""
    lines = [line.strip("` ") for line in operation.example.splitlines() if line.strip("` ").startswith("kaizen ")]
    return "\b\nexample:\n" + "\n".join(f"  {line}" for line in lines) if lines else None
