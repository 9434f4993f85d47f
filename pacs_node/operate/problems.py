"""Everything that needs action: one list for `status`, the pages, `/health`, `/metrics` and `doctor`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import quote

from pacs_node.config import ScheduleSettings, Settings
from pacs_node.errors import JournalError
from pacs_node.files import FileStore
from pacs_node.journal import audit, deliveries, processes, views
from pacs_node.journal.database import Database
from pacs_node.journal.deliveries import Trouble
from pacs_node.operate import housekeeping
from pacs_node.records import AuditKind, StudyState

JOBS = tuple(ScheduleSettings.model_fields)
VALIDATIONS = (AuditKind.VALIDATION_PASSED, AuditKind.VALIDATION_TOO_FEW, AuditKind.VALIDATION_ALARM)
MOST_STUDIES = 200
"""More failed studies than these are not listed."""
CLOCK_SECONDS = 86_400.0
"""A jump of the clock is listed for so long."""

_NOT_DONE = {
    "receive": "nothing is received",
    "worker": "nothing is analyzed",
    "deliver": "no result is sent",
    "housekeep": "no checks and no backups are made",
}
_STUCK = {
    Trouble.QUARANTINED: "refused for good, or given up",
    Trouble.NO_DESTINATION: "for a destination that is no longer configured",
    Trouble.STALLED: "not delivered in ten attempts or more; still being tried",
}


class ProblemKind(StrEnum):
    """What a problem is about."""

    JOURNAL = "journal"
    ROLE = "role"
    DISK = "disk"
    DESTINATION = "destination"
    QUARANTINED = "quarantined"
    NO_DESTINATION = "no destination"
    STALLED = "stalled"
    STUDY = "study"
    JOB = "job"
    BACKUP = "backup"
    CLOCK = "clock"
    VALIDATION = "validation"


class Severity(StrEnum):
    """FAIL: something is not done. WARN: it may soon not be done, or may be wrong."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that needs action."""

    kind: ProblemKind
    severity: Severity
    subject: str
    """The role, destination, study or job; else the kind."""
    message: str
    advice: str = ""
    since: float | None = None
    """None: now."""
    link: str = ""
    """The page that shows more."""
    count: int = 1
    """The number of results, for stuck deliveries."""

    @property
    def dismissible(self) -> bool:
        """Whether it lies in the past, so that only a dismissal ends it."""
        past = (ProblemKind.STUDY, ProblemKind.JOB, ProblemKind.CLOCK, ProblemKind.VALIDATION)
        return self.kind in past

    def __str__(self) -> str:
        of_destination = (ProblemKind.QUARANTINED, ProblemKind.NO_DESTINATION, ProblemKind.STALLED)
        kind = ProblemKind.DESTINATION if self.kind in of_destination else self.kind
        return f"{kind} {self.subject}: {self.message}" if self.subject != kind else f"{kind}: {self.message}"


def readiness(settings: Settings, database: Database, files: FileStore) -> Iterator[Problem]:
    """The problems that keep the node from being ready; their messages are fit for the public."""
    kind, fail = ProblemKind.JOURNAL, Severity.FAIL
    try:
        if not database.is_current:
            yield Problem(kind, fail, kind, "not at the schema of this version", "pacs-node db migrate")
        else:
            for role in processes.missing(processes.running(database)):
                advice = f"{_NOT_DONE[role]}; the log of this role says why"
                message = "not running or not ready"
                yield Problem(ProblemKind.ROLE, fail, role, message, advice, link="/system#roles")
    except JournalError:
        yield Problem(kind, fail, kind, "cannot be read", "the log says why")
    if files.free_gb() < settings.storage.min_free_gb:
        message, advice = "less than `min_free_gb` is free: nothing is received", "make room"
        yield Problem(ProblemKind.DISK, fail, "disk", message, advice, link="/system#disk")


def problems(settings: Settings, database: Database, files: FileStore) -> list[Problem]:
    """All problems that were not dismissed: failures before warnings, the newest first.

    Raises JournalError if the journal fails while it is being read.
    """
    listed = list(readiness(settings, database, files))
    if any(problem.kind == ProblemKind.JOURNAL for problem in listed):
        return listed
    dismissed = {
        (event.details["kind"], event.details["subject"]): event.at
        for event in audit.events(database, kind=AuditKind.PROBLEM_DISMISSED)
    }
    for problem in (
        *capacity_problems(settings, database, files),
        *destination_problems(settings, database),
        *study_problems(database),
        *calendar_problems(settings, database),
    ):
        at = dismissed.get((problem.kind, problem.subject), 0.0)
        if not problem.dismissible or problem.since is None or problem.since > at:
            listed.append(problem)
    return sorted(listed, key=lambda problem: (problem.severity, -(problem.since or math.inf)))


def dismiss(database: Database, kind: str, subject: str, who: str) -> None:
    """Hide a problem until it occurs again; the dismissal is audited."""
    database.audit(AuditKind.PROBLEM_DISMISSED, kind=kind, subject=subject, who=who)


def capacity_problems(settings: Settings, database: Database, files: FileStore) -> Iterator[Problem]:
    warn = Severity.WARN
    if settings.web.enabled and not any(
        role.role == "web" and role.ready for role in processes.running(database)
    ):
        yield Problem(ProblemKind.ROLE, warn, "web", "no pages are served", "the log of this role says why")
    free, reserve = files.free_gb(), settings.storage.min_free_gb
    if reserve <= free < 2 * reserve:
        message = f"{free:.1f} GB free; below {reserve:g} GB nothing is received"
        yield Problem(ProblemKind.DISK, warn, "disk", message, "make room", link="/system#disk")


def destination_problems(settings: Settings, database: Database) -> Iterator[Problem]:
    names = [destination.name for destination in settings.destinations]
    for name in names:
        reach = deliveries.reach(database, name)
        if reach and reach.event == AuditKind.DESTINATION_UNREACHABLE:
            message = f"unreachable: {reach.details['why'].removeprefix(f'{name}: ')}"
            fail, advice, link = Severity.FAIL, "pacs-node doctor", "/system#destinations"
            yield Problem(ProblemKind.DESTINATION, fail, name, message, advice, reach.at, link)
    for group in views.stuck_groups(database, names):
        kind = ProblemKind(group.trouble.lower())
        severity = Severity.WARN if kind == ProblemKind.STALLED else Severity.FAIL
        message = f"{group.results} {'result' if group.results == 1 else 'results'} {_STUCK[group.trouble]}"
        advice, link = "retry them, or give them up: pacs-node quarantine", "/system#quarantine"
        yield Problem(kind, severity, group.destination, message, advice, group.since, link, group.results)


def study_problems(database: Database) -> Iterator[Problem]:
    for study in views.failed_studies(database, MOST_STUDIES):
        uid, reason = study.study_instance_uid, study.reason or "no reason was recorded"
        advice, link = f"pacs-node retry {uid}", f"/studies/{quote(uid, safe='')}"
        if study.state == StudyState.FAILED:
            message, severity = f"not reported: {reason}", Severity.FAIL
        else:
            images = f"{study.images} {'image' if study.images == 1 else 'images'}"
            message, severity = f"{images} given up: {reason}", Severity.WARN
        yield Problem(ProblemKind.STUDY, severity, uid, message, advice, study.since, link)


def calendar_problems(settings: Settings, database: Database) -> Iterator[Problem]:
    fail, warn, link = Severity.FAIL, Severity.WARN, "/system#schedule"
    for job in JOBS:
        run = audit.last_run(database, job)
        if run and run.event == AuditKind.CALENDAR_FAILED:
            message = f"the last run failed: {run.details['why']}"
            yield Problem(ProblemKind.JOB, fail, job, message, "", run.at, link)
    backup, now = audit.last(database, AuditKind.CALENDAR_BACKUP), database.clock()
    trigger = housekeeping.trigger("backup", settings.schedule.backup)
    if backup and trigger and settings.storage.backups:
        due: datetime | None = datetime.fromtimestamp(backup.at, UTC).astimezone()
        for _ in range(2):
            due = trigger.get_next_fire_time(due, due) if due else None
        if due and due.timestamp() < now:
            message, advice = "the last one is too old", "does the role housekeep run?"
            yield Problem(ProblemKind.BACKUP, fail, "backup", message, advice, backup.at, link)
    jump = audit.last(database, AuditKind.CLOCK_JUMPED)
    if jump and jump.at > now - CLOCK_SECONDS:
        message, advice = "the clock of this node went back", "synchronize the clock by NTP"
        yield Problem(ProblemKind.CLOCK, warn, "clock", message, advice, jump.at)
    verdict = audit.last(database, *VALIDATIONS)
    if verdict and verdict.event == AuditKind.VALIDATION_ALARM:
        message, kind = "figures outside their limits", ProblemKind.VALIDATION
        yield Problem(
            kind, warn, "validation", message, "see the page of the model", verdict.at, "/model#live"
        )
