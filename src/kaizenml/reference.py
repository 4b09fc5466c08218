"""``python -m kaizenml.reference FOLDER``: write the reference pages from the source, so that they cannot lie."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import msgspec

from kaizenml import errors, operations, settings


def pages() -> dict[str, str]:
    """Return each page's text by its file name."""
    return {"operations.md": _operations(), "settings.md": _settings(), "errors.md": _errors()}


def _operations() -> str:
    about = "Each is `kaizen NOUN VERB`, `POST /api/NOUN/VERB`, and a function of `kaizenml.NOUN.operations`"
    others = {name: found.module for name, found in operations.all().items() if found.module != f"kaizenml.{found.noun}.operations"}
    named = ", ".join(f"{name}: `{module}`" for name, module in others.items())
    lines = ["# Operations", "", f"{about} (of {named}).", ""]
    for name, operation in operations.all().items():
        lines += [f"## {name}", "", operation.summary, *([operation.help] if operation.help else []), ""]
        if operation.parameters:
            lines += ["| parameter | type | default | |", "|---|---|---|---|"]
            for p in operation.parameters:
                default = "required" if p.required else f"`{p.default}`"
                lines.append(f"| `{p.name}` | `{p.annotation.replace('|', chr(92) + '|')}` | {default} | {p.help.replace('|', chr(92) + '|')} |")
            lines.append("")
        if operation.returns:
            lines += [f"Returns: {' '.join(operation.returns.split())}", ""]
        lines += [f"- `{kind}`: {when}" for kind, when in operation.raises.items()] + ([""] if operation.raises else [])
    return "\n".join(lines)


def _settings() -> str:
    about = "In `kaizen.toml`; `KAIZEN_SECTION_KEY` from the environment goes before it. `kaizen audit settings` shows them all."
    lines = ["# Settings", "", about, ""]
    sections: dict[str, Any] = {"project": settings.ProjectSettings, "task": settings.TaskSettings, "features.NAME": settings.ViewSettings}
    sections |= {f.name: f.type for f in msgspec.structs.fields(settings.Settings) if inspect.isclass(f.type) and f.name != "project"}
    sections["[route]"] = settings.RouteSettings
    for section, kind in sections.items():
        lines += [f"## [{section}]", "", "| key | type | default |", "|---|---|---|"]
        annotations = inspect.get_annotations(kind)
        for field in msgspec.structs.fields(kind):
            default = "required" if field.required else f"`{field.default if field.default is not msgspec.NODEFAULT else '[]'}`"
            lines.append(f"| `{field.name}` | `{str(annotations[field.name]).replace('|', chr(92) + '|')}` | {default} |")
        lines.append("")
    return "\n".join(lines)


def _errors() -> str:
    lines = ["# Errors", "", "| error | code | HTTP | exit | |", "|---|---|---|---|---|"]
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.KaizenError):
            lines.append(f"| `{name}` | `{kind.code}` | {kind.status} | {kind.exit_code} | {(inspect.getdoc(kind) or '').splitlines()[0]} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Write the pages."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
