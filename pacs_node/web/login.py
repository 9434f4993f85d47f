"""Logging in and out."""

from __future__ import annotations

import structlog
from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pacs_node.journal import sessions
from pacs_node.records import AuditKind
from pacs_node.web.access import COOKIE, Limits, address_of, form_of, is_https, page
from pacs_node.web.pages import render
from pacs_node.web.users import Role, Users

ATTEMPTS_PER_NAME, ATTEMPTS_PER_ADDRESS = 5, 20
"""Within a minute."""

_log = structlog.get_logger(__name__)


def form(request: Request) -> Response:
    """The page with the form; where there are no users, it says how to make one."""
    users: Users = request.app.state.users
    target = request.query_params.get("next", "/")
    return render(request, "login.html", target=target, has_users=bool(users.roles))


async def log_in(request: Request) -> Response:
    """Begin a session, or show the form again; tries are limited for each name and each address."""
    given = await form_of(request)
    name, password = str(given.get("name", ""))[:64], str(given.get("password", ""))[:1024]
    target = str(given.get("next", "/"))
    limits: Limits = request.app.state.limits
    address = address_of(request)
    try:
        limits.hit(ATTEMPTS_PER_ADDRESS, "login", address)
        limits.hit(ATTEMPTS_PER_NAME, "login as", name)
    except HTTPException:
        _log.warning("login_limited", address=address)
        raise
    return await to_thread.run_sync(_log_in, request, name, password, target, limiter=limits.hashing)


def _log_in(request: Request, name: str, password: str, target: str) -> Response:
    users: Users = request.app.state.users
    database = request.app.state.database
    role = users.check(name, password)
    if role is None:
        # The name is not written down: a password is typed there now and then.
        who = name if name in users.roles else "unknown"
        database.audit(AuditKind.LOGIN_FAILED, who=who, address=address_of(request))
        context = {"target": target, "has_users": True, "name": name, "error": "Wrong name or password."}
        return render(request, "login.html", 403, **context)
    sessions.end(database, request.cookies.get(COOKIE, ""))
    token = sessions.begin(database, name, role, address_of(request))
    response = RedirectResponse(target if _is_ours(target) else "/", status_code=303)
    response.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=is_https(request))
    return response


def _is_ours(target: str) -> bool:
    """A path of ours: browsers take "//host", "/\\host" and "/<tab>/host" for another site."""
    return target.isprintable() and target.startswith("/") and not target.startswith(("//", "/\\"))


def log_out(request: Request) -> Response:
    """End the session."""
    sessions.end(request.app.state.database, request.cookies.get(COOKIE, ""))
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE)
    return response


routes = [
    Route("/login", form),
    Route("/login", log_in, methods=["POST"]),
    page("/logout", log_out, Role.VIEWER, "POST"),
]
