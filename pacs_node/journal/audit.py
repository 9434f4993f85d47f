"""The audit log: what happened to every study, each event chained to the one before it by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import AuditRow
from pacs_node.records import AuditEvent

FIRST = "0" * 64


@dataclass(frozen=True, slots=True)
class Entry:
    """An event that is to be written."""

    event: str
    study_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def append(
    connection: sa.Connection,
    at: float,
    event: str,
    study_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    **details: Any,
) -> None:
    """Write one event in the caller's transaction, the one that moves the state."""
    append_all(connection, at, [Entry(event, study_instance_uid, sop_instance_uid, details)])


def append_all(connection: sa.Connection, at: float, entries: Sequence[Entry]) -> None:
    """Write events in their order, in the caller's transaction."""
    last = connection.execute(
        sa.select(AuditRow.seq, AuditRow.hash).order_by(AuditRow.seq.desc()).limit(1)
    ).one_or_none()
    before, previous = (last.seq, last.hash) if last else (0, FIRST)
    rows = []
    for seq, entry in enumerate(entries, before + 1):
        values: dict[str, Any] = {
            "seq": seq,
            "at": at,
            "event": entry.event,
            "study_instance_uid": entry.study_instance_uid,
            "sop_instance_uid": entry.sop_instance_uid,
            "details": json.dumps(entry.details, sort_keys=True, ensure_ascii=False),
            "prev_hash": previous,
        }
        previous = _hash(values)
        rows.append(values | {"hash": previous})
    connection.execute(sa.insert(AuditRow), rows)


def events(database: Database, study_instance_uid: str | None = None) -> Iterator[AuditEvent]:
    """All events in order, or those of one study."""
    query = sa.select(AuditRow.__table__).order_by(AuditRow.seq)
    if study_instance_uid is not None:
        query = query.where(AuditRow.study_instance_uid == study_instance_uid)
    with database.read() as connection:
        for row in connection.execute(query).mappings():
            yield AuditEvent(**{**row, "details": json.loads(row["details"])})


def last(database: Database, prefix: str) -> AuditEvent | None:
    """The newest event whose name begins so."""
    query = (
        sa.select(AuditRow.__table__)
        .where(AuditRow.event.startswith(prefix, autoescape=True))
        .order_by(AuditRow.seq.desc())
        .limit(1)
    )
    with database.read() as connection:
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else AuditEvent(**{**row, "details": json.loads(row["details"])})


def verify(database: Database) -> tuple[int, str | None]:
    """Check the chain: how many events there are, and what is wrong with the first bad one (None: nothing).

    It shows an altered, inserted or missing event. A log cut off at its end shows only against an exported
    copy of its last hash.
    """
    count, previous = 0, FIRST
    with database.read() as connection:
        for row in connection.execute(sa.select(AuditRow.__table__).order_by(AuditRow.seq)).mappings():
            values = {key: row[key] for key in row if key != "hash"}
            count += 1
            if row["seq"] != count:
                return count, f"event {count} is missing"
            if row["prev_hash"] != previous or row["hash"] != _hash(values):
                return count, f"event {count} was altered"
            previous = row["hash"]
    return count, None


def _hash(values: dict[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
