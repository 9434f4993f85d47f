"""A journal on a PostgreSQL server: several machines may work on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

DRIVER = "postgresql+psycopg"
CLOCK_SECONDS = 10.0
"""The server's clock is read anew after so long."""

# Any number, as long as all processes of all versions use the same.
_UPGRADE_LOCK = 0x7061_6373

# A server that vanished is noticed within a minute.
_CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
# And a machine of ours that vanished in a transaction holds up the others no longer than this.
_SESSION = (
    "SET lock_timeout = '30s'",
    "SET idle_in_transaction_session_timeout = '60s'",
)


class Postgresql:
    """The connections to one database, and what is PostgreSQL's own; `database` uses it."""

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
        engine = sa.create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=_CONNECT)
        sa.event.listen(engine, "connect", _configure)
        sa.event.listen(engine, "begin", self._begin)
        # One snapshot for all statements of a reader; a writer sees what was committed before each statement.
        self.reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self.writer = engine.execution_options(isolation_level="READ COMMITTED")
        self._ahead = 0.0
        self._read_at = -CLOCK_SECONDS

    def now(self) -> float:
        """Seconds since the epoch by the server's clock, which all machines share.

        Kept as its lead over this machine's monotonic clock, so that to ask costs nothing.
        """
        if self._read_at < 0:
            with self.reader.connect() as connection, connection.begin():
                pass
        return time.monotonic() + self._ahead

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Writers work side by side; rows are locked."""
        yield

    def before_upgrade(self, connection: sa.Connection) -> None:
        """Keep other processes out until this transaction ends."""
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))

    def _begin(self, connection: sa.Connection) -> None:
        if time.monotonic() - self._read_at >= CLOCK_SECONDS:
            asked = "SELECT extract(epoch FROM clock_timestamp())::float8"
            now = connection.exec_driver_sql(asked).scalar_one()
            read_at = time.monotonic()
            # In this order: another thread takes it for known once `_read_at` is set.
            self._ahead, self._read_at = now - read_at, read_at


def _configure(connection: Any, _record: Any) -> None:
    for statement in _SESSION:
        connection.execute(statement)
    connection.commit()
