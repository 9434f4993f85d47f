"""The two kinds of database: one SQLite file, or a PostgreSQL server for several machines."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pacs_node.errors import JournalError

BUSY_SECONDS = 30
"""How long a connection waits for another program that holds the SQLite file."""
POSTGRESQL = "postgresql+psycopg"
CLOCK_SECONDS = 10.0
"""How long the offset to the PostgreSQL server's clock is relied on."""

# Any number, as long as all processes of all versions use the same.
_UPGRADE_LOCK = 0x7061_6373


class Sqlite:
    """The connections to one file."""

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
        sa.event.listen(engine, "connect", self._configure)
        sa.event.listen(engine, "begin", self._begin)
        self.reader = engine.execution_options(pacs_node_begin="BEGIN")
        self.writer = engine.execution_options(pacs_node_begin="BEGIN IMMEDIATE")

    @property
    def exists(self) -> bool:
        """Whether there is a database. An empty file is one that another process is making.

        Raises JournalError if the folder may not even be read.
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
        """Wait in line to write: SQLite's own busy handler starves a writer for seconds."""
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
        """Nothing: `turn` keeps other processes out."""

    def _configure(self, connection: Any, _record: Any) -> None:
        # BEGIN is sent by `_begin`: the driver's own comes before the first write, too late for IMMEDIATE.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def _begin(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options()["pacs_node_begin"])


def copy_sqlite(source: Path, target: Path) -> None:
    """Write a checked, durable copy of a live database by SQLite's online backup; writers are not held up.

    Raises JournalError if the copy is damaged; then there is no `target`.
    """
    unfinished = target.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(unfinished)) as copy:
            # In one step: one read transaction of the live database; the copy is one file, without a -wal.
            live.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            problem = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        unfinished.unlink(missing_ok=True)
        raise JournalError(f"{source}: no copy can be made: {error}") from error
    if problem != "ok":
        unfinished.unlink()
        raise JournalError(f"{source}: the copy is damaged: {problem}")
    _sync(unfinished)
    unfinished.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Postgresql:
    """The connections to one database on a server."""

    path = None
    exists = True

    advice = (
        ("password authentication failed", "set the right user and password in storage.database"),
        ("no password supplied", "name the password in storage.database"),
        ("role", "make that user on the server (createuser) or name another in storage.database"),
        ("does not exist", "make it on the server: createdb --owner USER DATABASE"),
        ("permission denied", "make the node's user the owner of the database"),
        ("lock timeout", "another process held it for 30 s; see pg_stat_activity on the server"),
        ("resolve host", "name the right host in storage.database"),
        ("connection", "is the server running, and are host and port in storage.database right?"),
        ("could not extend", "the server's disk is full; make room"),
    )

    def __init__(self, url: sa.URL) -> None:
        self.name = url.render_as_string(hide_password=True)
        # A server that vanished is noticed within a minute.
        timeouts = {
            "connect_timeout": 10,
            "keepalives_idle": 20,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
        }
        engine = sa.create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=timeouts)
        sa.event.listen(engine, "connect", self._configure)
        sa.event.listen(engine, "begin", self._begin)
        # One snapshot for all statements of a reader; a writer sees what was committed before each statement.
        self.reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self.writer = engine.execution_options(isolation_level="READ COMMITTED")
        self._ahead = 0.0
        self._read_at = -CLOCK_SECONDS

    def now(self) -> float:
        """Seconds since the epoch by the server's clock, which all machines share.

        Kept as its offset to this machine's monotonic clock, so that a call costs nothing.
        """
        if self._read_at < 0:
            with self.reader.connect() as connection, connection.begin():
                pass
        return time.monotonic() + self._ahead

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nothing to wait for: writers work side by side, and rows are locked."""
        yield

    def before_upgrade(self, connection: sa.Connection) -> None:
        """Keep other processes out until this transaction ends."""
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))

    def _configure(self, connection: Any, _record: Any) -> None:
        # A machine that vanishes within a transaction holds the others up for no longer than this.
        connection.execute("SET lock_timeout = '30s'")
        connection.execute("SET idle_in_transaction_session_timeout = '60s'")
        connection.commit()

    def _begin(self, connection: sa.Connection) -> None:
        if time.monotonic() - self._read_at >= CLOCK_SECONDS:
            query = "SELECT extract(epoch FROM clock_timestamp())::float8"
            now = connection.exec_driver_sql(query).scalar_one()
            read_at = time.monotonic()
            # In this order: another thread relies on `_ahead` once `_read_at` is set.
            self._ahead, self._read_at = now - read_at, read_at
