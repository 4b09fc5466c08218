"""What each thing that our server does costs: journal, counters, A/B, shadow, kill, fallback, rules, tokens, dialects, a second worker.

``kaizenml`` is one release that answers, with lineage, counters and the journal, as it runs by default. Every other row is the
same with one thing more, or with one thing taken out; its ratio is its cost over that of ``kaizenml``. All servers are
up at once, on one core, and are asked in turn.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import _load
import _servers
import _subjects
from _rows import OURS, Measured, options, report
from _servers import Command, Server
from _subjects import Model
from kaizenml.access import token
from kaizenml.rollouts.snapshot import Route, Rule

TWO = f"{OURS}, 2 workers"
BOTH = "100 rows, all cores, answered"
CASES = ("1 row", "100 rows")


class Variant(NamedTuple):
    """Our server, with something more or less."""

    name: str
    command: Callable[[int], Command]
    path: str = "/predict/bench"
    body: Callable[[Any], Any] = _subjects.named
    headers: str = ""

    def requests(self, model: Model, case: str) -> list[bytes]:
        return [_load.request(self.path, self.body(rows), self.headers) for rows in model.rows[case]]


class Projects(NamedTuple):
    """Makes a project for each variant; all use the same bundles."""

    folder: Path
    champion: Route
    challenger: Route

    def variant(self, name: str, *, settings: str = "", **routed: Any) -> Variant:
        state = self.state(name, settings)
        _subjects.route(state, self.champion, **routed)
        return Variant(name, lambda port: _servers.ours(state, port))

    def state(self, name: str, settings: str = "") -> Path:
        project = self.folder / name.replace(" ", "-").replace("/", "-")
        state = project / ".kaizen"
        state.mkdir(parents=True)
        (state / "releases").symlink_to(self.folder / "releases")
        if settings:
            (project / "kaizen.toml").write_text(f'[project]\nname = "bench"\n\n[serve]\n{settings}\n', encoding="utf-8")
        return state


def main() -> None:
    given = options(__doc__)
    _servers.end_with_us()
    seconds, runs, cases = (0.1, 2, CASES[:1]) if given.quick else (1.0, 5, CASES)
    with tempfile.TemporaryDirectory(prefix="kzb-") as name, ExitStack() as stack:
        folder = Path(name)
        model, (champion, challenger) = _subjects.train(folder, folder / "model")
        variants = _variants(Projects(folder, champion, challenger))
        servers = [stack.enter_context(_up(variant, model, folder)) for variant in variants]
        every = sorted(os.sched_getaffinity(0))
        one, two = (stack.enter_context(_up(_workers(folder, variants[0], number), model, folder, every)) for number in (1, 2))
        made: list[list[Measured]] = []
        for number in range(given.quick, runs + 1):
            print(f"bench: round {number} of {runs}", file=sys.stderr, flush=True)
            run = _round(model, variants, servers, cases, seconds)
            for subject, server in ((OURS, one), (TWO, two)):
                load = _load.ask(server.port, variants[0].requests(model, "100 rows"), seconds)
                run.append((BOTH, subject, "1/s", load.answered / load.seconds))
            if number:  # the first one warms up
                made.append(run)
            for path in folder.glob("*/.kaizen/journal/*.journal"):
                path.unlink()
    report(made, given)
    if not given.json:
        print(prices(made))


def prices(made: Sequence[Sequence[Measured]]) -> str:
    """Return what each variant costs more than ours, as Markdown: the median of the rounds' differences ± half their quartiles' distance."""
    cases = [case for case in CASES if case in {case for case, *_ in made[0]}]
    lines = [f"\n| | {' | '.join(f'{case}: us more' for case in cases)} |", f"|---|{'--:|' * len(cases)}"]
    cost = [{(case, subject): value for case, subject, unit, value in run if unit == "us"} for run in made]
    for subject in dict.fromkeys(subject for _, subject in cost[0]):
        cells = []
        for case in cases:
            more = [one[(case, subject)] - one[(case, OURS)] for one in cost]
            low, _, high = statistics.quantiles(more, n=4, method="inclusive")
            cells.append(f"{statistics.median(more):+.1f} ± {(high - low) / 2:.1f}")
        if subject != OURS:
            lines.append(f"| {subject} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _round(model: Model, variants: Sequence[Variant], servers: Sequence[Server], cases: Sequence[str], seconds: float) -> list[Measured]:
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _servers.cores()[1:])
    try:
        made: list[Measured] = []
        for case in cases:
            for variant, server in zip(variants, servers, strict=True):
                before = server.cpu()
                load = _load.ask(server.port, variant.requests(model, case), seconds)
                made.append((case, variant.name, "us", (server.calm() - before) / load.answered * 1e6))
        return made
    finally:
        os.sched_setaffinity(0, here)


def _up(variant: Variant, model: Model, folder: Path, on: Sequence[int] | None = None) -> Any:
    (port,) = _servers.free_ports(1)
    first = variant.requests(model, "1 row")[0]
    return _servers.started(variant.command(port), port, _servers.answering(first), folder / f"{port}.log", on)


def _variants(projects: Projects) -> list[Variant]:
    """Return ours first, then with each thing more or less that this kaizenml knows."""
    other = [projects.challenger]
    return [
        projects.variant(OURS),
        *(_without(projects, part) for part in ("journal", "counters")),
        projects.variant("journal on the disk every 0.1 s", settings='fsync = "tick"'),
        projects.variant("journal on the disk every request", settings='fsync = "request"'),
        projects.variant("A/B, split only", challengers=other),
        projects.variant("A/B, compared", challengers=other, paired=True),
        projects.variant("a shadow", shadows=other),
        projects.variant("killed: naive answers", killed="bench"),
        _fallback(projects),
        projects.variant("rules that do not hold", rules=[Rule(unknown=True, outside=0.5, confidence=0.01)]),
        _token(projects),
        projects.variant("asked by Open Inference")._replace(path="/v2/models/bench/infer", body=_tensors),
        projects.variant("asked by dataframe_split")._replace(path="/endpoints/bench/invocations", body=_split),
    ]


def _without(projects: Projects, part: str) -> Variant:
    state = projects.state(f"without {part}")
    bundle = projects.folder / projects.champion.bundle
    script = str(Path(__file__).with_name("_without.py"))
    return Variant(f"without {part}", lambda port: Command([sys.executable, script, part, str(bundle), str(state), str(port)]), "/predict/release")


def _fallback(projects: Projects) -> Variant:
    """A release whose model file is damaged: the naive answer goes out."""
    name = "fallback: the model is lost"
    state = projects.state(name)
    lost = projects.folder / "releases" / "bench" / "3"
    shutil.copytree(projects.folder / projects.champion.bundle, lost)
    (lost / "model" / "m.txt").write_text("lost", encoding="utf-8")
    _subjects.route(state, msgspec.structs.replace(projects.champion, release="bench@3", bundle="releases/bench/3"))
    return Variant(name, lambda port: _servers.ours(state, port))


def _token(projects: Projects) -> Variant:
    """Every request shows a token."""
    identity, text = token.make()
    variant = projects.variant("a token", settings='auth = "on"')
    kept = token.Token(name="bench", id=identity, hash=token.digest(text), scopes=["predict"], created_at=0.0)
    token.write(projects.folder / "a-token" / ".kaizen" / "serving" / token.FILE, [kept])
    return variant._replace(headers=f"authorization: Bearer {text}\r\n")


def _workers(folder: Path, base: Variant, number: int) -> Variant:
    state = folder / OURS / ".kaizen"
    return base._replace(command=lambda port: _servers.ours(state, port, number))


def _tensors(rows: Any) -> Any:
    columns = zip(_subjects.NAMES, zip(*rows, strict=True), strict=True)
    return {"inputs": [{"name": name, "shape": [len(rows)], "datatype": "FP64", "data": list(values)} for name, values in columns]}


def _split(rows: Any) -> Any:
    return {"dataframe_split": {"columns": _subjects.NAMES, "data": rows}}


if __name__ == "__main__":
    main()
