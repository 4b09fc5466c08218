"""The daily verbs: train, deploy, predict, status, promote, rollback, kill, revive, improve."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click
import msgspec

from kaizenml import operations
from kaizenml.cli import derived, steps
from kaizenml.cli.face import current
from kaizenml.cli.output import cell, render
from kaizenml.cli.shell import Command
from kaizenml.errors import KaizenError, NotFound, Refused, Unauthorized, Unavailable, UsageError, Waiting

if TYPE_CHECKING:
    from kaizenml.context import Context


def _train(budget: str | None) -> None:
    face = current()
    ctx = face.open()
    told: list[str] = []
    with face.progress() as progress:
        taken = steps.take_data(ctx, progress)
        if taken is not None and (told_of := steps.told_of(taken)):
            told.append(told_of)
        try:
            run, release = steps.release_current(ctx, progress, told.append, budget=budget, fresh=True)
        except Refused:
            face.note("\n".join(told))
            raise
    face.show({"run": run, "release": release}, "\n".join(told) + "\n\nnext: kaizen deploy")


def _deploy(release: str | None, endpoint: str | None, why: str) -> None:
    from kaizenml.rollouts import operations as rollouts

    face = current()
    ctx = face.open()
    if release is None:
        newest = steps.newest_release(ctx)
        if newest is None:
            raise NotFound("there is no release that passed its gates", remedy="kaizen train")
        release = newest.ref
    name = endpoint or ctx.settings.project.name
    if lacking := steps.not_online(ctx, release):
        face.note(lacking)
    if steps.champion(ctx, name) == release:
        result = rollouts.show(ctx, name)
        face.show(result, f"{release} answers endpoint {name} already")
        return
    result = rollouts.deploy(ctx, name, release, why=why)
    face.show(result, f"{release} answers endpoint {name}\n\nnext: kaizen up, or kaizen serve where it does not run yet")


def _predict(endpoint: str | None, row: str | None, unit: str | None, url: str | None, token: str | None) -> None:
    from kaizenml.cli import reaching
    from kaizenml.cli.processes import read_address
    from kaizenml.settings import load

    face = current()
    if row is None and endpoint is not None and endpoint[:1] in ("{", "[", "@", "-"):
        endpoint, row = None, endpoint
    if row is None:
        raise UsageError("which row? it is missing", remedy="kaizen predict ENDPOINT '{\"column\": value, ...}', or @FILE, or - for stdin")
    rows = _rows(derived.read_text(row))
    project = None if url else load(face.root())[0].project
    if endpoint is None:
        endpoint = (project or load(face.root())[0].project).name
    client = reaching.client(face.root(), url, token)
    try:
        answer = client.predict(endpoint, rows, unit=unit)
    except Unauthorized as error:
        remedy = "--token @FILE, or set KAIZEN_TOKEN; where the server runs: kaizen tokens create NAME"
        raise Unauthorized(f"{client.url}: {error.what}", remedy=remedy, values=error.values) from error
    except (NotFound, Unavailable) as error:
        if project is None or read_address(face.root() / project.state):
            raise
        # what answers at the port of the settings, if anything does, need not be this project
        found = f"the server at {client.url} knows no endpoint {endpoint!r}" if isinstance(error, NotFound) else f"nothing answers at {client.url}"
        raise type(error)(f"{project.name} is not served now: {found}", remedy="kaizen up", values=error.values) from error
    finally:
        client.close()
    face.show(answer, _answers(operations.to_builtins(answer)))


def _rows(text: str) -> list[dict[str, Any]]:
    try:
        found = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        lines = text.strip().splitlines()
        if len(lines) > 1:  # JSON lines
            return [row for line in lines if line.strip() for row in _rows(line)]
        word = next((word for word in ("-Infinity", "Infinity", "NaN") if re.search(rf"[:\s,\[]{word}\b", text)), None)
        if word or "out of range" in str(error):
            what = f"the row holds {word}, which is not JSON" if word else "the row holds a number beyond what a double can hold"
            raise UsageError(what, remedy="write null where a value is not known", values={"found": word or text[:200]}) from None
        remedy = "quote it for the shell: '{\"column\": 1}'; a missing value is null"
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise UsageError(f"the row is not JSON: {shown!r}: {error}", remedy=remedy, values={"found": text[:200]}) from None
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) for row in rows):
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        what = f"{shown!r} holds no row: a row is an object of columns and values"
        raise UsageError(what, remedy="'{\"column\": 1}', or a list of such", values={"found": text[:200]})
    return rows


def _answers(answer: dict[str, Any]) -> str:
    lines = []
    classes = [cell("", name) for name in answer.get("classes") or []]
    for prediction in answer["predictions"]:
        shares = sorted(zip(classes, prediction.get("probabilities") or [], strict=False), key=lambda item: -item[1])
        chances = ", ".join(f"{name} {share:.1%}" for name, share in shares[:5]) + (", ..." if len(shares) > 5 else "")
        by = prediction["decided_by"] + (f" ({prediction['reason']})" if prediction.get("reason") else "")
        lines.append(f"{click.style(cell('', prediction['value']), bold=True)}{f'  ({chances})' if chances else ''}  by {by}  id {prediction['id']}")
    for view, state in (answer.get("features") or {}).items():
        lacking = [f"{state[name]} {name}" for name in ("missing", "stale") if state.get(name)]
        lines += [f"features of {view}: {', '.join(lacking)} of {len(answer['predictions'])}; kaizen features read {view} KEY"] if lacking else []
    lineage = answer.get("lineage") or {}
    told = ", ".join(f"{name} {_short(name, value)}" for name, value in lineage.items() if value)
    return "\n".join([*lines, click.style(f"release {answer.get('release')}" + (f"; {told}" if told else ""), dim=True)])


def _short(name: str, value: Any) -> str:
    """Write hashes as their first twelve digits, with a mark of uncommitted changes where there is one."""
    if name not in ("code", "hash"):
        return cell(name, value)
    digits, mark, rest = str(value).partition("-")
    return digits[:12] + mark + rest


def _status(check: bool) -> int:
    from kaizenml.cli.status import document, text

    face = current()
    found = document(face.open(), face.root())
    face.show(found, text(found))
    worried = any(endpoint["alerts"] or endpoint["killed"] for endpoint in found["endpoints"])
    return Waiting.exit_code if check and worried else 0


def _on_endpoint(name: str, room: str) -> click.Command:
    """Make ``kaizen promote`` of ``rollouts.promote``: the endpoint may be left out where there is only one."""
    found = operations.find(room, name)
    loose = [msgspec.structs.replace(p, required=False) if p.name == "endpoint" else p for p in found.parameters]
    operation = msgspec.structs.replace(found, parameters=loose)

    def run(**_values: Any) -> None:
        face = current()
        ctx = face.open()
        arguments = _shifted(ctx, derived.given(operation))
        arguments["endpoint"] = steps.only_endpoint(ctx, arguments.get("endpoint"))
        if "progress" in operation.local:
            with face.progress() as progress:
                result = operation.call(ctx, arguments, strict=False, progress=progress)
        else:
            result = operation.call(ctx, arguments, strict=False)
        face.show(result, None if face.json else _rollout(result) if room == "rollouts" else render(result))

    about = "\n\n".join(part for part in (found.summary, found.help) if part)
    return Command(name, params=derived.parameters(operation), callback=run, help=about, short_help=found.summary, epilog=derived.epilog(found))


def _shifted(ctx: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """Read ``kaizen promote shop@2`` as the release, not as an endpoint."""
    if "@" in str(arguments.get("endpoint", "")) and not arguments.get("release"):
        arguments["release"] = arguments.pop("endpoint")
    return arguments


def _rollout(now: dict[str, Any]) -> str:
    shares = [f"{arm['release']} {arm['weight'] / 10:g} %" for arm in now["challengers"]]
    rest = 1000 - sum(arm["weight"] for arm in now["challengers"])
    line = f"{now['endpoint']}: champion {now['champion']} {rest / 10:g} %" + "".join(f", challenger {share}" for share in shares)
    return f"{line}\nKILLED: {now['killed']}; answers are naive until `kaizen revive {now['endpoint']}`" if now.get("killed") else line


def _option(*names: str, **about: Any) -> click.Option:
    return click.Option([*names], **about)


class _Commands(dict[str, click.Command]):
    """The commands; those derived from operations are made when asked for."""

    def __missing__(self, name: str) -> click.Command:
        rooms = {"promote": "rollouts", "rollback": "rollouts", "kill": "rollouts", "revive": "rollouts", "improve": "loop"}
        if name not in rooms:
            raise KaizenError(f"there is no command {name!r}")
        self[name] = _on_endpoint(name, rooms[name])
        return self[name]


COMMANDS = _Commands(
    train=Command(
        "train",
        callback=_train,
        params=[_option("--budget", metavar="DURATION", help="Time for the search, such as 60s or 10min; default train.budget in kaizen.toml.")],
        help="Train on the newest data, gate the result, and make a release of it.\n\nTakes the task's file first if it changed. "
        "The board shows the naive answer beside the learners. Exit code 3: a gate refused it; the evidence is kept.",
    ),
    deploy=Command(
        "deploy",
        callback=_deploy,
        params=[
            click.Argument(["release"], required=False),
            _option("--endpoint", metavar="NAME", help="Default the project's name."),
            _option("--why", default="", help="The reason, for the record."),
        ],
        help="Let a release answer an endpoint; default the newest that passed its gates.\n\n"
        "It gets all traffic at once. To try it on a share first: kaizen rollouts challenge.",
    ),
    predict=Command(
        "predict",
        callback=_predict,
        params=[
            click.Argument(["endpoint"], required=False),
            click.Argument(["row"], required=False),
            _option("--unit", help="The key that makes the arm stick, such as a customer's number."),
            _option("--url", help="Where the server is; default the one that runs for this project."),
            _option("--token", help="Text, @FILE, or - for stdin; default KAIZEN_TOKEN. The project's own server needs none on its machine."),
        ],
        help="Ask an endpoint for one row or several: JSON, @FILE, or - for stdin.",
        epilog="\b\nexamples:\n  kaizen predict shop '{\"price\": 20, \"country\": \"FR\"}'\n  kaizen predict shop @rows.json --json",
    ),
    status=Command(
        "status",
        callback=_status,
        params=[_option("--check", is_flag=True, help="Exit with 4 when there is an alert or an endpoint is killed.")],
        help="Say how the endpoints are: traffic, live accuracy, alerts, and where the loop stands.",
    ),
)
