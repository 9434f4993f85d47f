"""Who asks, and whether they may: sessions or a trusted proxy, roles, cross-origin requests, rate limits."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import cast
from urllib.parse import quote, urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pacs_node.config import Settings
from pacs_node.journal import sessions
from pacs_node.web.users import Role, User, Users

COOKIE = "pacs_node_session"
RENEWAL = "X-Renewal"
"""A request with this header is a page that renews itself: nobody is there because of it."""
LARGEST_FORM = 1 << 20

Handler = Callable[[Request], Response]

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Limits:
    """How often one address or name may ask for something within a minute."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def hit(self, per_minute: int, *who: str) -> None:
        """Count one request. Raises HTTPException 429 where it is one too many."""
        if not self._limiter.hit(RateLimitItemPerMinute(per_minute), *who):
            raise HTTPException(429, "Too many requests. Wait a minute.", headers={"Retry-After": "60"})


def page(path: str, handler: Handler, role: Role, method: str = "GET") -> Route:
    """A route for those who have at least this role; the handler runs in a thread, its form is read.

    Who is not logged in is sent to the login page. A POST's form is at `request.state.form`.
    """

    async def endpoint(request: Request) -> Response:
        user = await run_in_threadpool(user_of, request)
        if user is None:
            return _to_login(request)
        request.state.user = user
        limits: Limits = request.app.state.limits
        limits.hit(1200, "page", user.name)
        if not user.role.may(role):
            raise HTTPException(403, f"This is for the role {role} only; yours is {user.role}.")
        if method == "POST":
            request.state.form = await request.form(max_files=20, max_fields=50, max_part_size=LARGEST_FORM)
        return await run_in_threadpool(handler, request)

    return Route(path, endpoint, methods=[method], name=handler.__name__)


def user_of(request: Request) -> User | None:
    """Who asks: whom a trusted proxy names, or whose session the cookie proves; None for nobody.

    A session ends with its user's entry in the file, or with a change of their role there. Raises
    HTTPException 403 where a trusted proxy names a role that there is not.
    """
    settings: Settings = request.app.state.settings
    name = request.headers.get(settings.web.user_header)
    if name and from_trusted_proxy(request):
        role = request.headers.get(settings.web.role_header, "")
        if role not in {*Role}:
            raise HTTPException(403, f"The proxy names no role of ours in {settings.web.role_header}.")
        return User(name, Role(role))
    token = request.cookies.get(COOKIE)
    if not token:
        return None
    idle = settings.web.session_minutes * 60.0
    known = sessions.of(request.app.state.database, token, idle, RENEWAL not in request.headers)
    users: Users = request.app.state.users
    if known is None or users.roles.get(known[0]) != known[1]:
        return None
    return User(known[0], Role(known[1]))


def from_trusted_proxy(request: Request) -> bool:
    """Whether the connection itself comes from a proxy of `web.trusted_proxies`."""
    settings: Settings = request.app.state.settings
    if request.client is None or not settings.web.trusted_proxies:
        return False
    address = ip_address(request.client.host)
    return any(address in ip_network(one, strict=False) for one in settings.web.trusted_proxies)


def is_https(request: Request) -> bool:
    """Whether the browser's side of the connection is encrypted."""
    forwarded = request.headers.get("X-Forwarded-Proto") if from_trusted_proxy(request) else None
    return (forwarded or request.url.scheme) == "https"


def _to_login(request: Request) -> Response:
    if "HX-Request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    if request.method != "GET" or "text/html" not in request.headers.get("Accept", ""):
        raise HTTPException(401, "Not logged in.")
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(target, safe='')}", status_code=303)


class Guard:
    """Refuses what another site lets a browser send, and sets the headers that keep pages to themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if request.method not in ("GET", "HEAD") and is_cross_origin(request):
            refusal = Response("Refused: the request comes from another site.", 403, media_type="text/plain")
            await refusal(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
                if is_https(request):
                    headers.setdefault("Strict-Transport-Security", "max-age=31536000")
            await send(message)

        await self._app(scope, receive, with_headers)


def is_cross_origin(request: Request) -> bool:
    """Whether a browser sends this on behalf of another site (Fetch Metadata, else the Origin header).

    A request with neither comes from no browser of today, and so from nobody's session.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    forwarded = request.headers.get("X-Forwarded-Host") if from_trusted_proxy(request) else None
    return origin is not None and urlsplit(origin).netloc != (forwarded or request.headers.get("Host"))


def asker(request: Request) -> User:
    """Who asks, in a handler of `page`."""
    return cast(User, request.state.user)
