"""Rules: processor time to look at a row, and of a request with them; in one process, without the network.

The model is LightGBM with 200 trees of 31 leaves and 30 inputs. Promised: the score of what lies outside takes 20 us at most for 30 inputs.
"""

from __future__ import annotations

import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

import _bundle
from _rows import OURS, options, report
from kaizenml.features.encoding.encoder import EncodedColumn
from kaizenml.rollouts import conditions
from kaizenml.rollouts.snapshot import EndpointRoute, Route, Rule, Snapshot
from kaizenml.serving.engine import Engine
from kaizenml.serving.routing import Routing, load
from kaizenml.serving.rules import outside, unknown
from kaizenml.serving.worker import build
from kaizenml.settings import ServeSettings
from kaizenml.training import model_file

RULES = [Rule(when="feature_0 > 100 and (feature_1 < 0 or feature_2 is null)"), Rule(unknown=True, outside=0.5, confidence=0.5)]
LEVELS = [f"level_{n}" for n in range(30)]


def main() -> None:
    given = options(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        route = _bundle.write(state, 1)
        path = state / route.bundle / "model"
        spec = model_file.read(path)
        fields = [msgspec.structs.replace(field, minimum=-5.0, maximum=5.0, nullable=False) for field in spec.signature.fields]
        spec = msgspec.structs.replace(spec, signature=msgspec.structs.replace(spec.signature, fields=fields))
        model_file.write(path, spec)
        served = {name: _engine(state / name, state, route, rules) for name, rules in (("without", []), ("with", RULES))}
        rng = np.random.default_rng(9)
        row = dict(zip(_bundle.NAMES, map(float, rng.normal(size=30)), strict=True))
        far = {**row, "feature_3": 20.0, "feature_7": -20.0}
        one, taken = (msgspec.json.encode({"inputs": [each]}) for each in (row, far))
        categories = [EncodedColumn(name=name, kind="category", levels=["a", "b"]) for name in LEVELS]
        levels = msgspec.structs.replace(spec, encoder=msgspec.structs.replace(spec.encoder, columns=categories))
        look, new, test = outside(spec, 0.5), unknown(levels), conditions.read(RULES[0].when or "").test
        known = dict.fromkeys(LEVELS, "a")
        cases: dict[str, Callable[[], object]] = {
            "outside, none of 30 inputs": lambda: look(row),
            "outside, 2 of 30 inputs": lambda: look(far),
            "new level, none of 30 inputs": lambda: new(known),
            "a condition of three comparisons": lambda: test(row),
            "1 row, no rules": lambda: served["without"].predict("bench", one),
            "1 row, rules that do not hold": lambda: served["with"].predict("bench", one),
            "1 row, taken from the model": lambda: served["with"].predict("bench", taken),
        }
        calls, runs = (300, 3) if given.quick else (3000, 15)
        made = [
            [(case, OURS, "us", timeit.timeit(call, number=calls, timer=time.process_time) / calls * 1e6) for case, call in cases.items()]
            for _ in range(runs + 1)
        ]
        report(made[1:], given)  # the first one warms up


def _engine(own: Path, state: Path, route: Route, rules: list[Rule]) -> Engine:
    endpoint = EndpointRoute(endpoint="bench", revision=1, arms=[route], rules=rules)
    wanted = Snapshot(revision=1, written_at=0.0, endpoints={"bench": endpoint})
    engine = build(own, ServeSettings(), fixed=wanted).engine
    engine.routing = load(state, wanted, Routing())
    return engine


if __name__ == "__main__":
    main()
