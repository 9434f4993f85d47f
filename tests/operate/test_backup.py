"""A copy of the journal is whole, made while others write, and can be put back."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.journal import Clock

from pacs_node.errors import JournalError
from pacs_node.journal import audit, instances
from pacs_node.journal.database import Database, open_database
from pacs_node.operate import backup
from pacs_node.records import Arrival


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_copy_can_be_put_back(
    database: Database, arrival: Callable[..., Arrival], tmp_path: Path, clock: Clock
) -> None:
    instances.register(database, [arrival()], 0)
    did = backup.run(database, tmp_path / "backups", 7)
    assert did["events"] == 1
    if database.path is None:
        assert "pg_dump" in did["note"]
        assert not (tmp_path / "backups").exists()
        return
    assert copies(tmp_path / "backups") == [did["file"]] == ["journal-19700112T134640.sqlite"]
    restored = open_database(f"sqlite:///{tmp_path}/backups/{did['file']}")
    assert audit.verify(restored) == (1, None)
    restored.close()


def test_so_many_are_kept_and_the_newest(sqlite: Database, tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "backups"
    for _ in range(4):
        backup.run(sqlite, folder, 2)
        clock.now += 1
    assert copies(folder) == ["journal-19700112T134642.sqlite", "journal-19700112T134643.sqlite"]
    assert backup.run(sqlite, folder, 0)["file"] is None
    assert len(copies(folder)) == 2


def test_writers_go_on_meanwhile(
    sqlite: Database, arrival: Callable[..., Arrival], tmp_path: Path, clock: Clock
) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            instances.register(sqlite, [arrival(f"1.{number}", f"{number:064x}")], 0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            backup.run(sqlite, tmp_path / "backups", 9)
            clock.now += 1
    finally:
        stop.set()
        writer.join()
    assert len(copies(tmp_path / "backups")) == 5
    for name in copies(tmp_path / "backups"):
        copy = open_database(f"sqlite:///{tmp_path}/backups/{name}")
        assert audit.verify(copy)[1] is None
        copy.close()


def test_a_broken_audit_log_is_told_and_costs_no_older_copy(
    sqlite: Database, arrival: Callable[..., Arrival], tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "backups"
    instances.register(sqlite, [arrival()], 0)
    backup.run(sqlite, folder, 1)
    assert sqlite.path is not None
    with sqlite3.connect(sqlite.path) as connection:
        connection.execute("UPDATE audit SET event = 'altered'")
    connection.close()
    clock.now += 1
    with pytest.raises(JournalError, match="event 1 was altered"):
        backup.run(sqlite, folder, 1)
    assert len(copies(folder)) == 2


def test_a_damaged_database_gives_no_copy(
    sqlite: Database, arrival: Callable[..., Arrival], tmp_path: Path
) -> None:
    instances.register(sqlite, [arrival(f"1.{number}", f"{number:064x}") for number in range(200)], 0)
    sqlite.close()
    assert sqlite.path is not None
    # In one file, without a -wal that would heal it.
    connection = sqlite3.connect(sqlite.path)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    pages = bytearray(sqlite.path.read_bytes())
    pages[len(pages) // 2 : len(pages) // 2 + 8192] = b"\xff" * 8192
    sqlite.path.write_bytes(pages)
    with pytest.raises(JournalError):
        backup.run(sqlite, tmp_path / "backups", 7)
    assert copies(tmp_path / "backups") == []


@pytest.fixture
def sqlite(tmp_path: Path, clock: Clock) -> Database:
    database = Database(f"sqlite:///{tmp_path}/live.sqlite", clock)
    database.migrate()
    return database
