"""The page of the system: problems, roles, destinations, queues, schedule and versions."""

from __future__ import annotations

import platform
from datetime import datetime
from importlib import metadata
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pacs_node import toml
from pacs_node.config import Settings
from pacs_node.journal import audit, deliveries, processes, views
from pacs_node.journal.database import Database
from pacs_node.operate import housekeeping
from pacs_node.operate.problems import JOBS, dismiss, problems
from pacs_node.records import AuditKind
from pacs_node.web.access import backend, page, user
from pacs_node.web.pages import render
from pacs_node.web.users import Role

PACKAGES = ("pacs-node", "torch", "torchvision", "pydicom", "pynetdicom", "highdicom", "sqlalchemy")
MOST_ROWS = 200
"""The page lists no more stuck deliveries; `pacs-node quarantine` lists all."""
_MESSAGES = {"retry": "will be retried", "discard": "given up"}


def system(request: Request) -> Response:
    """The page; the configuration and the actions are for administrators."""
    node, database = backend(request), backend(request).database
    settings = node.settings
    names = [destination.name for destination in settings.destinations]
    stuck = [row for row in views.stuck(database, names) if row["what"] == "delivery"]
    may_act = user(request).role.may(Role.ADMIN)
    echo = audit.last(database, AuditKind.CALENDAR_ECHO)
    done = next((what for what in _MESSAGES if request.query_params.get(what, "").isdecimal()), "")
    count = request.query_params.get(done, "")[:9]
    context: dict[str, Any] = {
        "problems": problems(settings, database, node.files),
        "running": processes.running(database),
        "now": database.clock(),
        "destinations": destination_rows(settings, database, echo is not None),
        "echo_at": echo.at if echo else None,
        "counts": views.counts(database),
        "free_gb": node.files.free_gb(),
        "min_free_gb": settings.storage.min_free_gb,
        "schedule": [job_row(settings, database, job) for job in JOBS],
        "stuck": stuck[:MOST_ROWS],
        "stuck_count": len(stuck),
        "versions": {"Python": platform.python_version()}
        | {name: metadata.version(name) for name in PACKAGES},
        "database": database.name,
        "head": audit.head(database),
        "may_act": may_act,
        # The settings themselves mask passwords.
        "configuration": toml.dump(settings.model_dump(mode="json", exclude_none=True)) if may_act else None,
        "done": f"{count} {'result' if count == '1' else 'results'} {_MESSAGES[done]}." if done else "",
    }
    return render(request, "system.html", **context)


def act(request: Request) -> Response:
    """Retry deliveries, or give them up for a reason; both are audited."""
    database, form, who = backend(request).database, request.state.form, user(request).name
    names = [destination.name for destination in backend(request).settings.destinations]
    which, reason = str(form.get("which", "")), str(form.get("reason", "")).strip()[:200]
    action = request.path_params["action"]
    if action == "retry":
        count = deliveries.retry(database, names, which, who)
    elif action == "discard":
        if not reason:
            raise HTTPException(400, "Giving a result up needs a reason, for the audit log.")
        count = deliveries.discard(database, names, which, who, reason)
    else:
        raise HTTPException(404, "There is no such action.")
    if not count:
        raise HTTPException(404, "This is not listed any more; perhaps another user has dealt with it.")
    return RedirectResponse(f"/system?{action}={count}#quarantine", status_code=303)


def dismiss_problem(request: Request) -> Response:
    """Hide a problem until it occurs again; the dismissal is audited."""
    node, form = backend(request), request.state.form
    key = (str(form.get("kind", "")), str(form.get("subject", "")))
    listed = problems(node.settings, node.database, node.files)
    if key not in {(problem.kind, problem.subject) for problem in listed if problem.dismissible}:
        raise HTTPException(404, "This is not listed any more; perhaps another user has dismissed it.")
    dismiss(node.database, *key, user(request).name)
    return RedirectResponse("/system#problems", status_code=303)


def destination_rows(settings: Settings, database: Database, asked: bool) -> list[dict[str, Any]]:
    """Each configured destination, whether it was reachable last, and the results that wait for it."""
    waiting, nothing, rows = deliveries.waiting(database), deliveries.Waiting(), []
    for each in settings.destinations:
        reach = deliveries.reach(database, each.name)
        is_up = reach is None or reach.event == AuditKind.DESTINATION_REACHABLE
        rows.append(
            {
                "name": each.name,
                "where": f"{each.ae_title} {each.host}:{each.port}" if each.address else each.url,
                "is_up": is_up if reach or asked else None,
                "why": reach.details["why"] if reach and not is_up else "",
                "waiting": waiting.get(each.name, nothing),
            }
        )
    return rows


def job_row(settings: Settings, database: Database, job: str) -> dict[str, Any]:
    """A job of the calendar: when it is due, when it last ran, and the result."""
    cron = getattr(settings.schedule, job)
    trigger = housekeeping.trigger(job, cron)
    due = trigger.get_next_fire_time(None, datetime.now().astimezone()) if trigger else None
    last = audit.last_run(database, job)
    details = last.details if last else {}
    return {
        "name": job,
        "cron": cron,
        "next_at": due.timestamp() if due else None,
        "last_at": last.at if last else None,
        "failed": last is not None and last.event == AuditKind.CALENDAR_FAILED,
        "result": details.get("why") or ", ".join(f"{key} {_short(value)}" for key, value in details.items()),
    }


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(value) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


routes = [
    page("/system", system, Role.VIEWER),
    page("/system/quarantine/{action}", act, Role.ADMIN, "POST"),
    page("/system/problems/dismiss", dismiss_problem, Role.ADMIN, "POST"),
]
