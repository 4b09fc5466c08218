"""What runs: ``up`` and its parts ``serve``, ``loop`` and ``console``; and the demo."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaizenml.cli import processes, reaching, steps
from kaizenml.cli.face import Face, current
from kaizenml.cli.processes import Part
from kaizenml.cli.shell import Command
from kaizenml.clock import format_duration, parse_duration
from kaizenml.errors import Conflict, KaizenError, UsageError
from kaizenml.serving import supervisor

if TYPE_CHECKING:
    from kaizenml.context import Context


def _serve(host: str | None, port: int | None, grpc_port: int | None, workers: int | None, replace: bool) -> None:
    face = current()
    ctx = face.open()
    part = _serving(ctx, host, port, workers, grpc_port)
    former = _former(ctx, part) if replace else None
    if former is None:
        _check_ports(part)
    _publish(face, ctx)
    _run_one(face, ctx, part, former)


def _console(host: str | None, port: int | None, root_path: str) -> None:
    face = current()
    ctx = face.open()
    part = _console_part(ctx, host, port, root_path)
    processes.check_port(part.host, part.port, option="--port", what="the console")
    _run_one(face, ctx, part)


class Listening(Part):
    """A part that listens on a host and port."""

    def __init__(self, name: str, module: str, options: list[str], *, host: str, port: int, log: Path, environ: dict[str, str] | None = None) -> None:
        super().__init__(name, processes.python(module, *options, "--host", host, "--port", str(port)), log, environ=environ)
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        scheme = "https" if self.document.get("tls") else "http"
        return f"{scheme}://{reaching.reachable(self.host)}:{self.document.get('port', self.port)}"

    @property
    def notes(self) -> list[str]:
        """What it said that whoever starts it should read."""
        return [str(note) for note in self.document.get("notes", ())]

    @property
    def grpc(self) -> str | None:
        """Where gRPC is answered, as ``host:port``; None: nowhere."""
        return f"{reaching.reachable(self.host)}:{self.document['grpc_port']}" if "grpc_port" in self.document else None


def _serving(ctx: Context, host: str | None, port: int | None, workers: int | None, grpc_port: int | None = None) -> Listening:
    serve = ctx.settings.serve
    grpc_port = serve.grpc_port if grpc_port is None else grpc_port
    options = ["--state", str(ctx.state), "--project", str(ctx.root), "--workers", str(workers or serve.workers)]
    return Listening(
        "serving", "kaizenml.serving", [*options, *(["--grpc-port", str(grpc_port)] if grpc_port is not None else [])], host=host or serve.host,
        port=serve.port if port is None else port, log=ctx.state / "logs" / "serving.log",
    )  # fmt: skip


def _check_ports(part: Listening) -> None:
    """Before any training or start: nobody waits a minute to hear that a port is taken."""
    processes.check_port(part.host, part.port, option="--port", what="predictions")
    if "--grpc-port" in part.command:
        supervisor.check_grpc()
        port = int(part.command[part.command.index("--grpc-port") + 1])
        processes.check_port(part.host, port, option="--grpc-port", what="gRPC")
        if port and port == part.port:
            raise Conflict(f"predictions and gRPC cannot both have port {port}", remedy=f"--grpc-port {port + 1}")


def _console_part(ctx: Context, host: str | None, port: int | None, root_path: str = "") -> Listening:
    console = ctx.settings.console
    options = ["--project", str(ctx.root), *(["--root-path", root_path] if root_path else [])]
    return Listening(
        "console", "kaizenml.server", options, host=host or console.host, port=console.port if port is None else port,
        log=ctx.state / "logs" / "console.log",
    )  # fmt: skip


def _run_one(face: Face, ctx: Context, part: Listening, former: int | None = None) -> None:
    with processes.stopped_by_signals() as stop, ExitStack() as stack:
        stack.callback(part.stop)
        _start(face, part, former)
        if part.name == "serving":
            _note_address(stack, ctx, {"predict": part.url, "console": None, "pid": os.getpid()})
        document = {"name": part.name, "url": part.url, "grpc": part.grpc, "pid": os.getpid(), "log": str(part.log), "notes": part.notes}
        for note in part.notes:
            face.note(note)
        also = f"  gRPC: {part.grpc}" if part.grpc else ""
        face.show(document, f"{part.name}: {part.url}{also}  (Ctrl-C stops it; log: {part.log})")
        while not stop.wait(0.3):
            if part.revive():
                face.note(f"{part.name} had ended and was started again")


def _demo(folder: str, keep: bool) -> None:
    from kaizenml.demo import command

    face = current()
    document = command.run(folder=Path(folder).resolve(), keep=keep)
    if face.json:
        face.show(document)


def _loop(once: bool) -> None:
    """Watch and improve until told to stop."""
    face = current()
    ctx = face.open()
    every = parse_duration(ctx.settings.loop.every)
    face.note(f"the loop looks every {format_duration(every)} (Ctrl-C stops it)")
    turns = 0
    with processes.stopped_by_signals() as stop:
        while True:
            turns += 1
            _turn(face, ctx)
            if once or stop.wait(every):
                break
    face.show({"turns": turns}, f"{turns} turns")


def _turn(face: Face, ctx: Context) -> None:
    from kaizenml.loop import operations as loop
    from kaizenml.rollouts import publishing

    try:
        publishing.tell_of_catalog(ctx)
        turn = loop.tick(ctx, progress=lambda text, _share: None)
    except Conflict as error:  # another loop holds the lease: look again later
        face.note(str(error))
        return
    except KaizenError as error:  # one bad turn must not end the watch; it is told, and the next turn may do
        face.note(f"error: {error}")
        return
    for looked in turn.endpoints:
        now = looked.improvement
        at = f"; improvement {now.number}: {now.step}" if now is not None and now.step != "done" else ""
        face.note(f"{ctx.clock.now():%Y-%m-%d %H:%M:%S} {looked.endpoint}: {looked.diagnosis}: {looked.cause}{at}")


def _up(
    *, host: str | None, port: int | None, console_port: int | None, workers: int | None, loop: bool, budget: str | None, replace: bool
) -> None:  # fmt: skip
    face = current()
    ctx = face.open()
    serving, console = _serving(ctx, host, port, workers), _console_part(ctx, None, console_port)
    former = _former(ctx, serving) if replace else None
    if former is None:
        _check_alone(ctx)
        _check_ports(serving)
        processes.check_port(console.host, console.port, option="--console-port", what="the console")
    if serving.port and serving.port == console.port:
        raise Conflict(f"predictions and the console cannot both have port {serving.port}", remedy=f"--console-port {serving.port + 1}")
    endpoint = ctx.settings.project.name
    with face.progress() as progress:
        release = _ready_release(face, ctx, endpoint, budget, progress)
    parts: list[Part] = [serving, console]
    if loop and ctx.settings.loop.enabled:
        parts.append(_loop_part(ctx))
    with processes.stopped_by_signals() as stop, ExitStack() as stack:
        for part in parts:
            stack.callback(part.stop)
            _start(face, part, former if part is serving else None)
        document = {
            "project": str(ctx.root),
            "endpoint": endpoint,
            "release": release,
            "predict": f"{serving.url}/predict/{endpoint}",
            "outcomes": f"{serving.url}/outcomes/{endpoint}",
            "grpc": serving.grpc,
            "console": f"{console.url}/",
            "loop": ctx.settings.loop.every if len(parts) == 3 else None,
            "pid": os.getpid(),
            "logs": str(ctx.state / "logs"),
            "notes": serving.notes,
        }
        for note in serving.notes:
            face.note(note)
        _note_address(stack, ctx, {"predict": serving.url, "console": f"{console.url}/", "pid": os.getpid()})
        face.show(document, _welcome(ctx, document))
        while not stop.wait(0.3):
            for part in parts:
                if part.revive():
                    face.note(f"{part.name} had ended and was started again; its log: {part.log}")
        face.note("stopping")


def _former(ctx: Context, part: Listening) -> int | None:
    """Return the process that serves the project now, and let ``part`` listen beside it; None where nobody does."""
    running = _running(ctx)
    if running is None:
        return None
    if sys.platform != "linux":
        what = "two servers cannot listen on one port here, so none can take the other's place"
        raise UsageError(what, remedy=f"kill -INT {running['pid']}, then start")
    part.command.append("--shared")
    return int(running["pid"])


def _start(face: Face, part: Part, former: int | None) -> None:
    """Start a part; once it answers, let the process end whose place it takes."""
    part.start()
    if former is not None:
        part.command.remove("--shared")  # should it have to be started again, the port is to be its own
        face.note(f"{part.name} answers; process {former} ends")
        processes.end(former)


def _check_alone(ctx: Context) -> None:
    """One `up` for a project: a second one would take its predictions and its loop apart."""
    running = _running(ctx)
    if running:
        what = f"{ctx.settings.project.name} is served already at {running['predict']} by process {running['pid']}"
        remedy = f"kaizen status; kill -INT {running['pid']} stops it, kaizen up --replace takes its place"
        raise Conflict(what, remedy=remedy, values={"served": running})


def _running(ctx: Context) -> dict[str, Any] | None:
    """Return where the project is served now."""
    from kaizenml.cli.status import answers

    noted = processes.read_address(ctx.state)
    # asked, for the number of a process that was killed may be another's by now
    return noted if noted and answers(str(noted["predict"]), reaching.believed(ctx.root, ctx.settings.serve)) else None


def _loop_part(ctx: Context) -> Part:
    return Part("loop", processes.python("kaizenml.cli", "loop", "--project", str(ctx.root)), ctx.state / "logs" / "loop.log", listens=False)


def _ready_release(face: Face, ctx: Context, endpoint: str, budget: str | None, progress: Any) -> str:
    """Return the release that answers; train, gate and deploy one where there is none."""
    from kaizenml.rollouts import operations as rollouts

    now = steps.champion(ctx, endpoint)
    if now is not None:
        _publish(face, ctx)
        face.note(f"{now} answers endpoint {endpoint}")
        return now
    newest = steps.newest_release(ctx)
    if newest is None:
        version = steps.take_data(ctx, progress)
        if version is not None:
            face.note(f"data: {version.dataset}@{version.number}, {version.rows} rows, {version.quarantined} in quarantine")
        _run, newest = steps.release_current(ctx, progress, face.note, budget=budget, why="first release")
    rollouts.deploy(ctx, endpoint, newest.ref, why="first release")
    _publish(face, ctx)
    return newest.ref


def _publish(face: Face, ctx: Context) -> None:
    """Write afresh the files that serving reads."""
    from kaizenml.access import operations as tokens
    from kaizenml.rollouts import publishing

    for problem in publishing.problems(publishing.publish(ctx)):
        face.note(f"not in force: {problem}")
    tokens.publish(ctx)


def _welcome(ctx: Context, up: dict[str, Any]) -> str:
    from kaizenml.cli.example import example_row

    project = "" if Path.cwd() == ctx.root else f" --project {ctx.root}"
    row = example_row(ctx, up["release"])
    lines = [
        f"\n{up['release']} answers endpoint {up['endpoint']}",
        f"  predict  {up['predict']}",
        *([f"  gRPC     {up['grpc']}"] if up["grpc"] else []),
        f"  console  {up['console']}",
        f"  loop     {'looks every ' + up['loop'] if up['loop'] else 'off'}",
        *([f"\n{lacking}"] if (lacking := steps.not_online(ctx, up["release"])) else []),
        "\nnext, in another terminal:",
        f"  kaizen predict {up['endpoint']} '{row}'{project}",
        f"  kaizen status{project}",
        f"  kaizen improve{project}",
        "\nCtrl-C stops all of it.",
    ]
    return "\n".join(lines)


def _note_address(stack: ExitStack, ctx: Context, document: dict[str, Any]) -> None:
    """Note where the project is served; a server that answers already stays the one that is noted."""
    if _running(ctx):
        return
    processes.write_address(ctx.state, document)
    stack.callback(processes.address_file(ctx.state).unlink, missing_ok=True)


def _option(*names: str, **about: Any) -> click.Option:
    return click.Option([*names], **about)


def _workers() -> click.Option:
    return _option("--workers", type=click.IntRange(1, 64), help="Processes that answer; default serve.workers in kaizen.toml.")


def _replace() -> click.Option:
    return _option("--replace", is_flag=True, help="Take the place of the one that runs, with no request refused: it ends once this one answers.")


def _port(name: str, setting: str) -> click.Option:
    return _option(name, type=click.IntRange(0, 65535), help=f"0: any free one; default {setting} in kaizen.toml.")


def _loop_group() -> click.Command:
    from kaizenml.cli.derived import NounGroup

    def run(once: bool) -> None:
        if click.get_current_context().invoked_subcommand is None:
            _loop(once)

    group = NounGroup("loop", "Watch and improve until stopped; or one act of the loop", callback=run)
    group.params.insert(0, _option("--once", is_flag=True, help="Look once and end."))
    return group


class _Commands(dict[str, click.Command]):
    """The commands; the group of the loop is made when asked for, for it reads the room's source."""

    def __missing__(self, name: str) -> click.Command:
        if name != "loop":
            raise KeyError(name)
        self[name] = _loop_group()
        return self[name]


COMMANDS = _Commands(
    up=Command(
        "up",
        callback=_up,
        params=[
            _option("--host", help="Address for predictions; default serve.host in kaizen.toml (127.0.0.1)."),
            _port("--port", "serve.port"),
            _port("--console-port", "console.port"),
            _workers(),
            _replace(),
            _option("--loop/--no-loop", default=True, help="Watch and improve."),
            _option("--budget", metavar="DURATION", help="Time to train the first model, such as 30s; default train.budget in kaizen.toml."),
        ],
        help="Bring the project into production on this machine.\n\nTakes the data, trains, gates and deploys where there is no release yet; "
        "then serves, watches and improves until Ctrl-C. With --json: one document when everything runs.",
        epilog="\b\nexamples:\n  kaizen up\n  kaizen up --port 9000 --budget 20s",
    ),
    serve=Command(
        "serve",
        callback=_serve,
        params=[
            _option("--host", help="Default serve.host in kaizen.toml."),
            _port("--port", "serve.port"),
            _option(
                "--grpc-port", type=click.IntRange(0, 65535),
                help="Answer gRPC as well; 0: any free one; default serve.grpc_port in kaizen.toml, else none.",
            ),
            _workers(),
            _replace(),
        ],
        help="Serve predictions only, until Ctrl-C.",
    ),
    demo=Command(
        "demo",
        callback=_demo,
        params=[
            _option("--dir", "folder", default="kaizen-demo", metavar="DIR", help="Where its project is made; default kaizen-demo here."),
            _option("--keep", is_flag=True, help="Keep the servers and the console running at the end, until Ctrl-C."),
        ],
        help="Run the main job on a year of real flights, in about two minutes.\n\nFlights of New York 2013: learns from January to March, answers "
        "April to December request by request on a simulated clock, and keeps getting better.",
    ),
    console=Command(
        "console",
        callback=_console,
        params=[
            _option("--host", help="Default console.host in kaizen.toml."),
            _port("--port", "console.port"),
            _option("--root-path", default="", help="Path under which a proxy shows it, such as /kaizen."),
        ],
        help="Show the console and the control API, until Ctrl-C.",
    ),
)

