"""``python -m kaizenml.serving``: the data plane as processes of its own. Prints one JSON line when it listens."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import msgspec

from kaizenml import settings as settings_module
from kaizenml.errors import KaizenError, NotFound
from kaizenml.scratch import Scratch
from kaizenml.serving import metrics, supervisor
from kaizenml.serving.connecting.front import Front, front_for, prepare
from kaizenml.settings import ServeSettings, Settings

_GIVEN_ON = "KAIZEN_WORKER_SETTINGS"  # from the parent to its workers


def main(arguments: list[str] | None = None) -> int:
    """Serve a project's endpoints, or one bundle; return the exit code."""
    given = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        if given.worker is not None:
            return _work(given)
        if given.bundle is not None:
            return _serve_bundle(given)
        return _serve_project(given)
    except KaizenError as error:
        print(json.dumps({"error": error.document()}), file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kaizenml.serving", description=__doc__, allow_abbrev=False)
    parser.add_argument("--state", type=Path, help="the project's state folder (.kaizen); kaizen.toml is looked for beside it")
    parser.add_argument("--project", type=Path, help="the project folder, when the state lies elsewhere")
    parser.add_argument("--bundle", type=Path, help="serve this one release, as endpoint 'release', without a project")
    parser.add_argument("--host", help="default from kaizen.toml, else 127.0.0.1")
    parser.add_argument("--port", type=int, help="0: any free one; default from kaizen.toml, else 8080")
    parser.add_argument("--grpc-port", type=int, help="0: any free one; default from kaizen.toml, else none")
    parser.add_argument("--shared", action="store_true", help="listen beside a server whose place this one takes")
    parser.add_argument("--workers", type=int, help="processes; default from kaizen.toml, else 1")
    for name in ("--worker", "--socket", "--ready", "--parent"):  # between the supervisor and its workers
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--grpc", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.state is None and given.bundle is None:
        parser.error("say --state DIR or --bundle DIR")
    if given.workers is not None and not 1 <= given.workers <= 256:
        parser.error("--workers is a number from 1 to 256")
    return given


def _root(given: argparse.Namespace) -> Path | None:
    found: Path | None = given.project or (given.state.resolve().parent if given.state else None)
    return found


def _front(given: argparse.Namespace, serve: ServeSettings, listening: socket.socket) -> Front:
    return front_for(serve, listening.getsockname()[0], root=_root(given) or Path(), environ=os.environ)


def _settings(given: argparse.Namespace) -> Settings:
    if given.worker is not None and _GIVEN_ON in os.environ:
        return msgspec.json.decode(os.environ[_GIVEN_ON], type=Settings)
    root = _root(given)
    if root is not None and (root / settings_module.FILE).exists():
        return settings_module.load(root)[0]
    return settings_module.alone(0 if given.bundle else ServeSettings().port)


def _hold(given: argparse.Namespace, serve: ServeSettings) -> socket.socket | None:
    port = serve.grpc_port if given.grpc_port is None else given.grpc_port
    return None if port is None else supervisor.hold(given.host or serve.host, port, shared=given.shared)


def _serve_project(given: argparse.Namespace) -> int:
    settings = _settings(given)
    serve = settings.serve
    if not given.state.is_dir():
        remedy = "kaizen init NAME --data FILE --target COLUMN"
        raise NotFound(f"there is no state folder {given.state}", remedy=remedy, values={"folder": str(given.state)})
    port = serve.port if given.port is None else given.port
    listening = supervisor.bind(given.host or serve.host, port, shared=given.shared)
    front = _front(given, serve, listening)
    held = _hold(given, serve)
    told = prepare(front, given.state, listening.getsockname()[0], os.environ)
    _forget_counters(given.state, os.getpid())
    # all workers live by what stood in kaizen.toml at the start: one that is replaced comes up whatever stands there by then
    os.environ[_GIVEN_ON] = msgspec.json.encode(Settings(project=settings.project, serve=serve)).decode()
    command = [sys.executable, "-m", "kaizenml.serving", "--state", str(given.state)]
    if given.project:
        command += ["--project", str(given.project)]
    return supervisor.Supervisor(command, listening, given.workers or serve.workers, told, held).run()


def _work(given: argparse.Namespace) -> int:
    from kaizenml.serving import worker

    listening = socket.socket(fileno=given.socket)
    settings = _settings(given)
    front = _front(given, settings.serve, listening)
    counting = _counting(given.state, os.getppid())
    app = worker.build(given.state, settings.serve, worker=given.worker, front=front, project=settings.project, counting=counting)

    def ready() -> None:
        with contextlib.suppress(BrokenPipeError):  # the supervisor is gone; the other pipe tells
            os.write(given.ready, b"1")
        os.close(given.ready)

    return worker.run(app, listening, ready=ready, parent=given.parent, front=front, grpc=given.grpc)


def _serve_bundle(given: argparse.Namespace) -> int:
    from kaizenml.serving import worker

    fixed = worker.bundle_snapshot(given.bundle)
    settings = _settings(given)
    serve = settings.serve
    listening = supervisor.bind(given.host or serve.host, serve.port if given.port is None else given.port)
    front = _front(given, serve, listening)
    held = _hold(given, serve)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn repeats the signal at the end: scratch files would be left
    with contextlib.ExitStack() as stack:
        state = given.state or stack.enter_context(Scratch(None, "kaizen-bundle-"))
        told = prepare(front, state, listening.getsockname()[0], os.environ)
        _forget_counters(state, os.getpid())
        app = worker.build(state, serve, fixed=fixed, front=front, project=settings.project, counting=_counting(state, os.getpid()))

        def ready() -> None:
            host, port = listening.getsockname()[:2]
            said = {"port": port, "pid": os.getpid(), "host": host, "workers": 1, **told, **supervisor.told_of(held)}
            print(json.dumps(said), flush=True)

        return worker.run(app, listening, ready=ready, front=front, grpc=None if held is None else supervisor.address(held))


def _counting(state: Path, server: int) -> Path:
    """Return where the workers of a server (its process id) count: another server of the same project counts for itself."""
    return state / metrics.FOLDER / str(server)


def _forget_counters(state: Path, server: int) -> None:
    """Remove what servers have counted that are gone: counters begin at nothing with every start, as Prometheus expects."""
    for path in (state / metrics.FOLDER).glob("*"):
        if not path.is_dir():  # as they were before servers had folders
            path.unlink(missing_ok=True)
        elif path.name == str(server) or not (path.name.isdigit() and _lives(int(path.name))):
            shutil.rmtree(path, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


if __name__ == "__main__":
    sys.exit(main())
