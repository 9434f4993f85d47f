"""How a page is made from its template."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from pacs_node import __version__


def environment() -> Environment:
    """Jinja with our templates; everything is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"when": when, "person": person, "duration": duration, "iso": iso}
    made.filters |= {"without": lambda text, end: text.removesuffix(end).strip().replace(" %", "\u00a0%")}
    made.filters |= {"percent": lambda value: f"{100 * value:.0f} %"}
    made.globals["version"] = __version__
    return made


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page, or a part of one, with the user who asks for it as `user`; None where nobody is logged in."""
    templates: Environment = request.app.state.templates
    user = getattr(request.state, "user", None)
    page = templates.get_template(template).render(user=user, path=request.url.path, **context)
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
    """A PatientName for people (PS3.5 6.2.1): its components, and its writings one after the other."""
    return " ".join(name.replace("^", " ").replace("=", " ").split())


def duration(seconds: float) -> str:
    """How long something took, in two figures at most."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    for unit, size, limit in (("s", 1, 99.5), ("min", 60, 99.5 * 60), ("h", 3600, 47.5 * 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
