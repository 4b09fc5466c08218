"""The page ``/docs``: what ``/openapi.json`` says, for people. One string, rendered here; no script, nothing fetched from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

import msgspec

from kaizenml.features.signature import Field
from kaizenml.serving.paths import template
from kaizenml.serving.routing import LoadedEndpoint, LoadedRoute, Routing
from kaizenml.serving.telling.openapi_parts import STATUSES, example_value

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5a6375; --paper: #fff; --panel: #f4f5f8; --line: #d9dde5; --accent: #2b5fb3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ee; --soft: #9aa4b5; --paper: #14171d; --panel: #1d222b; --line: #323a47; --accent: #8ab4f8; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .25rem 0 .75rem; } .soft { color: var(--soft); } a { color: var(--accent); }
code, pre { font: .875rem/1.5 ui-monospace, monospace; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .75rem 1rem; overflow-x: auto; margin: .5rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: .875rem; }
details { margin: .5rem 0; } summary { cursor: pointer; } nav a { margin-right: 1rem; }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_NOTHING = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = (
    (b"content-security-policy", f"default-src 'self'; style-src 'sha256-{_HASH}'; {_NOTHING}".encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_KINDS = {
    "number": "number", "integer": "whole number", "boolean": "true or false", "category": "text",
    "timestamp": "time",
}  # fmt: skip
_SHOWN_EXAMPLES = 5


def page(routing: Routing, document: dict[str, Any], address: str) -> str:
    """Return the page.

    Parameters
    ----------
    routing : what is served.
    document : its OpenAPI document.
    address : where the reader reached this server, for the commands, for example ``http://127.0.0.1:8080``.
    """
    names = sorted(routing.endpoints)
    links = " ".join(f'<a href="#endpoint-{escape(name)}">{escape(name)}</a>' for name in names)
    endpoints = "".join(_endpoint(name, routing.endpoints[name], document, address) for name in names)
    nothing = "" if names else "<p>Nothing is deployed yet. <code>kaizen deploy</code> changes that.</p>"
    down = "".join(f"<p><strong>{escape(name)}</strong> cannot answer: {escape(why)}</p>" for name, why in sorted(routing.unavailable.items()))
    others = "".join(_path(path, item) for path, item in document["paths"].items() if not _of_endpoint(path, names))
    statuses = "".join(f"<tr><td>{status}</td><td>{escape(text)}</td></tr>" for status, text in STATUSES.items())
    problem = _json(document["components"]["responses"]["422"]["content"]["application/json"]["example"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Endpoints</title>
<style>{_STYLE}</style></head>
<body><main>
<h1>{len(names)} endpoint{"" if len(names) == 1 else "s"}</h1>
<p class="soft">Made from the signatures of what answers now (revision {routing.revision}). For programs: <a href="openapi.json">openapi.json</a>.</p>
<nav>{links} <a href="#server">server</a> <a href="#errors">errors</a></nav>
{nothing}{down}{endpoints}
<h2 id="server">The server</h2>{_table(("path", "what it tells"), others)}
<h2 id="errors">Errors</h2>
<p>Every error says what happened, the values seen, and what to do about it. The other protocols' errors say the same in their own form.</p>
<pre>{escape(problem)}</pre>{_table(("status", "when"), statuses)}
</main></body></html>
"""


def _endpoint(name: str, endpoint: LoadedEndpoint, document: dict[str, Any], address: str) -> str:
    champion = endpoint.arms[0]
    signature = champion.signature
    classes = f", one of {', '.join(_shown(one) for one in signature.classes)}" if signature.classes else ", a number"
    killed = f"<p><strong>Killed</strong>: {escape(endpoint.route.killed)}. It answers naively.</p>" if endpoint.route.killed is not None else ""
    arms = ", ".join(f"{escape(arm.route.arm)} {escape(arm.route.release)}" for arm in endpoint.arms)
    predict = document["paths"][f"/predict/{name}"]["post"]
    outcomes = document["paths"][f"/outcomes/{name}"]["post"]
    mine = [(path, item) for path, item in document["paths"].items() if _of_endpoint(path, [name])]
    others = "".join(_path(path, item) for path, item in mine if item not in ({"post": predict}, {"post": outcomes}))
    tensors = document["paths"][f"/v2/models/{name}/infer"]["post"]
    return f"""
<h2 id="endpoint-{escape(name)}">{escape(name)}</h2>
<p>Predicts <code>{escape(signature.target)}</code>{classes}. <span class="soft">Answered by {arms}.</span></p>{killed}
<h3>Ask</h3>
<pre>{escape(_curl(f"{address}/predict/{name}", _example(predict), document))}</pre>
<details><summary>The answer</summary><pre>{escape(_json(predict["responses"]["200"]["content"]["application/json"]["example"]))}</pre></details>
<h3>Inputs</h3>
{_table(("name", "type", "seen in training", "examples"), "".join(_inputs(champion)))}
<p class="soft">What is not known is sent as null. A time is ISO 8601, or seconds since 1970. Values beyond what was seen are answered as well.</p>
<h3>Tell what became of it</h3>
<pre>{escape(_curl(f"{address}/outcomes/{name}", _example(outcomes), document))}</pre>
<details><summary>In other protocols</summary>{_table(("path", "what it does"), others)}
<pre>{escape(_curl(f"{address}/v2/models/{name}/infer", _example(tensors), document))}</pre></details>
"""


def _inputs(champion: LoadedRoute) -> Iterator[str]:
    """A row of the table for each input, then for each entity by which a view is read."""
    signature = champion.signature
    for field in signature.fields:
        source = f'<br><span class="soft">looked up in {escape(field.view)} when absent</span>' if field.view else ""
        examples = ", ".join(_shown(value) for value in (field.examples or [example_value(field)])[:_SHOWN_EXAMPLES])
        yield _row(f"<code>{escape(field.name)}</code>{source}", _KINDS[field.kind], _seen(field), examples)
    known = {field.name for field in signature.fields}
    for view in signature.views:
        found = ", ".join(f"<code>{escape(name)}</code>" for name in view.features)
        for key in view.entities:
            if key not in known:
                yield _row(f"<code>{escape(key)}</code>", "key", f"finds {found}", "")


def _seen(field: Field) -> str:
    missing = "may be missing" if field.nullable else "never missing"
    if field.minimum is None or field.maximum is None:
        return missing
    if field.kind == "timestamp":
        shown = [str(value) for value in field.examples]
        return f"{escape(shown[0])} to {escape(shown[-1])}, {missing}" if shown else missing
    return f"{field.minimum:g} to {field.maximum:g}, {missing}"


def _of_endpoint(path: str, names: list[str]) -> bool:
    return template(path)[1] in names


def _path(path: str, item: dict[str, Any]) -> str:
    ((method, found),) = item.items()
    shown = f"<code>{method.upper()} {escape(path)}</code>"
    if method == "get" and "{" not in path:
        shown = f'<a href="{escape(path[1:])}">{shown}</a>'
    return _row(shown, escape(found["summary"]))


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _table(heads: tuple[str, ...], rows: str) -> str:
    return f'<div class="wide"><table><thead><tr>{"".join(f"<th>{head}</th>" for head in heads)}</tr></thead><tbody>{rows}</tbody></table></div>'


def _curl(url: str, body: Any, document: dict[str, Any]) -> str:
    token = "  -H 'authorization: Bearer TOKEN' \\\n" if "security" in document else ""
    text = msgspec.json.encode(body).decode().replace("'", "'\\''")  # as a shell wants it
    return f"curl -s {url} \\\n{token}  -H 'content-type: application/json' \\\n  -d '{text}'"


def _example(operation: dict[str, Any]) -> Any:
    return operation["requestBody"]["content"]["application/json"]["example"]


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _shown(value: Any) -> str:
    return f"<code>{escape(msgspec.json.encode(value).decode())}</code>"
