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
    made.filters |= {"when": when, "percent": lambda value: f"{100 * value:.0f} %"}
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
