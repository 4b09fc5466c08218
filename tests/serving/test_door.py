"""The door of a worker, in process: what is asked of whom, in which dialect it is refused, and under which prefix it stands."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from kaizenml.access import operations as tokens
from kaizenml.access import owner, token
from kaizenml.errors import InvalidSettings, UsageError
from kaizenml.serving import worker
from kaizenml.serving.app import App
from kaizenml.serving.connecting.front import Front, fixed_token, front_for, needs_token
from kaizenml.settings import ServeSettings


def asked(app: App, method: str, path: str, shown: str = "", body: bytes = b"{}") -> tuple[int, dict[str, str], Any]:
    """Send one request through the application; return status, headers and the decoded answer."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")] + ([(b"authorization", shown.encode())] if shown else [])
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": ("192.0.2.7", 1)}
    asyncio.run(app(scope, receive, send))
    start, said = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, json.loads(said["body"] or b"null")


def build(ctx, **front: Any) -> App:
    return worker.build(ctx.state, ServeSettings(), front=Front(**{"auth": True} | front))


@pytest.mark.parametrize(
    ("method", "path", "where"),
    [
        ("POST", "/predict/shop", lambda said: said["error"]["message"]),
        ("POST", "/outcomes/shop", lambda said: said["error"]["message"]),
        ("GET", "/metrics", lambda said: said["error"]["message"]),
        ("GET", "/openapi.json", lambda said: said["error"]["message"]),
        ("GET", "/nowhere", lambda said: said["error"]["message"]),
        ("GET", "/v2/models/shop", lambda said: said["error"]),
        ("POST", "/v2/models/shop/infer", lambda said: said["error"]),
        ("POST", "/v2/repository/index", lambda said: said["error"]),
        ("POST", "/invocations", lambda said: (said["error_code"] == "UNAUTHORIZED") * said["message"]),
        ("POST", "/endpoints/shop/invocations", lambda said: (said["error_code"] == "UNAUTHORIZED") * said["message"]),
    ],
)
def test_without_a_token_every_path_refuses_in_the_form_of_its_dialect(ctx, method, path, where):
    app = build(ctx)
    status, headers, said = asked(app, method, path)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert where(said).startswith("a token is needed")
    status, _, said = asked(app, method, path, "Bearer kzn_00000000_guess")
    assert status == 401
    assert where(said).startswith("the token is not valid")
    assert "guess" not in str(said)


def test_health_needs_no_token_and_tells_strangers_only_whether(ctx, monkeypatch):
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/alive")
    app = build(ctx)
    for path, status in {"/health/live": 200, "/v2/health/live": 200, "/ping": 503, "/alive": 503, "/v2/health/ready": 503}.items():
        assert asked(app, "GET", path)[0] == status
    assert asked(app, "GET", "/health/ready") == (503, {"content-type": "application/json", "content-length": "15"}, {"ready": False})
    made = tokens.create(ctx, "watch", scope=["outcomes"])
    app.door.look()
    assert "endpoints" in asked(app, "GET", "/health/ready", f"Bearer {made.token}")[2]
    assert asked(app, "GET", "/health/ready", "Bearer wrong")[0] == 401


def test_scopes_and_rates_are_held_and_told(ctx):
    app = build(ctx)
    predict, outcomes = tokens.create(ctx, "p", scope=["predict"]), tokens.create(ctx, "o", scope=["outcomes"], rate=0.5)
    app.door.look()
    assert asked(app, "POST", "/predict/shop", f"Bearer {predict.token}")[0] == 404  # let in: there is no such endpoint
    status, _, said = asked(app, "POST", "/outcomes/shop", f"Bearer {predict.token}")
    assert (status, said["error"]["code"], said["error"]["values"]) == (403, "forbidden", {"scope": "outcomes", "scopes": ["predict"]})
    assert asked(app, "POST", "/v2/models/shop/infer", f"Bearer {outcomes.token}")[2]["code"] == "forbidden"
    assert asked(app, "POST", "/outcomes/shop", f"Bearer {outcomes.token}")[0] == 404
    status, headers, said = asked(app, "GET", "/v2", f"Bearer {outcomes.token}")
    assert (status, said["code"]) == (429, "rate_limited")
    assert headers["retry-after"] in ("1", "2")


def test_tokens_of_the_environment_and_of_the_owner_open_everything(ctx, monkeypatch):
    monkeypatch.setenv("KAIZEN_TOKEN", "fixed-for-a-container\n")
    owner.renew(ctx.state)
    app = build(ctx)
    for shown in ("fixed-for-a-container", owner.read(ctx.state)):
        assert [asked(app, "POST", path, f"Bearer {shown}")[0] for path in ("/predict/shop", "/outcomes/shop")] == [404, 404]
    before = owner.read(ctx.state)
    owner.renew(ctx.state)
    app.door.look()
    assert asked(app, "POST", "/predict/shop", f"Bearer {before}")[0] == 401


def test_the_last_state_holds_while_the_file_is_damaged_or_gone(ctx, caplog):
    made = tokens.create(ctx, "till")
    app = build(ctx)
    path = ctx.state / "serving" / token.FILE
    whole = path.read_bytes()

    def status() -> int:
        app.door.look()
        return asked(app, "POST", "/predict/shop", f"Bearer {made.token}")[0]

    for harm, says in ((lambda: path.write_bytes(b"{"), "cannot be read"), (path.unlink, "is gone")):
        harm()
        assert status() == 404
        assert says in app.door.problem
        assert says in asked(app, "GET", "/health/ready", f"Bearer {made.token}")[2]["problems"][-1]
    path.write_bytes(whole)
    assert status() == 404
    assert app.door.problem is None
    assert len(caplog.records) == 2
    tokens.revoke(ctx, "till")
    assert status() == 401
    path.write_bytes(b"{")
    assert asked(build(ctx), "POST", "/predict/shop", f"Bearer {made.token}")[0] == 401  # a worker that never knew better lets nobody in


def test_refusals_are_logged_once_a_second_with_the_address_and_no_token(ctx, caplog):
    app = build(ctx)
    begun = time.monotonic()
    for _ in range(50):
        asked(app, "GET", "/metrics", "Bearer hunter2-hunter2")
    lines = [record.getMessage() for record in caplog.records if "without a valid token" in record.getMessage()]
    assert 1 <= len(lines) <= 1 + time.monotonic() - begun
    assert lines[0] == "1 request(s) without a valid token, the last from 192.0.2.7"
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("auth", [False, True])
def test_under_a_prefix_every_route_answers_whether_the_proxy_takes_it_off_or_not(ctx, auth):
    app = build(ctx, auth=auth, root_path="/ml")
    shown = f"Bearer {tokens.create(ctx, 'p').token}"
    if app.door:
        app.door.look()
    paths = {"/health/live": 200, "/health/ready": 503, "/openapi.json": 200, "/ping": 503, "/v2": 200, "/v2/health/live": 200}
    for path, status in paths.items():
        assert asked(app, "GET", path, shown)[0] == asked(app, "GET", f"/ml{path}", shown)[0] == status
    for path in ("/predict/shop", "/outcomes/shop", "/v2/models/shop/infer", "/endpoints/shop/invocations"):
        one, other = (asked(app, "POST", where, shown) for where in (path, f"/ml{path}"))
        assert one == other
        assert one[0] == 404
        assert "shop" in str(one[2])
    assert asked(app, "GET", "/mlx/health/live", shown)[0] == 404
    assert asked(app, "GET", "/ml", shown)[0] == 404
    document = asked(app, "GET", "/ml/openapi.json", shown)[2]
    assert document["servers"] == [{"url": "/ml"}]
    assert ("security" in document) is auth


def test_the_openapi_document_says_what_needs_a_token(ctx):
    made = tokens.create(ctx, "ops", scope=["admin"])
    document = asked(build(ctx), "GET", "/openapi.json", f"Bearer {made.token}")[2]
    assert document["security"] == [{"token": []}]
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert document["paths"]["/health/live"]["get"]["security"] == []
    assert {"401", "403", "429"} <= set(document["paths"]["/metrics"]["get"]["responses"])


@pytest.mark.parametrize(
    ("more", "host", "asks"),
    [
        ({}, "127.0.0.1", False), ({}, "::1", False), ({}, "127.8.8.8", False), ({}, "0.0.0.0", True), ({}, "::", True), ({}, "10.0.0.5", True),
        ({"root_path": "/ml"}, "127.0.0.1", True), ({"trusted_proxies": "127.0.0.1"}, "127.0.0.1", True),
        ({"auth": "on"}, "127.0.0.1", True), ({"auth": "off"}, "0.0.0.0", False),
    ],
)  # fmt: skip
def test_tokens_are_asked_for_wherever_others_can_come_in(more, host, asks):
    assert needs_token(ServeSettings(**more), host, {}) is asks
    assert needs_token(ServeSettings(**more), host, {"KAIZEN_TOKEN": "set"}) is (more.get("auth") != "off")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"root_path": "ml"}, "no path prefix"), ({"root_path": "/a b"}, "no path prefix"), ({"root_path": "//ml"}, "no path prefix"),
        ({"root_path": "/predict"}, "begins like the server's own /predict"), ({"root_path": "/v2/x"}, "begins like the server's own /v2"),
        ({"trusted_proxies": "10.0.0.0/8, proxy"}, "'proxy', which is no address"),
        ({"tls_cert": "cert.pem"}, "has tls_cert and no tls_key"), ({"tls_key": "key.pem"}, "has tls_key and no tls_cert"),
    ],
)  # fmt: skip
def test_settings_of_the_front_that_cannot_be_are_refused(more, says, tmp_path):
    with pytest.raises(InvalidSettings, match=says) as caught:
        front_for(ServeSettings(**more), "127.0.0.1", root=tmp_path, environ={})
    assert caught.value.remedy


def test_a_trailing_slash_of_the_prefix_is_no_matter(tmp_path):
    assert front_for(ServeSettings(root_path="/ml/"), "127.0.0.1", root=tmp_path, environ={}).root_path == "/ml"


@pytest.mark.parametrize(
    ("text", "says"), [("short", "has 5 characters"), ("with blanks in between", "blanks"), ("ümläütß-and-so-on-and-on", "ASCII")]
)
def test_a_token_of_the_environment_that_is_guessed_or_cannot_be_sent_is_refused_and_not_repeated(text, says):
    with pytest.raises(UsageError, match=says) as caught:
        fixed_token({"KAIZEN_TOKEN": text})
    assert text not in f"{caught.value} {caught.value.values}"
    assert fixed_token({}) is fixed_token({"KAIZEN_TOKEN": " \n"}) is None


def test_without_tokens_everything_is_open(ctx):
    app = worker.build(ctx.state, ServeSettings(), front=Front())
    assert app.door is None
    status, _, document = asked(app, "GET", "/openapi.json")
    assert status == 200
    assert "security" not in document
