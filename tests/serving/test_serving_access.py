"""Who may ask, and over what: servers as processes of their own, on loopback and off it, with TLS, behind proxies."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import serving_bundles as bundles

from kaizenml.access import operations as tokens
from kaizenml.access import owner
from kaizenml.cli import processes, reaching
from kaizenml.clock import SimulatedClock
from kaizenml.errors import Forbidden, RateLimited, Unauthorized, Unavailable, UsageError
from kaizenml.serving.client import Client
from kaizenml.serving.connecting import tls

pytestmark = pytest.mark.slow
GOOD = bundles.GOOD
OPENSSL = shutil.which("openssl")
REQUEST = [OPENSSL, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=ml.example"]
CA = """
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
[any]
commonName = supplied
"""


def said(process: subprocess.Popen[bytes]) -> dict:
    """Return what a server says when it listens."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the server ended with {process.wait()}"
    return json.loads(line)


@pytest.fixture
def serve(ctx):
    """Start a server of the project; it is ended with the test."""
    with ExitStack() as stack:

        def start(*arguments: str, **environ: str) -> dict:
            process = bundles.start("--state", str(ctx.state), *arguments, env=environ, log=ctx.state / "log")

            def end() -> None:
                process.terminate()
                process.wait(20)
                process.stdout.close()

            stack.callback(end)
            return said(process)

        bundles.route(ctx.state, bundles.write_bundle(ctx.state))
        yield start


def refused(ctx, *arguments: str, **environ: str) -> str:
    """Start a server that must not start; return what it says."""
    command = [sys.executable, "-m", "kaizenml.serving", "--port", "0", "--state", str(ctx.state), *arguments]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_on_loopback_nobody_is_asked_for_a_token(serve):
    document = serve()
    assert (document["auth"], document["notes"]) == (False, [])
    with Client(f"http://127.0.0.1:{document['port']}") as client:
        assert client.predict("shop", [GOOD])["release"] == "shop@1"


def test_off_loopback_a_token_is_needed_and_every_worker_hears_of_new_and_revoked_ones_within_a_second(ctx, serve):
    clock = SimulatedClock(ctx.state / "clock")  # it stands still: neither tokens nor rates may stand still with it
    document = serve("--host", "0.0.0.0", "--workers", "2", KAIZEN_CLOCK=str(clock.path))
    assert document["auth"]
    assert document["notes"] == ["clients show a token: kaizen tokens create NAME makes one; there is none yet, so only this project's owner can ask"]
    url = f"http://127.0.0.1:{document['port']}"
    with Client(url) as stranger:
        assert stranger.ready() == {"ready": True}
        with pytest.raises(Unauthorized, match="a token is needed"):
            stranger.predict("shop", [GOOD])
    made = tokens.create(ctx, "shop", scope=["predict"])
    made_at = time.monotonic()
    with ExitStack() as stack:
        # many connections, so that both workers have some
        clients = [stack.enter_context(Client(url, token=made.token)) for _ in range(12)]
        while sum(_lets_in(client) for client in clients) < 12:
            assert time.monotonic() < made_at + 1
            time.sleep(0.05)
        with pytest.raises(Forbidden):
            clients[0].outcomes("shop", [{"id": "1" * 32, "value": True}])
        shutil.move(ctx.state / "catalog.db", ctx.state / "away.db")  # with the catalog away the last state holds
        time.sleep(0.5)
        assert all(_lets_in(client) for client in clients)
        shutil.move(ctx.state / "away.db", ctx.state / "catalog.db")
        tokens.revoke(ctx, "shop")
        revoked_at = time.monotonic()
        while any(_lets_in(client) for client in clients):
            assert time.monotonic() < revoked_at + 1
            time.sleep(0.05)
        print(f"revoked for all after {time.monotonic() - revoked_at:.2f} s")
    log = (ctx.state / "log").read_text()
    assert made.token not in log
    assert "without a valid token, the last from 127.0.0.1" in log


def _lets_in(client: Client) -> bool:
    try:
        client.predict("shop", [GOOD])
    except Unauthorized:
        return False
    return True


def test_a_rate_holds_over_all_workers_however_connections_are_spread(ctx, serve):
    made = tokens.create(ctx, "shop", rate=40)
    url = f"http://127.0.0.1:{serve('--host', '0.0.0.0', '--workers', '2')['port']}"
    for connections in (1, 8):
        time.sleep(1.1)  # the bucket is full again
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(url, token=made.token)) for _ in range(connections)]
            begun, answered, waits = time.monotonic(), 0, set()
            while time.monotonic() < begun + 1:
                for client in clients:
                    try:
                        client.predict("shop", [GOOD])
                        answered += 1
                    except RateLimited as error:
                        waits.add(error.values["retry_after_s"])
                time.sleep(0.004)
            took = time.monotonic() - begun
        print(f"{connections} connections: {answered} answered in {took:.2f} s at a rate of 40")
        assert 40 <= answered <= 41 + 40 * took
        assert waits == {1}


def test_a_secret_stands_in_no_file_and_in_no_command_line(ctx, serve):
    made = tokens.create(ctx, "shop")
    fixed = "a-fixed-token-for-a-container"
    document = serve("--host", "0.0.0.0", KAIZEN_TOKEN=fixed)
    assert document["notes"] == ["clients show a token: the one in KAIZEN_TOKEN, or one of their own: kaizen tokens create NAME"]
    url = f"http://127.0.0.1:{document['port']}"
    for shown in (made.token, fixed, "wrong-" + fixed):
        with Client(url, token=shown) as client:
            if _lets_in(client):
                with pytest.raises(Exception, match="price"):
                    client.predict("shop", [{**GOOD, "price": "far"}])
    secrets = [made.token.encode()[13:], fixed.encode()]
    for path in ctx.state.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            assert not [secret for secret in secrets if secret in raw], path
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            raw = path.read_bytes()
        except OSError:
            continue
        assert not [secret for secret in secrets if secret in raw]


def test_a_bundle_is_held_to_the_same_rule(ctx, tmp_path):
    bundles.write_bundle(ctx.state)
    bundle = str(ctx.state / "releases" / "shop" / "1")
    fixed = {"KAIZEN_TOKEN": "a-fixed-token-for-a-container"}
    for host, environ, auth in (("127.0.0.1", {}, False), ("127.0.0.1", fixed, True), ("0.0.0.0", fixed, True)):
        process = bundles.start("--bundle", bundle, "--host", host, env=environ, log=tmp_path / "log")
        try:
            document = said(process)
            assert document["auth"] is auth
            with Client(f"http://127.0.0.1:{document['port']}") as stranger:
                assert _lets(stranger) is not auth
            with Client(f"http://127.0.0.1:{document['port']}", token="a-fixed-token-for-a-container") as client:
                assert _lets(client)
        finally:
            process.terminate()
            process.communicate(timeout=20)


def _lets(client: Client) -> bool:
    try:
        client.predict("release", [GOOD])
    except Unauthorized:
        return False
    return True


def test_the_owner_asks_without_a_token_on_the_same_machine_and_nobody_elsewhere_gets_it(ctx, serve, monkeypatch):
    document = serve("--host", "0.0.0.0")
    url = f"http://127.0.0.1:{document['port']}"
    command = [sys.executable, "-m", "kaizenml.cli", "predict", "shop", json.dumps(GOOD), "--json", "--project", str(ctx.root)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KAIZEN_")}

    def predict(*more: str, **environ: str) -> tuple[int, dict]:
        done = subprocess.run([*command, *more], env=clean | environ, capture_output=True, text=True, timeout=60)
        return done.returncode, json.loads(done.stdout)

    code, answer = predict("--url", url)
    assert (code, answer["error"]["code"]) == (1, "unauthorized")
    assert answer["error"]["remedy"].startswith("--token @FILE, or set KAIZEN_TOKEN")
    processes.write_address(ctx.state, {"predict": url, "console": None, "pid": os.getpid()})  # as `kaizen serve` notes it
    assert predict()[1]["release"] == "shop@1"
    made = tokens.create(ctx, "far").token
    (ctx.root / "token.txt").write_text(f"{made}\n")
    time.sleep(0.5)
    assert predict("--url", url, KAIZEN_TOKEN=made)[0] == 0
    assert predict("--url", url, "--token", f"@{ctx.root / 'token.txt'}")[0] == 0
    assert predict("--url", url, "--token", "wrong")[1]["error"]["code"] == "unauthorized"
    with reaching.client(ctx.root, url, None) as elsewhere:
        assert owner.read(ctx.state) not in str(elsewhere._headers)


def test_forwarded_addresses_are_believed_only_where_told(ctx, serve):
    for trusted, seen in (("", "127.0.0.1"), ("127.0.0.0/8", "203.0.113.9")):
        document = serve(KAIZEN_SERVE_AUTH="on", KAIZEN_SERVE_TRUSTED_PROXIES=trusted, FORWARDED_ALLOW_IPS="*")
        connection = http.client.HTTPConnection("127.0.0.1", document["port"], timeout=10)
        connection.request("GET", "/metrics", headers={"x-forwarded-for": "203.0.113.9"})
        assert connection.getresponse().status == 401
        connection.close()
        assert (ctx.state / "log").read_text().splitlines()[-1].endswith(f"the last from {seen}")


@pytest.mark.skipif(OPENSSL is None, reason="there is no openssl here to make certificates with")
class TestTls:
    def make(self, folder: Path, name: str, days: int = 90) -> None:
        """Make a self-signed certificate and its key."""
        command = [*REQUEST, "-x509", "-days", str(days), "-addext", "subjectAltName=DNS:localhost", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    def make_dated(self, folder: Path, name: str, first: int, last: int) -> None:
        """Make one that is valid from the year ``first`` to the year ``last``."""
        (folder / "ca.cnf").write_text(CA)
        (folder / "index.txt").write_text("")
        (folder / "serial").write_text("01")
        dates = ["-startdate", f"{first}0101000000Z", "-enddate", f"{last}0101000000Z"]
        for command in (
            [*REQUEST, "-new", "-keyout", f"{name}.key", "-out", "request"],
            [OPENSSL, "ca", "-batch", "-selfsign", "-config", "ca.cnf", "-keyfile", f"{name}.key", "-in", "request", "-out", f"{name}.pem", *dates],
        ):
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

    def settings(self, ctx, cert: str = "good.pem", key: str = "good.key") -> None:
        (ctx.root / "kaizen.toml").write_text(f'{bundles.TOML}\n[serve]\ntls_cert = "{cert}"\ntls_key = "{key}"\n')

    def test_predictions_go_over_tls_and_own_commands_believe_the_own_certificate(self, ctx, serve, monkeypatch):
        self.make(ctx.root, "good")
        self.settings(ctx)
        document = serve("--workers", "2")
        assert (document["tls"], document["notes"]) == (True, [])
        url = f"https://127.0.0.1:{document['port']}"
        processes.write_address(ctx.state, {"predict": url, "console": None, "pid": os.getpid()})
        with reaching.client(ctx.root, None, None) as client:  # under a name that is not in the certificate
            assert client.predict("shop", [GOOD])["release"] == "shop@1"
            assert client.predict("shop", [GOOD])["release"] == "shop@1"
        with Client(url) as stranger, pytest.raises(Unavailable, match="is not believed") as caught:
            stranger.ready()
        assert "SSL_CERT_FILE" in caught.value.remedy
        monkeypatch.setenv("SSL_CERT_FILE", str(ctx.root / "good.pem"))
        with Client(url.replace("127.0.0.1", "localhost")) as client:
            assert client.ready()["ready"]
        with Client(url.replace("https", "http")) as plain, pytest.raises(Unavailable):
            plain.ready()

    def test_files_that_cannot_be_served_with_are_told_before_anybody_asks(self, ctx):
        self.make(ctx.root, "good")
        self.make(ctx.root, "other")
        self.make_dated(ctx.root, "old", 2020, 2021)
        self.make_dated(ctx.root, "early", 2098, 2099)
        (ctx.root / "words.pem").write_text("no certificate at all")
        subprocess.run(
            [OPENSSL, "pkey", "-in", "good.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key"], cwd=ctx.root, check=True
        )
        for cert, key, says in (
            ("none.pem", "good.key", "there is no file"), ("good.pem", "none.key", "none.key (tls_key)"),
            ("words.pem", "good.key", "holds no certificate in PEM form"), ("good.pem", "good.pem", "holds no private key in PEM form"),
            (".", "good.key", "cannot be read"), ("good.pem", "other.key", "is not of the certificate"),
            ("good.pem", "locked.key", "is encrypted"), ("old.pem", "old.key", "certificate has expired"),
            ("early.pem", "early.key", "certificate is not yet valid"),
        ):  # fmt: skip
            with pytest.raises(UsageError) as caught:
                tls.check(ctx.root / cert, ctx.root / key)
            assert says in caught.value.what
            assert caught.value.remedy
        self.settings(ctx, "old.pem", "old.key")
        assert "certificate has expired" in refused(ctx)

    def test_a_key_that_everybody_may_read_and_a_certificate_near_its_end_are_told(self, ctx, serve):
        self.make(ctx.root, "good", 5)
        (ctx.root / "good.key").chmod(0o644)
        self.settings(ctx)
        notes = serve()["notes"]
        assert notes[0] == f"everybody on this machine may read the TLS key {ctx.root / 'good.key'}; chmod 600 {ctx.root / 'good.key'}"
        assert notes[1] == f"the TLS certificate {ctx.root / 'good.pem'} ends in 5 days"


def test_settings_that_cannot_be_end_the_start_with_what_to_mend(ctx):
    assert "begins like the server's own /v2" in refused(ctx, KAIZEN_SERVE_ROOT_PATH="/v2")
    told = refused(ctx, "--host", "0.0.0.0", KAIZEN_TOKEN="guess-me")
    assert "KAIZEN_TOKEN has 8 characters" in told
    assert "guess-me" not in told
