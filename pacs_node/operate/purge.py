"""Deletes expired studies, and reconciles files with the journal after a crash.

A file is withdrawn before the rows that refer to it are deleted. After a crash, a withdrawn file that a row
refers to is restored, any other is removed. A received file without a row, as after the restore of an older
journal, returns to the spool: it was acknowledged, and must not be lost.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

import structlog
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from pacs_node.files import FileStore
from pacs_node.journal import processes, retention
from pacs_node.journal.database import Database
from pacs_node.records import AuditKind

DAY = 86_400.0
LEASE = "retention"

_log = structlog.get_logger(__name__)


def run(database: Database, files: FileStore, days: int, committing: Collection[str]) -> dict[str, Any]:
    """Delete studies delivered and last changed more than `days` ago (0: none), and clean up files.

    `committing` names the destinations that commit. Returns the audit details.
    """
    token = str(uuid.uuid4())
    if not processes.lead(database, LEASE, token):
        return {"note": "another process is doing it"}
    try:
        settle(database, files, files.withdrawn())
        purged = 0
        before = database.clock() - days * DAY
        for study_id, study_instance_uid in retention.expired(database, before, committing) if days else ():
            if not processes.lead(database, LEASE, token):
                break
            shas = retention.digests(database, study_id)
            files.withdraw(shas)
            try:
                if retention.purge(database, study_id, before, committing):
                    purged += 1
                    _log.info("purged", study_instance_uid=study_instance_uid)
            finally:
                settle(database, files, shas)
        did = {"studies": purged, **_orphans(database, files), "leftovers": files.sweep()}
    finally:
        processes.hand_over(database, LEASE, token)
    return did


def settle(database: Database, files: FileStore, sha256s: Collection[str]) -> None:
    """Remove withdrawn files, and restore those that a row or the spool refers to.

    The spool is read first, so that a file registered in between is in one of them.
    """
    if not sha256s:
        return
    needed = {item.sha256 for item in files.spooled()}
    needed |= retention.named(database, sha256s)
    for sha256 in sha256s:
        if sha256 in needed:
            files.restore(sha256)
        else:
            files.remove(sha256)


def _orphans(database: Database, files: FileStore) -> dict[str, int]:
    """Spool received files without a row again; remove other ones after a day."""
    registered = removed = 0
    for folder in files.stored():
        paths = {path.stem: path for path in folder}
        waiting = {item.sha256 for item in files.spooled()}
        orphans = paths.keys() - waiting - retention.named(database, paths.keys())
        refused = files.refused()
        own = {sha256 for sha256 in orphans if sha256 in refused or not _was_received(paths[sha256])}
        stale = {sha256 for sha256 in own if paths[sha256].stat().st_mtime < time.time() - DAY}
        for sha256 in orphans - own:
            files.respool(sha256)
        for kind, sha256s in (
            (AuditKind.ORPHAN_REGISTERED_AGAIN, orphans - own),
            (AuditKind.ORPHAN_REMOVED, stale),
        ):
            if sha256s:
                with database.write() as t:
                    for sha256 in sorted(sha256s):
                        t.audit(kind, sha256=sha256)
                _log.warning(kind, files=len(sha256s))
        files.withdraw(stale)
        settle(database, files, stale)
        registered += len(orphans - own)
        removed += len(stale)
    return {"registered_again": registered, "orphans": removed}


def _was_received(path: Path) -> bool:
    """Whether a file was received by C-STORE: its file meta names a sender. Unreadable ones count, too."""
    try:
        return "SourceApplicationEntityTitle" in read_file_meta_info(path)
    except (InvalidDicomError, ValueError, AttributeError, EOFError):
        return True
