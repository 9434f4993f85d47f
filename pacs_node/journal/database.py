"""The database: connections, transactions, schema version and clock."""

from __future__ import annotations

import fcntl
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pacs_node.errors import ConfigError, JournalError
from pacs_node.journal.schema import REVISION, NodeRow
from pacs_node.records import NodeIdentity

BUSY_SECONDS = 30


def open_database(url: str) -> Database:
    """The journal at this version's schema. Raises as `Database` and `Database.migrate` do."""
    database = Database(url)
    database.migrate()
    return database


class Database:
    """The journal's database; safe to use from several threads and processes.

    SQLite only so far. `clock` gives the seconds since the epoch. Raises ConfigError for a URL that it cannot
    use and JournalError where the database cannot be opened.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise ConfigError(
                f"storage.database: {parsed.render_as_string()} is not supported; "
                "use sqlite:////absolute/path/to/journal.sqlite or leave it empty"
            )
        self.clock = clock
        self.path = Path(parsed.database)
        self._engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
        sa.event.listen(self._engine, "connect", _configure)
        sa.event.listen(self._engine, "begin", _begin)

    @property
    def exists(self) -> bool:
        """Whether there is a database already; `migrate` makes one."""
        return self.path.exists()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one consistent state; it takes no lock."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that commits on leaving without an error.

        The file lock queues the writers fairly: SQLite's own busy handler starves one for seconds.
        """
        with self._locked(), self._engine.connect() as connection:
            writer = connection.execution_options(pacs_node_write=True)
            with writer.begin():
                yield writer

    def migrate(self) -> None:
        """Bring the schema to this version, forward only; makes a new database where there is none.

        Raises JournalError where the database is of a newer version of pacs-node, or cannot be opened.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.read() as connection:
                if _revision(connection) == REVISION:
                    return
            with self.write() as connection:
                _upgrade(connection)
        except sa.exc.DatabaseError as error:
            raise JournalError(f"{self.path}: the database cannot be opened: {error.orig}") from None

    def identity(self, ae_title: str) -> NodeIdentity:
        """Who we are; made at the first call and kept for ever."""
        made = uuid.uuid4()
        ours = {
            "id": 1,
            "namespace": str(made),
            "device_uid": f"2.25.{uuid.uuid5(made, 'device').int}",
        }
        with self.write() as connection:
            if connection.execute(sa.select(NodeRow.id)).first() is None:
                connection.execute(sa.insert(NodeRow).values(ours))
            row = connection.execute(sa.select(NodeRow.namespace, NodeRow.device_uid)).one()
        return NodeIdentity(row.namespace, row.device_uid, ae_title)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with Path(f"{self.path}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _upgrade(connection: sa.Connection) -> None:
    # Alembic takes 0.4 s to import; only a database that is not at this revision needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise JournalError(f"the database is of another version of pacs-node: {error}") from None


def _configure(connection: Any, _record: Any) -> None:
    # We say BEGIN ourselves: the driver's own would come only before the first write, too late for IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("pacs_node_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
