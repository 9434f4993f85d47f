"""Backups of the journal, and integrity checks."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pacs_node.errors import JournalError
from pacs_node.journal import audit, backends
from pacs_node.journal.database import Database

PREFIX = "journal-"


def run(database: Database, folder: Path, keep: int) -> dict[str, Any]:
    """Copy the journal to `folder`, keep `keep` copies, and check the journal and its audit log.

    Returns the audit details. A damaged journal is copied too, but then no older copy is removed. Raises
    JournalError if a copy or the journal is damaged.
    """
    did: dict[str, Any] = {"file": None}
    if database.path is None:
        did["note"] = "PostgreSQL is backed up with pg_dump; only the audit log was checked"
    else:
        if keep:
            folder.mkdir(parents=True, exist_ok=True)
            when = datetime.fromtimestamp(database.clock(), UTC)
            target = folder / f"{PREFIX}{when:%Y%m%dT%H%M%S}.sqlite"
            backends.copy_sqlite(database.path, target)
            did |= {"file": target.name, "bytes": target.stat().st_size}
        database.check_pages()
    did["events"], problem = audit.verify(database)
    if problem:
        raise JournalError(f"audit log: {problem}")
    if did["file"]:
        for old in sorted(folder.glob(f"{PREFIX}*.sqlite"), reverse=True)[keep:]:
            old.unlink()
    return did
