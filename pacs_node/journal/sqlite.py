"""A journal in one SQLite file."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pacs_node.errors import JournalError

BUSY_SECONDS = 30
"""How long a connection waits for another program that holds the file."""

_BEGIN = "pacs_node_begin"


class Sqlite:
    """The connections to one file, and what is SQLite's own; `database` uses it."""

    advice = (
        ("not a database", "it is no SQLite database; name another file, or restore a backup"),
        ("malformed", "it is damaged; stop the node and restore a backup"),
        ("readonly", "it is read-only; let the node's user write it and its folder"),
        ("unable to open", "let the node's user read and write it and its folder"),
        ("locked", f"another program has held it for {BUSY_SECONDS} s; end that program"),
        ("full", "the disk is full; make room"),
    )

    def __init__(self, url: sa.URL) -> None:
        self.path = Path(url.database or "")
        self.name = str(self.path)
        engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})
        sa.event.listen(engine, "connect", _configure)
        sa.event.listen(engine, "begin", _begin)
        self.reader = engine.execution_options(**{_BEGIN: "BEGIN"})
        self.writer = engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})

    @property
    def exists(self) -> bool:
        """Whether there is a database to connect to. An empty file is one that another process is making.

        Raises JournalError where we may not even look.
        """
        try:
            return self.path.exists() and self.path.stat().st_size > 0
        except OSError as error:
            raise JournalError(
                f"{self.name}: the node's user cannot read or write there: {error.strerror}"
            ) from error

    def now(self) -> float:
        """Seconds since the epoch by this machine's clock: all processes are on it."""
        return time.time()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for our turn to write. SQLite's own busy handler starves a writer for seconds."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = Path(f"{self.path}.lock").open("ab")  # noqa: SIM115 - closed below
        except OSError as error:
            raise JournalError(
                f"{self.name}: the node's user cannot write there: {error.strerror}"
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def before_upgrade(self, _connection: sa.Connection) -> None:
        """The turn to write keeps other processes out."""


def _configure(connection: Any, _record: Any) -> None:
    # We say BEGIN ourselves: the driver's own would come only before the first write, too late for IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options()[_BEGIN])
