"""One serving process: builds the engine from a state folder or a bundle, and runs it on a socket it was given."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import uvicorn

from kaizenml.adapters.online import open_online
from kaizenml.clock import open_clock, parse_duration
from kaizenml.errors import NotFound
from kaizenml.features.online.taking import Receiver
from kaizenml.rollouts.snapshot import EndpointRoute, Lineage, Route, Snapshot
from kaizenml.serving import metrics
from kaizenml.serving.admission import Admission, Bounds
from kaizenml.serving.app import App
from kaizenml.serving.beside import Batching
from kaizenml.serving.connecting.front import Front, fixed_token
from kaizenml.serving.connecting.http import Connection
from kaizenml.serving.connecting.taking import Taking
from kaizenml.serving.connecting.turns import Turns
from kaizenml.serving.door import Door
from kaizenml.serving.engine import Engine
from kaizenml.serving.ids import Ids, project_key
from kaizenml.serving.journaling import journal
from kaizenml.serving.journaling.journal import Journal
from kaizenml.serving.metrics import Counters
from kaizenml.serving.outcomes import OutcomeStore
from kaizenml.serving.protocol import Limits
from kaizenml.serving.telling.access_log import STDERR, AccessLog
from kaizenml.serving.telling.observer import Observer
from kaizenml.serving.telling.tracing import open_tracer
from kaizenml.serving.watcher import Watcher
from kaizenml.settings import CATALOG, ProjectSettings, ServeSettings

BUNDLE_ENDPOINT = "release"
_LEAVE_S = 1.0  # for connections to be ended by an answer, after SIGTERM; then those that are idle are closed
DRAIN_S = 10  # for requests in flight, after SIGTERM
_OWN_FILES = 128  # beside the connections: libraries, journal, stores, pipes
log = logging.getLogger("kaizenml.serving")


def build(
    state: Path, settings: ServeSettings, *, worker: int = 0, fixed: Snapshot | None = None, front: Front | None = None,
    project: ProjectSettings | None = None, counting: Path | None = None,
) -> App:  # fmt: skip
    """Put a worker together: the composition root of the serving process.

    Parameters
    ----------
    state : the project's state folder.
    settings : the ``[serve]`` section of kaizen.toml.
    worker : this worker's number, for its counters.
    fixed : routes that never change, instead of the project's snapshot file.
    front : how it is reached; default without tokens or a prefix.
    project : the ``[project]`` section, for where the online store is; default SQLite in the state folder.
    counting : where the workers of this server count; default a folder in the state folder.
    """
    project = project or ProjectSettings(name="alone")
    clock = open_clock()
    limits = Limits(body_bytes=settings.max_body_bytes, rows=settings.max_rows, depth=settings.max_depth)
    ids = Ids(project_key(state))
    counters = Counters(counting or state / metrics.FOLDER, worker)
    written = Journal(
        state / journal.FOLDER, segment_bytes=settings.segment_bytes, segment_age_s=parse_duration(settings.segment_age), fsync=settings.fsync,
        full=settings.journal_full,
    )  # fmt: skip
    engine = Engine(
        clock=clock, ids=ids, journal=written, online=open_online(project.online, state, project.name, readonly=True), counters=counters,
        limits=limits, batching=Batching(settings.batch_rows, settings.batch_wait_ms / 1000),
    )  # fmt: skip
    access = None
    if settings.access_log != "off":
        target = settings.access_log if settings.access_log == STDERR else state / settings.access_log
        access = AccessLog(target, dropped=lambda lines: counters.add("kaizen_access_log_dropped_total", lines))
    observer = Observer(engine, counters, clock, journal=state / journal.FOLDER, access=access, tracer=open_tracer())
    kept = OutcomeStore(state, ids, window_s=parse_duration(settings.outcome_window), durable=settings.fsync == "request")
    catalog = None if fixed is not None or project.catalog else state / CATALOG
    watcher = Watcher(state, engine, written, clock, fixed=fixed, catalog=catalog)
    return App(
        engine=engine, watcher=watcher, outcomes=kept, counters=counters, clock=clock, limits=limits,
        observer=observer, receiver=None if fixed is not None else Receiver(state, lambda: open_online(project.online, state, project.name)),
        sync=written.sync if settings.fsync == "tick" else None, root_path=front.root_path if front else "",
        door=Door(state, fixed=fixed_token(os.environ)) if front and front.auth else None, admission=Admission(counters, _bounds(settings)),
    )  # fmt: skip


def _bounds(settings: ServeSettings) -> Bounds:
    return Bounds(
        connections=_possible(settings.max_connections), waiting=settings.max_waiting, wait_s=parse_duration(settings.max_wait),
        buffered_bytes=settings.max_buffered_bytes, headers=settings.max_headers, header_bytes=settings.max_header_bytes,
        header_s=parse_duration(settings.header_timeout), body_s=parse_duration(settings.body_timeout),
    )  # fmt: skip


def _possible(connections: int) -> int:
    """Ask the system for as many open files as the connections need; return how many it allows."""
    wanted = connections + _OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    log.warning("this system allows %d open files: %d connections instead of %d", soft, soft - _OWN_FILES, connections)
    return max(soft - _OWN_FILES, 1)


def bundle_snapshot(bundle: Path) -> Snapshot:
    """Return the routes for a single release served by itself, as endpoint ``release``."""
    if not (bundle / "model").is_dir():
        raise NotFound(f"there is no bundle in {bundle}", remedy="kaizen releases list", values={"folder": str(bundle)})
    try:
        document: dict[str, Any] = msgspec.json.decode((bundle / "release.json").read_bytes())
        pins = document["pins"]
        name = f"{document['name']}@{document['number']}"
        lineage = Lineage(model=pins["model"], data=next(iter(pins["data"]), ""), features=pins["features"], code=pins["code"], hash=document["hash"])
    except (OSError, msgspec.DecodeError, KeyError, IndexError, TypeError):  # a bundle that is still being made
        name, lineage = f"{bundle.parent.name}@{bundle.name}", Lineage(model="", data="", features=[], code=None, hash="")
    route = Route(release=name, bundle=str(bundle.resolve()), weight=1000, arm="champion", lineage=lineage)
    return Snapshot(revision=1, written_at=0.0, endpoints={BUNDLE_ENDPOINT: EndpointRoute(endpoint=BUNDLE_ENDPOINT, revision=1, arms=[route])})


def run(
    app: App, listening: socket.socket, *, ready: Callable[[], None], parent: int | None = None, front: Front | None = None, grpc: str | None = None
) -> int:
    """Serve until SIGTERM or SIGINT; requests in flight are answered first.

    Parameters
    ----------
    listening : a bound socket, perhaps shared with other workers.
    ready : called once when requests are taken.
    parent : the reading end of a pipe that the supervisor holds open; when it closes, this process ends too.
    front : how it is reached; default plain HTTP, and no proxy is believed.
    grpc : where to answer gRPC as well, as ``host:port``.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s %(levelname)s [{os.getpid()}] %(message)s", force=True)
    front = front or Front()
    cert, key = front.tls or (None, None)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws="none", lifespan="on", access_log=False, log_config=None, log_level="warning",
        server_header=False, timeout_keep_alive=75, timeout_graceful_shutdown=DRAIN_S, backlog=2048,
        ssl_certfile=cert, ssl_keyfile=key, proxy_headers=bool(front.proxies), forwarded_allow_ips=front.proxies,
    )  # fmt: skip
    server = _Server(config, app, ready, parent, _rpc(app, grpc, front) if grpc else None)
    # what was loaded stays: the collector need not walk it again and again
    gc.collect()
    gc.freeze()
    # a thousand requests at once are no garbage either: looking for it among them cost a sixth of an answer
    gc.set_threshold(20_000, 20, 50)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    return 0


class _Beside(Protocol):
    """What else listens while the server runs."""

    async def start(self) -> None: ...
    async def stop(self, grace_s: float) -> None: ...


def _rpc(app: App, address: str, front: Front) -> _Beside:
    from kaizenml.serving.grpc.server import Server  # an extra, and 20 MB of memory

    tls = None if front.tls is None else (Path(front.tls[0]).read_bytes(), Path(front.tls[1]).read_bytes())
    return Server(address, app.engine, app.limits, settle=app.settle, check=None if app.door is None else app.door.check, tls=tls)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: App, ready: Callable[[], None], parent: int | None, beside: _Beside | None) -> None:
        super().__init__(config)
        self._app = app
        self._taking: list[Taking] = []
        self._ready = ready
        self._parent = parent
        self._beside = beside

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # the sockets are ours to take connections from
        state = self.lifespan.state
        turns, admission = Turns(self._app), self._app.admission
        self._taking = [
            Taking(self.config, self.server_state, state, one, admission=admission, turns=turns, connection=Connection) for one in sockets or []
        ]
        if self._beside is not None:
            await self._beside.start()
        if self._parent is not None:
            asyncio.get_running_loop().add_reader(self._parent, self._orphaned)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._parent is not None:
            asyncio.get_running_loop().remove_reader(self._parent)
        # those of the operating system who wait are let in first: nobody is turned away by a server that leaves
        await asyncio.gather(*(taking.leave(_LEAVE_S) for taking in self._taking))
        if self._beside is not None:
            await self._beside.stop(DRAIN_S)
        await super().shutdown(sockets)

    def _orphaned(self) -> None:
        if self._parent is not None and os.read(self._parent, 1) == b"":  # the supervisor is gone
            asyncio.get_running_loop().remove_reader(self._parent)
            self.should_exit = True
