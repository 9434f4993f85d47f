"""The audit log shows what was done to it."""

import pytest
import sqlalchemy as sa

from pacs_node.errors import JournalError
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
def test_tampering_shows(database: Database, statement: str, expected: tuple[int, str]) -> None:
    with database.write() as connection:
        connection.execute(sa.text(statement))
    assert audit.verify(database) == expected


@pytest.mark.parametrize(
    ("statement", "count", "words"),
    [
        ("DELETE FROM audit WHERE seq > 3", 3, "ends with event 3, its head names another as the last, 5"),
        ("DELETE FROM audit", 0, "ends with event 0"),
        ("UPDATE audit_head SET seq = 4", 5, "the last, 4"),
        ("DELETE FROM audit_head", 5, "no head"),
    ],
)
def test_a_log_cut_at_its_end_shows(database: Database, statement: str, count: int, words: str) -> None:
    with database.write() as connection:
        connection.execute(sa.text(statement))
    found, problem = audit.verify(database)
    assert found == count
    assert problem is not None
    assert words in problem


def test_a_log_without_its_head_takes_no_event(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("DELETE FROM audit_head"))
    with pytest.raises(JournalError, match="lost its head"), database.write() as connection:
        audit.append(connection, 9.0, "event")
    assert len(list(audit.events(database))) == 5


def test_a_transaction_that_fails_leaves_no_event(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            audit.append(connection, 9.0, "event")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.write() as connection:
        audit.append(connection, 9.0, "next")
    assert [event.event for event in audit.events(database)] == [*["event"] * 5, "next"]
    assert audit.verify(database) == (6, None)


def test_a_long_log_is_read_in_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_PAGE", 2)
    assert [event.seq for event in audit.events(database)] == [1, 2, 3, 4, 5]
    assert audit.verify(database) == (5, None)
    with database.write() as connection:
        audit.append(connection, 9.0, "event")
    assert [event.seq for event in audit.events(database)] == [1, 2, 3, 4, 5, 6]
