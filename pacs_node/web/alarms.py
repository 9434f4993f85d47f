"""What needs somebody: shown on top of the worklist, each with where to look."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from pacs_node.config import ScheduleSettings, Settings
from pacs_node.files import FileStore
from pacs_node.journal import audit, processes, views
from pacs_node.journal.database import Database
from pacs_node.records import AuditEvent, AuditKind

JOBS = tuple(ScheduleSettings.model_fields)
FAILED_DAYS = 7
"""Studies that failed longer ago are no alarm any more; the worklist still lists them."""
_VALIDATIONS = (AuditKind.VALIDATION_PASSED, AuditKind.VALIDATION_TOO_FEW, AuditKind.VALIDATION_ALARM)


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that is wrong."""

    level: str
    """"fail": something is not done; "warn": it soon may not be."""
    text: str
    link: str


class Alarms:
    """How the node is. Of the audit log, each look reads only what came since the last."""

    def __init__(self, settings: Settings, database: Database, files: FileStore) -> None:
        self._settings = settings
        self._database = database
        self._files = files
        self._lock = threading.Lock()
        self._seq = 0
        self._events: dict[str, AuditEvent] = {}

    def events(self) -> dict[str, AuditEvent]:
        """The newest event of each job of the calendar: `calendar_JOB`, `failed JOB`, `validation`."""
        names = [*map(AuditKind.of_job, JOBS), AuditKind.CALENDAR_FAILED, *_VALIDATIONS]
        with self._lock:
            seq, _ = audit.head(self._database)
            for event in audit.newest(self._database, names, self._seq):
                key = event.event
                if key == AuditKind.CALENDAR_FAILED:
                    key = f"failed {event.details.get('job')}"
                self._events["validation" if key in _VALIDATIONS else key] = event
            self._seq = seq
            return dict(self._events)

    def now(self) -> list[Alarm]:
        """All alarms, the worst first."""
        found = [*self._roles(), *self._destinations(), *self._studies(), *self._disk(), *self._calendar()]
        return sorted(found, key=lambda one: one.level != "fail")

    def _roles(self) -> list[Alarm]:
        missing = processes.missing(processes.running(self._database))
        told = {
            "receive": "nothing is received",
            "worker": "nothing is analyzed",
            "deliver": "no result is sent",
            "housekeep": "no check and no backup is made",
        }
        return [
            Alarm("fail", f"The role {one} is not running or not ready: {told[one]}", "/system#roles")
            for one in missing
        ]

    def _destinations(self) -> list[Alarm]:
        echo = self.events().get(AuditKind.CALENDAR_ECHO)
        names = [one.name for one in self._settings.destinations]
        unreachable = echo.details.get("unreachable", {}) if echo else {}
        found = [
            Alarm("fail", f"The destination {one} does not answer", "/system#destinations")
            for one in names
            if one in unreachable
        ]
        told = {
            "QUARANTINED": ("fail", "refused for good, or given up"),
            "NO DESTINATION": ("fail", "for a destination that is no longer configured"),
            "STALLED": ("warn", "tried ten times in vain, and still tried"),
        }
        for trouble, count in views.stuck_counts(self._database, names).items():
            level, why = told[trouble]
            results = "1 result" if count == 1 else f"{count} results"
            found.append(Alarm(level, f"{results} {why}", "/system#quarantine"))
        return found

    def _studies(self) -> list[Alarm]:
        since = self._database.clock() - FAILED_DAYS * 86_400
        count = views.count_failed_studies(self._database, since)
        studies = "1 study" if count == 1 else f"{count} studies"
        text = f"{studies} of the last {FAILED_DAYS} days failed"
        return [Alarm("fail", text, "/?state=FAILED")] if count else []

    def _disk(self) -> list[Alarm]:
        free, least = self._files.free_gb(), self._settings.storage.min_free_gb
        if free < least:
            return [
                Alarm("fail", f"The disk is full ({free:.1f} GB free): nothing is received", "/system#disk")
            ]
        if free < 2 * least:
            text = f"The disk is nearly full: {free:.1f} GB free, at {least:g} GB nothing is received"
            return [Alarm("warn", text, "/system#disk")]
        return []

    def _calendar(self) -> list[Alarm]:
        events = self.events()
        found = []
        for job in JOBS:
            failed, done = events.get(f"failed {job}"), events.get(AuditKind.of_job(job))
            if failed and (done is None or done.seq < failed.seq):
                found.append(Alarm("fail", f"The job {job} failed when it last ran", "/system#schedule"))
        validation = events.get("validation")
        if validation and validation.event == AuditKind.VALIDATION_ALARM:
            text = "The periodic validation found figures outside of their limits"
            found.append(Alarm("warn", text, "/model#live"))
        return found
