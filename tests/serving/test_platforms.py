"""Inside the containers of SageMaker and Vertex: their variables say the port, and where requests come in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import serving_bundles as bundles

from kaizenml import settings
from kaizenml.errors import InvalidSettings

TOML = '[project]\nname = "shop"\n'


def loaded(tmp_path: Path, text: str, **environ: str):
    (tmp_path / "kaizen.toml").write_text(TOML + text, encoding="utf-8")
    return settings.load(tmp_path, environ)


@pytest.mark.parametrize("name", ["AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT"])
def test_a_platforms_port_is_taken_and_its_agent_can_reach_it(tmp_path, name) -> None:
    found, sources = loaded(tmp_path, "[serve]\nport = 9000\n", **{name: "8123"})
    assert (found.serve.host, found.serve.port) == ("0.0.0.0", 8123)
    assert sources["serve.host"] == sources["serve.port"] == name
    alone = settings.alone(0, {name: "8123", "KAIZEN_SERVE_AUTH": "off"}).serve
    assert (alone.host, alone.port, alone.auth) == ("0.0.0.0", 8123, "off")


def test_a_host_that_was_chosen_stays_and_our_own_variables_go_before(tmp_path) -> None:
    found, _ = loaded(tmp_path, '[serve]\nhost = "127.0.0.1"\n', AIP_HTTP_PORT="8123")
    assert (found.serve.host, found.serve.port) == ("127.0.0.1", 8123)
    found, sources = loaded(tmp_path, "", AIP_HTTP_PORT="8123", KAIZEN_SERVE_PORT="8200", KAIZEN_SERVE_HOST="::1")
    assert (found.serve.host, found.serve.port, sources["serve.port"]) == ("::1", 8200, "KAIZEN_SERVE_PORT")


def test_without_a_platform_nothing_changes_and_a_wrong_port_is_named(tmp_path) -> None:
    assert loaded(tmp_path, "", AIP_HTTP_PORT="")[0].serve == settings.ServeSettings()
    assert settings.alone(0, {}).serve == settings.ServeSettings(port=0)
    with pytest.raises(InvalidSettings, match="AIP_HTTP_PORT"):
        loaded(tmp_path, "", AIP_HTTP_PORT="many")
    with pytest.raises(InvalidSettings, match="SAGEMAKER_BIND_TO_PORT"):
        settings.alone(0, {"SAGEMAKER_BIND_TO_PORT": "many"})


@pytest.mark.slow
def test_a_bundle_answers_vertex_at_its_port_and_routes(tmp_path) -> None:
    state = tmp_path / ".kaizen"
    route = bundles.write_bundle(state)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {
        **os.environ, "AIP_HTTP_PORT": str(port), "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2", "AIP_STORAGE_URI": "gs://nowhere",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict", "KAIZEN_SERVE_HOST": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "-m", "kaizenml.serving", "--bundle", str(state / route.bundle)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            said = json.loads(process.stdout.readline())
            assert (said["host"], said["port"]) == ("127.0.0.1", port)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{environ['AIP_HEALTH_ROUTE']}") as answer:
                assert answer.status == 200
            body = json.dumps({"instances": [bundles.GOOD], "parameters": {"unit": "u"}}).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}{environ['AIP_PREDICT_ROUTE']}", body, {"content-type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                assert len(json.load(answer)["predictions"]) == 1
        finally:
            process.terminate()
