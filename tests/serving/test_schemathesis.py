"""The running server, asked by schemathesis everything that its document allows and much that it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import serving_bundles as bundles

# The document cannot say all: a tensor's data fits its shape, a frame's rows fit its columns, an unload is always refused.
# And schemathesis does not know that "too many" (413) refuses as well as "wrong".
CONFIG = """
[generation]
max-examples = 25

[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]

[[operations]]
include-path-regex = "infer|invocations|unload"
checks.positive_data_acceptance.enabled = false
"""
# Bodies that are tables: valid ones, of as many rows as it likes, since nobody can guess bytes that are
HOOKS = """
import io
import numpy as np
import pyarrow as pa
import schemathesis
from hypothesis import strategies as st
from serving_bundles import GOOD

def npy(rows):
    row = {**GOOD, "place": "JFK"}
    kinds = {str: "U24", bool: "?", float: "f8", int: "i8"}
    file = io.BytesIO()
    np.save(file, np.array([tuple(row.values())] * rows, [(name, kinds[type(value)]) for name, value in row.items()]), allow_pickle=False)
    return file.getvalue()

def arrow(rows):
    table = pa.Table.from_pylist([{**GOOD, "place": "JFK"}] * rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()

schemathesis.openapi.media_type("application/x-npy", st.integers(1, 50).map(npy))
schemathesis.openapi.media_type("application/vnd.apache.arrow.stream", st.integers(1, 50).map(arrow))
"""
SECONDS = 25
SEED = 20261


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: ./x setup")
    state = tmp_path / ".kaizen"
    bundle = state / bundles.write_bundle(state, view=True).bundle
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "kaizen_hooks.py").write_text(HOOKS)
    environ = {"SCHEMATHESIS_HOOKS": "kaizen_hooks", "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent}", "COLUMNS": "150"}
    report = tmp_path / "report.ndjson"
    with bundles.served("--bundle", str(bundle), log=tmp_path / "log") as (process, url):
        address = f"{url}/openapi.json"
        schemathesis.openapi.from_url(address).validate()
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(tmp_path / "schemathesis.toml"), "run", address, "--url", url,
            "--seed", str(SEED), "--max-time", str(SECONDS), "--no-color", "--report-ndjson-path", str(report), "--suppress-health-check", "all",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **environ}, timeout=200)
        assert process.poll() is None
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-3000:]
    assert "unexpected error" not in (tmp_path / "log").read_text()
    assert all(form in report.read_text() for form in ("application/x-npy", "application/vnd.apache.arrow.stream"))
    ran = Counter(name for line in report.read_text().splitlines() for name in _checks(json.loads(line)))
    for name in (
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance", "response_headers_conformance",
        "negative_data_rejection", "positive_data_acceptance", "unsupported_method", "allow_header_conformance",
    ):  # fmt: skip
        assert ran[name] > 20, ran


def _checks(found: Any, *, inside: bool = False) -> Iterator[str]:
    """Find the names of the checks that ran, wherever the report has them."""
    if isinstance(found, list):
        for each in found:
            yield from _checks(each, inside=inside)
    elif isinstance(found, dict):
        if inside and isinstance(found.get("name"), str):
            yield found["name"]
        for key, each in found.items():
            yield from _checks(each, inside=inside or key == "checks")
