"""The worklist: studies by newest arrival, refreshed while the page is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pacs_node.errors import JournalError
from pacs_node.journal import audit, views
from pacs_node.operate.problems import problems
from pacs_node.records import AuditKind, Outcome, VisibleState
from pacs_node.web.access import RENEWAL, backend, page, user, user_of
from pacs_node.web.pages import render
from pacs_node.web.users import Role

LENGTH = 50
POLL_SECONDS, THROTTLE_SECONDS = 1.0, 2
"""How often the journal is checked for changes, and how often at most the page is notified."""

_OUTCOMES = {
    Outcome.POSITIVE: "suspected",
    Outcome.NEGATIVE: "none suspected",
    Outcome.FAILED: "not analyzed",
}
_FIELDS = ("q", "state", "outcome", "modality", "part", "from", "to", "before")
"""The parameters of the address, so that a view can be bookmarked."""


def worklist(request: Request) -> Response:
    """The page; for a page that is open already, its rows and alarms only."""
    node, database = backend(request), backend(request).database
    query = {key: value for key in _FIELDS if (value := request.query_params.get(key, "").strip()[:200])}
    may_see = user(request).role.may(Role.RADIOLOGIST)
    # Before the rows: changes during the queries then count as new.
    seq, _ = audit.head(database)
    before = int(query["before"]) if query.get("before", "").isdecimal() else None
    result = views.worklist(database, filters_of(query), may_see, before, LENGTH)
    if may_see:
        # Recorded before they are shown.
        uids = [study.study_instance_uid for study in result.studies]
        if new := node.viewed.add(request.state.session, uids):
            database.audit(AuditKind.PATIENTS_LISTED, who=user(request).name, studies=new)
    address = address_of(query)
    context: dict[str, Any] = {
        "result": result,
        "query": query,
        "address": address,
        "older": address_of(query | {"before": str(result.older)}),
        "newest": address_of({key: value for key, value in query.items() if key != "before"}),
        "may_see": may_see,
        "problems": problems(node.settings, database, node.files),
        "seq": seq,
        "now": database.clock(),
        "announced": request.query_params.get("announced", ""),
        "stages": stages,
        "outcomes": _OUTCOMES,
        # It stands at the foot of the page, and in every result.
        "label": node.settings.report.label,
        "most": views.MOST_COUNTED,
    }
    if "HX-Request" in request.headers:
        part = render(request, "worklist_rows.html", is_part=True, **context)
        if RENEWAL not in request.headers:
            part.headers["HX-Push-Url"] = address
        return part
    modalities, parts = views.worklist_choices(database)
    context |= {"states": list(VisibleState), "modalities": modalities, "parts": parts}
    return render(request, "worklist.html", is_part=False, **context)


def events(request: Request) -> Response:
    """A stream with an event `changed` whenever the worklist may have changed; it ends with the session."""
    seen = request.query_params.get("seen", "")
    return EventSourceResponse(change_events(request, int(seen) if seen.isdecimal() else -1))


def stages(study: views.ListedStudy, now: float) -> list[tuple[str, float, float | None]]:
    """Each stage's name, its duration in seconds and its end, None for the current one.

    A stage begins at the end of the previous one, the first at the receipt of the last image.
    """
    ends = {"analyzed": study.analyzed_at, "reported": study.reported_at, "delivered": study.delivered_at}
    current = {"OPEN": "analyzed" if study.waiting else "reported", "READY": "delivered"}.get(study.state)
    rows: list[tuple[str, float, float | None]] = []
    began = study.complete_at
    for name, end in ends.items():
        if name == current:
            return [*rows, (name, now - began, None)]
        if end is not None:
            rows.append((name, max(0.0, end - began), end))
            began = max(began, end)
    return rows


def filters_of(query: Mapping[str, str]) -> views.Filters:
    """The filters of an address; invalid values are ignored."""
    return views.Filters(
        state=query.get("state", ""),
        outcome=query.get("outcome", ""),
        modality=query.get("modality", ""),
        body_part=query.get("part", ""),
        since=midnight(query.get("from", ""), 0),
        until=midnight(query.get("to", ""), 1),
        words=tuple(query.get("q", "").split()[:5]),
    )


def midnight(day: str, later: int) -> float | None:
    """The beginning, in local time, of the day `later` days after `day`; None for an invalid date."""
    try:
        begin = date.fromisoformat(day) + timedelta(days=later)
        return datetime(begin.year, begin.month, begin.day).astimezone().timestamp()
    except (ValueError, OverflowError):
        return None


def address_of(query: Mapping[str, str]) -> str:
    return f"/?{urlencode(query)}" if query else "/"


async def change_events(request: Request, seen: int) -> AsyncIterator[ServerSentEvent]:
    node, quiet = backend(request), 0.0
    while not node.stop.is_set():
        try:
            user = await run_in_threadpool(user_of, request)
            seq, _ = await run_in_threadpool(audit.head, node.database)
        except JournalError:
            return
        if user is None:
            # The page requests its rows and is redirected to the login.
            yield ServerSentEvent(event="changed", data="logged out")
            return
        if seq != seen and quiet >= THROTTLE_SECONDS:
            yield ServerSentEvent(event="changed", data=str(seq))
            seen, quiet = seq, 0.0
        await asyncio.sleep(POLL_SECONDS)
        quiet += POLL_SECONDS


routes = [page("/", worklist, Role.VIEWER), page("/events", events, Role.VIEWER)]
