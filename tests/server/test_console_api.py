"""The control plane over a real socket: every operation, its errors, and who may ask."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from console_shop import Shop, start, stop

from kaizenml import events, operations
from kaizenml.access import operations as tokens
from kaizenml.context import Context
from kaizenml.project import open_project

Answer = tuple[int, dict[str, str], Any]


def ask(base: str, path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
    """Send one request as it is told; JSON bodies are encoded, text bodies are sent as they are."""
    connection = http.client.HTTPConnection(urlsplit(base).hostname or "", urlsplit(base).port or 80, timeout=20)
    raw = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None and "Content-Type" not in named:
        named["Content-Type"] = "application/json"
    connection.request(method, path, raw, named)
    response = connection.getresponse()
    text = response.read().decode()
    found = {name.lower(): value for name, value in response.getheaders()}
    connection.close()
    return response.status, found, json.loads(text) if found.get("content-type", "").startswith("application/json") else text


def form(base: str, path: str) -> str:
    """Return the form token that a confirmation page carries."""
    _, _, page = ask(base, path)
    return str(page).split('name="form_token" value="')[1].split('"')[0]


def test_reading_operations_answer_get_and_post_alike(shop: Shop, console: str) -> None:
    status, _, shown = ask(console, "/api/rollouts/show?endpoint=shop")
    assert status == 200
    assert shown == ask(console, "/api/rollouts/show", "POST", {"endpoint": "shop"})[2]
    assert shown == operations.find("rollouts", "show").call(shop.ctx, {"endpoint": "shop"})


def test_the_index_lists_every_operation(console: str) -> None:
    names = {f"{one['noun']}.{one['verb']}" for one in ask(console, "/api")[2]["operations"]}
    assert names == set(operations.all())
    assert {"rollouts.promote", "data.add", "loop.tick"} <= names


def test_errors_keep_their_code_values_and_remedy_on_the_wire(console: str) -> None:
    status, _, answer = ask(console, "/api/rollouts/show?endpoint=shpo")
    assert status == 404
    assert answer["error"]["code"] == "not_found"
    assert "shop" in answer["error"]["message"]
    assert answer["error"]["remedy"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/rollouts/kill?endpoint=shop", None, 400),  # a link must not kill
        ("POST", "/api/rollouts/show", "{", 400),
        ("POST", "/api/rollouts/show", "[1]", 400),
        ("POST", "/api/rollouts/show", "[" * 100_000, 400),
        ("POST", "/api/rollouts/show", {"endpiont": "shop"}, 400),
        ("POST", "/api/rollouts/show", {"endpoint": 3}, 400),
        ("POST", "/api/rollouts/shwo", {}, 404),
        ("POST", "/api/nothing/show", {}, 404),
        ("DELETE", "/api/rollouts/show", None, 405),
        ("GET", "/nowhere", None, 404),
        ("GET", "/endpoints/nobody", None, 404),
        ("GET", "/endpoints/shop/explode", None, 404),
        ("GET", "/releases/shop@99", None, 404),
        ("GET", "/runs/never", None, 404),
        ("GET", "/data/..%2f..%2fkaizen.toml", None, 404),
        ("GET", "/static/../app.py", None, 404),
        ("GET", "/static/%2e%2e/app.py", None, 404),
        ("GET", "/audit?before=x&kind=%00&subject=%27", None, 200),
    ],
)
def test_bad_requests_are_met_with_what_is_wrong(console: str, method: str, path: str, body: Any, status: int) -> None:
    found, _, answer = ask(console, path, method, body)
    assert found == status, answer
    if path.startswith("/api"):
        assert answer["error"]["message"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(console: str) -> None:
    assert ask(console, "/api/rollouts/show", "POST", Content_Length="9000000000")[0] == 413
    assert ask(console, "/endpoints/shop/kill", "POST", "x" * 70_000, Content_Type="application/x-www-form-urlencoded")[0] == 413


def test_pages_carry_protecting_headers_and_no_inline_script(console: str) -> None:
    for path in ("/", "/endpoints/shop", "/models", "/audit", "/nowhere", "/static/app.js"):
        _, headers, body = ask(console, path)
        assert headers["content-security-policy"].startswith("default-src 'self'"), path
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        if path != "/static/app.js":
            assert body.count("<script") == body.count('<script type="module" src="/static/app.js?')
            assert " style=" not in body
            assert " onclick=" not in body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example:80"}, 403),  # DNS rebinding
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
    ],
)
def test_only_loopback_names_are_answered_on_loopback(console: str, headers: dict[str, str], status: int) -> None:
    assert ask(console, "/health", **headers)[0] == status


def test_other_sites_cannot_change_anything(shop: Shop, console: str) -> None:
    path, plain = "/endpoints/shop/kill", {"Content_Type": "application/x-www-form-urlencoded"}
    token = form(console, path)
    body = urlencode({"form_token": token, "why": "forged"})
    assert ask(console, path, "POST", body, Origin="http://evil.example", **plain)[0] == 403
    assert ask(console, path, "POST", body, Origin="null", **plain)[0] == 403
    assert ask(console, path, "POST", body, Sec_Fetch_Site="cross-site", **plain)[0] == 403
    assert ask(console, path, "POST", urlencode({"why": "forged"}), **plain)[0] == 403
    assert ask(console, "/api/rollouts/kill", "POST", '{"endpoint": "shop"}', Content_Type="text/plain")[0] == 400
    assert ask(console, "/api/rollouts/kill", "POST", {"endpoint": "shop"}, Origin="http://evil.example")[0] == 403
    with shop.ctx.catalog.read() as connection:
        assert not [event for event in events.read(connection, kind="rollouts.killed") if event.why == "forged"]


def test_a_form_that_saw_an_older_state_changes_nothing(shop: Shop, console: str) -> None:
    path = "/endpoints/shop/rollback"
    body = urlencode({"form_token": form(console, path), "revision": "1", "release": "shop@1"})
    status, _, page = ask(console, path, "POST", body, Content_Type="application/x-www-form-urlencoded")
    assert status == 409
    assert "somebody changed it" in page
    assert operations.find("rollouts", "show").call(shop.ctx, {"endpoint": "shop"})["champion"] == "shop@2"


def test_a_page_that_did_not_change_costs_no_body(console: str) -> None:
    _, headers, _ = ask(console, "/models")
    assert ask(console, "/models", If_None_Match=headers["etag"])[0] == 304


@pytest.fixture
def guarded(shop: Shop) -> Iterator[str]:
    """The console on all addresses, with a token, behind a prefix."""
    process, ready = start(
        "kaizenml.server", "--project", str(shop.ctx.root), "--host", "0.0.0.0", "--port", "0", "--root-path", "/kaizen",
        clock=shop.clock, KAIZEN_TOKEN="s3cret-s3cret",
    )  # fmt: skip
    yield f"http://127.0.0.1:{ready['port']}"
    stop(process)


@pytest.mark.slow
def test_anything_but_loopback_asks_for_the_token_and_works_under_a_prefix(guarded: str) -> None:
    status, headers, _ = ask(guarded, "/")
    assert (status, headers["location"]) == (303, "/kaizen/login")
    assert ask(guarded, "/api/rollouts/list")[0] == 401
    assert ask(guarded, "/api/rollouts/list", Authorization="Bearer wrong")[0] == 401
    assert ask(guarded, "/api/rollouts/list", Authorization="Bearer s3cret-s3cret")[0] == 200
    wrong = ask(guarded, "/login", "POST", "token=nope", Content_Type="application/x-www-form-urlencoded")
    assert wrong[0] == 401
    status, headers, _ = ask(guarded, "/login", "POST", "token=s3cret-s3cret", Content_Type="application/x-www-form-urlencoded")
    assert (status, headers["location"]) == (303, "/kaizen/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert "s3cret" not in cookie
    status, _, page = ask(guarded, "/", Cookie=cookie.split(";")[0])
    assert status == 200
    assert 'href="/kaizen/models"' in page
    assert 'src="/kaizen/static/app.js' in page


@pytest.mark.slow
def test_an_api_token_for_admin_opens_the_control_api_and_its_name_stands_in_the_record(tmp_path: Path) -> None:
    (tmp_path / "kaizen.toml").write_text('[project]\nname = "empty"\n')
    ctx = open_project(tmp_path, actor="maria")
    admin = tokens.create(ctx, "ci", scope=["admin"], rate=5)
    predict = tokens.create(ctx, "till", scope=["predict"])
    process, ready = start(
        "kaizenml.server", "--project", str(ctx.root), "--host", "0.0.0.0", "--port", "0", KAIZEN_TOKEN="s3cret-s3cret"
    )
    try:
        base = f"http://127.0.0.1:{ready['port']}"
        status, headers, made = ask(base, "/api/tokens/create", "POST", {"name": "new"}, Authorization=f"Bearer {admin.token}")
        assert (status, headers["cache-control"]) == (200, "no-store")
        status, _, refusal = ask(base, "/api/tokens/list", Authorization=f"Bearer {predict.token}")
        assert (status, refusal["error"]["code"]) == (403, "forbidden")
        assert ask(base, "/api/tokens/revoke", "POST", {"name": "ci"}, Authorization="Bearer s3cret-s3cret")[0] == 200
        status, headers, refusal = ask(base, "/api/tokens/list", Authorization=f"Bearer {admin.token}")
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        listed = ask(base, "/api/tokens/list", Authorization="Bearer s3cret-s3cret")[2]
        assert [(one["name"], one["state"]) for one in listed] == [("ci", "revoked"), ("new", "valid"), ("till", "valid")]
        assert made["token"] not in json.dumps(listed)
    finally:
        stop(process)
    with ctx.catalog.read() as connection:
        by = {event.subject: event.actor for event in events.read(connection, kind="tokens.created")}
    assert by["new"] == "ci"
    ctx.online.close()
    ctx.catalog.close()


def _refused(ctx: Context, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "kaizenml.server", "--project", str(ctx.root), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.slow
def test_the_console_does_not_start_open_to_the_world(empty_project: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAIZEN_TOKEN", raising=False)
    for arguments in (["--host", "0.0.0.0"], ["--public-host", "kaizen.example"]):
        code, said = _refused(empty_project, "--port", "0", *arguments)
        assert code == 2
        assert "KAIZEN_TOKEN" in said


@pytest.mark.slow
def test_a_taken_port_is_named_with_the_way_out(empty_project: Context) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = _refused(empty_project, "--port", str(port))
    assert code == 1
    assert f"port {port} is taken" in said
    assert "try: kaizen console --port" in said


@pytest.mark.slow
def test_an_empty_project_says_how_to_begin_on_every_page(empty_project: Context) -> None:
    process, ready = start("kaizenml.server", "--project", str(empty_project.root), "--port", "0")
    try:
        base = f"http://127.0.0.1:{ready['port']}"
        for path, words in {"/": "kaizen up", "/models": "kaizen train", "/data": "kaizen data add", "/audit": "Nothing has happened yet"}.items():
            status, _, page = ask(base, path)
            assert status == 200
            assert words in page, path
    finally:
        stop(process)
