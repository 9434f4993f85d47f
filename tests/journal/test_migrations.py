"""The migrations make the schema of this version, on both databases."""

import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pacs_node.errors import JournalError
from pacs_node.journal import audit
from pacs_node.journal.database import Database, open_database
from pacs_node.journal.schema import REVISION, Base


@pytest.fixture
def empty(tmp_path: Path, database_kind: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database without a journal."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path}/new.sqlite"
        return
    server = request.getfixturevalue("postgresql")
    name = f"empty_{uuid.uuid4().hex}"
    server.execute(f'CREATE DATABASE "{name}"')
    yield server.url(name)
    server.drop(server.url(name))


def test_the_migrations_give_the_schema(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == REVISION
        made = {
            (table.name, index["name"], tuple(index["column_names"]))
            for table in Base.metadata.sorted_tables
            for index in sa.inspect(connection).get_indexes(table.name)
            if not index["unique"]
        }
    wanted = {
        (table.name, index.name, tuple(column.name for column in index.columns))
        for table in Base.metadata.sorted_tables
        for index in table.indexes
    }
    assert made == wanted


def test_the_command_prints_the_revision(empty: str, tmp_path: Path) -> None:
    environment = os.environ | {"PACS_NODE__STORAGE__DATABASE": empty}
    command = [sys.executable, "-m", "pacs_node", "db", "migrate"]
    for ending in (f": created at {REVISION}\n", f": already at {REVISION}\n"):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.endswith(ending)
        assert "secret" not in done.stdout


def test_a_newer_journal_is_refused(database: Database) -> None:
    with database.write() as t:
        t.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(JournalError, match="another version"):
        database.migrate()


def test_a_migration_that_fails_leaves_the_database_as_it_was(empty: str) -> None:
    database = Database(empty)
    with database.write() as t:
        t.execute(sa.text("CREATE TABLE leases (name INTEGER)"))
    with pytest.raises(JournalError, match="leases"):
        database.migrate()
    with database.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["leases"]
    with database.write() as t:
        t.execute(sa.text("DROP TABLE leases"))
    database.migrate()
    assert audit.verify(database) == (0, None)
    database.close()


def test_processes_that_start_at_once_migrate_once(empty: str) -> None:
    script = (
        "import sys\n"
        "from pacs_node.journal.database import open_database\n"
        "sys.stdin.read()\n"
        "database = open_database(sys.argv[1])\n"
        "print(database.identity('A').namespace)\n"
        "database.close()\n"
    )
    command = [sys.executable, "-c", script, empty]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    namespaces = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert len(set(namespaces)) == 1
    database = open_database(empty)
    assert audit.verify(database) == (0, None)
    database.close()


def test_a_backup_of_the_file_is_a_journal(database_url: Callable[[str], str], tmp_path: Path) -> None:
    """An online backup made with other tools is usable, too."""
    database = open_database(database_url("sqlite"))
    identity = database.identity("A")
    with sqlite3.connect(tmp_path / "journal.sqlite") as live, sqlite3.connect(tmp_path / "copy") as copy:
        live.backup(copy)
    database.close()
    live.close()
    copy.close()
    restored = open_database(f"sqlite:///{tmp_path}/copy")
    assert restored.identity("A") == identity
    restored.close()
