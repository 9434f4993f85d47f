"""The audit log shows whether it was tampered with."""

from typing import Any

import pytest
import sqlalchemy as sa
from support.journal import Clock

from pacs_node.errors import JournalError
from pacs_node.journal import audit
from pacs_node.journal.database import Database
from pacs_node.records import AuditKind

# The events and the hashes of an export of 2026-10: the chain is computed the same way for ever.
EXPORTED: list[tuple[float, AuditKind, str | None, dict[str, Any]]] = [
    (5.5, AuditKind.RECEIVED, "1.2.3", {"sha256": "aa", "sender": "Größe"}),
    (6.25, AuditKind.ANALYZED, "1.2.3", {"probability": 0.1234, "notes": []}),
    (66.5, AuditKind.REPORTED, None, {"outcome": "NEGATIVE"}),
]
HASHES = [
    "38978254426bf33fc1a7d2d1b844886e24d42bb266bdf2c48a7ef74b2c8ccf75",
    "2130ce1f1b7201a9d3067094a76bbe1964e2dbaecabaa96517603551fd88fe30",
    "72cddfe7471a21d81738ca05d1773c95e2a3db21e29213035ee5a561a7eb6dcc",
]


@pytest.fixture
def log(database: Database, clock: Clock) -> Database:
    """A journal with five events."""
    for number in range(5):
        clock.now = float(number)
        database.audit(AuditKind.RECEIVED, "1.2", "1.2.3", number=number, text="ü")
    return database


def test_the_hashes_are_those_of_earlier_exports(database: Database, clock: Clock) -> None:
    for at, kind, image, details in EXPORTED:
        clock.now = at
        database.audit(kind, "1.2", image, **details)
    assert [event.hash for event in audit.events(database)] == HASHES


def test_the_chain_is_whole(log: Database) -> None:
    assert audit.verify(log) == (5, None)
    assert [event.details["number"] for event in audit.events(log, "1.2")] == [0, 1, 2, 3, 4]
    assert list(audit.events(log, "1.9")) == []


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
def test_tampering_shows(log: Database, statement: str, expected: tuple[int, str]) -> None:
    with log.write() as t:
        t.execute(sa.text(statement))
    assert audit.verify(log) == expected


@pytest.mark.parametrize(
    ("statement", "count", "words"),
    [
        ("DELETE FROM audit WHERE seq > 3", 3, "ends with event 3, but its head names event 5 as the last"),
        ("DELETE FROM audit", 0, "ends with event 0"),
        ("UPDATE audit_head SET seq = 4", 5, "names event 4 as the last"),
        ("DELETE FROM audit_head", 5, "no head"),
    ],
)
def test_a_log_cut_at_its_end_shows(log: Database, statement: str, count: int, words: str) -> None:
    with log.write() as t:
        t.execute(sa.text(statement))
    checked, problem = audit.verify(log)
    assert checked == count
    assert problem is not None
    assert words in problem


def test_a_log_without_its_head_takes_no_event(log: Database) -> None:
    with log.write() as t:
        t.execute(sa.text("DELETE FROM audit_head"))
    with pytest.raises(JournalError, match="lost its head"):
        log.audit(AuditKind.SENT)
    assert len(list(audit.events(log))) == 5


def test_a_transaction_that_fails_leaves_no_event(log: Database) -> None:
    def fail() -> None:
        with log.write() as t:
            t.audit(AuditKind.SENT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    log.audit(AuditKind.COMMITTED)
    assert [event.event for event in audit.events(log)] == [*["received"] * 5, "committed"]
    assert audit.verify(log) == (6, None)


def test_a_long_log_is_read_in_pages(log: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_PAGE", 2)
    assert [event.seq for event in audit.events(log)] == [1, 2, 3, 4, 5]
    assert audit.verify(log) == (5, None)
    log.audit(AuditKind.SENT)
    assert [event.seq for event in audit.events(log)] == [1, 2, 3, 4, 5, 6]
