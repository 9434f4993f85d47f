"""The calendar: work that is done at set times, by one process of however many are running."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping

import structlog
from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from pacs_node.config import Schedule
from pacs_node.errors import ConfigError, PacsNodeError
from pacs_node.journal import audit, roles
from pacs_node.journal.database import Database

LEASE = "calendar"

_log = structlog.get_logger(__name__)


class Calendar:
    """Runs jobs at the times of `[schedule]`, one after the other, while it leads; used as a context.

    `jobs` maps each key of `[schedule]` to its work, which audits what it did; that it failed is audited
    here. The times are kept in memory: what was due while no process ran is not made up for. Whoever uses it
    calls `lead` more often than a lease lasts. Raises ConfigError for a time that is none.
    """

    def __init__(
        self, database: Database, schedule: Schedule, jobs: Mapping[str, Callable[[], object]]
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._token = str(uuid.uuid4())
        # One worker: the jobs are long and read the whole journal.
        self.scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"misfire_grace_time": None, "coalesce": True},
        )
        self.scheduler.add_listener(self._failed, EVENT_JOB_ERROR)
        for name in jobs:
            if due := trigger(name, getattr(schedule, name)):
                self.scheduler.add_job(self._run, due, args=(name,), id=name)

    def __enter__(self) -> Calendar:
        self.lead()
        self.scheduler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.scheduler.shutdown(wait=True)
        roles.hand_over(self._database, LEASE, self._token)

    def lead(self) -> bool:
        """Take or renew the lease on the calendar; False while another process holds it."""
        return roles.lead(self._database, LEASE, self._token)

    def _run(self, name: str) -> None:
        if self.lead():
            _log.info("calendar", job=name, result=str(self._jobs[name]()))

    def _failed(self, event: JobExecutionEvent) -> None:
        error = event.exception
        # Ours with its words, any other by its kind, since it may quote the data.
        why = str(error) if isinstance(error, PacsNodeError) else f"unexpected {type(error).__name__}"
        _log.error("calendar_failed", job=event.job_id, why=why)
        with self._database.write() as connection:
            audit.append(connection, self._database.clock(), "calendar_failed", job=event.job_id, why=why)


def trigger(name: str, cron: str) -> CronTrigger | None:
    """When a job is due, in local time; None for never. Raises ConfigError."""
    try:
        return CronTrigger.from_crontab(cron) if cron.strip() else None
    except ValueError as error:
        raise ConfigError(f"schedule.{name}: {cron!r} is no cron expression: {error}") from None
