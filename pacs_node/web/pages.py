"""Renders pages from their templates."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from pacs_node import __version__


@cache
def environment() -> Environment:
    """The Jinja environment of the templates; everything is escaped, and an undefined name is an error."""
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {"when": when, "person": person, "duration": duration, "iso": iso}
    jinja.filters |= {"without": lambda text, end: text.removesuffix(end).strip().replace(" %", "\u00a0%")}
    jinja.filters |= {"percent": lambda value: f"{100 * value:.0f} %"}
    jinja.globals["version"] = __version__
    return jinja


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page, or a part of one; its `user` is None if nobody is logged in."""
    user = getattr(request.state, "user", None)
    page = environment().get_template(template).render(user=user, path=request.url.path, **context)
    return HTMLResponse(page, status)


def when(seconds: float | None) -> str:
    """A time in local time, to the second; empty for None."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(seconds: float) -> str:
    """A time for machines (RFC 3339)."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def person(name: str) -> str:
    """A PatientName for people (PS3.5 6.2.1): its components and representations separated by spaces."""
    return " ".join(name.replace("^", " ").replace("=", " ").split())


def duration(seconds: float) -> str:
    """A duration with at most two digits."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    for unit, size, limit in (("s", 1, 99.5), ("min", 60, 99.5 * 60), ("h", 3600, 47.5 * 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
