"""Connections, transactions, schema and identity."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pacs_node.errors import ConfigError, JournalError
from pacs_node.journal import audit, intake
from pacs_node.journal.database import Database
from pacs_node.journal.schema import REVISION, Base
from pacs_node.records import Arrival


def test_the_migrations_give_the_schema(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == REVISION


def test_every_commit_is_durable_and_readers_do_not_wait(database: Database) -> None:
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}


def test_an_error_rolls_back_state_and_audit_together(
    database: Database, arrival: Callable[..., Arrival]
) -> None:
    broken = arrival("1.9", modality=None)
    with pytest.raises(sa.exc.IntegrityError):
        intake.register(database, [arrival("1.8"), broken], 0)
    assert list(audit.events(database)) == []


def test_who_we_are_is_made_once(database: Database) -> None:
    assert database.identity("A") == database.identity("A")


def test_a_newer_database_is_refused(database: Database, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(JournalError, match="another version"):
        database.migrate()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(JournalError, match="cannot be opened"):
        Database(f"sqlite:///{tmp_path}/journal.sqlite").migrate()


@pytest.mark.parametrize("url", ["sqlite://", "mysql://h/d"])
def test_an_unusable_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"storage\.database"):
        Database(url)


def test_writing_processes_take_turns_and_the_chain_holds(database: Database, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pacs_node.journal import audit\n"
        "from pacs_node.journal.database import Database\n"
        "database = Database(sys.argv[1])\n"
        "for number in range(50):\n"
        "    with database.write() as connection:\n"
        "        audit.append(connection, 0.0, 'tick', number=number)\n"
    )
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path}/journal.sqlite"]
    writers = [subprocess.Popen(command) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert audit.verify(database) == (150, None)
