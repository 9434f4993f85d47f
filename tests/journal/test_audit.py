"""The audit log shows what was done to it."""

import sqlite3
from pathlib import Path

import pytest

from pacs_node.journal import audit
from pacs_node.journal.database import Database


@pytest.fixture(autouse=True)
def five_events(database: Database) -> None:
    for number in range(5):
        with database.write() as connection:
            audit.append(connection, float(number), "event", "1.2", "1.2.3", number=number, text="ü")


def test_the_chain_is_whole(database: Database) -> None:
    assert audit.verify(database) == (5, None)
    assert [event.details["number"] for event in audit.events(database, "1.2")] == [0, 1, 2, 3, 4]
    assert list(audit.events(database, "1.9")) == []


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE audit SET details = '{}' WHERE seq = 3", (3, "event 3 was altered")),
        ("UPDATE audit SET at = 9.0 WHERE seq = 2", (2, "event 2 was altered")),
        ("DELETE FROM audit WHERE seq = 2", (2, "event 2 is missing")),
        (
            "UPDATE audit SET event = 'x', hash = (SELECT hash FROM audit WHERE seq = 1) WHERE seq = 4",
            (4, "event 4 was altered"),
        ),
    ],
)
def test_tampering_shows(
    database: Database, tmp_path: Path, statement: str, expected: tuple[int, str]
) -> None:
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute(statement)
    assert audit.verify(database) == expected
