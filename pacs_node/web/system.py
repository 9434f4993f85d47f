"""The page of the system: what runs, what waits, what is due, and what needs somebody."""

from __future__ import annotations

import json
import platform
from datetime import datetime
from importlib import metadata
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pacs_node.config import Settings
from pacs_node.files import FileStore
from pacs_node.journal import audit, deliveries, processes, views
from pacs_node.journal.database import Database
from pacs_node.operate import housekeeping
from pacs_node.records import AuditKind
from pacs_node.web.access import asker, page
from pacs_node.web.alarms import JOBS, Alarms
from pacs_node.web.pages import render
from pacs_node.web.users import Role

PACKAGES = ("pacs-node", "torch", "torchvision", "pydicom", "pynetdicom", "highdicom", "sqlalchemy")
MOST_ROWS = 200
"""Of what needs somebody, so many are listed; `pacs-node quarantine` lists all."""


def system(request: Request) -> Response:
    """The page; the configuration and the actions are for administrators."""
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    files: FileStore = request.app.state.files
    alarms: Alarms = request.app.state.alarms
    events = alarms.events()
    running = processes.running(database)
    names = [one.name for one in settings.destinations]
    troubles = views.stuck(database, names)
    echo = events.get(AuditKind.CALENDAR_ECHO)
    may_act = asker(request).role.may(Role.ADMIN)
    context: dict[str, Any] = {
        "running": running,
        "missing": processes.missing(running),
        "now": database.clock(),
        "destinations": _destinations(settings, deliveries.waiting(database), echo.details if echo else None),
        "echo_at": echo.at if echo else None,
        "counts": views.counts(database),
        "free_gb": files.free_gb(),
        "min_free_gb": settings.storage.min_free_gb,
        "schedule": [_job(settings, job, events) for job in JOBS],
        "troubles": troubles[:MOST_ROWS],
        "trouble_count": len(troubles),
        "versions": {"Python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "database": database.name,
        "head": audit.head(database),
        "may_act": may_act,
        "configuration": configuration(settings) if may_act else None,
        "done": _done(request),
    }
    return render(request, "system.html", **context)


def act(request: Request) -> Response:
    """Try deliveries again or give them up, as an administrator says; both are audited with who and why."""
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    form, who = request.state.form, asker(request).name
    names = [one.name for one in settings.destinations]
    which, reason = str(form.get("which", "")), str(form.get("reason", "")).strip()[:200]
    what = request.path_params["what"]
    if what == "retry":
        count = deliveries.retry(database, names, which, who)
    elif what == "discard":
        if not reason:
            raise HTTPException(400, "Giving a result up needs a reason, for the audit log.")
        count = deliveries.discard(database, names, which, who, reason)
    else:
        raise HTTPException(404, "There is no such action.")
    if not count:
        raise HTTPException(404, "This is not listed any more; somebody else may have dealt with it.")
    return RedirectResponse(f"/system?{what}={count}#quarantine", status_code=303)


def configuration(settings: Settings) -> str:
    """The settings in force, as TOML to read; passwords are masked by the settings themselves."""
    lines: list[str] = []

    def table(name: str, values: dict[str, Any]) -> None:
        lines.extend(["", name])
        lines.extend(
            f"{key} = {json.dumps(value, ensure_ascii=False)}"
            for key, value in values.items()
            if value is not None and not isinstance(value, dict)
        )
        for key, value in values.items():
            if isinstance(value, dict):
                table(f"{name[:-1].replace('[[', '[')}.{key}]", value)

    for section, values in settings.model_dump(mode="json").items():
        if isinstance(values, dict):
            table(f"[{section}]", values)
        for one in values if isinstance(values, list) else ():
            table(f"[[{section}]]", one)
    return "\n".join(lines).strip()


def _destinations(
    settings: Settings, waiting: dict[str, deliveries.Waiting], echo: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Each configured destination, whether it answered last, and what waits for it."""
    nothing = deliveries.Waiting()
    return [
        {
            "name": one.name,
            "where": f"{one.ae_title} {one.host}:{one.port}" if one.address else one.url,
            "is_up": None if echo is None else one.name not in echo.get("unreachable", {}),
            "why": (echo or {}).get("unreachable", {}).get(one.name, ""),
            "waiting": waiting.get(one.name, nothing),
        }
        for one in settings.destinations
    ]


def _job(settings: Settings, job: str, events: dict[str, Any]) -> dict[str, Any]:
    """A job of the calendar: when it is due, when it last ran, and what came of it."""
    cron = getattr(settings.schedule, job)
    due = housekeeping.trigger(job, cron)
    done, failed = events.get(AuditKind.of_job(job)), events.get(f"failed {job}")
    last = failed if failed and (done is None or done.seq < failed.seq) else done
    following = due.get_next_fire_time(None, datetime.now().astimezone()) if due else None
    told = last.details if last else {}
    return {
        "name": job,
        "cron": cron,
        "next_at": following.timestamp() if following else None,
        "last_at": last.at if last else None,
        "failed": last is not None and last is failed,
        "result": told.get("why") or ", ".join(f"{key} {_short(value)}" for key, value in told.items()),
    }


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(value) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _done(request: Request) -> str:
    """What an action did, told on the page that follows it."""
    for what, told in (("retry", "will be tried again"), ("discard", "given up")):
        count = request.query_params.get(what, "")
        if count.isdecimal():
            return f"{count[:9]} {'result' if count == '1' else 'results'} {told}."
    return ""


routes = [
    page("/system", system, Role.VIEWER),
    page("/system/quarantine/{what}", act, Role.ADMIN, "POST"),
]
