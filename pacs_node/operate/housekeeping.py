"""The calendar: scheduled jobs, run by one process at a time."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from pacs_node.config import ScheduleSettings
from pacs_node.errors import ConfigError, PacsNodeError
from pacs_node.journal import audit, processes
from pacs_node.journal.database import Database
from pacs_node.records import AuditKind

LEASE = "calendar"

Job = Callable[[], dict[str, Any]]
"""Does its work and returns the details for the audit log."""

_log = structlog.get_logger(__name__)


class Calendar:
    """Runs jobs at the times of `[schedule]`, one after the other, while it leads; used as a context.

    `jobs` maps each key of `[schedule]` to its work. What was due while no process ran is made up for once;
    the jobs `at_start` run at once.
    Whoever uses it calls `lead` more often than a lease lasts. Raises ConfigError for a time that is none.
    """

    def __init__(
        self,
        database: Database,
        schedule: ScheduleSettings,
        jobs: Mapping[str, Job],
        at_start: Collection[str] = (),
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._token = str(uuid.uuid4())
        # One worker: the jobs are long and read the whole journal.
        self.scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"misfire_grace_time": None, "coalesce": True},
        )
        for name in jobs:
            if due := trigger(name, getattr(schedule, name)):
                done = audit.last(database, AuditKind.of_job(name))
                since = datetime.fromtimestamp(done.at, UTC) if done else datetime.now(UTC)
                first = datetime.now(UTC) if name in at_start else due.get_next_fire_time(None, since)
                self.scheduler.add_job(self._run, due, args=(name,), id=name, next_run_time=first)

    def __enter__(self) -> Calendar:
        self.lead()
        self.scheduler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.scheduler.shutdown(wait=True)
        processes.hand_over(self._database, LEASE, self._token)

    def lead(self) -> bool:
        """Take or renew the calendar's lease; False while another process holds it."""
        return processes.lead(self._database, LEASE, self._token)

    def _run(self, name: str) -> None:
        if self.lead():
            run(self._database, name, self._jobs[name])


def run(database: Database, name: str, job: Job) -> dict[str, Any]:
    """Run a job now, with an audit event of its details and duration or of its failure, which is raised."""
    began = time.monotonic()
    try:
        did = job()
    except Exception as error:
        # Only the kind of an unexpected error: its message may quote patient data.
        why = str(error) if isinstance(error, PacsNodeError) else f"unexpected {type(error).__name__}"
        _log.error("calendar_failed", job=name, why=why)
        database.audit(AuditKind.CALENDAR_FAILED, job=name, why=why)
        raise
    did = {**did, "seconds": round(time.monotonic() - began, 3)}
    _log.info(AuditKind.of_job(name), **did)
    database.audit(AuditKind.of_job(name), **did)
    return did


def last(database: Database, name: str) -> dict[str, Any]:
    """Details of a job's last success; empty if there was none."""
    event = audit.last(database, AuditKind.of_job(name))
    return event.details if event else {}


def trigger(name: str, cron: str) -> CronTrigger | None:
    """The trigger of a cron expression in local time; None if empty. Raises ConfigError."""
    try:
        return CronTrigger.from_crontab(cron) if cron.strip() else None
    except ValueError as error:
        raise ConfigError(f"schedule.{name}: {cron!r} is no cron expression: {error}") from None
