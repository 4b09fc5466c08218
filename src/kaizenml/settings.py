"""Settings: kaizen.toml, then ``KAIZEN_SECTION_KEY`` from the environment; each value knows where it came from."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from kaizenml.clock import parse_duration
from kaizenml.errors import InvalidSettings, nearest

FILE = "kaizen.toml"
CATALOG = "catalog.db"  # in the state folder, where no other database is named
ANYWHERE = "0.0.0.0"  # noqa: S104  (only where a platform's variable asks for it)
PLATFORM_PORTS = ("SAGEMAKER_BIND_TO_PORT", "AIP_HTTP_PORT")
"""Where SageMaker and Vertex AI tell a container its port. ``KAIZEN_SERVE_PORT`` and ``KAIZEN_SERVE_HOST`` go before them."""
Engine = Literal["local", "spark"]
TaskKind = Literal["auto", "binary", "multiclass", "regression"]


class ProjectSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who this is and where its state lives."""

    name: str
    state: str = ".kaizen"  # folder, relative to the project
    catalog: str | None = None  # SQLAlchemy URL; default SQLite in the state folder
    online: str | None = None  # the online store, such as redis://host:6379/0; default SQLite in the state folder
    objects: str | None = None  # s3://bucket/prefix for tables, models and releases; default the state folder
    engine: Engine = "local"  # what puts features beside rows: this process, or Spark (kaizenml[spark])


class TaskSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The question that the model answers."""

    dataset: str  # dataset with the rows to learn from
    target: str
    kind: TaskKind = "auto"
    source: str | None = None  # file or folder that `kaizen data refresh` reads
    time: str | None = None  # column: when the row happens
    key: str | None = None  # column that identifies a row
    unit: str | None = None  # column for sticky arms, default the key
    asked_before: str = "0s"  # how long before `time` the question is asked
    ignore: list[str] = []  # columns never used as inputs
    known: list[str] = []  # columns known when the question is asked, whatever the leak scan thinks of them
    loss: str | None = None  # metric to decide by; default log_loss or rmse
    views: list[str] | None = None  # feature views to learn from, as they are or as they were (`spend@3f2a`); default all as they are


class ViewSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A feature view: newest known values of ``columns`` for an entity."""

    dataset: str
    entity: str  # key column, in the view's dataset and in the task's
    columns: list[str]
    at: str | None = None  # event time column; None: a plain look-up
    ttl: str | None = None  # older values count as missing


class TrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    budget: str = "60s"
    seed: int = 0
    max_rows: int = 500_000  # newest rows are kept
    threads: int = 0  # 0: all cores


class GateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rate: float = 200.0  # requests a second that serving must bear
    p99_ms: float = 50.0
    load_seconds: float = 3.0
    parity_rows: int = 1000


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None  # the Open Inference Protocol over gRPC, on a port of its own; needs kaizenml[grpc]
    workers: int = 1
    max_body_bytes: int = 8_000_000
    max_rows: int = 10_000  # rows in one request
    max_depth: int = 64  # nesting of JSON
    batch_rows: int = 64  # rows of several requests put together at most, for models where that pays
    batch_wait_ms: float = 0.0  # how long such a model, when free, waits for more
    fsync: Literal["off", "tick", "request"] = "off"
    segment_bytes: int = 64_000_000
    auth: Literal["auto", "on", "off"] = "auto"  # API tokens; auto: asked for wherever others than this machine can come in
    tls_cert: str | None = None  # PEM file, relative to the project; the certificate first, then its chain
    tls_key: str | None = None
    root_path: str = ""  # path prefix under which a proxy shows the server, such as /ml; taken off or not
    trusted_proxies: str = ""  # addresses or networks whose X-Forwarded-For and -Proto are believed, with commas between
    access_log: str = "off"  # a line of JSON for each request: "stderr", or a file, relative to the state folder
    segment_age: str = "1h"  # a journal file that is older is closed, so that it can be drained and removed
    journal_full: Literal["refuse", "answer"] = "refuse"  # answer: without a journal record, and say so
    max_connections: int = 2000  # open ones of a worker; newcomers wait in the kernel's queue
    max_waiting: int = 1000  # requests of an endpoint that wait in a worker; one more is refused with 503
    max_wait: str = "2s"  # a request that waits longer is refused with 503
    max_buffered_bytes: int = 256_000_000  # bodies under way in a worker, together
    max_headers: int = 100
    max_header_bytes: int = 32_768
    header_timeout: str = "10s"  # for a client to send its headers
    body_timeout: str = "30s"  # for it to send its body, and to take the answer
    outcome_window: str = "90d"  # outcomes later than this are still taken, but called late


class FallbackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the model does not know, and what answers then. All off unless set; looked at after every ``[[route]]``."""

    unknown: bool | list[str] = False  # a category's level that training has not seen: of any input, or of the inputs named
    outside: float | None = None  # an input beyond what training saw, by more than this many widths of the range seen; 0: by anything
    confidence: float | None = None  # the largest probability is below this
    answer: str = "naive"  # naive, constant, refuse, or a release (shop@1)
    by: str | None = None  # naive: the answer of the row's segment by this input, instead of the one for all
    value: str | int | float | bool | None = None  # constant: what is answered
    explore: float = 0.0  # share of such units that the model answers all the same, to learn from what comes of it


class RouteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule ``[[route]]``: rows for which ``when`` holds are not the model's. The first that holds decides."""

    when: str  # carrier == 'XX' and (distance > 2000 or weather_temp is null)
    endpoint: str | None = None  # only there; default every endpoint
    answer: str = "naive"
    by: str | None = None
    value: str | int | float | bool | None = None
    explore: float = 0.0


class ConsoleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 8081


class MonitorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    false_alarms: float = 0.01  # chance of any false drift alarm per window and endpoint
    window: str = "1d"
    parity: str = "1h"  # how often a view's values online are compared with what training reads


class LoopSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    enabled: bool = True
    every: str = "60s"  # how often `kaizen up` looks
    retrain_after: str | None = None  # also retrain on a schedule when there is enough new labelled data
    min_new_rows: int = 500  # labelled rows before a retraining can help
    canary_weight: float = 0.05
    canary_max: str = "14d"  # no evidence by then: the challenger goes
    error_level: float = 0.02  # chance of promoting a release that is not better
    cooldown: str = "1d"  # between two improvements


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything in kaizen.toml."""

    project: ProjectSettings
    task: TaskSettings | None = None
    features: dict[str, ViewSettings] = {}
    train: TrainSettings = TrainSettings()
    gates: GateSettings = GateSettings()
    serve: ServeSettings = ServeSettings()
    fallback: FallbackSettings = FallbackSettings()
    route: list[RouteSettings] = []
    console: ConsoleSettings = ConsoleSettings()
    monitor: MonitorSettings = MonitorSettings()
    loop: LoopSettings = LoopSettings()


def load(root: Path, environ: Mapping[str, str] | None = None) -> tuple[Settings, dict[str, str]]:
    """Read the project's settings.

    Parameters
    ----------
    root : the project folder.
    environ : environment to look into; default the process's own.

    Returns
    -------
    The settings, and for each value that is not a default (``"serve.port"``) its source
    (``"kaizen.toml"`` or ``"KAIZEN_SERVE_PORT"``).
    """
    path = root / FILE
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidSettings(
            f"there is no {FILE} in {root}", remedy="kaizen init NAME --data FILE --target COLUMN, or --project DIR", values={"folder": str(root)}
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} is not TOML: {error}", remedy=f"mend {path}", values={"file": str(path)}) from None
    sources = {key: FILE for key in _flat(document)}
    sources |= _overridden(document, os.environ if environ is None else environ)
    try:
        settings = msgspec.convert(document, Settings, strict=False)
        _check_durations(settings)
    except msgspec.ValidationError as error:
        raise _explained(path, str(error), sources) from None
    return settings, sources


def alone(port: int, environ: Mapping[str, str] | None = None) -> Settings:
    """Return how to serve where there is no project: as the environment says, else by default, on ``port``."""
    document: dict[str, Any] = {"project": {"name": "alone"}, "serve": {"port": port}}
    sources = _overridden(document, os.environ if environ is None else environ)
    try:
        return msgspec.convert({key: document[key] for key in ("project", "serve")}, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise _explained(Path(FILE), str(error), sources) from None


def _overridden(document: dict[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Put what the environment says into ``document``; return where each value came from."""
    sources: dict[str, str] = {}
    for name in PLATFORM_PORTS:
        if environ.get(name):  # inside a platform's container its agent calls from outside of the loopback
            serve = document.setdefault("serve", {})
            found = {"port": environ[name], **({} if "host" in serve else {"host": ANYWHERE})}
            serve |= found
            sources |= dict.fromkeys((f"serve.{key}" for key in found), name)
    for name, text in environ.items():
        where = _place(name)
        if where:
            section, key = where
            document.setdefault(section, {})[key] = text
            sources[f"{section}.{key}"] = name
    return sources


def _place(variable: str) -> tuple[str, str] | None:
    """KAIZEN_SERVE_PORT -> ("serve", "port"), for the plain sections only."""
    if not variable.startswith("KAIZEN_"):
        return None
    section, _, key = variable[7:].lower().partition("_")
    kinds = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    kinds["task"] = TaskSettings
    kind = kinds.get(section)
    if not key or section == "features" or not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return None
    return (section, key) if key in kind.__struct_fields__ else None


def _explained(path: Path, text: str, sources: Mapping[str, str]) -> InvalidSettings:
    """Say which file or environment variable holds the wrong value, and the nearest right name."""
    what, _, where = text.partition(" - at `$")
    key = where.strip("`.")
    source = sources.get(key, FILE)
    place = f"{path}" if source == FILE else f"the environment variable {source}"
    remedy = f"mend {path}" if source == FILE else f"unset {source}, or set it to what is expected"
    told = f"{what[0].lower()}{what[1:]}" + (f" for {key}" if key else "")
    if "unknown field" in text:
        found = text.split("`")[1]
        known = [field for kind in _sections() for field in kind.__struct_fields__]
        close = nearest(found, known)
        hint = f"; did you mean {close!r}?" if close else ""
        return InvalidSettings(f"{place}: {told}{hint}", remedy=remedy, values={"found": found, "nearest": close, "source": source})
    return InvalidSettings(f"{place}: {told}", remedy=remedy, values={"key": key, "source": source})


def _sections() -> list[type[msgspec.Struct]]:
    return [
        Settings,
        ProjectSettings, TaskSettings, ViewSettings, TrainSettings, GateSettings, ServeSettings, FallbackSettings, RouteSettings,
        ConsoleSettings, MonitorSettings, LoopSettings,
    ]  # fmt: skip


def _check_durations(settings: Settings) -> None:
    task, serve = settings.task, settings.serve
    for text in (
        task.asked_before if task else "0s", settings.train.budget, settings.monitor.window, settings.monitor.parity, settings.loop.every,
        settings.loop.retrain_after or "1d", settings.loop.canary_max, settings.loop.cooldown, *(v.ttl or "1d" for v in settings.features.values()),
        serve.outcome_window, serve.segment_age, serve.max_wait, serve.header_timeout, serve.body_timeout,
    ):  # fmt: skip
        parse_duration(text)


def _flat(document: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in document.items():
        keys += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return keys
