"""The login page, and logging out."""

from __future__ import annotations

import structlog
from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pacs_node.journal import sessions
from pacs_node.records import AuditKind
from pacs_node.web.access import COOKIE, backend, client_address, form_of, is_https, page
from pacs_node.web.pages import render
from pacs_node.web.users import Role

ATTEMPTS_PER_NAME, ATTEMPTS_PER_ADDRESS = 5, 20
"""In a minute."""

_log = structlog.get_logger(__name__)


def form(request: Request) -> Response:
    """The login form; without users, it explains how to add one."""
    target = request.query_params.get("next", "/")
    return render(request, "login.html", target=target, has_users=bool(backend(request).users.roles))


async def log_in(request: Request) -> Response:
    """Begin a session, or show the form again; attempts are limited by name and by address."""
    fields = await form_of(request)
    name, password = str(fields.get("name", ""))[:64], str(fields.get("password", ""))[:1024]
    limits, address = backend(request).limits, client_address(request)
    try:
        limits.hit(ATTEMPTS_PER_ADDRESS, "login", address)
        limits.hit(ATTEMPTS_PER_NAME, "login as", name)
    except HTTPException:
        _log.warning("login_limited", address=address)
        raise
    target = str(fields.get("next", "/"))
    return await to_thread.run_sync(_log_in, request, name, password, target, limiter=limits.hashing)


def _log_in(request: Request, name: str, password: str, target: str) -> Response:
    users, database = backend(request).users, backend(request).database
    role = users.check(name, password)
    if role is None:
        # An unknown name is not recorded: now and then it is a password typed into the wrong field.
        who = name if name in users.roles else "unknown"
        database.audit(AuditKind.LOGIN_FAILED, who=who, address=client_address(request))
        context = {"target": target, "has_users": True, "name": name, "error": "Wrong name or password."}
        return render(request, "login.html", 403, **context)
    sessions.end(database, request.cookies.get(COOKIE, ""))
    token = sessions.begin(database, name, role, client_address(request))
    # Browsers take "//host", "/\host" and "/<tab>/host" for another site.
    is_local = target.isprintable() and target.startswith("/") and not target.startswith(("//", "/\\"))
    response = RedirectResponse(target if is_local else "/", status_code=303)
    response.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=is_https(request))
    return response


def log_out(request: Request) -> Response:
    """End the session."""
    sessions.end(backend(request).database, request.cookies.get(COOKIE, ""))
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE)
    return response


routes = [
    Route("/login", form),
    Route("/login", log_in, methods=["POST"]),
    page("/logout", log_out, Role.VIEWER, "POST"),
]
