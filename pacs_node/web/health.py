"""`/metrics`, `/health/live` and `/health/ready`: for Prometheus and for what watches over the node.

They ask for no login and tell nothing of any patient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from anyio import fail_after, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pacs_node.errors import JournalError
from pacs_node.operate import checks
from pacs_node.operate.metrics import Metrics

ANSWER_SECONDS = 5.0
"""A journal that has not answered by then does not answer: who asks must not wait for ever."""

T = TypeVar("T")


async def metrics(request: Request) -> Response:
    """The metrics in Prometheus's text format, or in OpenMetrics where that is asked for."""
    state = request.app.state
    if not hasattr(state, "metrics"):
        state.metrics = Metrics(state.settings, state.database, state.files)
    try:
        scrape = partial(state.metrics.scrape, request.headers.get("accept", ""))
        text, content_type = await to_thread.run_sync(scrape)
    except JournalError:
        return PlainTextResponse("the journal cannot be read\n", 503)
    return Response(text, headers={"content-type": content_type})


async def live(request: Request) -> Response:
    """200 where this process answers and the journal can be read in time; else 503."""
    database = request.app.state.database
    found = await _in_time(lambda: {} if database.is_current else {"journal": "of another version"})
    return _answer("live", found)


async def ready(request: Request) -> Response:
    """200 where every role is ready and there is room for what is received; else 503 with what is missing."""
    state = request.app.state
    return _answer(
        "ready", await _in_time(lambda: checks.lacking(state.settings, state.database, state.files))
    )


routes = [Route("/metrics", metrics), Route("/health/live", live), Route("/health/ready", ready)]


async def _in_time(ask: Callable[[], dict[str, str]]) -> dict[str, str]:
    try:
        with fail_after(ANSWER_SECONDS):
            return await to_thread.run_sync(ask, abandon_on_cancel=True)
    except (TimeoutError, JournalError):
        return {"journal": "cannot be read"}


def _answer(what: str, missing: dict[str, str]) -> Response:
    body = {what: not missing, "missing": missing}
    return JSONResponse(body, 503 if missing else 200, headers={"cache-control": "no-store"})
