"""`/metrics`, `/health/live` and `/health/ready`, for Prometheus and other monitoring.

They require no login and contain no patient data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from anyio import fail_after, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pacs_node.errors import JournalError
from pacs_node.operate.metrics import NodeMetrics
from pacs_node.operate.problems import readiness
from pacs_node.web.access import backend

ANSWER_SECONDS = 5.0
"""A journal that has not answered by then counts as unreachable: monitoring must not wait for ever."""


async def metrics(request: Request) -> Response:
    """The metrics in Prometheus's text format, or in OpenMetrics if the client accepts it."""
    state, node = request.app.state, backend(request)
    if not hasattr(state, "metrics"):
        state.metrics = NodeMetrics(node.settings, node.database, node.files)
    try:
        scrape = partial(state.metrics.scrape, request.headers.get("accept", ""))
        text, content_type = await to_thread.run_sync(scrape)
    except JournalError:
        return PlainTextResponse("the journal cannot be read\n", 503)
    return Response(text, headers={"content-type": content_type})


async def live(request: Request) -> Response:
    """200 if this process answers and can read the journal in time; else 503."""
    database = backend(request).database
    return await _answer("live", lambda: {} if database.is_current else {"journal": "of another version"})


async def ready(request: Request) -> Response:
    """200 if every role is ready and there is room for new objects; else 503 with what is missing."""
    node = backend(request)
    # Without the messages' advice: this is public.
    return await _answer(
        "ready",
        lambda: {
            problem.subject: problem.message
            for problem in readiness(node.settings, node.database, node.files)
        },
    )


async def _answer(name: str, missing_now: Callable[[], dict[str, str]]) -> Response:
    try:
        with fail_after(ANSWER_SECONDS):
            missing = await to_thread.run_sync(missing_now, abandon_on_cancel=True)
    except (TimeoutError, JournalError):
        missing = {"journal": "cannot be read"}
    body = {name: not missing, "missing": missing}
    return JSONResponse(body, 503 if missing else 200, headers={"cache-control": "no-store"})


routes = [Route("/metrics", metrics), Route("/health/live", live), Route("/health/ready", ready)]
