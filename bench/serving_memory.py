"""Whether a worker's memory grows: as many requests as an hour brings at five hundred a second, in every form, while a rollout is on trial.

Two releases are compared and a third is a shadow; one row, a hundred, Open Inference, ``dataframe_split`` and NPY take turns, and with each
look at the memory some requests that are refused. Growth is the slope of the resident memory over the requests, its upper end at 95 %; a
first stretch, in which caches fill, is left out. The journal's files are removed on the way.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

import _load
import _servers
import _subjects
from _rows import OURS, Measured, options, report
from _servers import Server
from _subjects import Model

HOUR = 1_800_000  # requests
LOOKS = (12, 2.228)  # at the memory, in a run; Student's t for as many less two
FEW_LOOKS = (6, 2.776)


def main() -> None:
    given = options(__doc__)
    _servers.end_with_us()
    runs = 2 if given.quick else 3
    each, looks = (500, FEW_LOOKS) if given.quick else (HOUR // runs, LOOKS)
    with tempfile.TemporaryDirectory(prefix="kzb-") as name:
        folder = Path(name)
        state = folder / ".kaizen"
        model, (champion, challenger) = _subjects.train(state, folder / "model")
        shadow = msgspec.structs.replace(challenger, release="bench@3")
        _subjects.route(state, champion, challengers=[challenger], shadows=[shadow], paired=True)
        requests = list(_requests(model))
        (port,) = _servers.free_ports(1)
        with _servers.started(_servers.ours(state, port), port, _servers.answering(requests[0]), folder / "log") as server:
            _ask(server, requests, each // 4, state)
            made = [_run(server, requests, each, looks, state, number) for number in range(runs)]
    report(made, given)


def _requests(model: Model) -> Iterator[bytes]:
    """Yield requests in every form; of a hundred one has a hundred rows."""
    for number, rows in enumerate(model.rows["1 row"]):
        yield _load.request("/predict/bench", _subjects.named(rows))
        yield _load.request("/predict/bench", _subjects.named(rows) | {"unit": f"customer-{number}"})
        yield _load.request("/v2/models/bench/infer", _tensors(rows))
        yield _load.request("/invocations", {"dataframe_split": {"columns": _subjects.NAMES, "data": rows}})
        file = io.BytesIO()
        np.save(file, np.array(rows), allow_pickle=False)
        body = file.getvalue()
        head = f"POST /predict/bench HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-npy\r\ncontent-length: {len(body)}\r\n\r\n"
        yield head.encode() + body
        if number % 25 == 0:
            yield _load.request("/predict/bench", _subjects.named(model.rows["100 rows"][number % len(model.rows["100 rows"])]))


def _tensors(rows: list[list[float]]) -> dict[str, object]:
    return {"inputs": [{"name": "rows", "shape": [len(rows), len(_subjects.NAMES)], "datatype": "FP64", "data": rows}]}


def _ask(server: Server, requests: list[bytes], number: int, state: Path) -> int:
    asked = 0
    while asked < number:
        asked += _load.ask(server.port, requests, 0.05 if number < 5_000 else 2.0).answered
        for path in (state / "journal").glob("*.journal"):
            path.unlink()
    for wrong in (b"{", b'{"inputs": [{"feature_0": "far"}]}', b'{"inputs": [{"feature_0": 1e999}]}'):
        head = b"POST /predict/bench HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(wrong)
        for _ in range(20):
            try:
                _load.once(server.port, head + wrong)
            except _load.Refused:
                continue
            raise AssertionError(f"{wrong!r} was answered")
    return asked


def _run(server: Server, requests: list[bytes], number: int, looks: tuple[int, float], state: Path, run: int) -> list[Measured]:
    many, t_95 = looks
    asked, levels = [0], [server.memory()]
    while len(levels) < many:
        asked.append(asked[-1] + _ask(server, requests, number // (many - 1), state))
        levels.append(server.memory())
        print(f"bench: run {run}: {asked[-1]:,} requests, {levels[-1]:.1f} MB", file=sys.stderr, flush=True)
    x, y = np.array(asked) / 1e6, np.array(levels)
    (slope, _), spread = np.polyfit(x, y, 1, cov=True)
    return [
        ("requests asked", OURS, "requests", float(asked[-1])),
        ("memory at the end (PSS, parent and worker)", OURS, "MB", levels[-1]),
        # a fall counts as the smallest growth that can be told
        ("growth, upper end of 95 %", OURS, "MB per 1M requests", max(float(slope + t_95 * spread[0, 0] ** 0.5), 0.001)),
    ]


if __name__ == "__main__":
    main()
