"""Who asks, and whether they may: sessions or a trusted proxy, roles, cross-origin requests, rate limits."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Collection
from ipaddress import IPv6Address, ip_address, ip_network
from typing import cast
from urllib.parse import quote, urlsplit

from anyio import CapacityLimiter
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, MutableHeaders
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
"""Bytes of a whole request, unless its route says otherwise."""
REQUESTS_PER_MINUTE = 1200
_PROXY_NAME = re.compile(r"[\w.@+\\ -]{1,128}")

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
        self.hashing = CapacityLimiter(2)
        """A check of a password takes 64 MB and a core for a moment: a flood must not take the machine."""

    def hit(self, per_minute: int, *who: str) -> None:
        """Count one request. Raises HTTPException 429 where it is one too many."""
        if not self._limiter.hit(RateLimitItemPerMinute(per_minute), *who):
            raise HTTPException(429, "Too many requests. Wait a minute.", headers={"Retry-After": "60"})


class Shown:
    """Whose patients each session was shown by this process, so that each is written down once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, tuple[float, set[str]]] = {}

    def new(self, session: str, studies: Collection[str]) -> list[str]:
        """Those of these studies that the session was not shown before."""
        now = time.monotonic()
        with self._lock:
            self._of = {key: one for key, one in self._of.items() if now - one[0] < sessions.LONGEST_SECONDS}
            _, known = self._of.setdefault(session, (now, set()))
            fresh = [one for one in studies if one not in known]
            known.update(fresh)
            return fresh


class PageRoute(Route):
    """A route of `page`, which remembers for whom it is."""

    role: Role


def page(
    path: str, handler: Handler, role: Role, method: str = "GET", largest: int = LARGEST_FORM, files: int = 0
) -> Route:
    """A route for those who have at least this role; the handler runs in a thread, its form is read.

    Who is not logged in is sent to the login page. A POST's form is at `request.state.form`; it may hold so
    many files, and so many bytes in all.
    """

    async def endpoint(request: Request) -> Response:
        user = await run_in_threadpool(user_of, request)
        if user is None:
            return _to_login(request)
        request.state.user = user
        limits: Limits = request.app.state.limits
        limits.hit(REQUESTS_PER_MINUTE, "page", user.name)
        if not user.role.may(role):
            raise HTTPException(403, f"This is for the role {role} only; yours is {user.role}.")
        if method != "POST":
            return await run_in_threadpool(handler, request)
        request.state.form = await form_of(request, largest, files)
        try:
            return await run_in_threadpool(handler, request)
        finally:
            await request.state.form.close()

    route = PageRoute(path, endpoint, methods=[method], name=handler.__name__)
    route.role = role
    return route


async def form_of(request: Request, largest: int = LARGEST_FORM, files: int = 0) -> FormData:
    """The form of a request. Raises HTTPException 413 once it is larger than it may be, 400 for a bad one."""
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > largest:
            raise HTTPException(413, f"This is more than the {largest >> 20} MB that may be sent at once.")
        return message

    limited = Request(request.scope, receive)
    return await limited.form(max_files=files, max_fields=50, max_part_size=LARGEST_FORM)


def user_of(request: Request) -> User | None:
    """Who asks: whom a trusted proxy names, or whose session the cookie proves; None for nobody.

    A session ends with its user's entry in the file, or with a change of their role there. Raises
    HTTPException 403 where what a trusted proxy names is no user or no role.
    """
    settings: Settings = request.app.state.settings
    name = request.headers.get(settings.web.user_header)
    if name and from_trusted_proxy(request):
        role = request.headers.get(settings.web.role_header, "")
        if role not in {*Role} or not _PROXY_NAME.fullmatch(name):
            raise HTTPException(403, f"The proxy names no role of ours in {settings.web.role_header}.")
        request.state.session = f"proxy {name}"
        return User(name, Role(role), by_proxy=True)
    token = request.cookies.get(COOKIE)
    if not token:
        return None
    idle = settings.web.session_minutes * 60.0
    is_use = RENEWAL not in request.headers and "text/event-stream" not in request.headers.get("Accept", "")
    known = sessions.of(request.app.state.database, token, idle, is_use)
    users: Users = request.app.state.users
    if known is None or users.roles.get(known[0]) != known[1]:
        return None
    request.state.session = hashlib.sha256(token.encode()).hexdigest()
    return User(known[0], Role(known[1]))


def from_trusted_proxy(request: Request) -> bool:
    """Whether the connection itself comes from a proxy of `web.trusted_proxies`."""
    return request.client is not None and _is_trusted(request, request.client.host)


def address_of(request: Request) -> str:
    """The address that asks; behind trusted proxies the one that the outermost of them saw."""
    chain = [request.client.host] if request.client else []
    chain += [one.strip() for one in reversed(request.headers.get("X-Forwarded-For", "").split(","))]
    return next((one for one in chain if not _is_trusted(request, one)), chain[-1])[:64]


def _is_trusted(request: Request, host: str) -> bool:
    settings: Settings = request.app.state.settings
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in ip_network(one, strict=False) for one in settings.web.trusted_proxies)


def is_https(request: Request) -> bool:
    """Whether the browser's side of the connection is encrypted."""
    forwarded = request.headers.get("X-Forwarded-Proto") if from_trusted_proxy(request) else None
    return (forwarded or request.url.scheme) == "https"


def _to_login(request: Request) -> Response:
    is_part = "HX-Request" in request.headers
    here = urlsplit(request.headers.get("HX-Current-URL", "") if is_part else str(request.url))
    target = here.path + (f"?{here.query}" if here.query else "")
    login = f"/login?next={quote(target, safe='')}"
    if is_part:
        return Response(status_code=401, headers={"HX-Redirect": login})
    if "text/event-stream" in request.headers.get("Accept", ""):
        # The page then asks for its parts, and is led to the login.
        return Response("event: changed\ndata: logged out\n\n", media_type="text/event-stream")
    if request.method not in ("GET", "HEAD") or "text/html" not in request.headers.get("Accept", ""):
        raise HTTPException(401, "Not logged in.")
    return RedirectResponse(login, status_code=303)


class Guard:
    """Refuses what another site lets a browser send, and sets the headers that keep pages to themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                keep_private(request, MutableHeaders(scope=message))
            await send(message)

        if request.method not in ("GET", "HEAD") and is_cross_origin(request):
            refusal = Response("Refused: the request comes from another site.", 403, media_type="text/plain")
            await refusal(scope, receive, with_headers)
        else:
            await self._app(scope, receive, with_headers)


def keep_private(request: Request, headers: MutableHeaders) -> None:
    """Add the headers by which browsers keep an answer to themselves and run nothing but our scripts."""
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    is_for_all = request.url.path.startswith("/static/")
    headers.setdefault("Cache-Control", "no-cache" if is_for_all else "no-store")
    if is_https(request):
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")


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
