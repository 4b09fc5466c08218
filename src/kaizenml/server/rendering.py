"""Templates and the words in them: how the console writes times, numbers and references."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from kaizenml import charts
from kaizenml.clock import SystemClock, format_duration
from kaizenml.context import Context

HERE = Path(__file__).parent
CHART_COLOURS = {name: f"var(--{name})" for name in charts.LIGHT}


class Pages:
    """Renders the console's pages for one project."""

    def __init__(self, ctx: Context, form_token: str) -> None:
        self.ctx = ctx
        self.form_token = form_token
        self.environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self.environment.filters.update(
            moment=self.moment, commas=commas, percent=charts.percent, number=number, duration=format_duration, tone=tone,
            sentence=sentence, stop=stop,
        )  # fmt: skip
        self.environment.globals["svg"] = Markup
        self.environment.tests["skips"] = lambda summary: summary.startswith("skipped")  # a gate that was left out says so

    def render(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        """Fill a page. The answer carries an ETag, so that a page that looks again costs nothing when nothing changed."""
        root = request.scope.get("root_path", "")
        text = self.environment.get_template(template).render(
            root=root,
            static=lambda name: f"{root}/static/{name}?{fingerprint()}",
            path=request.url.path.removeprefix(root),
            project=self.ctx.settings.project.name,
            simulated=None if isinstance(self.ctx.clock, SystemClock) else self.ctx.clock.now().strftime("%Y-%m-%d %H:%M"),
            now=self.ctx.clock.timestamp(),
            form_token=self.form_token,
            **values,
        )
        etag = f'"{hashlib.sha256(text.encode()).hexdigest()[:20]}"'
        if status == 200 and request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"ETag": etag})
        return Response(text, status_code=status, media_type="text/html", headers={"ETag": etag})

    def moment(self, seconds: float | None) -> Markup:
        """Write a time: how long ago, and the exact time for who points at it."""
        if not seconds:
            return Markup("never")
        exact = datetime.fromtimestamp(seconds, UTC)
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            exact.isoformat(timespec="seconds"), f"{exact:%Y-%m-%d %H:%M:%S} UTC", ago(self.ctx.clock.timestamp() - seconds, exact)
        )


def ago(age_s: float, exact: datetime) -> str:
    """Say how long ago, as coarse as people would; after two months the date.

    >>> ago(7300, datetime(2026, 1, 1, tzinfo=UTC))
    '2 h ago'
    """
    if age_s < -90 or age_s > 60 * 86400:
        return f"{exact:%Y-%m-%d %H:%M}" if age_s < 0 else f"{exact:%Y-%m-%d}"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if age_s >= 1.5 * size or (unit != "d" and age_s >= size):
            return f"{round(age_s / size)} {unit} ago"
    return "just now"


def commas(value: float) -> str:
    """Write a whole number in groups of three, with thin spaces.

    >>> commas(1234567).replace(chr(0x202F), " ")
    '1 234 567'
    """
    return f"{value:,.0f}".replace(",", "\u202f")


def number(value: float | None, digits: int = 3) -> str:
    """Write a measured number with as many digits as matter."""
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return commas(value).replace("-", "−")
    if value and (abs(value) >= 10**5 or abs(value) < 10**-digits):
        return f"{value:.3g}".replace("-", "−")
    return f"{value:.{digits if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}".replace("-", "−")


def stop(text: str) -> str:
    """End with a full stop, and keep the first word as it is: it is somebody's name."""
    text = text.strip()
    return text if not text or text[-1] in ".!?…" else text + "."


def sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    text = text.strip()
    if not text:
        return ""
    # a reference such as shop@2 keeps its spelling
    first = text.split()[0]
    return stop(text if "@" in first or "_" in first else text[0].upper() + text[1:])


def tone(word: str) -> str:
    """Return the colour class that a state stands for."""
    return _TONES.get(word, "quiet")


_TONES = {
    **dict.fromkeys(("healthy", "steady", "passed", "done", "promoted", "better", "shift_harmless", "ok", "current"), "good"),
    **dict.fromkeys(("canary", "shift", "concept", "skew", "labels", "upstream", "drifting", "skipped", "withdrawn", "open"), "warn"),
    **dict.fromkeys(("killed", "refused", "failed", "worse", "broken"), "bad"),
}


@cache
def fingerprint() -> str:
    """Return a text that changes when a static file does, so that browsers may keep the files for long."""
    digest = hashlib.sha256(chart_css().encode())
    for path in sorted((HERE / "static").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


@cache
def chart_css() -> str:
    """Return the charts' CSS in the console's colours."""
    return charts.stylesheet(CHART_COLOURS)
