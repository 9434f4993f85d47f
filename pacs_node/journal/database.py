"""The database: connections, transactions, schema version and clock."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pacs_node.errors import ConfigError, JournalError
from pacs_node.journal.backends import POSTGRESQL, Postgresql, Sqlite
from pacs_node.journal.schema import REVISION, AuditHeadRow, Base, NodeRow
from pacs_node.journal.transaction import FIRST_HASH, Transaction
from pacs_node.records import AuditKind, NodeIdentity


def open_database(url: str) -> Database:
    """The journal at this version's schema. Raises as `Database` and `Database.migrate` do."""
    database = Database(url)
    database.migrate()
    return database


class Database:
    """The journal's database; safe to use from several threads, processes and, on PostgreSQL, machines.

    `clock` gives the seconds since the epoch, on PostgreSQL the server's; `path` is SQLite's file, else None;
    `name` is for people and holds no password. Raises ConfigError for an unusable URL, and JournalError
    whenever the database does not work as it should.
    """

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        self._backend = _backend(url)
        self.clock = clock or self._now
        self.path: Path | None = self._backend.path
        self.name = self._backend.name

    @property
    def exists(self) -> bool:
        """Whether there is a journal already; `migrate` makes one."""
        return self.revision is not None

    @property
    def revision(self) -> str | None:
        """The schema that the database has, newer ones being greater; None if there is no journal."""
        if not self._backend.exists:
            return None
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()

    @property
    def is_current(self) -> bool:
        """Whether it is at this version's schema."""
        return self.revision == REVISION

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one consistent state; it takes no lock."""
        with self._explained(), self._backend.reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that commits, with its audit events, on leaving without an error."""
        with self._explained(), self._backend.turn(), self._backend.writer.begin() as connection:
            transaction = Transaction(connection, self.clock())
            yield transaction
            transaction.chain_events()

    def audit(self, kind: AuditKind, /, *uids: str | None, **details: Any) -> None:
        """Add an event to the audit log that goes with no other change; see `Transaction.audit`."""
        with self.write() as t:
            t.audit(kind, *uids, **details)

    def migrate(self) -> None:
        """Bring the schema to this version, forward only; makes a new journal if there is none.

        Several processes may do so at once. Raises JournalError if the database belongs to a newer version of
        pacs-node, or cannot be used.
        """
        if self.is_current:
            return
        with self.write() as t:
            self._backend.before_upgrade(t.connection)
            try:
                _upgrade(t.connection)
            except sa.exc.DatabaseError as error:
                raise self._error(error) from error

    def identity(self, ae_title: str) -> NodeIdentity:
        """The node's identity, made at the first call and kept for ever."""
        namespace = uuid.uuid4()
        device_uid = f"2.25.{uuid.uuid5(namespace, 'device').int}"
        with self.write() as t:
            new = {"id": 1, "namespace": str(namespace), "device_uid": device_uid}
            t.execute(insert_new(t, NodeRow), new)
            row = t.execute(sa.select(NodeRow.namespace, NodeRow.device_uid)).one()
        return NodeIdentity(row.namespace, row.device_uid, ae_title)

    def check_pages(self) -> None:
        """Check the pages of an SQLite file. Raises JournalError if they are damaged."""
        with self.read() as connection:
            problem = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if problem != "ok":
            raise JournalError(f"{self.name}: damaged, restore a backup: {problem}")

    def close(self) -> None:
        """Close all connections."""
        self._backend.writer.dispose()

    def _now(self) -> float:
        with self._explained():
            return self._backend.now()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the database itself, not of a statement, into a JournalError with advice."""
        try:
            yield
        except sa.exc.DatabaseError as error:
            if type(error) not in (sa.exc.OperationalError, sa.exc.DatabaseError):
                raise
            raise self._error(error) from error

    def _error(self, error: sa.exc.DatabaseError) -> JournalError:
        message = " ".join(str(error.orig).split())
        advice = [advice for words, advice in self._backend.advice if words in message]
        return JournalError("; ".join([f"database {self.name}: {message}", *advice[:1]]))


def insert_new(t: Transaction, row: Any) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that skips rows that are there already, or that another process inserts at this moment."""
    if t.connection.dialect.name == "postgresql":
        return postgresql.insert(row).on_conflict_do_nothing()
    return sqlite.insert(row).on_conflict_do_nothing()


def _backend(url: str) -> Sqlite | Postgresql:
    name = "the URL"
    with suppress(sa.exc.ArgumentError):
        parsed = sa.make_url(url)
        name = parsed.render_as_string(hide_password=True)
        if parsed.drivername == POSTGRESQL and parsed.database:
            return Postgresql(parsed)
        if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
            return Sqlite(parsed)
    raise ConfigError(
        f"storage.database: {name} is not supported; use {POSTGRESQL}://user:password@host/database, "
        "or sqlite:////absolute/path/to/journal.sqlite, or leave it empty"
    )


def _upgrade(connection: sa.Connection) -> None:
    # Alembic takes 0.4 s to import; only a database that is not at this revision needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        if sa.inspect(connection).has_table("alembic_version"):
            command.upgrade(config, "head")
        else:
            Base.metadata.create_all(connection, checkfirst=False)
            connection.execute(sa.insert(AuditHeadRow).values(id=1, seq=0, hash=FIRST_HASH))
            command.stamp(config, "head")
    except CommandError as error:
        raise JournalError(f"the database is of another version of pacs-node: {error}") from None
