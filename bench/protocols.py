"""What each way of asking costs the server: LightGBM, 200 trees of 31 leaves, 30 inputs, with lineage, journal and counters.

One connection asks; what counts is the worker's own processor time (user and system) over the requests, or rows, that it answered.
The native form is the subject that the others are compared with.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import msgspec
import numpy as np
import pyarrow as pa

import _bundle
from _rows import OURS, options, report
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.snapshot import EndpointRoute, Snapshot
from kaizenml.serving.grpc.messages import MESSAGES, SERVICE

Ask = Callable[[], None]
_NPY, _ARROW = "application/x-npy", "application/vnd.apache.arrow.stream"


def main() -> None:
    given = options(__doc__)
    seconds, runs = (0.1, 2) if given.quick else (1.5, 7)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ports, worker = stack.enter_context(_served(Path(folder) / ".kaizen"))
        made = []
        asked = {rows: stack.enter_context(_askers(ports, rows)) for rows in ((1, 1000) if given.quick else (1, 100, 10_000))}
        for number in range(runs + 1):
            run = []
            for rows, askers in asked.items():
                for name, ask in askers.items():
                    cost = _cost(worker, ask, seconds)
                    run.append(("1 row", name, "us/request", cost) if rows == 1 else (f"{rows} rows", name, "us/row", cost / rows))
            if number:  # the first one warms up
                made.append(run)
    report(made, given)


@contextmanager
def _served(state: Path) -> Iterator[tuple[dict[str, int], int]]:
    route = _bundle.write(state, 1)
    endpoint = EndpointRoute(endpoint="bench", revision=1, arms=[route])
    snapshot.write(state / "serving" / snapshot.FILE, Snapshot(revision=1, written_at=0.0, endpoints={"bench": endpoint}))
    command = [sys.executable, "-m", "kaizenml.serving", "--state", str(state), "--port", "0", "--grpc-port", "0"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    (state.parent / "kaizen.toml").write_text('[project]\nname = "bench"\n[serve]\nmax_body_bytes = 64_000_000\n', encoding="utf-8")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ) as process:
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            (worker,) = (int(pid) for task in Path(f"/proc/{process.pid}/task").iterdir() for pid in (task / "children").read_text().split())
            yield said, worker
        finally:
            process.terminate()


@contextmanager
def _askers(ports: dict[str, int], rows: int) -> Iterator[dict[str, Ask]]:
    values = np.random.default_rng(9).normal(size=(rows, len(_bundle.NAMES)))
    columns = {name: values[:, place] for place, name in enumerate(_bundle.NAMES)}
    connection = http.client.HTTPConnection("127.0.0.1", ports["port"])
    channel = grpc.insecure_channel(f"127.0.0.1:{ports['grpc_port']}", options=[("grpc.max_receive_message_length", -1)])
    infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")

    def post(path: str, body: bytes, **headers: str) -> Ask:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}

        def ask() -> None:
            connection.request("POST", path, body, sent)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text[:500]

        return ask

    whole = [{"name": "input-0", "shape": list(values.shape), "datatype": "FP64"}]
    binary = [{**whole[0], "parameters": {"binary_data_size": values.nbytes}}]
    head = json.dumps({"inputs": binary, "parameters": {"binary_data_output": True}}).encode()
    request = MESSAGES["ModelInferRequest"](model_name="bench", inputs=whole, raw_input_contents=[values.tobytes()]).SerializeToString()
    listed = MESSAGES["ModelInferRequest"](
        model_name="bench", inputs=[{**whole[0], "contents": {"fp64_contents": values.ravel().tolist()}}]
    ).SerializeToString()
    dicts = [dict(zip(columns, row, strict=True)) for row in values.tolist()]
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    yield {
        OURS: post("/predict/bench", msgspec.json.encode({"inputs": dicts}), content_type="application/json"),
        "OIP, JSON": post("/v2/models/bench/infer", json.dumps({"inputs": [{**whole[0], "data": values.ravel().tolist()}]}).encode()),
        "OIP, binary": post("/v2/models/bench/infer", head + values.tobytes(), inference_header_content_length=str(len(head))),
        "OIP, gRPC raw": lambda: infer(request) and None,
        "OIP, gRPC contents": lambda: infer(listed) and None,
        "NPY": post("/predict/bench", file.getvalue(), content_type=_NPY, accept=_NPY),
        "Arrow": post("/predict/bench", _arrow(columns), content_type=_ARROW, accept=_ARROW),
        "MLflow split": post("/invocations", msgspec.json.encode({"dataframe_split": {"columns": _bundle.NAMES, "data": values.tolist()}})),
    }
    connection.close()
    channel.close()


def _arrow(columns: dict[str, np.ndarray]) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _cost(worker: int, ask: Ask, seconds: float) -> float:
    """Return processor time in us for each time that ``ask`` asks."""
    ask()
    before, asked, end = _cpu(worker), 0, time.perf_counter() + seconds
    while time.perf_counter() < end or asked < 2:
        ask()
        asked += 1
    return (_cpu(worker) - before) / asked * 1e6


def _cpu(pid: int) -> float:
    """Return processor time of all threads in seconds, to the microsecond where the system counts so."""
    found = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


if __name__ == "__main__":
    main()
