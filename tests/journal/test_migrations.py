"""The schema of every version, brought forward with its rows, on both databases."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from support.journal_steps import Steps

import pacs_node.journal
from pacs_node.errors import JournalError
from pacs_node.journal import audit, deliveries, intake, studies, views
from pacs_node.journal.database import Database, open_database
from pacs_node.journal.schema import REVISION, Base
from pacs_node.records import Arrival, Finding, ModelIdentity

# What the first release wrote: one study that was reported, whose SR is still on its way.
ROWS = """
INSERT INTO node VALUES (1, '5a4d1c5e-9a51-4f5f-9b7d-0f2f7f1f5a11', '2.25.1');
INSERT INTO studies VALUES (1, '1.2', NULL, 1, 5.5, 5.5, 'REPORTED', 65.5, 1, NULL, 0);
INSERT INTO instances VALUES (1, 1, '1.2.1', '1.2.3', '1.2.840', '1.2.840.1', 'DX', 'P', 'aa', 9, 5.5,
 'PACS', 'NODE', '10.0.0.1', NULL, 'ANALYZED', 5.5, 1, NULL, 0);
INSERT INTO reports VALUES (1, 1, 1, 'key', 'model', 'ab', 'NEGATIVE', 'no fracture suspected', 66.5);
INSERT INTO results VALUES (1, 1, 1, NULL, 'SR', '2.25.2', '1.2.840.2', '2.25.3', 'bb', 99, 66.5);
INSERT INTO deliveries VALUES (1, 1, 'pacs', 42752, 'out of resources', NULL, 'PENDING', 70.5, 2, NULL, 0);
"""
EVENTS = [
    (1, 5.5, "received", "1.2", "1.2.3", {"sha256": "aa", "sender": "Größe"}),
    (2, 6.25, "analyzed", "1.2", "1.2.3", {"probability": 0.1234, "notes": []}),
    (3, 66.5, "reported", "1.2", None, {"outcome": "NEGATIVE"}),
]
HASHES = [
    "38978254426bf33fc1a7d2d1b844886e24d42bb266bdf2c48a7ef74b2c8ccf75",
    "2130ce1f1b7201a9d3067094a76bbe1964e2dbaecabaa96517603551fd88fe30",
    "72cddfe7471a21d81738ca05d1773c95e2a3db21e29213035ee5a561a7eb6dcc",
]


@pytest.fixture
def old(tmp_path: Path, database_kind: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Make a journal of an older revision, with rows; returns its URL."""
    made = []

    def make(revision: str) -> str:
        if database_kind == "sqlite":
            url = f"sqlite:///{tmp_path}/old.sqlite"
        else:
            server = request.getfixturevalue("postgresql")
            server.execute('CREATE DATABASE "old"')
            url = server.url("old")
            made.append(url)
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            _upgrade(connection, revision)
            for statement in filter(str.strip, ROWS.split(";\n")):
                connection.exec_driver_sql(statement)
            finding = "INSERT INTO findings (id, instance_id, model_key, content_key, probability, positive,"
            finding += " heat_map, regions, notes, created_at) VALUES"
            connection.execute(
                sa.text(f"{finding} (1, 1, 'key', 'content', 0.7, :yes, :map, '[]', '[]', 6)"),
                {"yes": True, "map": b"\0"},
            )
            _write_events(connection)
            if database_kind == "postgresql":
                for table in ("studies", "instances", "reports", "results", "deliveries", "findings"):
                    sequence = f"pg_get_serial_sequence('{table}', 'id')"
                    connection.exec_driver_sql(f"SELECT setval({sequence}, 1)")
        engine.dispose()
        return url

    yield make
    for url in made:
        request.getfixturevalue("postgresql").drop(url)


def _upgrade(connection: sa.Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(pacs_node.journal.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _write_events(connection: sa.Connection) -> None:
    """As the first release did it; the hashes are those that it wrote."""
    previous = "0" * 64
    names = ("seq", "at", "event", "study_instance_uid", "sop_instance_uid", "details", "prev_hash", "hash")
    insert = f"INSERT INTO audit VALUES ({', '.join(f':{name}' for name in names)})"
    for (*values, details), digest in zip(EVENTS, HASHES, strict=True):
        told = json.dumps(details, sort_keys=True, ensure_ascii=False)
        row = dict(zip(names, [*values, told, previous, digest], strict=True))
        connection.execute(sa.text(insert), row)
        previous = digest


def test_the_migrations_give_the_schema(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == REVISION
        found = {
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
    assert found == wanted


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_a_journal_of_a_former_release_goes_on(
    old: Callable[[str], str],
    revision: str,
    arrival: Callable[..., Arrival],
    model: ModelIdentity,
    finding: Finding,
) -> None:
    url = old(revision)
    database = Database(url, lambda: 100.0)
    database.migrate()
    assert audit.verify(database) == (3, None)
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    study = views.study(database, "1.2")
    assert study is not None
    assert (study["state"], study["missing"], study["expected"]) == ("READY", [], None)
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim is not None
    assert [(item.sop_instance_uid, item.attempts) for item in claim.items] == [("2.25.2", 3)]
    intake.register(database, [arrival("1.2.4", "cc")], 0)
    Steps(database, model, finding).report()
    assert views.study(database, "1.2")["revision"] == 2  # type: ignore[index]
    assert studies.claim_study(database) is None
    assert audit.verify(database) == (6, None)
    assert database.identity("A").namespace == "5a4d1c5e-9a51-4f5f-9b7d-0f2f7f1f5a11"
    database.close()


def test_the_command_says_from_where_to_where(old: Callable[[str], str], tmp_path: Path) -> None:
    environment = os.environ | {"PACS_NODE__STORAGE__DATABASE": old("0002")}
    command = [sys.executable, "-m", "pacs_node", "db", "migrate"]
    for told in (f"from 0002 to {REVISION}\n", f"at {REVISION} already\n"):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.endswith(told)
        assert "secret" not in done.stdout


def test_a_newer_journal_is_refused(database: Database) -> None:
    with database.write() as t:
        t.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(JournalError, match="another version"):
        database.migrate()


def test_a_migration_that_fails_leaves_the_journal_as_it_was(old: Callable[[str], str]) -> None:
    url = old("0001")
    database = Database(url)
    with database.write() as t:
        t.execute(sa.text("CREATE TABLE leases (name INTEGER)"))
    with pytest.raises(JournalError, match="leases"):
        database.migrate()
    with database.read() as connection:
        assert sa.inspect(connection).has_table("alembic_version")
        assert MigrationContext.configure(connection).get_current_revision() == "0001"
        assert not sa.inspect(connection).has_table("feedback")
    with database.write() as t:
        t.execute(sa.text("DROP TABLE leases"))
    database.migrate()
    assert audit.verify(database) == (3, None)
    database.close()


@pytest.mark.parametrize("start", ["nothing", "0001"])
def test_processes_that_start_at_once_migrate_once(
    start: str, database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if start == "nothing" and database_kind == "postgresql":
        server = request.getfixturevalue("postgresql")
        server.execute('CREATE DATABASE "new"')
        url = server.url("new")
    elif start == "nothing":
        url = f"sqlite:///{tmp_path}/new.sqlite"
    else:
        url = request.getfixturevalue("old")(start)
    script = (
        "import sys\n"
        "from pacs_node.journal.database import open_database\n"
        "sys.stdin.read()\n"
        "database = open_database(sys.argv[1])\n"
        "print(database.identity('A').namespace)\n"
        "database.close()\n"
    )
    command = [sys.executable, "-c", script, url]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    told = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert len(set(told)) == 1
    database = open_database(url)
    assert audit.verify(database) == (0 if start == "nothing" else 3, None)
    database.close()
    if url.endswith("/new"):
        request.getfixturevalue("postgresql").drop(url)


def test_a_backup_of_the_file_is_a_journal(database_url: Callable[[str], str], tmp_path: Path) -> None:
    """The online backup that people make with other tools is usable, too."""
    database = open_database(database_url("sqlite"))
    who = database.identity("A")
    with sqlite3.connect(tmp_path / "journal.sqlite") as live, sqlite3.connect(tmp_path / "copy") as copy:
        live.backup(copy)
    database.close()
    live.close()
    copy.close()
    restored = open_database(f"sqlite:///{tmp_path}/copy")
    assert restored.identity("A") == who
    restored.close()
