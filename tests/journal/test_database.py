"""Connections, transactions, the node's identity, and the advice when the database does not work."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.postgresql import PASSWORD, Server

from pacs_node.errors import ConfigError, JournalError
from pacs_node.journal import audit, backends, instances
from pacs_node.journal.database import Database, open_database
from pacs_node.records import Arrival, AuditKind

DatabaseUrl = Callable[[str], str]


def test_every_commit_is_durable_and_readers_do_not_wait(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/journal.sqlite")
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}


def test_a_reader_sees_one_state_while_others_write(database: Database) -> None:
    database.identity("A")
    count = sa.text("SELECT count(*) FROM node")
    with database.read() as reader:
        before = reader.execute(count).scalar_one()
        with database.write() as t:
            t.execute(sa.text("DELETE FROM node"))
        assert reader.execute(count).scalar_one() == before == 1
    with database.read() as reader:
        assert reader.execute(count).scalar_one() == 0


def test_an_error_rolls_back_state_and_audit_together(
    database: Database, arrival: Callable[..., Arrival]
) -> None:
    broken = arrival("1.9", modality=None)
    with pytest.raises(sa.exc.IntegrityError):
        instances.register(database, [arrival("1.8"), broken], 0)
    assert list(audit.events(database)) == []


def test_received_text_is_cut_to_the_columns(database: Database, arrival: Callable[..., Arrival]) -> None:
    odd = arrival(modality="D" * 99, patient_id="P\0" * 99, skip_reason="modality \0", size=1 << 40)
    for _ in range(2):
        instances.register(database, [odd], 0)
    with database.read() as connection:
        row = connection.execute(sa.text("SELECT modality, patient_id, reason, size FROM instances")).one()
    assert tuple(row) == ("D" * 16, "P" * 99, "modality ", 1 << 40)


def test_the_identity_is_made_once(database: Database) -> None:
    assert database.identity("A") == database.identity("A")


def test_a_journal_exists_after_the_migration(tmp_path: Path, postgresql: Server) -> None:
    empty = "nothing_yet"
    postgresql.execute(f"CREATE DATABASE {empty}")
    for url in (f"sqlite:///{tmp_path}/new/journal.sqlite", postgresql.url(empty)):
        database = Database(url)
        assert not database.exists
        database.migrate()
        assert database.exists
        assert audit.verify(database) == (0, None)
        database.close()
    postgresql.drop(postgresql.url(empty))
    assert not (tmp_path / "journal.sqlite").exists()


def test_the_clock_is_the_servers(database_url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(database_url("postgresql"))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    first, passed = database.clock(), time.monotonic()
    with database.read() as connection:
        asked = sa.text("SELECT extract(epoch FROM clock_timestamp())::float8")
        server = connection.execute(asked).scalar_one()
    passed = time.monotonic() - passed
    assert first > 1e9
    assert -0.5 < server - first - passed < 0.5
    database.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((f":{PASSWORD}@", ":wrong@"), ["password authentication failed", "set the right user and password"]),
        (("pacs:", "nobody:"), ["nobody"]),
        (("/test_", "/no_"), ["does not exist", "createdb"]),
        (("127.0.0.1:", "127.0.0.1:1"), ["is the server running"]),
        (("127.0.0.1:", "no-such-host.invalid:"), ["name the right host"]),
    ],
)
def test_a_refused_connection_is_explained(
    database_url: DatabaseUrl, change: tuple[str, str], words: list[str]
) -> None:
    url = database_url("postgresql").replace(*change)
    with pytest.raises(JournalError) as error:
        Database(url).migrate()
    for word in (*words, "127.0.0.1" if "no-such" not in url else "no-such-host"):
        assert word in str(error.value)
    assert PASSWORD not in str(error.value)
    assert "wrong" not in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_rights_are_explained(database_url: DatabaseUrl, postgresql: Server) -> None:
    postgresql.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    postgresql.execute("CREATE DATABASE not_yours")
    try:
        url = postgresql.url("not_yours").replace(f"pacs:{PASSWORD}", "guest:guest")
        database = Database(url)
        with pytest.raises(JournalError, match=r"permission denied.*owner"):
            database.migrate()
        database.close()
    finally:
        postgresql.drop(postgresql.url("not_yours"))
        postgresql.execute("DROP ROLE guest")


def test_the_connection_survives_a_restart_of_the_server(
    database_url: DatabaseUrl, postgresql: Server
) -> None:
    database = Database(database_url("postgresql"))
    who = database.identity("A")
    postgresql.stop()
    postgresql.start()
    assert database.identity("A") == who

    def write() -> None:
        with database.write() as t:
            t.audit(AuditKind.SENT)
            postgresql.stop()

    with pytest.raises(JournalError):
        write()
    with pytest.raises(JournalError, match="is the server running"):
        database.identity("A")
    postgresql.start()
    assert database.identity("A") == who
    assert audit.verify(database) == (0, None)
    database.close()


def test_a_file_other_than_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not a database" * 100)
    database = Database(f"sqlite:///{tmp_path}/journal.sqlite")
    with pytest.raises(JournalError, match=r"journal\.sqlite: file is not a database; .* restore a backup"):
        database.migrate()
    database.close()


def test_a_locked_file_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BUSY_SECONDS", 0.5)
    database = open_database(f"sqlite:///{tmp_path}/journal.sqlite")
    other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="database is locked; another program"):
        database.identity("A")
    other.rollback()
    other.close()
    assert database.identity("A") == database.identity("A")
    database.close()


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Run as an unprivileged user: root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A read-only folder with a journal."""
    folder = tmp_path_factory.mktemp("sealed")
    open_database(f"sqlite:///{folder}/journal.sqlite").close()
    paths = [folder, *folder.iterdir()]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    # Others may pass through pytest's folders, which are closed to them.
    for parent in folder.parents:
        if parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(0o755)
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("name", ["journal.sqlite", "new.sqlite", "folder/new.sqlite"])
def test_a_read_only_folder_is_explained(sealed: Path, as_nobody: None, name: str) -> None:
    database = Database(f"sqlite:///{sealed}/{name}")

    def use() -> None:
        database.migrate()
        database.identity("A")

    with pytest.raises(JournalError) as error:
        use()
    database.close()
    assert str(sealed / name) in str(error.value)
    assert "write" in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "mysql://h/d", f"postgresql://u:{PASSWORD}@h/d", "postgresql+psycopg://h", PASSWORD],
)
def test_an_unusable_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"storage\.database.* use postgresql\+psycopg://") as error:
        Database(url)
    assert PASSWORD not in str(error.value)


def test_writing_processes_take_turns_and_the_chain_holds(journal_url: str) -> None:
    script = (
        "import sys\n"
        "from pacs_node.journal.database import open_database\n"
        "from pacs_node.records import AuditKind\n"
        "database = open_database(sys.argv[1])\n"
        "for number in range(50):\n"
        "    database.audit(AuditKind.RECEIVED, number=number)\n"
        "database.close()\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, journal_url]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    database = open_database(journal_url)
    assert audit.verify(database) == (150, None)
    database.close()
