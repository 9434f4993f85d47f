"""What the node looks at from time to time: free space, its destinations, and its clock."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from pacs_node.config import Destination, Settings
from pacs_node.deliver.echo import echo
from pacs_node.errors import DeliveryError, JournalError
from pacs_node.files import FileStore
from pacs_node.journal import audit, processes, queue
from pacs_node.journal.database import Database
from pacs_node.operate import housekeeping
from pacs_node.records import AuditKind

CLOCK_SLACK_SECONDS = 5.0

_log = structlog.get_logger(__name__)


def disk(database: Database, files: FileStore, min_free_gb: float) -> dict[str, Any]:
    """Alarm as `disk_low` when less than twice `min_free_gb` becomes free, `disk_ok` when that is over."""
    found = {"free_gb": round(files.free_gb(), 3), "low": files.free_gb() < 2 * min_free_gb}
    if found["low"] != housekeeping.last(database, "disk").get("low", False):
        kind = AuditKind.DISK_LOW if found["low"] else AuditKind.DISK_OK
        _alarm(database, kind, bool(found["low"]), free_gb=found["free_gb"])
    return found


def destinations(database: Database, named: Sequence[Destination], calling_ae_title: str) -> dict[str, Any]:
    """Ask each destination whether it answers; `destination_unreachable` and `..._reachable` on a change.

    Returns under "unreachable" why each that does not answer does not.
    """
    before: Mapping[str, str] = housekeeping.last(database, "echo").get("unreachable", {})
    unreachable: dict[str, str] = {}
    for destination in named:
        name = destination.name
        try:
            echo(destination, calling_ae_title)
        except DeliveryError as error:
            unreachable[name] = str(error)
        if (name in unreachable) != (name in before):
            kind = (
                AuditKind.DESTINATION_UNREACHABLE if name in unreachable else AuditKind.DESTINATION_REACHABLE
            )
            why = {"why": unreachable[name]} if name in unreachable else {}
            _alarm(database, kind, name in unreachable, destination=name, **why)
    return {"asked": len(named), "unreachable": unreachable}


def lacking(settings: Settings, database: Database, files: FileStore) -> dict[str, str]:
    """What keeps the node from being ready, by what it is about; empty where nothing does.

    Anybody may read it: it names no address and quotes no error.
    """
    found = {}
    try:
        if not database.is_current:
            found["journal"] = "not at the schema of this version"
        else:
            for role in processes.missing(processes.running(database)):
                found[role] = "not running or not ready"
    except JournalError:
        found["journal"] = "cannot be read"
    if files.free_gb() < settings.storage.min_free_gb:
        found["disk"] = "less than `min_free_gb` is free: nothing is received"
    return found


class Clock:
    """Notices when the journal's clock went backward, so that nothing waits for a time to come again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        newest = audit.last(database, "")
        # Before us: the newest event should not lie in the future.
        self._lead = max(newest.at if newest else 0.0, database.clock()) - time.monotonic()

    def check(self, is_leading: bool) -> None:
        """Shift what is due by what the clock went back since the last check, if that is ours to do."""
        lead = self._database.clock() - time.monotonic()
        if is_leading and self._lead - lead > CLOCK_SLACK_SECONDS:
            _log.warning("clock_jumped", seconds=round(self._lead - lead, 1))
            queue.shift(self._database, self._lead - lead)
        self._lead = lead


def _alarm(database: Database, kind: AuditKind, is_bad: bool, **details: Any) -> None:
    (_log.warning if is_bad else _log.info)(kind, **details)
    database.audit(kind, **details)
