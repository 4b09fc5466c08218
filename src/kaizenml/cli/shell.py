"""Commands and groups that take ``--json`` and ``--project`` anywhere, with calm help and the nearest name for a slip."""

from __future__ import annotations

from typing import Any

import click

from kaizenml.cli.face import Face, is_plain
from kaizenml.errors import UsageError, nearest


class _Formatter(click.HelpFormatter):
    def write_heading(self, heading: str) -> None:
        super().write_heading(click.style(heading, bold=True))


class _Context(click.Context):
    formatter_class = _Formatter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if is_plain():
            self.color = False


class Command(click.Command):
    """A command with the options that every command has."""

    context_class = _Context

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"], "max_content_width": 110})
        super().__init__(*args, **kwargs)
        self.params += shared_options()


class Group(click.Group):
    """A group with the options that every command has."""

    context_class = _Context
    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"], "max_content_width": 110})
        super().__init__(*args, **kwargs)
        self.params += shared_options()

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            known = self.list_commands(ctx)
            close = nearest(name, known)
            raise UsageError(
                f"{ctx.command_path} has no command {name!r}" + (f"; did you mean {close!r}?" if close else ""),
                remedy=f"{ctx.command_path} {close}" if close else f"{ctx.command_path} --help",
                values={"found": name, "nearest": close, "known": known},
            )
        return super().resolve_command(ctx, args)


def shared_options() -> list[click.Parameter]:
    """Return ``--json`` and ``--project``."""
    return [
        click.Option(["--json", "json_"], is_flag=True, expose_value=False, callback=_take_json, help="One JSON document on stdout."),
        click.Option(
            ["--project", "project_"], metavar="DIR", expose_value=False, callback=_take_project, help="The project folder; default here or above."
        ),
    ]


def _take_json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    face = ctx.find_root().ensure_object(Face)
    face.json = face.json or value


def _take_project(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    face = ctx.find_root().ensure_object(Face)
    face.project = value or face.project
