"""The web application, and the server that serves it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from pacs_node.config import Settings
from pacs_node.errors import PacsNodeError
from pacs_node.web import health, images, login, model_page, study, system, tryout, worklist
from pacs_node.web.access import Backend, OriginGuard, set_security_headers
from pacs_node.web.pages import render

MOST_CONNECTIONS = 500

_log = structlog.get_logger(__name__)


def create(backend: Backend) -> Starlette:
    """The application."""
    rooms = (login, health, worklist, study, images, tryout, model_page, system)
    static = Mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app = Starlette(
        routes=[*(route for room in rooms for route in room.routes), static],
        middleware=[Middleware(OriginGuard)],
        exception_handlers={HTTPException: _refused, PacsNodeError: _unable, Exception: _failed},
    )
    app.state.backend = backend
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    page = render(request, "error.html", error.status_code, message=error.detail)
    page.headers.update(error.headers or {})
    return page


async def _unable(request: Request, error: Exception) -> Response:
    # The message names paths and hosts: it is for the log only.
    _log.error("page_failed", path=request.url.path, why=str(error))
    message = "The node cannot answer this now; its log says why."
    return render(request, "error.html", 503, message=message)


async def _failed(request: Request, error: Exception) -> Response:
    # Not in a thread: the traceback is only available where the error is handled.
    _log.exception("page_failed", path=request.url.path)
    page = render(request, "error.html", 500, message="This page failed; the node's log says where.")
    # Starlette sends this answer outside of the middleware.
    set_security_headers(request, page.headers)
    return page


def serve(app: Starlette, settings: Settings, ready: Callable[[str], None], stop: threading.Event) -> None:
    """Serve until `stop` is set; `ready` is called with the address once the server answers.

    Raises PacsNodeError if the address is not available: the node goes on without its pages.
    """
    web, tls = settings.web, settings.tls
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    try:
        listener = socket.create_server((web.host, web.port), family=family, backlog=128)
    except OSError as error:
        raise PacsNodeError(f"web.host, web.port: cannot listen on {web.host}:{web.port}: {error}") from error
    address, port = listener.getsockname()[:2]
    if not (ip_address(address).is_loopback or web.tls or web.trusted_proxies):
        _log.warning("web_not_encrypted", why="anyone on the network can read passwords and patients' names")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        # The application itself evaluates the headers of `trusted_proxies`.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        limit_concurrency=MOST_CONNECTIONS,
        ssl_certfile=tls.certificate if web.tls else None,
        ssl_keyfile=tls.key if web.tls else None,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise PacsNodeError(f"tls.certificate, tls.key: {error}") from error
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="http")
    thread.start()
    while not server.started and thread.is_alive():
        stop.wait(0.05)
    if not server.started:
        raise PacsNodeError("the web server did not start; its log says why")
    ready(f"{'https' if web.tls else 'http'}://{web.host}:{port}")
    while thread.is_alive() and not stop.wait(0.5):
        pass
    server.should_exit = True
    thread.join()
    listener.close()
