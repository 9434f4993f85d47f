"""Logging in and out."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pacs_node.journal import sessions
from pacs_node.web.access import COOKIE, Limits, is_https, page
from pacs_node.web.pages import render
from pacs_node.web.users import Role, Users

ATTEMPTS_PER_NAME, ATTEMPTS_PER_ADDRESS = 5, 20


def form(request: Request) -> Response:
    """The page with the form; where there are no users, it says how to make one."""
    users: Users = request.app.state.users
    target = request.query_params.get("next", "/")
    return render(request, "login.html", target=target, has_users=bool(users.roles))


async def log_in(request: Request) -> Response:
    """Begin a session, or show the form again; tries are limited for each name and each address."""
    given = await request.form(max_files=0, max_fields=5)
    name, password = str(given.get("name", ""))[:64], str(given.get("password", ""))[:1024]
    target = str(given.get("next", "/"))
    limits: Limits = request.app.state.limits
    limits.hit(ATTEMPTS_PER_ADDRESS, "login", request.client.host if request.client else "")
    limits.hit(ATTEMPTS_PER_NAME, "login as", name)
    return await run_in_threadpool(_log_in, request, name, password, target)


def _log_in(request: Request, name: str, password: str, target: str) -> Response:
    users: Users = request.app.state.users
    database = request.app.state.database
    role = users.check(name, password)
    if role is None:
        # The name is not written down: a password is typed there now and then.
        who = name if name in users.roles else "unknown"
        address = request.client.host if request.client else ""
        sessions.record(database, "login_failed", None, who, address=address)
        context = {"target": target, "has_users": True, "name": name, "error": "Wrong name or password."}
        return render(request, "login.html", 403, **context)
    token = sessions.begin(database, name, role)
    # Only a path of ours: "//host" and "\\host" would lead to another site.
    is_ours = target.startswith("/") and not target.startswith(("//", "/\\"))
    response = RedirectResponse(target if is_ours else "/", status_code=303)
    response.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=is_https(request))
    return response


def log_out(request: Request) -> Response:
    """End the session."""
    token = request.cookies.get(COOKIE)
    if token:
        sessions.end(request.app.state.database, token, request.state.user.name)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE)
    return response


routes = [
    Route("/login", form),
    Route("/login", log_in, methods=["POST"]),
    page("/logout", log_out, Role.VIEWER, "POST"),
]
