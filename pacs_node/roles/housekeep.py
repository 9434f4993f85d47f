"""Role `housekeep`: scheduled jobs and the clock watch; of several processes, one leads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pacs_node.config import Settings
from pacs_node.files import FileStore
from pacs_node.journal.database import Database, open_database
from pacs_node.roles import lifecycle
from pacs_node.roles.lifecycle import Heartbeat, surviving


def run(settings: Settings, stop: threading.Event) -> None:
    """Run the schedule and watch the clock until `stop` is set."""
    from pacs_node.operate import purge
    from pacs_node.operate.checks import ClockWatch
    from pacs_node.operate.housekeeping import Calendar

    database = open_database(settings.database_url)
    clock = ClockWatch(database)
    files = FileStore(settings.storage.path)
    if files.withdrawn():
        with surviving("retention"):
            purge.run(database, files, 0, ())
    with (
        Heartbeat(database, "housekeep") as heartbeat,
        Calendar(
            database, settings.schedule, calendar_jobs(settings, database), at_start=["echo"]
        ) as calendar,
    ):
        heartbeat.ready()
        while not stop.is_set():
            with surviving("housekeep"):
                clock.check(is_leading=calendar.lead())
            stop.wait(lifecycle.BEAT_SECONDS)


def calendar_jobs(settings: Settings, database: Database) -> dict[str, Callable[[], dict[str, Any]]]:
    """The job of each key of `[schedule]`; each returns its audit details."""
    from pacs_node.operate import backup, checks, purge, validation

    storage, files = settings.storage, FileStore(settings.storage.path)
    committing = [destination.name for destination in settings.destinations if destination.commitment]
    return {
        "validation": lambda: {"verdict": validation.run(database, settings.validation).verdict},
        "retention": lambda: purge.run(database, files, storage.retention_days, committing),
        "backup": lambda: backup.run(database, storage.path / "backups", storage.backups),
        "disk": lambda: checks.disk(database, files, storage.min_free_gb),
        "echo": lambda: checks.destinations(database, settings.destinations, settings.node.ae_title),
    }
