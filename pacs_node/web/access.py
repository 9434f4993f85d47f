"""Authentication and authorization: sessions or a trusted proxy, roles, cross-origin checks, rate limits."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import cast
from urllib.parse import quote, urlsplit

import numpy as np
from anyio import CapacityLimiter
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pacs_node.config import Settings
from pacs_node.files import FileStore
from pacs_node.journal import sessions
from pacs_node.journal.database import Database
from pacs_node.web.users import Role, User, Users

COOKIE = "pacs_node_session"
RENEWAL = "X-Renewal"
"""Header of the requests by which a page refreshes itself; they do not keep a session alive."""
LARGEST_FORM = 1 << 20
"""Bytes of a whole request, unless its route says otherwise."""
REQUESTS_PER_MINUTE = 1200

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


class RateLimits:
    """Limits on the requests of each address or name."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        # Checking a password takes 64 MB and a core for a moment: a flood must not take the machine.
        self.hashing = CapacityLimiter(2)

    def hit(self, per_minute: int, *who: str) -> None:
        """Count one request. Raises HTTPException 429 beyond the limit."""
        if not self._limiter.hit(RateLimitItemPerMinute(per_minute), *who):
            raise HTTPException(429, "Too many requests. Wait a minute.", headers={"Retry-After": "60"})


class ViewedStudies:
    """The studies whose patients each session has seen, so that each view is audited once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_session: dict[str, tuple[float, set[str]]] = {}

    def add(self, session: str, studies: Collection[str]) -> list[str]:
        """Record views by a session; returns those that are new."""
        oldest = time.monotonic() - sessions.LONGEST_SECONDS
        with self._lock:
            self._by_session = {
                key: (began, seen) for key, (began, seen) in self._by_session.items() if began > oldest
            }
            _, seen = self._by_session.setdefault(session, (time.monotonic(), set()))
            new = [study for study in studies if study not in seen]
            seen.update(new)
            return new


@dataclass(frozen=True, slots=True)
class Backend:
    """Everything behind the pages."""

    settings: Settings
    database: Database
    files: FileStore
    users: Users
    display: Callable[[str], NDArray[np.float32]]
    """A stored image by its sha256, shape (rows, columns), 0..1, as displayed. Raises InputError."""
    config: Path | None = None
    """The configuration file of the node, for `analyze` in a process of its own."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Ends the event streams, which otherwise never end."""
    limits: RateLimits = field(default_factory=RateLimits)
    viewed: ViewedStudies = field(default_factory=ViewedStudies)


def backend(request: Request) -> Backend:
    """What a request's handler works with."""
    return cast(Backend, request.app.state.backend)


def user(request: Request) -> User:
    """The user who makes a request, in a handler of `page`."""
    return cast(User, request.state.user)


class PageRoute(Route):
    """A route of `page`, with the role that it requires."""

    role: Role


def page(
    path: str,
    handler: Callable[[Request], Response],
    role: Role,
    method: str = "GET",
    largest: int = LARGEST_FORM,
    files: int = 0,
) -> Route:
    """A route for users with at least this role; its handler runs in a thread.

    Others are sent to the login page. The form of a POST is at `request.state.form`; it may hold so many
    `files`, and `largest` bytes in all.
    """

    async def endpoint(request: Request) -> Response:
        user = await run_in_threadpool(user_of, request)
        if user is None:
            return _to_login(request)
        request.state.user = user
        backend(request).limits.hit(REQUESTS_PER_MINUTE, "page", user.name)
        if not user.role.may(role):
            raise HTTPException(403, f"This is for the role {role} only; yours is {user.role}.")
        if method != "POST":
            return await run_in_threadpool(handler, request)
        request.state.form = await form_of(request, largest, files)
        try:
            return await run_in_threadpool(handler, request)
        finally:
            await request.state.form.close()

    route = PageRoute(path, endpoint, methods=[method])
    route.role = role
    return route


async def form_of(request: Request, largest: int = LARGEST_FORM, files: int = 0) -> FormData:
    """The form of a request. Raises HTTPException 413 for one that is too large, 400 for a malformed one."""
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
    """The user named by a trusted proxy or proved by the session cookie; None if not logged in.

    A session ends when its user is removed from the file or has another role there. Raises HTTPException 403
    for an invalid name or role from a trusted proxy.
    """
    web = backend(request).settings.web
    name = request.headers.get(web.user_header)
    if name and from_trusted_proxy(request):
        role = request.headers.get(web.role_header, "")
        if role not in {*Role} or not re.fullmatch(r"[\w.@+\\ -]{1,128}", name):
            raise HTTPException(403, f"The proxy names no role of this node in {web.role_header}.")
        request.state.session = f"proxy {name}"
        return User(name, Role(role), by_proxy=True)
    token = request.cookies.get(COOKIE)
    if not token:
        return None
    is_use = RENEWAL not in request.headers and not _is_stream(request)
    session = sessions.of(backend(request).database, token, web.session_minutes * 60.0, is_use)
    if session is None or backend(request).users.roles.get(session[0]) != session[1]:
        return None
    request.state.session = hashlib.sha256(token.encode()).hexdigest()
    return User(session[0], Role(session[1]))


def _is_stream(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("Accept", "")


def from_trusted_proxy(request: Request) -> bool:
    """Whether the connection itself comes from a proxy of `web.trusted_proxies`."""
    return request.client is not None and _is_trusted(request, request.client.host)


def client_address(request: Request) -> str:
    """The address of the client; behind trusted proxies, the one that the outermost of them saw."""
    chain = [request.client.host] if request.client else []
    chain += [host.strip() for host in reversed(request.headers.get("X-Forwarded-For", "").split(","))]
    return next((host for host in chain if not _is_trusted(request, host)), chain[-1])[:64]


def _is_trusted(request: Request, host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    trusted = backend(request).settings.web.trusted_proxies
    return any(address in ip_network(network, strict=False) for network in trusted)


def is_https(request: Request) -> bool:
    """Whether the browser's side of the connection is encrypted."""
    forwarded = request.headers.get("X-Forwarded-Proto") if from_trusted_proxy(request) else None
    return (forwarded or request.url.scheme) == "https"


def _to_login(request: Request) -> Response:
    is_part = "HX-Request" in request.headers
    url = urlsplit(request.headers.get("HX-Current-URL", "") if is_part else str(request.url))
    target = url.path + (f"?{url.query}" if url.query else "")
    login = f"/login?next={quote(target, safe='')}"
    if is_part:
        return Response(status_code=401, headers={"HX-Redirect": login})
    if _is_stream(request):
        # The page then requests its parts and is redirected to the login.
        return Response("event: changed\ndata: logged out\n\n", media_type="text/event-stream")
    if request.method not in ("GET", "HEAD") or "text/html" not in request.headers.get("Accept", ""):
        raise HTTPException(401, "Not logged in.")
    return RedirectResponse(login, status_code=303)


class OriginGuard:
    """Middleware that refuses cross-site requests with side effects and sets the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                set_security_headers(request, MutableHeaders(scope=message))
            await send(message)

        if request.method not in ("GET", "HEAD") and _is_cross_origin(request):
            refusal = Response("Refused: the request comes from another site.", 403, media_type="text/plain")
            await refusal(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def set_security_headers(request: Request, headers: MutableHeaders) -> None:
    """Add the headers that keep browsers from caching, embedding and running foreign scripts."""
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    is_public = request.url.path.startswith("/static/")
    headers.setdefault("Cache-Control", "no-cache" if is_public else "no-store")
    if is_https(request):
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")


def _is_cross_origin(request: Request) -> bool:
    """Whether a browser sends this on behalf of another site, by Fetch Metadata or the Origin header.

    A request with neither does not come from a current browser, and so from no user's session.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    forwarded = request.headers.get("X-Forwarded-Host") if from_trusted_proxy(request) else None
    return origin is not None and urlsplit(origin).netloc != (forwarded or request.headers.get("Host"))
