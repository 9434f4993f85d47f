"""Periodic checks: free space, destinations, and the node's clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import structlog

from pacs_node.config import Destination
from pacs_node.deliver.sender import echo
from pacs_node.errors import DeliveryError
from pacs_node.files import FileStore
from pacs_node.journal import audit, deliveries, queue
from pacs_node.journal.database import Database
from pacs_node.operate import housekeeping
from pacs_node.records import AuditKind

CLOCK_SLACK_SECONDS = 5.0

_log = structlog.get_logger(__name__)


def disk(database: Database, files: FileStore, min_free_gb: float) -> dict[str, Any]:
    """Measure free space; on a change across twice `min_free_gb`, audit `disk_low` or `disk_ok`."""
    result = {"free_gb": round(files.free_gb(), 3), "low": files.free_gb() < 2 * min_free_gb}
    if result["low"] != housekeeping.last(database, "disk").get("low", False):
        kind = AuditKind.DISK_LOW if result["low"] else AuditKind.DISK_OK
        (_log.warning if result["low"] else _log.info)(kind, free_gb=result["free_gb"])
        database.audit(kind, free_gb=result["free_gb"])
    return result


def destinations(
    database: Database, destinations: Sequence[Destination], calling_ae_title: str
) -> dict[str, Any]:
    """Ask each destination for a C-ECHO or a search; returns the reasons of those that are unreachable."""
    unreachable = {}
    for destination in destinations:
        try:
            echo(destination, calling_ae_title)
        except DeliveryError as error:
            unreachable[destination.name] = str(error)
        name, why = destination.name, unreachable.get(destination.name)
        if kind := deliveries.record_reach(database, name, why):
            (_log.warning if why else _log.info)(kind, destination=name, why=why)
    return {"asked": len(destinations), "unreachable": unreachable}


class ClockWatch:
    """Detects that the journal's clock went back, so that nothing waits for a time to come again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        newest = audit.last(database)
        # A clock that went back before this process started: the newest event lies in the future.
        self._lead = max(newest.at if newest else 0.0, database.clock()) - time.monotonic()

    def check(self, is_leading: bool) -> None:
        """Bring due times forward by what the clock went back since the last check; only the leader does."""
        lead = self._database.clock() - time.monotonic()
        if is_leading and self._lead - lead > CLOCK_SLACK_SECONDS:
            _log.warning("clock_jumped", seconds=round(self._lead - lead, 1))
            queue.shift(self._database, self._lead - lead)
        self._lead = lead
