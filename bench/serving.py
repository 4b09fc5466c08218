"""Serving beside the others: FastAPI (two ways), MLflow, MLServer, KServe, LitServe, BentoML, Ray Serve; CPU, latency, memory, start.

All serve one LightGBM model (200 trees of 31 leaves, 30 inputs) with one worker on one core; the client has the other core.
Every server's answers are compared with ``Booster.predict`` before it is measured. Each round starts each server anew, one
after the other, so that a noisy minute meets them all. Ours journals, counts, names its lineage and splits 90/10 between two
releases meanwhile; ``kaizenml, A/B compared`` also lets the other release answer every row, as a rollout does.
The figure to trust on a shared machine is the processor time of a request, user and system, of all of a server's processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import _load
import _peers
import _servers
import _subjects
from _rows import OURS, Measured, Row, machine, options, summed_up
from _servers import Failed, Server
from _subjects import Model, Subject

OVER = "CPU over ours"


def main() -> None:
    given = options(__doc__, _more)
    _servers.end_with_us()
    asked = [peer for peer in _peers.ALL if peer.slug in given.only] if given.only else _peers.QUICK if given.quick else _peers.ALL
    rounds = given.rounds or (3 if given.quick else 5)
    failed: dict[str, str] = {}
    programs: dict[_peers.Peer, Path] = {}
    for peer in asked:
        try:
            programs[peer] = _peers.environment(peer)
        except Failed as error:
            failed[peer.name] = str(error)
    with tempfile.TemporaryDirectory(prefix="kzb-") as name:
        folder = Path(name)
        model, subjects = _prepare(folder, programs)
        made = measure(folder, model, subjects, rounds, 0.7 if given.quick else 2.0, failed)
    rows = summed_up([run + _over_ours(run) for run in made])
    versions = {peer.name: peer.version for peer in programs if peer.name not in failed}
    if given.json:
        print(json.dumps({"bench": "serving", "machine": machine(), "versions": versions, "rows": rows + [_absent(*one) for one in failed.items()]}))
    else:
        print(side_by_side(rows))
        print("\n".join(f"\nnot measured: {subject}: {reason}" for subject, reason in failed.items()))
        print(", ".join(f"{subject} {version}" for subject, version in {**machine(), **versions}.items()))


def measure(folder: Path, model: Model, subjects: list[Subject], rounds: int, seconds: float, failed: dict[str, str]) -> list[list[Measured]]:
    """Measure all subjects once a round; who fails is named in ``failed`` and left out of all rounds. Without us there is nothing to print."""
    by_round: list[dict[str, list[Measured]]] = []
    for number in range(1, rounds + 1):
        by_round.append({})
        for subject in subjects:
            if subject.name in failed:
                continue
            print(f"bench: round {number} of {rounds}: {subject.name}", file=sys.stderr, flush=True)
            try:
                by_round[-1][subject.name] = _twice(subject, model, folder, seconds)
            except Failed as error:
                failed[subject.name] = str(error)
                print(f"bench: {subject.name}: {error}", file=sys.stderr, flush=True)
                if subject.name == OURS:
                    sys.exit(1)
    return [[one for name, costs in costs_of.items() if name not in failed for one in costs] for costs_of in by_round]


def _twice(subject: Subject, model: Model, folder: Path, seconds: float) -> list[Measured]:
    try:
        return run(subject, model, Path(tempfile.mkdtemp(dir=folder)), seconds)
    except Failed:  # a busy machine can make a start fail
        return run(subject, model, Path(tempfile.mkdtemp(dir=folder)), seconds)


def run(subject: Subject, model: Model, folder: Path, seconds: float) -> list[Measured]:
    """Start a server, check its answers, load it, and say what it cost."""
    name = subject.name
    (port,) = _servers.free_ports(1)
    first = next(iter(subject.requests.values()))[0]
    here = os.sched_getaffinity(0)
    command = subject.command(folder, port)
    with _servers.started(command, port, _servers.answering(first), folder / "server.log") as server:
        os.sched_setaffinity(0, _servers.cores()[1:])
        try:
            subject.check(port, model)
            made: list[Measured] = []
            for case, requests in subject.requests.items():
                made += [(f"{case}, {what}", name, unit, value) for what, unit, value in _loaded(server, requests, seconds)]
            return [*made, ("memory", name, "MB", server.memory()), ("start to first answer", name, "s", server.start)]
        except (OSError, _load.Refused) as error:
            raise Failed(f"under load: {error}") from None
        finally:
            os.sched_setaffinity(0, here)


def _loaded(server: Server, requests: list[bytes], seconds: float) -> list[tuple[str, str, float]]:
    _load.ask(server.port, requests, min(seconds, 0.5))  # warms up
    before = server.calm()
    load = _load.ask(server.port, requests, seconds)
    cost = (server.calm() - before) / load.answered * 1e6
    return [
        ("CPU", "us", cost), ("answered", "1/s", load.answered / load.seconds), ("p50", "ms", load.latency(0.5) * 1e3),
        ("p99", "ms", load.latency(0.99) * 1e3),
    ]  # fmt: skip


def side_by_side(rows: list[Row]) -> str:
    """Return the rows as Markdown: for each size of request a line for each server."""
    found = {(row["case"], row["subject"]): row for row in rows}
    subjects = list(dict.fromkeys(str(row["subject"]) for row in rows))
    lines = []
    for case in _subjects.SIZES:
        lines += [f"\n{case} a request, {rows[0]['runs']} runs\n"]
        lines += ["| server | CPU us/request | times ours | answers/s | p50 ms | p99 ms | memory MB | start s |", "|---|--:|--:|--:|--:|--:|--:|--:|"]
        for subject in subjects:
            columns = [(f"{case}, CPU", True), (f"{case}, {OVER}", True), *((f"{case}, {what}", False) for what in ("answered", "p50", "p99"))]
            cells = [_cell(found[(name, subject)], spread) for name, spread in [*columns, ("memory", False), ("start to first answer", False)]]
            lines.append(f"| {subject} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Row, spread: bool) -> str:
    value = f"{row['value']:,.0f}" if float(row["value"]) >= 100 else f"{row['value']:g}"
    return f"{value} ± {float(row['spread']) / 2:.0%}" if spread else value


def _over_ours(made: list[Measured]) -> list[Measured]:
    """Return each cost over ours of the same round: its rows have the ratio's own spread."""
    costs = {(case, subject): value for case, subject, unit, value in made if unit == "us"}
    return [(f"{case.removesuffix('CPU')}{OVER}", subject, "x", value / costs[(case, OURS)]) for (case, subject), value in costs.items()]


def _absent(subject: str, reason: str) -> dict[str, object]:
    return {"case": "not measured", "subject": subject, "value": None, "unit": "", "ratio": None, "spread": None, "runs": 0, "reason": reason}


def _prepare(folder: Path, programs: dict[_peers.Peer, Path]) -> tuple[Model, list[Subject]]:
    state, paired = folder / "split", folder / "compared"
    model, (champion, challenger) = _subjects.train(state, folder / "model")
    (paired / "releases").parent.mkdir()
    (paired / "releases").symlink_to(state / "releases")
    _subjects.route(state, champion, challengers=[challenger])
    _subjects.route(paired, champion, challengers=[challenger], paired=True)
    subjects = [_subjects.ours(OURS, state, model), _subjects.ours(_subjects.BOTH_ARMS, paired, model)]
    return model, subjects + [_subjects.theirs(peer, model, path) for peer, path in programs.items()]


def _more(parser: argparse.ArgumentParser) -> None:
    slugs = [peer.slug for peer in _peers.ALL]
    parser.add_argument("--only", nargs="+", choices=slugs, metavar="PEER", help=f"beside ours only these: {', '.join(slugs)}")
    parser.add_argument("--rounds", type=int, help="how often each is started and measured (5; 3 when quick)")


if __name__ == "__main__":
    main()
