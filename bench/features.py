"""Features beside Feast: joins right in time, filling the online store, look-ups; and what a push of ours costs.

Three views with ten features each, of a million, a million and five million rows; a hundred thousand and a million rows ask. Every
answer is compared: the rows that come back, and the sum of each feature. Each subject is a process of its own; runs are interleaved.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

import _peers
import _servers
from _peers import Peer
from _rows import OURS, Measured, options, report
from kaizenml.features import operations
from kaizenml.project import open_project

FEAST = Peer("Feast", "feast", ("feast[duckdb,redis]==0.67.0",), "", lambda rows: rows, lambda said: said, lambda *_: _servers.Command([]), base=())
DAY_S = 86_400
FIRST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
DAYS = 60
TTL_S = {"a": 7 * DAY_S, "b": 30 * DAY_S, "c": 2 * DAY_S}
PUSHED = """
[project]
name = "bench"
[features.weather]
dataset = "weather"
entity = "origin"
columns = ["temp", "wind", "humid", "sky"]
at = "at"
"""


class Subject(NamedTuple):
    """Who does the work."""

    name: str
    command: Callable[[Path, Path], list[str]]
    does: tuple[str, ...]


class Worker:
    """A subject's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.hear()

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):  # whatever else it may print
                return dict(json.loads(line))
        raise SystemExit(f"{self.process.args!r} ended")

    @property
    def memory(self) -> float:
        """The most memory that it had, in MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    given = options(__doc__, _more)
    scale, asked, runs = (50, [2_000], 2) if given.quick else (1, [100_000, 1_000_000], 3)
    with tempfile.TemporaryDirectory(prefix="kzf-") as name, ExitStack() as stack:
        folder = Path(name)
        plan = _write(folder / "data", scale, asked)
        subjects = _subjects(stack, folder, slow=not given.quick, beside=given.only != [])
        if given.only is not None:
            subjects = [subject for subject in subjects if subject.name in (OURS, *given.only)]
        workers = {subject.name: stack.enter_context(_started(subject, folder)) for subject in subjects}
        made = []
        for _ in range(runs):
            run = [one for subject in subjects for one in _measure(subject, workers[subject.name], plan, quick=given.quick)]
            run += [("most memory", subject.name, "MB", workers[subject.name].memory) for subject in subjects]
            made.append(run + _pushes(50 if given.quick else 500))
        _compare(workers, subjects, plan)
    report(made, given)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="*", help="these beside ours; default all, and with no name nobody")


def _subjects(stack: ExitStack, folder: Path, *, slow: bool, beside: bool) -> list[Subject]:
    ours = [sys.executable, str(Path(__file__).with_name("_feature_work.py"))]
    alone = Subject(OURS, lambda data, state: [*ours, str(data), str(state), "sqlite"], ("join", "materialize", "online"))
    if not beside:
        return [alone]
    theirs = [str(_peers.environment(FEAST) / "python"), str(Path(__file__).parent / "peers" / "feast_work.py")]

    def feast(offline: str, online: str) -> Callable[[Path, Path], list[str]]:
        return lambda data, state: [*theirs, str(data), str(state), offline, online]

    found = [
        alone,
        Subject("Feast, duckdb and SQLite", feast("duckdb", "sqlite"), ("join", "materialize", "online")),
    ]
    if slow:
        found.append(Subject("Feast, its default store", feast("file", "sqlite"), ("join",)))
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is not None:
        port, other = _servers.free_ports(2)
        for number in (port, other):
            process = subprocess.Popen([server, "--port", str(number), "--save", "", "--dir", str(folder)], stdout=subprocess.DEVNULL)
            stack.callback(process.terminate)
        found.append(
            Subject(f"{OURS} on Redis", lambda data, state: [*ours, str(data), str(state), f"redis://127.0.0.1:{port}/0"], ("materialize", "online"))
        )
        found.append(Subject("Feast on Redis", feast("duckdb", f"redis:127.0.0.1:{other}"), ("materialize", "online")))
    return found


@contextmanager
def _started(subject: Subject, folder: Path) -> Iterator[Worker]:
    command = subject.command(folder / "data", folder / subject.name.replace(" ", "-").replace(",", ""))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def _write(folder: Path, scale: int, asked: list[int]) -> dict[str, Any]:
    """Write the views' rows, and the rows that ask."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    customers = 100_000 // scale
    plan: dict[str, Any] = {"views": {}, "asked": asked, "online": ["a", "b"], "first": FIRST - DAY_S, "last": FIRST + (DAYS + 1) * DAY_S}
    plan["customers"] = customers
    for name, rows in (("a", 1_000_000), ("b", 1_000_000), ("c", 5_000_000)):
        columns = [f"{name}{place}" for place in range(10)]
        plan["views"][name] = {"columns": columns, "ttl_s": TTL_S[name]}
        at = np.sort(rng.integers(0, DAYS * DAY_S * 1_000_000, rows // scale)) + int(FIRST * 1e6)
        table = {"customer": rng.integers(0, customers, rows // scale), "at": pa.array(at, pa.timestamp("us", "UTC"))}
        table |= {column: rng.normal(size=rows // scale) for column in columns}
        pyarrow.parquet.write_table(pa.table(table), folder / f"{name}.parquet")
    for rows in asked:
        at = rng.integers(DAYS // 2 * DAY_S * 1_000_000, DAYS * DAY_S * 1_000_000, rows) + int(FIRST * 1e6)
        table = {"customer": rng.integers(0, customers, rows), "at": pa.array(at, pa.timestamp("us", "UTC")), "late": rng.random(rows) < 0.5}
        pyarrow.parquet.write_table(pa.table(table), folder / f"asked_{rows}.parquet")
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return plan


def _measure(subject: Subject, worker: Worker, plan: dict[str, Any], *, quick: bool) -> list[Measured]:
    made: list[Measured] = []
    if "join" in subject.does:
        for rows, kind in itertools.product(plan["asked"], ("ttl", "forever")):
            if "default" in subject.name and (rows > 100_000 or kind == "forever"):
                continue  # minutes for each
            what = f"join {rows:,} rows with 3 views, {'no ' if kind == 'forever' else ''}time to live"
            made.append((what, subject.name, "s", worker.ask("join", kind=kind, rows=rows)["seconds"]))
    store = " on Redis" if "Redis" in subject.name else ""
    if "materialize" in subject.does:
        made.append((f"materialize 2 views{store}", _plain(subject.name), "s", worker.ask("materialize")["seconds"]))
    if "online" in subject.does:
        for entities in (1, 100):
            calls = 100 if quick else 300
            found = worker.ask("look_up", keys=_keys(plan, entities), calls=calls)
            what = f"20 features of {entities} {'entity' if entities == 1 else 'entities'}{store}"
            made.append((what, _plain(subject.name), "ms", found["seconds"] * 1e3))
            if subject.name == f"{OURS} on Redis":
                floor = worker.ask("floor", keys=_keys(plan, entities), calls=calls)
                made.append((what, "the same MGET over a bare socket", "ms", floor["fetch"] * 1e3))
                made.append((what, "redis-py's PING", "ms", floor["ping"] * 1e3))
    return made


def _plain(name: str) -> str:
    return OURS if name.startswith(OURS) else "Feast"


def _keys(plan: dict[str, Any], entities: int) -> list[int]:
    return [place * 7919 % plan["customers"] for place in range(entities)]


def _compare(workers: dict[str, Worker], subjects: list[Subject], plan: dict[str, Any]) -> None:
    """Say where answers differ from ours."""
    ours = workers[OURS]
    for subject in subjects:
        if subject.name == OURS:
            continue
        if "join" in subject.does:
            rows = plan["asked"][0]
            for kind in ("ttl",) if "default" in subject.name else ("ttl", "forever"):
                mine, other = (one.ask("join", kind=kind, rows=rows) for one in (ours, workers[subject.name]))
                _say(subject.name, f"join, {kind}: {other['rows']:,} of {rows:,} rows came back (ours: {mine['rows']:,})", mine, other)
        if "online" in subject.does:
            mine, other = (one.ask("look_up", keys=_keys(plan, 100), calls=1) for one in (ours, workers[subject.name]))
            _say(subject.name, "look-up of 100 entities", mine, other)


def _say(name: str, what: str, mine: dict[str, Any], other: dict[str, Any]) -> None:
    alike = np.allclose(mine["sums"], other["sums"], rtol=1e-9, atol=1e-6)
    print(f"bench: {name}, {what}; the features' sums are {'equal' if alike else 'NOT equal'}", file=sys.stderr, flush=True)


def _pushes(calls: int) -> list[Measured]:
    """Measure a push of three rows: durable in the buffer, and online."""
    start, hours = datetime(2026, 1, 1, tzinfo=UTC), itertools.count(1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kaizen.toml").write_text(PUSHED, encoding="utf-8")
        ctx = open_project(folder, actor="bench")
        taken = []
        for _ in range(calls):
            at = (start + timedelta(hours=next(hours))).isoformat()
            rows = [{"origin": f"o{place}", "at": at, "temp": 20.5, "wind": 3.25, "humid": 0.5, "sky": "clear"} for place in range(3)]
            begun = time.perf_counter()
            operations.push(ctx, "weather", rows)
            taken.append(time.perf_counter() - begun)
        ctx.online.close()
        ctx.catalog.close()
    return [("push 3 rows", OURS, "ms", statistics.median(taken) * 1e3)]


if __name__ == "__main__":
    main()
