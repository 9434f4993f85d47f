"""The web application: its state, its pages and what becomes of an error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from pacs_node.config import Settings
from pacs_node.errors import PacsNodeError
from pacs_node.files import FileStore
from pacs_node.journal.database import Database
from pacs_node.web import health, images, login, model, study, system, tryout, worklist
from pacs_node.web.access import Guard, Limits, Shown, keep_private
from pacs_node.web.alarms import Alarms
from pacs_node.web.pages import environment, render
from pacs_node.web.users import Users

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What the pages want done that other rooms do."""

    display: Callable[[str], NDArray[np.float32]]
    """A stored image by its sha256, shape (rows, columns), 0..1, as displayed. Raises InputError."""
    try_out: Callable[[list[Path], Path], str]
    """Analyze files, results go to a folder; returns what is to be told. Raises InputError."""


def create(
    settings: Settings, database: Database, files: FileStore, services: Services, stop: threading.Event
) -> Starlette:
    """The application; `stop` ends the streams that otherwise go on for ever."""
    static = StaticFiles(directory=Path(__file__).parent / "static")
    app = Starlette(
        routes=[
            *login.routes,
            *health.routes,
            *worklist.routes,
            *study.routes,
            *images.routes,
            *tryout.routes,
            *model.routes,
            *system.routes,
            Mount("/static", static),
        ],
        middleware=[Middleware(Guard)],
        exception_handlers={HTTPException: _refused, PacsNodeError: _unable, Exception: _failed},
    )
    app.state.settings, app.state.database, app.state.files = settings, database, files
    app.state.services, app.state.stop = services, stop
    app.state.users, app.state.limits, app.state.shown = Users(settings.web.users), Limits(), Shown()
    app.state.alarms = Alarms(settings, database, files)
    app.state.templates = environment()
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    page = render(request, "error.html", error.status_code, told=error.detail)
    page.headers.update(error.headers or {})
    return page


async def _unable(request: Request, error: Exception) -> Response:
    """The journal or the file of users cannot be read: in full in the log, as it names paths and hosts."""
    _log.error("page_failed", path=request.url.path, why=str(error))
    return render(request, "error.html", 503, told="The node cannot answer this now; its log says why.")


async def _failed(request: Request, error: Exception) -> Response:
    # Not in a thread: where the error arose is told only from where it is handled.
    _log.exception("page_failed", path=request.url.path)
    page = render(request, "error.html", 500, told="This page failed; the node's log says where.")
    # Starlette answers this outside of the middleware.
    keep_private(request, page.headers)
    return page
