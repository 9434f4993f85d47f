"""Copies of the SQLite database, made while the node works."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from pacs_node.errors import JournalError
from pacs_node.journal.database import Database


def copy(source: Path, target: Path) -> None:
    """Write a checked, durable copy of a database by SQLite's online backup; writers are not held up.

    Raises JournalError where the copy is not whole; then `target` is not there.
    """
    unfinished = target.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(unfinished)) as made:
            # In one step: one read transaction of the live database; the copy is one file, without a -wal.
            live.backup(made)
            made.execute("PRAGMA journal_mode = DELETE")
            problem = made.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        unfinished.unlink(missing_ok=True)
        raise JournalError(f"{source}: no copy can be made: {error}") from error
    if problem != "ok":
        unfinished.unlink()
        raise JournalError(f"{source}: the copy is damaged: {problem}")
    _sync(unfinished)
    unfinished.rename(target)
    _sync(target.parent)


def check(database: Database) -> None:
    """Check the live SQLite database's pages. Raises JournalError where they are damaged."""
    with database.read() as connection:
        problem = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if problem != "ok":
        raise JournalError(f"{database.name}: damaged, restore a backup: {problem}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
