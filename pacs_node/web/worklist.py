"""The worklist: studies as they come in, renewed while somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import date, datetime, timedelta
from urllib.parse import urlencode

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pacs_node.errors import JournalError
from pacs_node.journal import audit, views
from pacs_node.journal.database import Database
from pacs_node.journal.views import Filters, ListedStudy
from pacs_node.records import AuditKind, Outcome, VisibleState
from pacs_node.web.access import RENEWAL, Shown, asker, page, user_of
from pacs_node.web.alarms import Alarms
from pacs_node.web.pages import render
from pacs_node.web.users import Role

LENGTH = 50
LOOK_SECONDS, THROTTLE_SECONDS = 1.0, 2
"""So often it is looked whether anything happened, and so often at the most it is said."""

_OUTCOMES = {
    Outcome.POSITIVE: "suspected",
    Outcome.NEGATIVE: "none suspected",
    Outcome.FAILED: "not analyzed",
}
_FIELDS = ("q", "state", "outcome", "modality", "part", "from", "to", "before")
"""What the address holds, so that a view can be kept as a bookmark."""


def worklist(request: Request) -> Response:
    """The page; for a page that is there already, its rows and alarms alone."""
    state = request.app.state
    asked = {key: value for key in _FIELDS if (value := request.query_params.get(key, "").strip()[:200])}
    may_see = asker(request).role.may(Role.RADIOLOGIST)
    # Before the rows: what happens meanwhile is then seen as new.
    seq, _ = audit.head(state.database)
    before = int(asked["before"]) if asked.get("before", "").isdecimal() else None
    found = views.worklist(state.database, _filters(asked), may_see, before, LENGTH)
    if may_see:
        _note(request, found.studies)
    alarms: Alarms = state.alarms
    address = _address(asked)
    context = {
        "found": found,
        "asked": asked,
        "address": address,
        "older": _address(asked | {"before": str(found.older)}),
        "newest": _address({key: value for key, value in asked.items() if key != "before"}),
        "may_see": may_see,
        "alarms": alarms.now(),
        "seq": seq,
        "now": state.database.clock(),
        "said": request.query_params.get("said", ""),
        "stages": stages,
        "outcomes": _OUTCOMES,
        # It is at the foot of the page, and on every result.
        "label": state.settings.report.label,
        "most": views.MOST_COUNTED,
    }
    if "HX-Request" in request.headers:
        part = render(request, "worklist_rows.html", is_part=True, **context)
        if RENEWAL not in request.headers:
            part.headers["HX-Push-Url"] = address
        return part
    modalities, parts = views.worklist_choices(state.database)
    context |= {"states": tuple(VisibleState), "modalities": modalities, "parts": parts}
    return render(request, "worklist.html", is_part=False, **context)


def events(request: Request) -> Response:
    """A stream that says `changed` when the worklist may have changed, and ends with the session."""
    seen = request.query_params.get("seen", "")
    return EventSourceResponse(_changes(request, int(seen) if seen.isdecimal() else -1))


def stages(study: ListedStudy, now: float) -> list[tuple[str, float, float | None]]:
    """Each stage's name, how many seconds it took, and when it was done; None: it goes on.

    A stage begins where the one before it was done; the first where the last image was received.
    """
    done = {"analyzed": study.analyzed_at, "reported": study.reported_at, "delivered": study.delivered_at}
    goes_on = {"OPEN": "analyzed" if study.waiting else "reported", "READY": "delivered"}.get(study.state)
    found: list[tuple[str, float, float | None]] = []
    began = study.complete_at
    for name, at in done.items():
        if name == goes_on:
            return [*found, (name, now - began, None)]
        if at is not None:
            found.append((name, max(0.0, at - began), at))
            began = max(began, at)
    return found


def _filters(asked: Mapping[str, str]) -> Filters:
    """What the address asks for; what it says wrongly is as if it did not."""
    chosen = {key: asked.get(key, "") for key in ("outcome", "modality")}
    until = _midnight(asked.get("to", ""), 1)
    return Filters(
        state=asked.get("state", ""),
        body_part=asked.get("part", ""),
        since=_midnight(asked.get("from", ""), 0),
        until=until,
        words=tuple(asked.get("q", "").split()[:5]),
        **chosen,
    )


def _midnight(day: str, later: int) -> float | None:
    """When a day begins in local time, or one that is so many days later."""
    try:
        begin = date.fromisoformat(day) + timedelta(days=later)
        return datetime(begin.year, begin.month, begin.day).astimezone().timestamp()
    except (ValueError, OverflowError):
        return None


def _address(asked: Mapping[str, str]) -> str:
    return f"/?{urlencode(asked)}" if asked else "/"


def _note(request: Request, studies: tuple[ListedStudy, ...]) -> None:
    """Write down whose names are shown to this session for the first time, before they are."""
    shown: Shown = request.app.state.shown
    fresh = shown.new(request.state.session, [one.study_instance_uid for one in studies])
    if fresh:
        database: Database = request.app.state.database
        database.audit(AuditKind.PATIENTS_LISTED, who=asker(request).name, studies=fresh)


async def _changes(request: Request, seen: int) -> AsyncIterator[ServerSentEvent]:
    state = request.app.state
    quiet = 0.0
    while not state.stop.is_set():
        try:
            user = await run_in_threadpool(user_of, request)
            seq, _ = await run_in_threadpool(audit.head, state.database)
        except JournalError:
            return
        if user is None:
            # The page asks for its rows and is led to the login.
            yield ServerSentEvent(event="changed", data="logged out")
            return
        if seq != seen and quiet >= THROTTLE_SECONDS:
            yield ServerSentEvent(event="changed", data=str(seq))
            seen, quiet = seq, 0.0
        await asyncio.sleep(LOOK_SECONDS)
        quiet += LOOK_SECONDS


routes = [page("/", worklist, Role.VIEWER), page("/events", events, Role.VIEWER)]
